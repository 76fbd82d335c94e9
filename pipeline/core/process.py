"""A batch of the log and the state before it → changed cells, late rows, dead rows and the ledger: the heart, and pure.

    batch ── prefix watermark per event ──┐
      └── steps (filter, derive, lookup, explode, python) ── pane ── late? ── cell ── fold into the table

`prepare` computes everything that can fail and touches no state; `fold` changes the table and cannot fail. The ledger
counts every event of the log once, in this order: dead, filtered, late, else accepted (DESIGN section 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.core.accumulators import Int64, Slots, Values
from pipeline.core.batches import ROW, Batch
from pipeline.core.cells import CellTable, cell_field
from pipeline.core.grouping import column_codes, combined_codes, group_tuples
from pipeline.core.programs import Program
from pipeline.core.steps import NO_CONTENTS, DeadRow, Joins, apply_steps, tables_after
from pipeline.core.tables import Contents
from pipeline.core.windows import pane_starts

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class TimeState:
    """What the log up to the next event made of one partition: running maxima, None before the first event; `tables`,
    the hash of the content that each lookup table has there."""

    max_seen_ms: int | None = None  # of min(event time, arrival): the watermark plus disorder
    max_ts_ms: int | None = None  # of event time as it came
    floor_ms: int | None = None  # windows that begin at or before it lost events to a trim of the log: left alone
    tables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LateRows:
    """Rows whose every window had closed when they came (or begins before what is left of the log); parallel, in ms."""

    rows: Rows
    times_ms: Int64
    starts_ms: Int64
    ends_ms: Int64
    watermarks_ms: Int64

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Conservation counters in events: read = accepted + filtered + late + dead."""

    read: int = 0
    accepted: int = 0
    filtered: int = 0
    late: int = 0
    dead: int = 0

    def __add__(self, other: Ledger) -> Ledger:
        return Ledger(
            self.read + other.read,
            self.accepted + other.accepted,
            self.filtered + other.filtered,
            self.late + other.late,
            self.dead + other.dead,
        )

    @property
    def balances(self) -> bool:
        return self.read == self.accepted + self.filtered + self.late + self.dead


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch computed up to its cells, nothing folded yet.

    `cells`: the distinct (pane start, cell field) of the batch; `cell_of` the number of its cell for each accepted row;
    `rows` the numbers of the accepted rows in the batch; `frame` their columns.
    """

    cells: list[tuple[int, bytes]]
    cell_of: Rows
    rows: Rows
    frame: pl.DataFrame
    late: LateRows
    dead: tuple[DeadRow, ...]
    ledger: Ledger
    time: TimeState


def prepare(program: Program, batch: Batch, before: TimeState, contents: Contents = NO_CONTENTS) -> Prepared:
    """Compute a batch up to its cells. Pure: nothing of the state is touched.

    `contents` are those of the lookup tables that hold somewhere in the batch, by hash.
    Rows whose expressions fail are found by halving and become dead rows; all other failures are our own mistakes.
    """
    watermarks_ms, max_seen_ms = batch.prefix_watermarks(before.max_seen_ms, program.stream.time.disorder_ms)
    numbered = pl.DataFrame({ROW: np.arange(len(batch.times_ms))}).hstack(batch.frame.select(sorted(program.needs)))
    frame, dead = apply_steps(program.steps, numbered, Joins(before.tables, batch.reloads, contents))
    rows = frame[ROW].to_numpy().astype(np.intp)
    times_ms = batch.times_ms[rows]
    starts_ms = pane_starts(program.window, times_ms)
    is_late = starts_ms + program.window.size_ms <= watermarks_ms[rows]
    if before.floor_ms is not None:
        is_late |= starts_ms <= before.floor_ms
    once = is_late & (np.diff(rows, prepend=-1) != 0)  # an event is late once, however many rows were made from it
    late = _late_rows(program, batch, rows[once], starts_ms[once], watermarks_ms)
    ledger = ledger_of(batch, rows, is_late, len(dead))
    if len(late):
        keep = ~is_late
        frame, rows, starts_ms = frame.filter(pl.Series(keep)), rows[keep], starts_ms[keep]
    cells, cell_of = _cells(program, frame, starts_ms)
    tables = tables_after(before.tables, batch.reloads)
    time = TimeState(max_seen_ms, _max_of(before.max_ts_ms, batch.times_ms), before.floor_ms, tables)
    return Prepared(cells, cell_of, rows, frame, late, dead, ledger, time)


def _max_of(before: int | None, times_ms: Int64) -> int | None:
    if not len(times_ms):
        return before
    newest = int(times_ms.max())
    return newest if before is None else max(before, newest)


def _late_rows(program: Program, batch: Batch, rows: Rows, starts_ms: Int64, watermarks_ms: Int64) -> LateRows:
    return LateRows(rows, batch.times_ms[rows], starts_ms, starts_ms + program.window.size_ms, watermarks_ms[rows])


def _cells(program: Program, frame: pl.DataFrame, starts_ms: Int64) -> tuple[list[tuple[int, bytes]], Rows]:
    """The distinct (pane, cell field) of the rows, and each row's number among them."""
    columns = [column_codes(frame[name]) for name in program.stage.group_by]
    if len(starts_ms) and starts_ms.min() != starts_ms.max():
        panes, numbers = np.unique(starts_ms, return_inverse=True)
        columns.append((numbers.astype(np.int64), len(panes)))
    codes, representative = combined_codes(columns, len(starts_ms))
    groups = group_tuples(frame, program.stage.group_by, representative)
    return list(zip(starts_ms[representative].tolist(), map(cell_field, groups), strict=True)), codes.astype(np.intp)


