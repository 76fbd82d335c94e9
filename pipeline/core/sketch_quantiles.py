"""Quantiles and histograms from counts in logarithmic buckets: within 1 % of the exact order statistic, always.

A bucket holds the values in (1.02^(i-1), 1.02^i], so any value of it is within 0.991 % of the estimate; counts are
exact integers and merge by addition. After DDSketch (Masson, Rim, Lee: VLDB 2019), without its collapsing of buckets:
the whole range of a float has 71,000 a sign, and data of nine decades fills 1,050.

    key of a bucket, in the order of the values
      -LIMIT         -infinity
      -(i + SHIFT)   negative values, i of their absolute value
      0              absolute values below the smallest normal float
      i + SHIFT      positive values
      LIMIT, NAN     infinity; and above all, as in SQL, nan
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, chain, pairwise
from operator import sub
from typing import Any

import msgspec
import numpy as np

from pipeline.core.accumulators import Column, Int64, Slots, Values, part_name
from pipeline.core.sketches import OneByOne, Partials, as_column, decode, rising

GAMMA = 1.02  # width of a bucket: values are at most (GAMMA - 1) / (GAMMA + 1) = 0.991 % from its estimate
RELATIVE_ERROR = 0.01  # promised; what GAMMA leaves of it covers the rounding of the bounds
SMALLEST = sys.float_info.min  # 2.2e-308, the smallest normal float: anything nearer to 0 counts as 0
LARGEST = sys.float_info.max
_HIGHEST = 35_843  # the last i: GAMMA^i is above the largest float
_LOWEST = -35_772  # the first i: GAMMA^(i-1) is below the smallest normal float
SHIFT = 40_000  # makes keys of positive values positive
LIMIT = 80_000
NAN = LIMIT + 1
_KEY_BITS = 18  # of a key moved by NAN, which makes it positive
_BUCKET_BYTES = 2  # of one bucket in a dump: the step to its key and its count


def _bounds() -> Column:
    """GAMMA^i for i from _LOWEST - 1 to _HIGHEST.

    By repeated multiplication and division, which IEEE 754 rounds alike on every machine, as it does not `log`: the
    same value falls into the same bucket everywhere. The rounding adds up to 4e-12.
    """
    with np.errstate(over="ignore"):
        up = np.multiply.accumulate([1.0] + _HIGHEST * [GAMMA])
        down = np.divide.accumulate([1.0] + (1 - _LOWEST) * [GAMMA])
    bounds: Column = np.concatenate((down[:0:-1], up))
    return bounds


_BOUNDS = _bounds()
_LOG_GAMMA = math.log(GAMMA)
_DENSE_FACTOR = 16  # places of a matrix for each bucket that goes in: adding costs more than an empty place

Buckets = dict[int, int]  # key of a bucket → how many values
Rows = Int64  # the same as two rows of numbers: keys, rising, and counts; many cells are cut from one table of them
Partial = Buckets | Rows
NO_ROWS = np.zeros((2, 0), dtype=np.int64)


def bucket_keys(values: Column) -> Int64:
    """Return the key of the bucket of each value."""
    numbers = values.astype(np.float64)
    size = np.abs(numbers)
    is_normal = (size >= SMALLEST) & (size <= LARGEST)
    safe = np.where(is_normal, size, 1.0)
    index = np.ceil(np.log(safe) / _LOG_GAMMA).astype(np.int64).clip(_LOWEST, _HIGHEST)
    # the logarithm is off by an ulp or two, differently on each machine: the bounds decide
    index += safe > _BOUNDS[index - _LOWEST + 1]
    index -= safe <= _BOUNDS[index - _LOWEST]
    keys = np.where(is_normal, index + SHIFT, np.where(size < SMALLEST, 0, LIMIT))
    keys = np.where(numbers < 0, -keys, keys)
    return np.where(np.isnan(numbers), NAN, keys)


@dataclass(frozen=True, slots=True)
class Quantiles(OneByOne):
    """Counts per logarithmic bucket; integers count as the nearest float64."""

    field: str
    where: str | None = None

    @property
    def name(self) -> str:
        return part_name(f"quantiles({self.field})", self.where)

    @property
    def incremental(self) -> bool:
        return True

    def empty(self) -> Buckets:
        return {}

    def lift(self, new: Values) -> tuple[Slots, list[Rows]]:
        tagged = np.sort((new.slots.astype(np.int64) << _KEY_BITS) + (bucket_keys(new.values) + NAN))
        heads = np.flatnonzero(np.diff(tagged, prepend=-1))
        counts = np.diff(heads, append=len(tagged))
        keys = (tagged[heads] & ((1 << _KEY_BITS) - 1)) - NAN
        owners = tagged[heads] >> _KEY_BITS
        ends = np.flatnonzero(np.diff(owners, append=-1)) + 1
        return owners[ends - 1].astype(np.intp), _cut(np.stack((keys, counts)), ends)

    def fold(self, whole: Partial, fresh: Rows) -> tuple[Buckets, Rows]:
        return self.merge(whole, fresh), fresh

    def fold_all(self, column: Column, slots: Slots, fresh: list[Rows]) -> list[Rows]:
        self.merge_all(column, slots, fresh)
        column[slots] = as_column([whole.copy() for whole in column[slots]])  # a view would keep the whole batch
        return fresh

    def merge(self, into: Partial, other: Partial) -> Buckets:
        buckets = as_buckets(into)
        if not buckets:
            return dict(as_buckets(other))
        known = buckets.get
        pairs = other.items() if isinstance(other, dict) else zip(*other.tolist(), strict=True)
        for key, count in pairs:
            buckets[key] = known(key, 0) + count
        return buckets

    def merge_all(self, column: Column, slots: Slots, partials: Partials) -> None:
        """Add up the buckets of all cells at once: a matrix of cells and keys, or a sort where that would be large."""
        wanted, rows = np.unique(slots, return_inverse=True)
        held = [(number, whole) for number, whole in enumerate(column[wanted]) if len(whole)]
        lens, keys, counts = _flat([*(whole for _, whole in held), *partials])
        if not len(keys):
            return
        rows = np.repeat(np.concatenate([np.array([number for number, _ in held], dtype=np.int64), rows]), lens)
        low = int(keys.min())
        width = int(keys.max()) - low + 1
        places = rows * width + (keys - low)
        if len(wanted) * width <= _DENSE_FACTOR * len(keys):
            matrix = np.zeros(len(wanted) * width, dtype=np.int64)
            np.add.at(matrix, places, counts)
            places = np.flatnonzero(matrix)
            totals = matrix[places]
        else:
            places, inverse = np.unique(places, return_inverse=True)
            totals = np.zeros(len(places), dtype=np.int64)
            np.add.at(totals, inverse, counts)
        ends = np.searchsorted(places, np.arange(1, len(wanted) + 1) * width)
        column[wanted] = as_column(_cut(np.stack((places % width + low, totals)), ends))

    def dump(self, value: Partial) -> bytes:
        keys, counts = as_lists(value)
        steps = [keys[0], *map(sub, keys[1:], keys)] if keys else []
        return msgspec.msgpack.encode((steps, counts))

    def dump_all(self, values: Partials) -> list[bytes]:
        lens, keys, counts = _flat(values)
        ends = np.cumsum(lens)
        steps = np.diff(keys, prepend=0)
        heads = (ends - lens)[lens > 0]
        steps[heads] = keys[heads]
        return [msgspec.msgpack.encode(pair.tolist()) for pair in _cut(np.stack((steps, counts)), ends)]

    def pack_all(self, values: Partials) -> list[bytes]:
        """Numbers of buckets, first keys, steps to the next, and counts: each in as few bytes as all of it need."""
        lens, keys, counts = _flat(values)
        heads = (np.cumsum(lens) - lens)[lens > 0]
        steps = np.diff(keys, prepend=0)
        firsts = keys[heads]
        steps[heads] = 0
        return [_narrow(lens), firsts.astype("<i4").tobytes(), _narrow(steps), _narrow(counts)]

    def unpack_all(self, packed: Any) -> list[Rows]:
        if not isinstance(packed, list) or [type(part) for part in packed] != [bytes] * 4:
            raise ValueError(f"a block of {self.name} has four parts of bytes, not {packed!r}")
        lens, steps, counts = (_widened(packed[part], self.name) for part in (0, 2, 3))
        firsts = np.frombuffer(packed[1], dtype="<i4").astype(np.int64)
        ends = np.cumsum(lens)
        heads = (ends - lens)[lens > 0]
        if len(steps) != lens.sum() or len(counts) != len(steps) or len(firsts) != len(heads):
            raise ValueError(f"a block of {self.name} has {len(steps)} buckets and {len(counts)} counts")
        totals = np.cumsum(steps)
        keys = totals + np.repeat(firsts - totals[heads], lens[lens > 0])
        steps[heads] = 1
        if not (_are_keys(keys) and (steps > 0).all() and (counts > 0).all()):
            raise ValueError(f"a block of {self.name} has keys or counts that cannot be")
        return _cut(np.stack((keys, counts)), ends)

    def restore(self, data: bytes) -> Buckets:
        steps, counts = decode(_DUMP, data, self.name)
        keys = list(accumulate(steps))
        if len(keys) != len(counts) or not rising(keys) or min(counts, default=1) < 1 or not all(map(_is_key, keys)):
            raise ValueError(f"{len(data)} bytes are not a dump of {self.name}: keys {keys[:5]}…, counts {counts[:5]}…")
        return dict(zip(keys, counts, strict=True))

    def restore_all(self, dumps: Sequence[bytes]) -> Sequence[Partial]:
        pairs = [decode(_DUMP, data, self.name) for data in dumps]
        lens = np.fromiter((len(steps) for steps, _ in pairs), np.int64, len(pairs))
        try:
            steps, counts = _chained([steps for steps, _ in pairs]), _chained([counts for _, counts in pairs])
        except OverflowError:
            return [self.restore(data) for data in dumps]  # one is damaged: this says which
        ends = np.cumsum(lens)
        begins = ends - lens
        sums = np.concatenate([[0], np.cumsum(steps)])
        keys = sums[1:] - np.repeat(sums[begins], lens)
        is_head = np.zeros(len(keys), dtype=np.bool_)
        is_head[begins[lens > 0]] = True
        sound = (
            all(len(steps) == len(counts) for steps, counts in pairs)
            and bool((np.abs(steps) <= 2 * NAN).all() and (is_head | (steps > 0)).all() and (counts > 0).all())
            and _are_keys(keys)
        )
        return _cut(np.stack((keys, counts)), ends) if sound else [self.restore(data) for data in dumps]

    def weight(self, value: Partial) -> int:
        return 3 + _BUCKET_BYTES * (len(value) if isinstance(value, dict) else len(value[0]))


_DUMP = msgspec.msgpack.Decoder(tuple[list[int], list[int]])


def as_buckets(value: Partial) -> Buckets:
    return value if isinstance(value, dict) else dict(zip(*as_lists(value), strict=True))


def as_lists(value: Partial) -> tuple[list[int], list[int]]:
    """Keys, rising, and counts."""
    if isinstance(value, dict):
        keys = sorted(value)
        return keys, [value[key] for key in keys]
    keys, counts = value.tolist()
    return keys, counts


def _flat(values: Sequence[Partial] | Column) -> tuple[Int64, Int64, Int64]:
    """How many buckets each partial has, and the keys and counts of all, one after the other."""
    tables = [value for value in values if not isinstance(value, dict)]
    if len(tables) == len(values):
        lens = np.fromiter((table.shape[1] for table in tables), np.int64, len(tables))
        keys, counts = np.concatenate([NO_ROWS, *tables], axis=1)
        return lens, keys, counts
    pairs = [as_lists(value) for value in values]
    listed, numbers = [keys for keys, _ in pairs], [counts for _, counts in pairs]
    return np.fromiter(map(len, listed), np.int64, len(listed)), _chained(listed), _chained(numbers)


def _chained(lists: Sequence[list[int]]) -> Int64:
    return np.fromiter(chain.from_iterable(lists), np.int64, sum(map(len, lists)))


def _cut(table: Rows, ends: Int64) -> list[Rows]:
    """Every partial, of all of them one after the other."""
    return [table[:, begin:end] for begin, end in pairwise([0, *ends.tolist()])]


def _narrow(numbers: Int64) -> bytes:
    """Numbers that are not negative, in as few bytes each as the greatest needs, and before them how many."""
    greatest = int(numbers.max()) if len(numbers) else 0
    width = next(width for width in (1, 2, 4, 8) if greatest < 1 << 8 * width)
    return bytes([width]) + numbers.astype(f"<u{width}").tobytes()


def _widened(data: bytes, name: str) -> Int64:
    width = data[0] if data else 0
    if width not in (1, 2, 4, 8) or (len(data) - 1) % width:
        raise ValueError(f"a block of {name} has {len(data)} bytes of numbers of {width}")
    return np.frombuffer(data, dtype=f"<u{width}", offset=1).astype(np.int64)


def _are_keys(keys: Int64) -> bool:
    size = np.abs(keys) - SHIFT
    usual = (size >= _LOWEST) & (size <= _HIGHEST)
    return bool((usual | (keys == 0) | (np.abs(keys) == LIMIT) | (keys == NAN)).all())


def _is_key(key: int) -> bool:
    return key in (0, LIMIT, -LIMIT, NAN) or _LOWEST <= abs(key) - SHIFT <= _HIGHEST


def quantile(buckets: Partial, q: Fraction) -> float | None:
    """The estimate of one partial: see `quantiles`."""
    return quantiles([buckets], q)[0]


def quantiles(partials: Partials, q: Fraction) -> list[float | None]:
    """Estimate the value at rank floor(q·(n-1)) of the sorted values of each partial, counted from 0 (numpy's `lower`).

    No interpolation: the answer is within RELATIVE_ERROR of a value that is there. `q` is a fraction, so that 0.29 of
    101 values is rank 29 (0.29 * 100 is 28.999999999999996 in floats).

    Returns:
        The estimates; None of no values, or where that value is infinite or nan.
    """
    lens, keys, counts = _flat(partials)
    if not len(keys):
        return [None] * len(lens)
    totals = np.concatenate([[0], np.cumsum(counts)])
    ends = np.cumsum(lens)
    before, sizes = totals[ends - lens], totals[ends] - totals[ends - lens]
    if max(q.numerator * int(sizes.max()), q.denominator) < 1 << 63:
        ranks = q.numerator * (sizes - 1) // q.denominator
    else:
        ranks = np.array([q.numerator * (size - 1) // q.denominator for size in sizes.tolist()], dtype=np.int64)
    places = np.searchsorted(totals[1:], before + ranks, side="right").clip(0, len(keys) - 1)
    found = keys[places]
    is_value = (lens > 0) & (np.abs(found) < LIMIT)
    bounds = (np.abs(found) - SHIFT - _LOWEST).clip(0, len(_BOUNDS) - 1)
    with np.errstate(over="ignore"):
        size = np.minimum(_BOUNDS[bounds] * (2 * GAMMA / (1 + GAMMA)), LARGEST)
    estimates = np.where(found == 0, 0.0, np.copysign(size, found)).tolist()
    return [value if known else None for value, known in zip(estimates, is_value.tolist(), strict=True)]


def histogram(buckets: Partial) -> list[list[float | int | None]]:
    """Return [low, high, count] of every bucket that has values, by low; a bound is None where JSON has no number.

    Positive values x of a bucket are low < x <= high, negative ones low <= x < high; zero is [0.0, 0.0, n], infinity
    [largest float, None, n] and nan [None, None, n].
    """
    return [[*_range(key), count] for key, count in zip(*as_lists(buckets), strict=True)]


def _range(key: int) -> tuple[float | None, float | None]:
    if key == 0:
        return 0.0, 0.0
    if key == NAN:
        return None, None
    if abs(key) == LIMIT:
        return (LARGEST, None) if key > 0 else (None, -LARGEST)
    at = abs(key) - SHIFT - _LOWEST
    low, high = float(_BOUNDS[at]), min(float(_BOUNDS[at + 1]), LARGEST)
    return (low, high) if key > 0 else (-high, -low)
