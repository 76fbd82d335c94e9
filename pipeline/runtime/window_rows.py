"""Merged cells as finished rows: those that are wanted, in the answer's order, finished only where they are shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.runtime.answer import Table, value_order, window_order
from pipeline.runtime.answer_positions import Position, rows_after
from pipeline.runtime.coded_columns import Coded
from pipeline.runtime.finishing import finished_columns
from pipeline.runtime.window_cells import Known, RowCells


@dataclass(slots=True)
class RowTable:
    """Finishes rows of one answer, and remembers what a cap or a failure kept out of those that are shown.

    `names`: the values that are finished. `after`: rows up to there were given before.
    """

    known: Known
    names: Sequence[str]
    order: str = "window"
    state: str = "all"
    after: Position | None = None
    capped: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def finished(self, rows: RowCells, count: int | None = None) -> Table:
        """The first `count` of some rows, in order."""
        rows = self._first(self.in_state(rows), count)
        program, cells = self.known.program, rows.cells
        slots = cells.slots
        values = finished_columns(program, cells.columns, slots, rows.ends, self.names)
        finishers = [each for each in program.finishers if each.spec.name in self.names]
        self.capped |= {each.spec.name for each in finishers if any(each.truncated(cells.columns, slots))}
        self.failed |= {each.spec.name for each in finishers if each.failed(cells.columns, slots)}
        about = {"state": Coded(rows.states, cells.windows), "revision": Coded(rows.revisions, cells.windows)}
        return Table(rows.starts, rows.ends, cells.groups, about, values)

    def in_state(self, rows: RowCells) -> RowCells:
        """The rows whose state was asked for."""
        wanted = np.array([_is_wanted(state, self.state) for state in rows.states], dtype=np.bool_)
        return rows if wanted.all() else rows.taken(np.flatnonzero(wanted[rows.cells.windows]))

    def _first(self, rows: RowCells, count: int | None) -> RowCells:
        """The rows in order: of a value only that one is finished before they are chosen."""
        groups = self.known.groups
        values = self._ordered_by(rows)
        if self.after is not None and len(rows.cells):
            spans = (rows.starts, rows.ends)
            wanted = rows_after(self.after, groups, self.order, spans, rows.cells.groups, values)
            rows, values = rows.taken(np.flatnonzero(wanted)), None
        if not len(rows.cells):
            return rows
        values = values or self._ordered_by(rows)
        spans = (rows.starts, rows.ends)
        if values is None:
            return rows.taken(window_order(groups, *spans, rows.cells.groups, self.order)[:count])
        return rows.taken(value_order(groups, *spans, rows.cells.groups, values, self.order.startswith("-"), count))

    def _ordered_by(self, rows: RowCells) -> list[Any] | None:
        name = self.order.removeprefix("-")
        if name == "window":
            return None
        return finished_columns(self.known.program, rows.cells.columns, rows.cells.slots, rows.ends, (name,))[name]


def _is_wanted(state: str, wanted: str) -> bool:
    return wanted in ("all", state) or (wanted == "closed" and state == "final")