def fold(program: Program, batch: Batch, prepared: Prepared, table: CellTable) -> Slots:
    """Fold the accepted rows into their cells, in stream order; return the slot of each of `prepared.cells`."""
    cell_slots = table.slots(prepared.cells)
    if not len(prepared.rows):
        return cell_slots
    slots = cell_slots[prepared.cell_of]
    rows = prepared.rows
    times_ms, places, numbers = batch.times_ms[rows], batch.places[rows], batch.rows[rows]
    for part in program.layout.accumulators:
        if part.field is None:
            part.fold(table.columns, Values(slots, times_ms, times_ms, places, numbers))
            continue
        column = prepared.frame[part.field]
        values = as_numpy(column)
        if column.null_count():
            valid = column.is_not_null().to_numpy()
            part.fold(
                table.columns, Values(slots[valid], values[valid], times_ms[valid], places[valid], numbers[valid])
            )
        else:
            part.fold(table.columns, Values(slots, values, times_ms, places, numbers))
    return cell_slots


def as_numpy(column: pl.Series) -> npt.NDArray[Any]:
    """A column as int64, float64 or object; the values under nulls are arbitrary."""
    if column.dtype == pl.String:
        values = np.empty(len(column), dtype=object)
        values[:] = column.to_list()
        return values
    if column.dtype == pl.Float64:
        return column.fill_null(0.0).to_numpy()
    return column.cast(pl.Int64).fill_null(0).to_numpy()


def ledger_of(batch: Batch, rows: Rows, is_late: npt.NDArray[np.bool_], dead: int) -> Ledger:
    """Count the events of a batch, each once, by what became of the rows made from it.

    `rows` are the input rows of what the steps left, in stream order, several of one event side by side; `is_late`
    says which of them are late; `dead` rows could not be computed. An event is accepted when any of its rows is, late
    when all that are left are, and filtered when none is left.
    """
    n_dead = batch.n_dead + dead
    present, accepted = n_events(rows), n_events(rows[~is_late])
    return Ledger(
        read=batch.n_events,
        accepted=accepted,
        filtered=batch.n_events - n_dead - present,
        late=present - accepted,
        dead=n_dead,
    )


def n_events(rows: Rows) -> int:
    """How many events rows in stream order were made from."""
    return int(np.count_nonzero(np.diff(rows))) + 1 if len(rows) else 0
