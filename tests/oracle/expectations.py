"""What an answer is compared with: values that must be equal, and those for which a bound is promised, with the bound.

An exact number is a plain value and must be equal in type too, a float to the rounding of sums. What is promised only
within a bound (DESIGN section 5) is one of the classes here, which hold what DuckDB found and judge the answer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

Row = dict[str, Any]
RELATIVE_ERROR = 1e-9  # of float sums: DuckDB adds in another order
QUANTILE_ERROR = 0.01  # relative, of a quantile's value and of a bucket's middle
DISTINCT_ERROR = 4 * 0.0081  # four standard errors of the HyperLogLog that DESIGN states
DISTINCT_EXACT = 512  # up to so many are counted, not estimated
DISTINCT_ROUNDING = 1  # an estimate is whole
_EDGE = 1 + 1e-9  # a bucket's edges are powers: they may be rounded


@runtime_checkable
class Expected(Protocol):
    """A value that an answer need not equal to the last bit."""

    def allows(self, found: Any) -> bool: ...


@dataclass(frozen=True, slots=True)
class Near:
    """A number to a relative and an absolute error, whichever allows more; whether int or float."""

    value: float
    relative: float = RELATIVE_ERROR
    absolute: float = 0.0

    def allows(self, found: Any) -> bool:
        if isinstance(found, bool) or not isinstance(found, int | float):
            return False
        return math.isclose(found, self.value, rel_tol=self.relative, abs_tol=self.absolute)


@dataclass(frozen=True, slots=True)
class Distinct:
    """A number of different values: exact of few, estimated where there are many."""

    value: int

    def allows(self, found: Any) -> bool:
        if type(found) is not int:
            return False
        off_by = 0.0 if self.value <= DISTINCT_EXACT else DISTINCT_ROUNDING + DISTINCT_ERROR * self.value
        return abs(found - self.value) <= off_by


@dataclass(frozen=True, slots=True)
class Buckets:
    """The values a histogram was made of: each in one of its buckets, and no bucket wider than its error allows.

    A histogram is `[[lower, upper, count], …]` by lower; a value on an edge may be in either bucket.
    """

    values: tuple[float, ...]

    def allows(self, found: Any) -> bool:
        if not isinstance(found, Sequence) or sum(count for *_, count in found) != len(self.values):
            return False
        edges = [(lower, upper) for lower, upper, _ in found]
        ordered = all(one[1] <= other[0] + abs(other[0]) * 1e-9 for one, other in pairwise(edges))
        return ordered and all(self._holds(*bucket) for bucket in found)

    def _holds(self, lower: float, upper: float, count: int) -> bool:
        low, high = _widened(lower, upper)
        at_most = sum(low <= value <= high for value in self.values)
        inside = sum(_inside(value, lower, upper) for value in self.values)
        width = (1 + QUANTILE_ERROR) / (1 - QUANTILE_ERROR) * _EDGE
        narrow = lower == upper == 0 or max(abs(lower), abs(upper)) <= width * min(abs(lower), abs(upper))
        return narrow and 0 < inside <= count <= at_most if inside else narrow and 0 < count <= at_most


def _widened(lower: float, upper: float) -> tuple[float, float]:
    """The bucket with its edges a rounding error further out."""
    return lower - abs(lower) * (_EDGE - 1), upper + abs(upper) * (_EDGE - 1)


def _inside(value: float, lower: float, upper: float) -> bool:
    """Whether a value is in a bucket and more than a rounding error from its edges."""
    margin = abs(value) * (_EDGE - 1)
    return lower + margin < value < upper - margin


@dataclass(frozen=True, slots=True)
class Top:
    """The `k` most frequent values, `[[value, count], …]`: by count, the smaller value first where they tie."""

    counts: Mapping[Any, int]
    k: int

    @property
    def value(self) -> list[tuple[Any, int]]:
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], item[0]))
        return ordered[: self.k]

    def allows(self, found: Any) -> bool:
        return isinstance(found, Sequence) and [tuple(pair) for pair in found] == self.value


def same(found: Any, wanted: Any) -> bool:
    """Whether an answer is what is expected: by its bound, floats to a relative error, all else exactly and in type."""
    if isinstance(wanted, Expected):
        return wanted.allows(found)
    if isinstance(wanted, float) and isinstance(found, float):
        return math.isclose(found, wanted, rel_tol=RELATIVE_ERROR, abs_tol=0.0)
    return type(found) is type(wanted) and bool(found == wanted)


def assert_same_rows(found: Sequence[Row], expected: Sequence[Row]) -> None:
    """Compare row by row: every expected column is the same."""
    assert len(found) == len(expected), f"{len(found)} rows, not {len(expected)}: {_first_difference(found, expected)}"
    for number, (row, wanted) in enumerate(zip(found, expected, strict=True)):
        differing = [name for name, value in wanted.items() if not same(row[name], value)]
        assert not differing, f"row {number}, {_place(row)}: " + "; ".join(
            f"{name} is {row[name]!r:.200}, not {wanted[name]!r:.200}" for name in differing
        )


def _place(row: Row) -> str:
    """The first columns of a row: its window and its group."""
    return str(dict(list(row.items())[:5]))


def _first_difference(found: Sequence[Row], expected: Sequence[Row]) -> str:
    """The first row that only one side has, for the message."""
    for number, (row, wanted) in enumerate(zip(found, expected, strict=False)):
        if any(row[name] != wanted[name] for name in list(wanted)[:2]):
            return f"row {number} is {_place(row)}, not {_place(wanted)}"
    shorter = min(len(found), len(expected))
    return (
        f"from row {shorter} on, {'found' if len(found) > shorter else 'missing'}: {[*found, *expected][shorter:][:1]}"
    )
