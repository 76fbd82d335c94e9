"""The mergeable parts that aggregates are made of, each a few 8-byte columns of a table of cells.

An accumulator folds events into rows of the table in stream order, and merges partials of other panes or partitions
into them. Integer parts are exact. Float sums are a left fold from the stored state, so the way a log was cut into
batches cannot change a bit (DESIGN section 5).

    position of an event, comparable in two int64 columns:
      place = partition << 48 | entry id ms        row = entry id seq << 20 | row in its entry
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Int64 = npt.NDArray[np.int64]
Slots = npt.NDArray[np.intp]
Column = npt.NDArray[Any]

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1
PLACE_SHIFT = 48  # an entry id's milliseconds stay below 2^48 until the year 10889
ROW_BITS = 20  # a chunk holds at most 10,000 rows
_SMALL_HIGH, _SMALL_LOW = 2**20, 2**52  # of the halves of an integer sum below 2^53 in all
_LOW_BITS = 32  # integer sums are kept as two halves: 2^32 events of any int64 value cannot overflow either


def _silent() -> np.errstate:
    """A float sum may overflow: that is a value, infinity, which is finished as null, and nothing to warn of."""
    return np.errstate(over="ignore", invalid="ignore")


@dataclass(frozen=True, slots=True)
class Values:
    """What one batch brings for one accumulator, nulls already left out; all arrays have one length.

    `slots` rows of the table, `values` numpy array (objects for strings), `times_ms`, `places` and `rows` of events.
    """

    slots: Slots
    values: Column
    times_ms: Int64
    places: Int64
    rows: Int64


@runtime_checkable
class Accumulator(Protocol):
    """One mergeable part; `columns` are (name, numpy dtype) with dtype "O" for values of variable length.

    `where` is the SQL text of the rows it counts, None for all: whoever folds masks the values, the part only has the
    name of it, so that two parts of one field and different rows stand beside each other.
    """

    @property
    def name(self) -> str: ...
    @property
    def field(self) -> str | None: ...
    @property
    def where(self) -> str | None: ...
    @property
    def columns(self) -> tuple[tuple[str, str], ...]: ...
    def identity(self) -> tuple[Any, ...]: ...
    def fold(self, state: Mapping[str, Column], new: Values) -> None: ...
    def merge(self, state: Mapping[str, Column], slots: Slots, other: Mapping[str, Column]) -> None: ...


def part_name(call: str, where: str | None) -> str:
    """The name of a part within its stage: `n(*)`, or `n(*) where event = 'click'`."""
    return call if where is None else f"{call} where {where}"


@dataclass(frozen=True, slots=True)
class Count:
    """Number of events (`field` None) or of values that are not null."""

    field: str | None
    where: str | None = None

    @property
    def name(self) -> str:
        return part_name(f"n({self.field or '*'})", self.where)

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        return ((self.name, "<i8"),)

    def identity(self) -> tuple[Any, ...]:
        return (0,)

    def fold(self, state: Mapping[str, Column], new: Values) -> None:
        np.add.at(state[self.name], new.slots, 1)

    def merge(self, state: Mapping[str, Column], slots: Slots, other: Mapping[str, Column]) -> None:
        np.add.at(state[self.name], slots, other[self.name])


@dataclass(frozen=True, slots=True)
class IntSum:
    """Exact sum of int64 values, as the sums of their high and low 32 bits."""

    field: str
    where: str | None = None

    @property
    def name(self) -> str:
        return part_name(f"sum({self.field})", self.where)

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        return ((f"{self.name}.hi", "<i8"), (f"{self.name}.lo", "<i8"))

    def identity(self) -> tuple[Any, ...]:
        return (0, 0)

    def fold(self, state: Mapping[str, Column], new: Values) -> None:
        np.add.at(state[f"{self.name}.hi"], new.slots, new.values >> _LOW_BITS)
        np.add.at(state[f"{self.name}.lo"], new.slots, new.values & (2**_LOW_BITS - 1))

    def merge(self, state: Mapping[str, Column], slots: Slots, other: Mapping[str, Column]) -> None:
        for column, _ in self.columns:
            np.add.at(state[column], slots, other[column])

    def totals(self, state: Mapping[str, Column], slots: Slots) -> list[int]:
        """The exact sums as Python integers, of any size."""
        small = self.small_totals(state, slots)
        if small is not None:
            return small.tolist()  # type: ignore[no-any-return]
        hi, lo = (state[column][slots].tolist() for column, _ in self.columns)
        return [(high << _LOW_BITS) + low for high, low in zip(hi, lo, strict=True)]

    def small_totals(self, state: Mapping[str, Column], slots: Slots) -> Int64 | None:
        """The exact sums as int64, where all of them are integers that float64 holds exactly too; else None."""
        hi, lo = (state[column][slots] for column, _ in self.columns)
        if np.any((hi < -_SMALL_HIGH) | (hi >= _SMALL_HIGH) | (lo >= _SMALL_LOW)):
            return None
        totals: Int64 = (hi << _LOW_BITS) + lo
        return totals


@dataclass(frozen=True, slots=True)
class FloatSum:
    """Sum of floats as a left fold in stream order; merges go in the fixed order of the caller."""

    field: str
    where: str | None = None

    @property
    def name(self) -> str:
        return part_name(f"sum({self.field})", self.where)

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        return ((self.name, "<f8"),)

    def identity(self) -> tuple[Any, ...]:
        return (0.0,)

    def fold(self, state: Mapping[str, Column], new: Values) -> None:
        with _silent():
            np.add.at(state[self.name], new.slots, new.values)

    def merge(self, state: Mapping[str, Column], slots: Slots, other: Mapping[str, Column]) -> None:
        with _silent():
            np.add.at(state[self.name], slots, other[self.name])


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums of (x - k) and (x - k)^2 about the cell's first value k in stream order, for the variance.

    Far from zero the plain sum of squares cancels (values near 1e9 that differ by 1 have no digit left); about a value
    of the cell it does not. A merge moves the other's sums onto the target's k, so partials of any k add up.
    """

    field: str
    where: str | None = None

    @property
    def name(self) -> str:
        return part_name(f"moments({self.field})", self.where)

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        return (
            (f"{self.name}.n", "<i8"),
            (f"{self.name}.k", "<f8"),
            (f"{self.name}.sum", "<f8"),
            (f"{self.name}.squares", "<f8"),
        )

    def _of(self, state: Mapping[str, Column]) -> tuple[Column, Column, Column, Column]:
        counts, centres, sums, squares = (state[column] for column, _ in self.columns)
        return counts, centres, sums, squares

    def identity(self) -> tuple[Any, ...]:
        return (0, 0.0, 0.0, 0.0)

    def fold(self, state: Mapping[str, Column], new: Values) -> None:
        counts, centres, sums, squares = self._of(state)
        values = new.values.astype(np.float64)
        _set_centres(counts, centres, new.slots, values)
        with _silent():
            apart = values - centres[new.slots]
            np.add.at(sums, new.slots, apart)
            np.add.at(squares, new.slots, apart * apart)
        np.add.at(counts, new.slots, 1)

    def merge(self, state: Mapping[str, Column], slots: Slots, other: Mapping[str, Column]) -> None:
        counts, centres, sums, squares = self._of(state)
        some = self._of(other)[0] > 0  # an identity has no k to move
        slots = slots[some]
        n, k, total, square = (column[some] for column in self._of(other))
        _set_centres(counts, centres, slots, k)
        with _silent():
            shift = k - centres[slots]
            still = shift == 0  # nothing to move: 0 * infinity would make a nan of an overflowed sum
            moved_square = np.where(still, square, square + 2 * shift * total + n * shift * shift)
            np.add.at(sums, slots, np.where(still, total, total + n * shift))
            np.add.at(squares, slots, moved_square)
        np.add.at(counts, slots, n)

    def variances(self, state: Mapping[str, Column], slots: Slots) -> list[float | None]:
        """The sample variance (n - 1, as SQL's VAR_SAMP) of each cell; None below 2 values or where it overflowed."""
        n, _, sums, squares = (column[slots] for column in self._of(state))
        with _silent(), np.errstate(divide="ignore"):
            spread = np.maximum(squares - sums * sums / n, 0.0) / (n - 1)
        return [
            value if ok else None for value, ok in zip(spread.tolist(), ((n > 1) & np.isfinite(spread)), strict=True)
        ]


