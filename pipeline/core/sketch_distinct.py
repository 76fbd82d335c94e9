"""How many different values: HyperLogLog, and an exact set that gives up above its cap.

Both are unions, so the order, the batches and repetitions of what is folded change nothing at all.

    dump of registers    b"\\x01", indexes (u2, rising), ranks (u1)       below DENSE_FROM registers that are not 0
                         b"\\x02", 16,384 ranks of 6 bits                  from there on
    dump of a set        msgpack: the sorted values, or nil above the cap
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.core.accumulators import Slots, Values, part_name
from pipeline.core.hashing import canonical_bits, hash_values
from pipeline.core.sketches import OneByOne, as_slots, count_items, decode, items_weight, rising, runs

INDEX_BITS = 14  # 16,384 registers: a standard error of 1.04 / sqrt(16,384) = 0.81 %
REGISTERS = 1 << INDEX_BITS
STANDARD_ERROR = 0.0081
RANK_BITS = 64 - INDEX_BITS
MAX_RANK = RANK_BITS + 1
DENSE_FROM = 4_096  # registers above 0, where 6 bits for each register take less than 3 bytes for each above 0
DISTINCT_EXACT_CAP = 10_000  # values of a cell that distinct_exact keeps; null above
_SPARSE, _DENSE = b"\x01", b"\x02"
_DENSE_BYTES = REGISTERS * 6 // 8
_MAX_PAIRS = 512  # a dict of as many entries takes as much memory as the 16,384 bytes
_ALPHA = 0.5 / math.log(2)
_FIELD = 6  # bits of a rank

Ranks = npt.NDArray[np.uint8]
Pairs = dict[int, int]  # register → rank
Registers = Pairs | Ranks  # the array when there are many; both hold the same


@dataclass(frozen=True, slots=True)
class Distinct(OneByOne):
    """The greatest rank (leading zeros + 1 of a value's hash) seen in each of 16,384 registers."""

    field: str
    where: str | None = None

    @property
    def name(self) -> str:
        return part_name(f"distinct({self.field})", self.where)

    @property
    def incremental(self) -> bool:
        return True

    def empty(self) -> Registers:
        return {}

    def lift(self, new: Values) -> tuple[Slots, list[Registers]]:
        hashes = hash_values(new.values)
        index = (hashes >> np.uint64(RANK_BITS)).astype(np.int64)
        rest = (hashes & np.uint64((1 << RANK_BITS) - 1)).astype(np.float64)  # 50 bits: exact
        rank = MAX_RANK - np.frexp(rest)[1].astype(np.int64)
        tagged = np.sort((((new.slots.astype(np.int64) << INDEX_BITS) | index) << _FIELD) | rank)
        best = tagged[np.flatnonzero(np.diff(tagged >> _FIELD, append=-1))]  # the last of a register is its greatest
        indexes, ranks = (best >> _FIELD) & (REGISTERS - 1), best & ((1 << _FIELD) - 1)
        slots, partials = [], []
        for slot, begin, end in runs(best >> (INDEX_BITS + _FIELD)):
            slots.append(slot)
            partials.append(_registers(indexes[begin:end], ranks[begin:end]))
        return as_slots(slots), partials

    def fold(self, whole: Registers, fresh: Registers) -> tuple[Registers, Registers]:
        raised = _above(whole, fresh)
        if isinstance(whole, dict) and isinstance(raised, dict) and len(whole) + len(raised) <= _MAX_PAIRS:
            whole.update(raised)
            return whole, raised
        return self.merge(whole, raised), raised

    def merge(self, into: Registers, other: Registers) -> Registers:
        if isinstance(into, dict) and isinstance(other, dict):
            known = into.get
            for index, rank in other.items():
                if known(index, 0) < rank:
                    into[index] = rank
            return into if len(into) <= _MAX_PAIRS else _dense(into)
        into = _dense(into)
        if isinstance(other, dict):
            indexes, ranks = _arrays(other)
            into[indexes] = np.maximum(into[indexes], ranks)
        else:
            np.maximum(into, other, out=into)
        return into

    def dump(self, value: Registers) -> bytes:
        indexes, ranks = _arrays(value)
        if len(indexes) < DENSE_FROM:
            return _SPARSE + indexes.astype("<u2").tobytes() + ranks.tobytes()
        bits = np.unpackbits(_dense(value)[:, None], axis=1)[:, -_FIELD:]
        return _DENSE + np.packbits(bits).tobytes()

    def restore(self, data: bytes) -> Registers:
        body = np.frombuffer(data[1:], dtype=np.uint8)
        if data[:1] == _SPARSE and len(body) % 3 == 0 and len(body) // 3 < DENSE_FROM:
            count = len(body) // 3
            indexes = body[: 2 * count].view("<u2").astype(np.int64)
            ranks = body[2 * count :]
            if (np.diff(indexes) > 0).all() and (indexes < REGISTERS).all() and _are_ranks(ranks[ranks != 0], count):
                return _registers(indexes, ranks)
        elif data[:1] == _DENSE and len(body) == _DENSE_BYTES:
            bits = np.unpackbits(body).reshape(REGISTERS, _FIELD)
            dense: Ranks = np.packbits(bits, axis=1)[:, 0] >> np.uint8(8 - _FIELD)
            if _are_ranks(dense[dense != 0], DENSE_FROM):
                return dense
        raise ValueError(f"{len(data)} bytes from {data[:8]!r} are not a dump of {self.name}")

    def weight(self, value: Registers) -> int:
        raised = len(value) if isinstance(value, dict) else int(np.count_nonzero(value))
        return 1 + min(3 * raised, _DENSE_BYTES)


def _are_ranks(above_zero: Ranks, at_least: int) -> bool:
    return len(above_zero) >= at_least and int(above_zero.max(initial=0)) <= MAX_RANK


def _registers(indexes: npt.NDArray[np.int64], ranks: npt.NDArray[np.integer]) -> Registers:
    if len(indexes) <= _MAX_PAIRS:
        return dict(zip(indexes.tolist(), ranks.tolist(), strict=True))
    dense = np.zeros(REGISTERS, dtype=np.uint8)
    dense[indexes] = ranks
    return dense


def _dense(registers: Registers) -> Ranks:
    if not isinstance(registers, dict):
        return registers
    dense = np.zeros(REGISTERS, dtype=np.uint8)
    indexes, ranks = _arrays(registers)
    dense[indexes] = ranks
    return dense


def _arrays(registers: Registers) -> tuple[npt.NDArray[np.int64], Ranks]:
    """The registers above 0 and their ranks, by register."""
    if not isinstance(registers, dict):
        indexes = np.flatnonzero(registers).astype(np.int64)
        return indexes, registers[indexes]
    indexes = np.fromiter(registers.keys(), np.int64, len(registers))
    ranks = np.fromiter(registers.values(), np.uint8, len(registers))
    order = np.argsort(indexes)
    return indexes[order], ranks[order]


def _above(whole: Registers, fresh: Registers) -> Registers:
    """What of `fresh` raises a register of `whole`: all that has to be written."""
    if isinstance(whole, dict) and isinstance(fresh, dict):
        known = whole.get
        return {index: rank for index, rank in fresh.items() if known(index, 0) < rank}
    indexes, ranks = _arrays(fresh)
    higher = ranks > _dense(whole)[indexes]
    return _registers(indexes[higher], ranks[higher])


def estimate(registers: Registers) -> int:
    """Estimate the number of distinct values: Ertl's improved estimator, unbiased over the whole range.

    No empirical corrections and no change of formula in between (Otmar Ertl, arXiv:1702.01284, algorithm 6).
    """
    _, ranks = _arrays(registers)
    counts = np.bincount(ranks, minlength=MAX_RANK + 1).tolist()
    counts[0] = REGISTERS - len(ranks)
    z = REGISTERS * _tau(1 - counts[MAX_RANK] / REGISTERS)
    for rank in range(RANK_BITS, 0, -1):
        z = 0.5 * (z + counts[rank])
    z += REGISTERS * _sigma(counts[0] / REGISTERS)
    return round(_ALPHA * REGISTERS * REGISTERS / z)


def _sigma(x: float) -> float:
    """The sum of x^(2^k) 2^(k-1) over k: what registers at 0 say."""
    if x == 1.0:
        return math.inf
    y, z, before = 1.0, x, -1.0
    while z != before:
        x, before = x * x, z
        z += x * y
        y += y
    return z


def _tau(x: float) -> float:
    """The same for registers that are full."""
    if x in (0.0, 1.0):
        return 0.0
    y, z, before = 1.0, 1 - x, -1.0
    while z != before:
        x, before = math.sqrt(x), z
        y *= 0.5
        z -= (1 - x) * (1 - x) * y
    return z / 3


Exact = set[Any] | None  # of int or of str; None above the cap


@dataclass(frozen=True, slots=True)
class DistinctExact(OneByOne):
    """The set of values; above `cap` it is None, and stays so whatever is merged: nothing more is kept or answered."""

    field: str
    where: str | None = None
    cap: int = DISTINCT_EXACT_CAP

    @property
    def name(self) -> str:
        return part_name(f"distinct_exact({self.field})", self.where)

    @property
    def incremental(self) -> bool:
        return True

    def empty(self) -> Exact:
        return set()

    def lift(self, new: Values) -> tuple[Slots, list[Exact]]:
        values = new.values if new.values.dtype == object else canonical_bits(new.values)
        slots: list[int] = []
        partials: list[Exact] = []
        for slot, items, _ in count_items(new.slots, values):
            slots.append(slot)
            partials.append(self._capped(set(items)))
        return as_slots(slots), partials

    def fold(self, whole: Exact, fresh: Exact) -> tuple[Exact, Exact]:
        if whole is None:
            return None, set()
        if fresh is None:
            return None, None
        added = fresh - whole
        merged = self.merge(whole, added)
        return merged, None if merged is None else added

    def merge(self, into: Exact, other: Exact) -> Exact:
        if into is None or other is None:
            return None
        into |= other
        return self._capped(into)

    @staticmethod
    def is_over(value: Exact) -> bool:
        """Whether the cell has had more than `cap` values."""
        return value is None

    @staticmethod
    def size(value: Exact) -> int | None:
        """The number of values, None above the cap."""
        return None if value is None else len(value)

    def _capped(self, values: Exact) -> Exact:
        return values if values is not None and len(values) <= self.cap else None

    def dump(self, value: Exact) -> bytes:
        return msgspec.msgpack.encode(None if value is None else sorted(value))

    def restore(self, data: bytes) -> Exact:
        values = decode(_SET, data, self.name)
        if values is None:
            return None
        if not rising(values) or len(values) > self.cap:
            raise ValueError(f"{len(data)} bytes are not a dump of {self.name}: {len(values)} values, {values[:5]}…")
        return set(values)

    def weight(self, value: Exact) -> int:
        return 3 + (0 if value is None else items_weight(value, len(value)))


_SET = msgspec.msgpack.Decoder(list[int | str] | None)
