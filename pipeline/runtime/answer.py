"""An answer as columns: finished rows in their order, one list a column, and what they cover.

Invariant: no dictionary a row is made here; who wants flat rows makes them of the columns.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.core.accumulators import Int64, Slots
from pipeline.core.definitions import Calendar
from pipeline.core.programs import Program
from pipeline.runtime.answer_groups import AnswerGroups
from pipeline.runtime.answer_positions import Position, rows_after
from pipeline.runtime.coded_columns import Coded, taken, under_each_other
from pipeline.runtime.finishing import as_rows
from pipeline.runtime.metric_completeness import Completeness

Row = dict[str, Any]
Kind = Literal["window", "group", "value"]

WINDOW_TYPES: dict[str, str] = {
    "window_start": "timestamp",
    "window_end": "timestamp",
    "state": "string",
    "revision": "int",
}
SESSION_STEP_TYPES = {"sessions": "int"}
FILLED_TYPES = {"filled": "bool"}  # whether a row stands for a window without events
_CANDIDATES = 4  # times the rows that are wanted: from there on the best are sought before any is sorted


@dataclass(frozen=True, slots=True)
class AnswerColumn:
    """A column of an answer: its config type (`int`, `timestamp`, `list`, …), and what it is."""

    name: str
    type: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under way: `groups` are numbers of the answer's groups, `about` the columns that stand before theirs."""

    starts: Int64
    ends: Int64
    groups: Int64
    about: Mapping[str, Sequence[Any]]
    values: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(self.starts)

    def taken(self, places: Slots) -> Table:
        """Some rows, in the order of `places`."""
        if len(places) == len(self) and np.array_equal(places, np.arange(len(self))):
            return self
        about = {name: taken(column, places) for name, column in self.about.items()}
        values = {name: taken(column, places) for name, column in self.values.items()}
        return Table(self.starts[places], self.ends[places], self.groups[places], about, values)

    def where(self, wanted: npt.NDArray[np.bool_]) -> Table:
        """The rows that are wanted."""
        return self.taken(np.flatnonzero(wanted))

    def head(self, count: int) -> Table:
        return self if len(self) <= count else self.taken(np.arange(count, dtype=np.intp))

    def in_order(self, groups: AnswerGroups, order: str, count: int | None = None) -> Table:
        """The rows by window then group, or by a value; the first `count` of them."""
        name = order.removeprefix("-")
        if name == "window":
            return self.taken(window_order(groups, self.starts, self.ends, self.groups, order)[:count])
        spans = (self.starts, self.ends, self.groups)
        return self.taken(value_order(groups, *spans, self.values[name], order.startswith("-"), count))

    def after(self, position: Position, groups: AnswerGroups, order: str) -> Table:
        """The rows that come after a position in an order."""
        values = self.values.get(order.removeprefix("-"))
        return self.where(rows_after(position, groups, order, (self.starts, self.ends), self.groups, values))

    def last(self, groups: AnswerGroups, order: str) -> Position:
        """The position of the last row."""
        values = self.values.get(order.removeprefix("-"))
        group = groups.shown.names[int(self.groups[-1])]
        return Position(int(self.starts[-1]), int(self.ends[-1]), group, None if values is None else values[-1])

    def columns(self, groups: AnswerGroups, values: Collection[str]) -> dict[str, Sequence[Any]]:
        """Every column of the rows, in the order they are shown; of the values those that were asked for."""
        return {
            "window_start": Coded.of_runs(self.starts),
            "window_end": Coded.of_runs(self.ends),
            **self.about,
            **groups.columns(self.groups),
            **{name: column for name, column in self.values.items() if name in values},
        }


def together(tables: Sequence[Table]) -> Table:
    """Tables of the same columns one under the other."""
    if len(tables) == 1:
        return tables[0]
    about = {name: under_each_other([table.about[name] for table in tables]) for name in tables[0].about}
    values = {name: under_each_other([table.values[name] for table in tables]) for name in tables[0].values}
    starts, ends, groups = (
        np.concatenate([getattr(table, name) for table in tables]) for name in ("starts", "ends", "groups")
    )
    return Table(starts, ends, groups, about, values)