def _set_centres(counts: Column, centres: Column, slots: Slots, values: Column) -> None:
    """Give every cell of `slots` that has no value yet the first of its `values` as k."""
    first = np.flatnonzero(counts[slots] == 0)[::-1]
    centres[slots[first]] = values[first]  # numpy assigns repeated slots in order: the first value comes last and stays


@dataclass(frozen=True, slots=True)
class Extreme:
    """Smallest or largest value; meaningful only where the count beside it is not zero."""

    field: str
    side: Literal["min", "max"]
    dtype: Literal["<i8", "<f8"]
    where: str | None = None

    @property
    def name(self) -> str:
        return part_name(f"{self.side}({self.field})", self.where)

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        return ((self.name, self.dtype),)

    def identity(self) -> tuple[Any, ...]:
        if self.dtype == "<f8":
            return (np.inf if self.side == "min" else -np.inf,)
        return (INT64_MAX if self.side == "min" else INT64_MIN,)

    def _apply(self, column: Column, slots: Slots, values: Column) -> None:
        (np.minimum if self.side == "min" else np.maximum).at(column, slots, values)

    def fold(self, state: Mapping[str, Column], new: Values) -> None:
        self._apply(state[self.name], new.slots, new.values)

    def merge(self, state: Mapping[str, Column], slots: Slots, other: Mapping[str, Column]) -> None:
        self._apply(state[self.name], slots, other[self.name])


