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
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from operator import sub

import msgspec
import numpy as np

from pipeline.core.accumulators import Column, Int64, Slots, Values, part_name
from pipeline.core.sketches import as_slots, decode, rising, runs

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

Buckets = dict[int, int]  # key of a bucket → how many values
Sorted = tuple[
    list[int], list[int]
]  # the same of one batch: keys, rising, and counts; a dict of each costs 70 ns a key


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
class Quantiles:
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

    def lift(self, new: Values) -> tuple[Slots, list[Sorted]]:
        tagged = np.sort((new.slots.astype(np.int64) << _KEY_BITS) + (bucket_keys(new.values) + NAN))
        heads = np.flatnonzero(np.diff(tagged, prepend=-1))
        counts = np.diff(heads, append=len(tagged)).tolist()
        keys = ((tagged[heads] & ((1 << _KEY_BITS) - 1)) - NAN).tolist()
        slots, partials = [], []
        for slot, begin, end in runs(tagged[heads] >> _KEY_BITS):
            slots.append(slot)
            partials.append((keys[begin:end], counts[begin:end]))
        return as_slots(slots), partials

    def fold(self, whole: Buckets, fresh: Sorted) -> tuple[Buckets, Sorted]:
        return self.merge(whole, fresh), fresh

    def merge(self, into: Buckets | Sorted, other: Buckets | Sorted) -> Buckets:
        buckets = as_buckets(into)
        if not buckets:
            return dict(as_buckets(other))
        for key, count in other.items() if isinstance(other, dict) else zip(*other, strict=True):
            if key in buckets:
                buckets[key] += count
            else:
                buckets[key] = count
        return buckets

    def dump(self, value: Buckets | Sorted) -> bytes:
        if isinstance(value, dict):
            keys = sorted(value)
            counts = [value[key] for key in keys]
        else:
            keys, counts = value
        steps = [keys[0], *map(sub, keys[1:], keys)] if keys else []
        return msgspec.msgpack.encode((steps, counts))

    def restore(self, data: bytes) -> Buckets:
        steps, counts = decode(_DUMP, data, self.name)
        keys = list(accumulate(steps))
        if len(keys) != len(counts) or not rising(keys) or min(counts, default=1) < 1 or not all(map(_is_key, keys)):
            raise ValueError(f"{len(data)} bytes are not a dump of {self.name}: keys {keys[:5]}…, counts {counts[:5]}…")
        return dict(zip(keys, counts, strict=True))

    def weight(self, value: Buckets | Sorted) -> int:
        return 3 + _BUCKET_BYTES * (len(value) if isinstance(value, dict) else len(value[0]))


_DUMP = msgspec.msgpack.Decoder(tuple[list[int], list[int]])


def as_buckets(value: Buckets | Sorted) -> Buckets:
    return value if isinstance(value, dict) else dict(zip(*value, strict=True))


def _is_key(key: int) -> bool:
    return key in (0, LIMIT, -LIMIT, NAN) or _LOWEST <= abs(key) - SHIFT <= _HIGHEST


def quantile(buckets: Buckets, q: Fraction) -> float | None:
    """Estimate the value at rank floor(q·(n-1)) of the sorted values, counted from 0 (numpy's `lower`).

    No interpolation: the answer is within RELATIVE_ERROR of a value that is there. `q` is a fraction, so that 0.29 of
    101 values is rank 29 (0.29 * 100 is 28.999999999999996 in floats).

    Returns:
        The estimate; None of no values, or where that value is infinite or nan.
    """
    if not buckets:
        return None
    rank = math.floor(q * (sum(buckets.values()) - 1))
    below = 0
    for key in sorted(buckets):
        below += buckets[key]
        if below > rank:
            return _estimate(key)
    raise AssertionError(f"rank {rank} is past the {below} values")


def histogram(buckets: Buckets) -> list[list[float | int | None]]:
    """Return [low, high, count] of every bucket that has values, by low; a bound is None where JSON has no number.

    Positive values x of a bucket are low < x <= high, negative ones low <= x < high; zero is [0.0, 0.0, n], infinity
    [largest float, None, n] and nan [None, None, n].
    """
    return [[*_range(key), buckets[key]] for key in sorted(buckets)]


def _estimate(key: int) -> float | None:
    if key == 0:
        return 0.0
    if abs(key) >= LIMIT:
        return None
    low = float(_BOUNDS[abs(key) - SHIFT - _LOWEST])
    return math.copysign(min(low * (2 * GAMMA / (1 + GAMMA)), LARGEST), key)


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
