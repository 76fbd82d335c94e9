"""How many different values: exact of few and HyperLogLog above, and an exact set that gives up above its cap.

All are unions, so the order, the batches and repetitions of what is folded change nothing at all.

    dump of hashes       b"\\x03", hashes (u8, rising)                  up to `cap` different values
    dump of registers    b"\\x01", indexes (u2, rising), ranks (u1)     above, below DENSE_FROM registers that are not 0
                         b"\\x02", 16,384 ranks of 6 bits                from there on
    dump of a set        msgpack: the sorted values, or nil above the cap

Whether a cell has hashes or registers depends on how many different hashes it was made of and on nothing else: a union
of more than `cap` becomes registers, and what is merged with registers does. What a fold admits to registers is
registers too, however few: it is never read but into those.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeGuard

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.core.accumulators import Slots, Values, part_name
from pipeline.core.hashing import Hashes, canonical_bits, hash_values
from pipeline.core.item_counts import count_items
from pipeline.core.sketches import OneByOne, as_slots, decode, items_weight, rising, runs, stable_order

INDEX_BITS = 14  # 16,384 registers: a standard error of 1.04 / sqrt(16,384) = 0.81 %
REGISTERS = 1 << INDEX_BITS
STANDARD_ERROR = 0.0081
RANK_BITS = 64 - INDEX_BITS
MAX_RANK = RANK_BITS + 1
# Two of so many values have one hash in one of 2^47 cells, and in registers two of ten meet in one of 360. It costs:
# 8 bytes a value, where registers take 3.
EXACT_UP_TO = 512
DENSE_FROM = 4_096  # registers above 0, where 6 bits for each register take less than 3 bytes for each above 0
DISTINCT_EXACT_CAP = 10_000  # values of a cell that distinct_exact keeps; null above
_HASHES, _SPARSE, _DENSE = b"\x03", b"\x01", b"\x02"
_HASH_BYTES = 8
_DENSE_BYTES = REGISTERS * 6 // 8
_ALPHA = 0.5 / math.log(2)
_FEW = 64  # hashes that Python's sets unite faster than numpy's arrays
_MANY = 2_048  # hashes, with repetitions: their registers are made sooner than they are sorted

Ranks = npt.NDArray[np.uint8]  # of all registers
Places = tuple[npt.NDArray[np.intp], Ranks]  # registers and a rank for each; a register may come repeatedly
# A set is what a worker adds to. An array of hashes, in any order and with repetitions, is what comes in with a batch
# or out of a dump, and is never changed.
Partial = set[int] | Hashes | Ranks


@dataclass(frozen=True, slots=True)
class Distinct(OneByOne):
    """The hashes of up to `cap` values; above, the greatest rank (leading zeros + 1 of a value's hash) seen in each of
    16,384 registers."""

    field: str
    where: str | None = None
    cap: int = EXACT_UP_TO

    @property
    def name(self) -> str:
        return part_name(f"distinct({self.field})", self.where)

    @property
    def incremental(self) -> bool:
        return True

    def empty(self) -> Partial:
        return set()

    def lift(self, new: Values) -> tuple[Slots, list[Partial]]:
        order = stable_order(new.slots)
        hashes = hash_values(new.values)[order]
        slots: list[int] = []
        partials: list[Partial] = []
        for slot, begin, end in runs(new.slots[order]):
            slots.append(slot)
            partials.append(hashes[begin:end])
        return as_slots(slots), partials

    def fold(self, whole: Partial, fresh: Partial) -> tuple[Partial, Partial]:
        if is_registers(whole):
            return _raised(whole, fresh)
        if len(fresh) > self.cap:
            fresh = self._formed(fresh)
        if is_registers(fresh):
            return self.merge(whole, fresh), fresh
        known = _as_set(whole)
        added = _as_set(fresh) - known
        known |= added
        return self._capped(known), added

    def merge(self, into: Partial, other: Partial) -> Partial:
        if isinstance(into, set) and not into and not isinstance(other, set):
            return other.copy() if is_registers(other) else other
        if is_registers(into) or is_registers(other):
            registers = into if is_registers(into) else _registers(into)
            if is_registers(other):
                return np.maximum(registers, other, out=registers)
            return _raise(registers, _places(_as_array(other)))
        if not isinstance(into, set) and len(into) + len(other) > _FEW:
            return self._formed(np.concatenate([into, _as_array(other)]))
        known = _as_set(into)
        known |= _as_set(other)
        return self._capped(known)

    def _capped(self, hashes: set[int]) -> Partial:
        return hashes if len(hashes) <= self.cap else _registers(hashes)

    def _formed(self, value: Partial) -> Partial:
        """What a partial is dumped as: hashes rising, each once, or registers."""
        if is_registers(value):
            return value
        hashes = _as_array(value)
        if len(hashes) > _MANY:
            registers = _registers(hashes)
            if np.count_nonzero(registers) > self.cap:  # and there are as many hashes at least
                return registers
        hashes = _unique(hashes)
        return hashes if len(hashes) <= self.cap else _registers(hashes)

    def dump(self, value: Partial) -> bytes:
        formed = self._formed(value)
        if not is_registers(formed):
            return _HASHES + _as_array(formed).astype("<u8", copy=False).tobytes()
        indexes = _above_zero(formed)
        if len(indexes) < DENSE_FROM:
            return _SPARSE + indexes.astype("<u2").tobytes() + formed[indexes].tobytes()
        return _DENSE + _squeezed(formed)

    def restore(self, data: bytes) -> Partial:
        body = np.frombuffer(data[1:], dtype=np.uint8)
        if data[:1] == _HASHES and len(body) % _HASH_BYTES == 0 and len(body) <= self.cap * _HASH_BYTES:
            hashes: Hashes = body.view("<u8").astype(np.uint64, copy=False)
            if (hashes[1:] > hashes[:-1]).all():
                return hashes
        elif data[:1] == _SPARSE and len(body) % 3 == 0 and 0 < len(body) // 3 < DENSE_FROM:
            count = len(body) // 3
            indexes = body[: 2 * count].view("<u2").astype(np.intp)
            ranks = body[2 * count :]
            if (np.diff(indexes) > 0).all() and indexes[-1] < REGISTERS and _are_ranks(ranks[ranks != 0], count):
                registers = np.zeros(REGISTERS, dtype=np.uint8)
                registers[indexes] = ranks
                return registers
        elif data[:1] == _DENSE and len(body) == _DENSE_BYTES:
            dense = _spread(body)
            if _are_ranks(dense[dense != 0], DENSE_FROM):
                return dense
        raise ValueError(f"{len(data)} bytes from {data[:8]!r} are not a dump of {self.name}")

    def weight(self, value: Partial) -> int:
        if is_registers(value):
            return 1 + min(3 * int(np.count_nonzero(value)), _DENSE_BYTES)
        return 1 + _HASH_BYTES * min(len(value), self.cap)


def is_registers(value: Partial) -> TypeGuard[Ranks]:
    """Whether the values are too many for their hashes."""
    return not isinstance(value, set) and value.dtype == np.uint8


def _are_ranks(above_zero: Ranks, at_least: int) -> bool:
    return len(above_zero) >= at_least and int(above_zero.max(initial=0)) <= MAX_RANK


def _as_set(value: Partial) -> set[int]:
    return value if isinstance(value, set) else set(_as_array(value).tolist())


def _as_array(value: Partial) -> Hashes:
    """The hashes as an array; those of a set rising."""
    if not isinstance(value, set):
        assert value.dtype == np.uint64, "registers have no hashes any more"
        return value  # type: ignore[return-value]  # mypy does not tell arrays by their dtype
    found = np.fromiter(value, np.uint64, len(value))
    found.sort()
    return found


def _unique(hashes: Hashes) -> Hashes:
    """Hashes rising, each once; most are so already."""
    return hashes if (hashes[1:] > hashes[:-1]).all() else np.unique(hashes)


def _places(hashes: Hashes) -> Places:
    """The register of each hash and its rank there."""
    rest = (hashes & np.uint64((1 << RANK_BITS) - 1)).astype(np.float64)  # 50 bits: exact
    return (hashes >> np.uint64(RANK_BITS)).astype(np.intp), (MAX_RANK - np.frexp(rest)[1]).astype(np.uint8)


def _registers(value: Partial) -> Ranks:
    return _raise(np.zeros(REGISTERS, dtype=np.uint8), _places(_as_array(value)))


def _above_zero(registers: Ranks) -> npt.NDArray[np.intp]:
    return np.flatnonzero(registers != 0)  # of bools: less than half the time it takes of numbers


def _raise(registers: Ranks, places: Places) -> Ranks:
    np.maximum.at(registers, *places)
    return registers


def _raised(whole: Ranks, fresh: Partial) -> tuple[Ranks, Partial]:
    """Registers with what is new added, and what of it was: all that has to be written."""
    if is_registers(fresh):
        indexes = _above_zero(fresh)
        ranks = fresh[indexes]
    else:
        indexes, ranks = _places(_as_array(fresh))
    higher = ranks > whole[indexes]
    if not higher.any():
        return whole, set()
    raised = _raise(np.zeros(REGISTERS, dtype=np.uint8), (indexes[higher], ranks[higher]))
    return np.maximum(whole, raised, out=whole), raised


def _squeezed(registers: Ranks) -> bytes:
    """Four ranks of 6 bits in three bytes, the first in the high bits."""
    a, b, c, d = registers.reshape(-1, 4).T
    return np.stack([a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d], axis=1).tobytes()


def _spread(data: Ranks) -> Ranks:
    """The registers that were squeezed into bytes."""
    a, b, c = data.reshape(-1, 3).T
    six = np.uint8(0x3F)
    return np.stack([a >> 2, (a << 4 | b >> 4) & six, (b << 2 | c >> 6) & six, c & six], axis=1).reshape(-1)


def estimate(value: Partial) -> int:
    """Count the hashes, or estimate from registers: Ertl's improved estimator, unbiased over the whole range.

    No empirical corrections and no change of formula in between (Otmar Ertl, arXiv:1702.01284, algorithm 6).
    """
    if not is_registers(value):
        return len(_unique(_as_array(value)))
    counts = np.bincount(value, minlength=MAX_RANK + 1).tolist()
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
