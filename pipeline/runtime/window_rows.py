"""Merged cells as finished rows: those that are wanted, in the answer's order, finished only where they are shown."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from pipeline.runtime.answer import AnswerColumn, Table, answer_fields, value_order, window_order
from pipeline.runtime.finishing import finished_columns
from pipeline.runtime.window_cells import Known, RowCells


@dataclass(slots=True)
class RowTable:
    """Finishes rows of one answer, and remembers what a cap or a failure kept out of those that are shown."""

    known: Known
    order: str = "window"
    state: str = "all"
    capped: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    @property
    def fields(self) -> tuple[AnswerColumn, ...]:
        program, groups = self.known.program, self.known.groups
        return answer_fields(program, is_step=False, group_by=groups.fields, values=list(program.value_types))

    def finished(self, rows: RowCells, count: int) -> Table:
        """The first `count` of some rows."""
        rows = self._first(self._in_state(rows), count)
        program, cells = self.known.program, rows.cells
        slots = cells.slots
        values = finished_columns(program, cells.columns, slots, rows.ends)
        self.capped |= {each.spec.name for each in program.finishers if any(each.truncated(cells.columns, slots))}
        self.failed |= {each.spec.name for each in program.finishers if each.failed(cells.columns, slots)}
        windows = cells.windows.tolist()
        about = {
            "state": [rows.states[number] for number in windows],
            "revision": [rows.revisions[number] for number in windows],
        }
        return Table(rows.starts, rows.ends, cells.groups, about, values)

    def _in_state(self, rows: RowCells) -> RowCells:
        """The rows whose state was asked for."""
        wanted = np.array([_is_wanted(state, self.state) for state in rows.states], dtype=np.bool_)
        if wanted.all():
            return rows
        return RowCells(rows.spans, rows.states, rows.revisions, rows.cells.taken(wanted[rows.cells.windows]))

    def _first(self, rows: RowCells, count: int) -> RowCells:
        """The rows in order: of a value only that one is finished before they are chosen."""
        cells, groups = rows.cells, self.known.groups
        if not len(cells):
            return rows
        name = self.order.removeprefix("-")
        if name == "window":
            places = window_order(groups, rows.starts, rows.ends, cells.groups, self.order)[:count]
        else:
            values = finished_columns(self.known.program, cells.columns, cells.slots, rows.ends, (name,))[name]
            spans = (rows.starts, rows.ends, cells.groups)
            places = value_order(groups, *spans, values, self.order.startswith("-"), count)
        if np.array_equal(places, cells.slots):
            return rows
        return RowCells(rows.spans, rows.states, rows.revisions, cells.taken(places))


def _is_wanted(state: str, wanted: str) -> bool:
    return wanted in ("all", state) or (wanted == "closed" and state == "final")