@dataclass(frozen=True, slots=True)
class Edge:
    """The value of the first or last event by event time; ties by partition, then position in the log."""

    field: str
    side: Literal["first", "last"]
    dtype: Literal["<i8", "<f8", "O"]
    where: str | None = None

    @property
    def name(self) -> str:
        return part_name(f"{self.side}({self.field})", self.where)

    @property
    def columns(self) -> tuple[tuple[str, str], ...]:
        return (
            (f"{self.name}.time", "<i8"),
            (f"{self.name}.place", "<i8"),
            (f"{self.name}.row", "<i8"),
            (f"{self.name}.value", self.dtype),
        )

    def identity(self) -> tuple[Any, ...]:
        time_ms = INT64_MAX if self.side == "first" else INT64_MIN
        return (time_ms, time_ms, time_ms, None if self.dtype == "O" else 0)

    def fold(self, state: Mapping[str, Column], new: Values) -> None:
        """Fold events of one partition, which stand in stream order and after everything folded before."""
        times = state[f"{self.name}.time"]
        if self.side == "last":
            np.maximum.at(times, new.slots, new.times_ms)
            winners = np.flatnonzero(new.times_ms == times[new.slots])
        else:
            before = times[new.slots]
            np.minimum.at(times, new.slots, new.times_ms)
            winners = np.flatnonzero((new.times_ms == times[new.slots]) & (new.times_ms < before))[::-1]
        # numpy assigns repeated slots in order, so the last winner of a slot stays
        slots = new.slots[winners]
        state[f"{self.name}.place"][slots] = new.places[winners]
        state[f"{self.name}.row"][slots] = new.rows[winners]
        state[f"{self.name}.value"][slots] = new.values[winners]

    def merge(self, state: Mapping[str, Column], slots: Slots, other: Mapping[str, Column]) -> None:
        names = [column for column, _ in self.columns]
        keys = names[:3]
        order = np.lexsort((*(other[key] for key in reversed(keys)), slots))
        if self.side == "last":
            order = order[::-1]
        _, heads = np.unique(slots[order], return_index=True)
        best = order[heads]
        target = slots[best]
        wins = self._beats({key: other[key][best] for key in keys}, {key: state[key][target] for key in keys}, keys)
        for column in names:
            state[column][target[wins]] = other[column][best[wins]]

    def _beats(self, mine: dict[str, Column], theirs: dict[str, Column], keys: list[str]) -> npt.NDArray[np.bool_]:
        """Compare (time, place, row) lexicographically, element by element."""
        wins = np.zeros(len(mine[keys[0]]), dtype=np.bool_)
        for key in reversed(keys):
            ahead = mine[key] > theirs[key] if self.side == "last" else mine[key] < theirs[key]
            wins = ahead | ((mine[key] == theirs[key]) & wins)
        return wins
