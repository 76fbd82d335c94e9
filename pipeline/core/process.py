"""A batch of the log and the state before it → changed cells, late rows, dead rows and the ledger: the heart, and pure.

    batch ── prefix watermark per event ──┐
      └── steps (filter, derive) ── pane ── late? ── cell ── fold into the table

`prepare` computes everything that can fail and touches no state; `fold` changes the table and cannot fail. The ledger
counts every event of the log once, in this order: dead, filtered, late, else accepted (DESIGN section 6).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.exceptions import PolarsError

from pipeline.core.accumulators import Int64, Slots, Values
from pipeline.core.batches import Batch
from pipeline.core.cells import CellTable, cell_field
from pipeline.core.grouping import column_codes, combined_codes, group_tuples
from pipeline.core.programs import Program, Step
from pipeline.core.windows import pane_starts

ROW = "_row"  # column of a frame in flight: the row's number in its batch
POISON_ATTEMPTS = 3  # a row that fails this often alone is a dead letter (DESIGN 8.6)
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class TimeState:
    """How far time is in one partition: running maxima over the events before the next one; None before the first."""

    max_seen_ms: int | None = None  # of min(event time, arrival): the watermark plus disorder
    max_ts_ms: int | None = None  # of event time as it came
    floor_ms: int | None = None  # windows that begin at or before it lost events to a trim of the log: left alone
    max_event_ms: int | None = None  # of min(event time, arrival), of events alone: what `complete_by` is told from
    max_beat_ms: int | None = None  # likewise, of heartbeats alone

    def after(self, batch: Batch, max_seen_ms: int | None) -> TimeState:
        """The state after a batch whose watermarks ended at the running maximum `max_seen_ms`."""
        return TimeState(
            max_seen_ms,
            _later(self.max_ts_ms, batch.times_ms),
            self.floor_ms,
            _later(self.max_event_ms, batch.effective_ms),
            max((ms for ms in (self.max_beat_ms, batch.max_beat_ms) if ms is not None), default=None),
        )


def _later(before: int | None, times_ms: Int64) -> int | None:
    if not len(times_ms):
        return before
    newest = int(times_ms.max())
    return newest if before is None else max(before, newest)


@dataclass(frozen=True, slots=True)
class DeadRow:
    """A row that cannot be processed: its number in the batch, and why."""

    row: int
    code: str
    message: str


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


def prepare(program: Program, batch: Batch, before: TimeState) -> Prepared:
    """Compute a batch up to its cells. Pure: nothing of the state is touched.

    Rows whose expressions fail are found by halving and become dead rows; all other failures are our own mistakes.
    """
    watermarks_ms, max_seen_ms = batch.prefix_watermarks(before.max_seen_ms, program.stream.time.disorder_ms)
    numbered = pl.DataFrame({ROW: np.arange(len(batch.times_ms))}).hstack(batch.frame.select(sorted(program.needs)))
    frame, dead = apply_steps(program.steps, numbered)
    rows = frame[ROW].to_numpy().astype(np.intp)
    times_ms = batch.times_ms[rows]
    starts_ms = pane_starts(program.window, times_ms)
    is_late = starts_ms + program.window.size_ms <= watermarks_ms[rows]
    if before.floor_ms is not None:
        is_late |= starts_ms <= before.floor_ms
    late = _late_rows(program, batch, rows[is_late], starts_ms[is_late], watermarks_ms)
    if len(late):
        keep = ~is_late
        frame, rows, starts_ms = frame.filter(pl.Series(keep)), rows[keep], starts_ms[keep]
    cells, cell_of = _cells(program, frame, starts_ms)
    n_dead = batch.n_dead + len(dead)
    ledger = Ledger(
        read=batch.n_events,
        accepted=len(rows),
        filtered=batch.n_events - n_dead - len(rows) - len(late),
        late=len(late),
        dead=n_dead,
    )
    return Prepared(cells, cell_of, rows, frame, late, dead, ledger, before.after(batch, max_seen_ms))


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


def apply_steps(steps: tuple[Step, ...], frame: pl.DataFrame) -> tuple[pl.DataFrame, tuple[DeadRow, ...]]:
    """Run the fused transforms; where an expression fails on the data, the rows it fails on alone are dead.

    Expressions are row-wise, so the rows that pass give the same values whichever half they are computed in.
    """
    dead: list[DeadRow] = []
    for step in steps:
        frame = _halve_poison(lambda part, step=step: _apply(step, part), frame, dead)  # type: ignore[misc]
    return frame, tuple(sorted(dead, key=lambda row: row.row))


def _apply(step: Step, frame: pl.DataFrame) -> pl.DataFrame:
    kept = frame if step.filter is None else frame.filter(step.filter)
    return kept.with_columns(step.derive) if step.derive else kept


def _halve_poison(
    compute: Callable[[pl.DataFrame], pl.DataFrame], frame: pl.DataFrame, dead: list[DeadRow]
) -> pl.DataFrame:
    error: PolarsError | None = None
    for _ in range(1 if len(frame) > 1 else POISON_ATTEMPTS):
        try:
            return compute(frame)
        except PolarsError as failure:
            error = failure
    if len(frame) <= 1:
        dead.extend(DeadRow(int(row), "expression_failed", str(error)) for row in frame[ROW])
        return compute(frame.clear())
    middle = len(frame) // 2
    return pl.concat([_halve_poison(compute, half, dead) for half in (frame[:middle], frame[middle:])])