def window_order(groups: AnswerGroups, starts: Int64, ends: Int64, numbers: Int64, order: str = "window") -> Slots:
    """The order of rows by window, descending with `-window`, then always ascending by group."""
    ranks = groups.ranks(numbers)
    if order == "-window":
        return np.lexsort((ranks, -ends, -starts))
    before, after = slice(None, -1), slice(1, None)
    same = (starts[before] == starts[after]) & (ends[before] == ends[after])
    later = (starts[before] < starts[after]) | ((starts[before] == starts[after]) & (ends[before] < ends[after]))
    if np.all(later | (same & (ranks[before] <= ranks[after]))):
        return np.arange(len(starts), dtype=np.intp)  # nearly always: windows are read in order, and published sorted
    return np.lexsort((ranks, ends, starts))


def value_order(
    groups: AnswerGroups,
    starts: Int64,
    ends: Int64,
    numbers: Int64,
    values: Sequence[Any],
    descending: bool,
    count: int | None = None,
) -> Slots:
    """The order of rows by a value, nulls last either way, ties by window then group; of the first `count` rows."""
    best = _best(values, descending, count)
    ties = window_order(groups, starts[best], ends[best], numbers[best])
    ordered = best[ties].tolist()
    known = [place for place in ordered if values[place] is not None]
    known.sort(key=values.__getitem__, reverse=descending)
    known += [place for place in ordered if values[place] is None]
    return np.array(known[:count], dtype=np.intp)


def _best(values: Sequence[Any], descending: bool, count: int | None) -> Slots:
    """Places that hold the first `count` values, and few others: sorting 100,000 groups for ten is for nothing."""
    everything = np.arange(len(values), dtype=np.intp)
    if count is None or len(values) <= _CANDIDATES * max(count, 1) or isinstance(_first_known(values), str):
        return everything
    try:
        numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    except OverflowError:
        return everything
    known = numbers[~np.isnan(numbers)]
    if len(known) < count:
        return everything
    # as float64 two integers may look alike that are not, but never stand the other way round
    if descending:
        return np.flatnonzero(numbers >= np.partition(known, len(known) - count)[len(known) - count])
    return np.flatnonzero(numbers <= np.partition(known, count - 1)[count - 1])


def _first_known(values: Sequence[Any]) -> Any:
    return next((value for value in values if value is not None), None)


@dataclass(frozen=True, slots=True)
class Answer:
    """Columns of one length, what the answer covers, and the program that made it."""

    program: Program
    fields: tuple[AnswerColumn, ...]
    columns: Mapping[str, Sequence[Any]]
    start_ms: int | None
    end_ms: int | None
    step_ms: int | None
    completeness: Completeness
    truncated: bool
    tier_ms: int | None = None  # the tier that was merged where it has windows
    capped: frozenset[str] = frozenset()  # values that a cap kept something out of, in some row; `__other__` for groups
    failed: frozenset[str] = frozenset()  # values that are null in some row since a registered aggregate failed
    calendar: Calendar | None = None  # the steps, where they are days, weeks or months of a zone
    last: Position | None = None  # of the last row, where there are more

    def __len__(self) -> int:
        return len(self.columns["window_start"])

    @property
    def rows(self) -> list[Row]:
        """The answer as flat rows, one per window and group."""
        return as_rows(self.columns)

    def part(self, start: int, stop: int) -> Answer:
        """Some of its rows."""
        return replace(self, columns={name: column[start:stop] for name, column in self.columns.items()})


def answer_fields(
    program: Program, about: dict[str, str], group_by: Sequence[str], values: Mapping[str, str]
) -> tuple[AnswerColumn, ...]:
    """The columns of an answer, in order; `about` those between the window's and the groups', `values` with types."""
    groups = dict(program.group_types)
    return (
        *(AnswerColumn(name, kind, "window") for name, kind in (WINDOW_TYPES | about).items()),
        *(AnswerColumn(name, groups[name], "group") for name in group_by),
        *(AnswerColumn(name, kind, "value") for name, kind in values.items()),
    )


def empty_table(fields: Sequence[AnswerColumn]) -> Table:
    none = np.empty(0, dtype=np.int64)
    about = [f.name for f in fields if f.kind == "window" and f.name not in ("window_start", "window_end")]
    values = [f.name for f in fields if f.kind == "value"]
    return Table(none, none, none, {name: [] for name in about}, {name: [] for name in values})
