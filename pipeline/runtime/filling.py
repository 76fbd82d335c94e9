"""Rows for windows without events (`fill=`): what each value says of a window in which nothing of its group came.

    none      no row                                     zero      0, and null where there is no such number
    auto      count, sum, distincts 0; last carried;     previous  the row before it, of the same group
              lists empty; all else null                 linear    on the line between its neighbours
    null      null

A window is filled only where the answer is complete: from its beginning, or what has not expired, to `complete_to`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, get_args

import numpy as np

from pipeline.core.accumulators import Int64
from pipeline.core.cell_fields import group_json
from pipeline.core.programs import Program
from pipeline.core.windows import Span
from pipeline.errors import BadRequestError
from pipeline.runtime.answer import Table
from pipeline.runtime.steps import longest_window_ms
from pipeline.runtime.window_cells import Known

Fill = Literal["none", "auto", "null", "zero", "previous", "linear"]
FILLS: tuple[Fill, ...] = get_args(Fill)

MAX_FILLED = 200_000  # rows of an answer with its gaps filled, before `limit`
_ZEROS: Mapping[str, Any] = {"int": 0, "float": 0.0, "list": []}


@dataclass(frozen=True, slots=True)
class _Grid:
    """Windows in order (rows) by groups in order (columns): `places` are rows of a table, -1 where there is none."""

    spans: list[Span]
    groups: Int64
    places: Int64

    @property
    def before(self) -> Int64:
        """The place of the last row at or before each one, -1 where there is none."""
        return self._carried(self.places)

    @property
    def after(self) -> Int64:
        """The place of the first row at or after each one."""
        return self._carried(self.places[::-1])[::-1]

    def _carried(self, places: Int64) -> Int64:
        rows = np.where(places >= 0, np.arange(len(places))[:, None], -1)
        last = np.maximum.accumulate(rows, axis=0)
        return np.where(last >= 0, np.take_along_axis(places, np.maximum(last, 0), axis=0), -1)


def filled(table: Table, known: Known, fill: Fill, start_ms: int | None, end_ms: int | None) -> Table:
    """The rows of an answer by window then group, with those of windows without events.

    Raises:
        BadRequestError: 422, there would be too many of them.
    """
    grid = _grid(table, known, start_ms, end_ms)
    wanted = _wanted(grid, known, start_ms, end_ms)
    flat = grid.places.ravel()
    keep = flat[wanted]
    rows, columns = (each.ravel()[wanted] for each in np.indices(grid.places.shape))
    starts, ends = (np.array([span[n] for span in grid.spans], dtype=np.int64)[rows] for n in (0, 1))
    is_new = keep < 0
    states = {n: known.state_at(known.settles_at_ms(grid.spans[n])) for n in set(rows[is_new].tolist())}
    listed = keep.tolist()
    about = {
        "state": [table.about["state"][p] if p >= 0 else states[n] for p, n in zip(listed, rows.tolist(), strict=True)],
        "revision": [table.about["revision"][p] if p >= 0 else 0 for p in listed],
        "filled": is_new.tolist(),
    }
    values = {name: _column(name, column, known.program, fill, grid, wanted) for name, column in table.values.items()}
    if fill == "auto":
        values |= _selected(known.program, values, is_new)
    return Table(starts, ends, grid.groups[columns], about, values)


def too_many_rows(count: int) -> BadRequestError:
    return BadRequestError(
        f"with its gaps filled the answer would have {count} rows or more, and at most {MAX_FILLED} are made. Ask for "
        "a shorter range, a wider step, or fewer groups",
        code="fill_too_large",
        status=422,
    )


def _column(name: str, column: Sequence[Any], program: Program, fill: Fill, grid: _Grid, wanted: Any) -> list[Any]:
    places = grid.places.ravel()[wanted].tolist()
    carried = _takes_previous(name, program, fill)
    if carried:
        before = grid.before.ravel()[wanted].tolist()
        return [None if p < 0 else column[p] for p in before]
    if fill == "linear":
        return _linear(column, program.value_types[name], grid, wanted)
    empty = _empty(name, program, fill)
    return [empty if p < 0 else column[p] for p in places]


def _takes_previous(name: str, program: Program, fill: Fill) -> bool:
    if fill == "previous":
        return True
    functions = {each.spec.name: each.spec.function for each in program.finishers}
    return fill == "auto" and functions.get(name) == "last"


def _empty(name: str, program: Program, fill: Fill) -> Any:
    if fill == "zero":
        return _ZEROS.get(program.value_types[name])
    if fill == "auto":
        return next((each.empty for each in program.finishers if each.spec.name == name), None)
    return None


def _linear(column: Sequence[Any], kind: str, grid: _Grid, wanted: Any) -> list[Any]:
    """Numbers as floats: a count between 1 and 2 is 1.5. What is no number is null in a gap."""
    is_number = kind in ("int", "float")
    starts = np.array([start for start, _ in grid.spans], dtype=np.int64)
    times = np.broadcast_to(starts[:, None], grid.places.shape).ravel()[wanted].tolist()
    row_of_place = np.full(len(column) + 1, -1, dtype=np.int64)
    row_of_place[grid.places.ravel()] = np.indices(grid.places.shape)[0].ravel()
    found = []
    sides = (each.ravel()[wanted].tolist() for each in (grid.places, grid.before, grid.after))
    for (place, before, after), time_ms in zip(zip(*sides, strict=True), times, strict=True):
        if place >= 0:
            value = column[place]
            found.append(float(value) if is_number and value is not None else value)
        elif not is_number or before < 0 or after < 0 or column[before] is None or column[after] is None:
            found.append(None)
        else:
            first, last = (int(starts[row_of_place[p]]) for p in (before, after))
            share = (time_ms - first) / (last - first)
            found.append(column[before] + (column[after] - column[before]) * share)
    return found


def _selected(program: Program, values: Mapping[str, list[Any]], is_new: Any) -> dict[str, list[Any]]:
    """What is selected from finished values, in the new rows from what stands there now."""
    names = program.selection.expressions.keys() & values.keys()
    if not names or not program.selection.needs(names) <= values.keys():
        return {}
    computed = program.selection.computed(values, len(is_new), names)
    return {
        name: [new if added else old for new, old, added in zip(computed[name], values[name], is_new, strict=True)]
        for name in names
    }


def _grid(table: Table, known: Known, start_ms: int | None, end_ms: int | None) -> _Grid:
    groups = np.unique(table.groups)
    if not known.groups.fields:  # no group field: the one group is there, with or without a row
        groups = np.array([known.groups.shown.number(group_json(()))], dtype=np.int64)
    groups = groups[np.argsort(known.groups.ranks(groups))]
    first_ms = start_ms if start_ms is not None else min(table.starts.tolist(), default=None)
    spans = set(zip(table.starts.tolist(), table.ends.tolist(), strict=True))
    if len(groups) and first_ms is not None:
        most = MAX_FILLED // len(groups)
        empty = list(islice(_windows(known, first_ms, end_ms), most + 1))
        if len(empty) > most:
            raise too_many_rows(len(groups) * (most + 1))
        spans.update(empty)
    ordered = sorted(spans)
    rows, columns = ({key: n for n, key in enumerate(keys)} for keys in (ordered, groups.tolist()))
    places = np.full((len(ordered), len(groups)), -1, dtype=np.int64)
    for place, (start, end, group) in enumerate(
        zip(table.starts.tolist(), table.ends.tolist(), table.groups.tolist(), strict=True)
    ):
        places[rows[start, end], columns[group]] = place
    return _Grid(ordered, groups, places)


def _wanted(grid: _Grid, known: Known, start_ms: int | None, end_ms: int | None) -> Any:
    """Rows there are, and those of gaps that are complete: in the others nothing is known to be missing."""
    complete = np.array([_is_complete(known, span) for span in grid.spans], dtype=np.bool_).reshape(-1, 1)
    return ((grid.places >= 0) | complete).ravel()


def _is_complete(known: Known, span: Span) -> bool:
    completeness = known.completeness
    if completeness.complete_to_ms is None or known.settles_at_ms(span) > completeness.complete_to_ms:
        return False
    return completeness.complete_from_ms is None or span[0] >= completeness.complete_from_ms


def _windows(known: Known, first_ms: int, end_ms: int | None) -> Iterator[Span]:
    """The complete windows or steps that overlap [first, end), newest first."""
    to_ms = known.completeness.complete_to_ms
    if to_ms is None:
        return
    if end_ms is not None:
        to_ms = min(to_ms, known.cut.end(end_ms) + longest_window_ms(known.program))
    for span in _backwards(known, to_ms):
        if span[1] <= first_ms:
            return
        if (end_ms is None or span[0] < end_ms) and _is_complete(known, span):
            yield span
        elif known.completeness.complete_from_ms is not None and span[1] <= known.completeness.complete_from_ms:
            return


def _backwards(known: Known, to_ms: int) -> Iterator[Span]:
    cut = known.cut
    if cut.has_steps:
        end_ms = cut.begin(to_ms)
        while (start_ms := cut.begin(end_ms - 1)) < end_ms:
            yield start_ms, end_ms
            end_ms = start_ms
        return
    panes = known.program.panes
    end_ms = panes.end_at_or_before(to_ms)
    while True:
        [pane_ms] = panes.pane_starts(np.array([end_ms - 1], dtype=np.int64)).tolist()
        yield from panes.windows_of(pane_ms, end_ms, end_ms)
        before_ms = panes.end_at_or_before(end_ms - 1)
        if before_ms >= end_ms:  # where calendars end
            return
        end_ms = before_ms
