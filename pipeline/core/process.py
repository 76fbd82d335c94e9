"""A batch of the log and the state before it → changed cells, late rows, dead rows and the ledger: the heart, and pure.

    batch ── prefix watermark per event ──┐
      └── steps (filter … python, lift) ── late? in which windows? ── pane, cell ── fold into the table

`prepare` computes everything that can fail and touches no state; `fold` changes the table and cannot fail. The ledger
counts every event of the log once, in this order: dead, filtered, late, else accepted (DESIGN section 6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.core.accumulators import Column, Int64, Slots, Values
from pipeline.core.batches import ROW, Batch
from pipeline.core.cell_fields import ALWAYS, OTHER, OTHERS, cell_field, cell_fields, split_field
from pipeline.core.cell_keys import CellKeys
from pipeline.core.cells import CellTable
from pipeline.core.definitions import Session
from pipeline.core.frames import kept
from pipeline.core.group_texts import text_fields
from pipeline.core.grouping import column_codes, combined_codes, group_tuples, integer_codes
from pipeline.core.lateness import NO_END, Mask, Verdict, judge
from pipeline.core.names import Names
from pipeline.core.programs import Program
from pipeline.core.sketch_user import UserPartials
from pipeline.core.steps import NO_CONTENTS, DeadRow, Joins, apply_steps, lifted_column, tables_after, where_column
from pipeline.core.tables import Contents
from pipeline.core.watermarks import NO_TIME_MS

Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class TimeState:
    """What the log up to the next event made of one partition: running maxima, None before the first event; `tables`,
    the hash of the content that each lookup table has there."""

    max_seen_ms: int | None = None  # of min(event time, arrival): the watermark plus disorder
    max_ts_ms: int | None = None  # of event time as it came
    floor_ms: int | None = None  # windows that begin at or before it lost events to a trim of the log: left alone
    max_event_ms: int | None = None  # of min(event time, arrival), of events alone: what `complete_by` is told from
    max_beat_ms: int | None = None  # likewise, of heartbeats alone
    tables: Mapping[str, str] = field(default_factory=dict)
    expired_ms: int | None = None  # windows that end at or before it may be gone: asked only for backfilled rows

    def after(self, batch: Batch, max_seen_ms: int | None) -> TimeState:
        """The state after a batch whose watermarks ended at the running maximum `max_seen_ms`."""
        return replace(
            self,
            max_seen_ms=max_seen_ms,
            max_ts_ms=_latest(_later(self.max_ts_ms, batch.times_ms), batch.unread_ms),
            max_event_ms=_later(self.max_event_ms, batch.effective_ms),
            max_beat_ms=_latest(self.max_beat_ms, batch.max_beat_ms),
            tables=tables_after(self.tables, batch.reloads),
        )


def _later(before: int | None, times_ms: Int64) -> int | None:
    newest = int(times_ms.max()) if len(times_ms) else NO_TIME_MS
    return _latest(before, None if newest == NO_TIME_MS else newest)


def _latest(*times_ms: int | None) -> int | None:
    return max((ms for ms in times_ms if ms is not None), default=None)


@dataclass(frozen=True, slots=True)
class LateRows:
    """Rows that count in no window: each had closed for good, or begins before what is left of the log; in ms.

    Parallel arrays; `starts_ms` and `ends_ms` are the last window the row could have counted in. `expired`: of the
    backfilled ones, those whose windows are gone; `watermarks_ms` has then the end of the newest that may be gone.
    """

    rows: Rows
    times_ms: Int64
    starts_ms: Int64
    ends_ms: Int64
    watermarks_ms: Int64
    before_log: npt.NDArray[np.bool_]
    expired: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, slots=True)
class Ledger:
    """Conservation counters in events: read = accepted + filtered + late + dead.

    `partial`: accepted events that were late for some of their windows. `others`: rows counted in `__other__`.
    `backfilled`: accepted events of backfill. `replayed`: events read again, out of what was put aside.
    """

    read: int = 0
    accepted: int = 0
    filtered: int = 0
    late: int = 0
    dead: int = 0
    partial: int = 0
    others: int = 0
    backfilled: int = 0
    replayed: int = 0

    def __add__(self, other: Ledger) -> Ledger:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Ledger(*(mine + more for mine, more in pairs))

    @property
    def balances(self) -> bool:
        return self.read == self.accepted + self.filtered + self.late + self.dead


@dataclass(frozen=True, slots=True)
class Prepared:
    """A batch computed up to its cells, nothing folded yet.

    `cells`: the distinct (pane start, cell field) of the batch; `first_rows` the first accepted row of each; `cell_of`
    the number of its cell for each accepted row; `rows` the numbers of the accepted rows in the batch; `frame` their
    columns; `watermarks_ms` the watermark before each.
    """

    cells: CellKeys
    first_rows: Rows
    cell_of: Rows
    rows: Rows
    frame: pl.DataFrame
    watermarks_ms: Int64
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
    numbered = batch.numbered(program.needs)
    frame, dead = apply_steps(program.steps, numbered, Joins(before.tables, batch.reloads, contents))
    rows = frame[ROW].to_numpy().astype(np.intp)
    judged_ms = watermarks_ms
    if batch.has_backfill:
        judged_ms, watermarks_ms = _of_backfill(program, batch, before, watermarks_ms)
    verdict = judge(program.stage, batch.times_ms[rows], judged_ms[rows], before.floor_ms)
    ledger = ledger_of(batch, rows, verdict.late, len(dead), verdict.from_ends != NO_END)
    # an event is late once, however many rows were made from it
    late = _late_rows(batch, rows, verdict, verdict.late & (np.diff(rows, prepend=-1) != 0), watermarks_ms)
    panes_ms, from_ends = verdict.panes, verdict.from_ends
    if len(late):
        keep = ~verdict.late
        frame, rows, panes_ms, from_ends = kept(frame, keep), rows[keep], panes_ms[keep], from_ends[keep]
    cells, first_rows, cell_of = _cells(program, frame, panes_ms, from_ends)
    time = before.after(batch, max_seen_ms)
    return Prepared(cells, first_rows, cell_of, rows, frame, watermarks_ms[rows], late, dead, ledger, time)


def _of_backfill(program: Program, batch: Batch, before: TimeState, watermarks_ms: Int64) -> tuple[Int64, Int64]:
    """The watermarks to judge by, and those to say how late a row is by, where some rows are backfilled.

    Such a row is late for no window, but counts only in those that are there. What is gone ends at or before one
    moment, so the windows a row counts in begin at one of its pane's, as they do for a late row. Sessions are there
    until they are final: the watermark says what they still take, as for any event.
    """
    if isinstance(program.stage.window, Session):
        return watermarks_ms, watermarks_ms
    lateness_ms = program.stage.allowed_lateness_ms
    gone_ms = NO_TIME_MS if before.expired_ms is None else before.expired_ms + lateness_ms
    known = [ms for ms in (before.expired_ms, before.floor_ms) if ms is not None]
    behind_ms = max(known, default=NO_TIME_MS)
    return np.where(batch.backfill, gone_ms, watermarks_ms), np.where(batch.backfill, behind_ms, watermarks_ms)


def _late_rows(batch: Batch, rows: Rows, verdict: Verdict, late: Mask, watermarks_ms: Int64) -> LateRows:
    numbers = rows[late]
    return LateRows(
        numbers,
        batch.times_ms[numbers],
        verdict.begins[late],
        verdict.ends[late],
        watermarks_ms[numbers],
        verdict.before_log[late],
        batch.backfill[numbers] & ~verdict.before_log[late],
    )


def _cells(program: Program, frame: pl.DataFrame, panes_ms: Int64, from_ends: Int64) -> tuple[CellKeys, Rows, Rows]:
    """The distinct (pane, cell field) of the rows, the first row of each, and each row's number among them."""
    columns = [column_codes(frame[name]) for name in program.stage.group_by]
    for numbers_ms in (panes_ms, from_ends):
        if len(numbers_ms) and numbers_ms.min() != numbers_ms.max():
            columns.append(integer_codes(numbers_ms))
    cell_of, first_rows = combined_codes(columns, len(panes_ms))
    fields = _fields_of(program, frame, first_rows, from_ends[first_rows])
    return CellKeys(panes_ms[first_rows], fields), first_rows, cell_of.astype(np.intp)


def _fields_of(program: Program, frame: pl.DataFrame, first_rows: Rows, from_ends: Int64) -> Names:
    """The fields of many cells: together, where no group is called as those above the cap and no event is late."""
    group_by = program.stage.group_by
    together = len(first_rows) > 0 and bool((from_ends == NO_END).all())
    if together and len(group_by) == 1:
        fields = text_fields(frame[group_by[0]], first_rows)
        if fields is not None and OTHERS not in fields.data:
            return fields
    groups = group_tuples(frame, group_by, first_rows)
    if together:
        fields = cell_fields(groups)
        if OTHERS not in fields.data:
            return fields
    ends = (ALWAYS if end == NO_END else b"%d" % end for end in from_ends.tolist())
    return Names.of([_field_of(program, group, end) for group, end in zip(groups, ends, strict=True)])


def _field_of(program: Program, group: tuple[Any, ...], from_end: bytes) -> bytes:
    """The field of a group's cell; a group that is called as those above the cap are is counted with them.

    So one row has one key. Sessions have no cap, and the name means nothing there.
    """
    if group and group[0] == OTHER and group == (OTHER,) * len(group) and not isinstance(program.window, Session):
        return from_end + b" " + OTHERS
    return cell_field(group, from_end)


@dataclass(frozen=True, slots=True)
class Folded:
    """What a batch changed in the table: the cells, their slots, and how many rows went to the group `__other__`.

    `counted_in`: for each cell of the batch the one it was folded into, which is another above the cap.
    """

    cells: CellKeys
    slots: Slots
    others: int
    counted_in: CellKeys


def fold(program: Program, batch: Batch, prepared: Prepared, table: CellTable) -> Folded:
    """Fold the accepted rows into their cells, in stream order."""
    cells, others = _within_cap(program.stage.max_groups, prepared, table)
    counted_in, cell_slots = cells, table.slots(cells)
    if len(prepared.rows):
        fold_values(program, batch, prepared, table, cell_slots[prepared.cell_of])
    if others:  # several cells of the batch have become one
        pairs = dict(zip(cells, cell_slots.tolist(), strict=True))
        cells, cell_slots = CellKeys.of(pairs), np.fromiter(pairs.values(), dtype=np.intp)
    return Folded(cells, cell_slots, others, counted_in)


class Table(Protocol):
    """Cells by slot, whatever they are keyed by."""

    @property
    def columns(self) -> Mapping[str, Column]: ...
    def fold_sketch(self, number: int, new: Values) -> None: ...


def fold_values(program: Program, batch: Batch, prepared: Prepared, table: Table, slots: Slots) -> None:
    """Fold the values of the accepted rows into cells, `slots` one a row, in stream order."""
    rows = prepared.rows
    times_ms = batch.times_ms[rows]
    events = Values(slots, times_ms, times_ms, batch.places[rows], batch.rows[rows])
    known: dict[tuple[str | None, str | None], Values] = {}

    def values(field: str | None, where: str | None) -> Values:
        if (field, where) not in known:
            known[field, where] = _values_of(prepared.frame, events, field, where)
        return known[field, where]

    for part in program.layout.accumulators:
        part.fold(table.columns, values(part.field, part.where))
    for number, sketch in enumerate(program.layout.sketches):
        if isinstance(sketch, UserPartials):  # a step has called its lift, on the rows of its `where`
            table.fold_sketch(number, values(lifted_column(sketch), None))
        else:
            table.fold_sketch(number, values(sketch.field, sketch.where))


def _values_of(frame: pl.DataFrame, events: Values, field: str | None, where: str | None) -> Values:
    """What a part folds: the values of its column that are not null, of the rows where its `where` is TRUE."""
    column = None if field is None else frame[field]
    valid = None if where is None else frame[where_column(where)].fill_null(False).to_numpy()
    if column is not None and column.null_count():
        given = column.is_not_null().to_numpy()
        valid = given if valid is None else valid & given
    values = events.values if column is None else as_numpy(column)
    if valid is None:
        return replace(events, values=values)
    return Values(events.slots[valid], values[valid], events.times_ms[valid], events.places[valid], events.rows[valid])


def _within_cap(cap: int, prepared: Prepared, table: CellTable) -> tuple[CellKeys, int]:
    """The batch's cells with the groups above the cap of their pane as `__other__`, and how many rows `__other__` has.

    A pane takes groups in stream order, so which of them it has does not depend on how the log was cut into batches.
    """
    cells = prepared.cells
    if len(table) + len(cells) <= cap or len(cells) + max(map(len, table.panes.values()), default=0) <= cap:
        return cells, _rows_of_others(prepared, cells)
    capped = list(cells)
    known: dict[int, set[bytes]] = {}
    for number in np.argsort(prepared.first_rows, kind="stable").tolist():
        pane, (from_end, group) = capped[number][0], split_field(capped[number][1])
        if pane not in known:
            known[pane] = {split_field(field)[1] for field in table.panes.get(pane, ())} - {OTHERS}
        if group in known[pane] or (group != OTHERS and len(known[pane]) < cap):
            known[pane].add(group)
        else:
            capped[number] = (pane, from_end + b" " + OTHERS)
    within = CellKeys.of(capped)
    return within, _rows_of_others(prepared, within)


def _rows_of_others(prepared: Prepared, cells: CellKeys) -> int:
    if OTHERS not in cells.fields.data:
        return 0
    numbers = [number for number, field in enumerate(cells.fields) if field.endswith(b" " + OTHERS)]
    counts = np.bincount(prepared.cell_of, minlength=len(cells))
    return int(counts[numbers].sum())


def as_numpy(column: pl.Series) -> npt.NDArray[Any]:
    """A column as int64, float64 or object; the values under nulls are arbitrary."""
    if column.dtype in (pl.String, pl.Binary):
        values = np.empty(len(column), dtype=object)
        values[:] = column.to_list()
        return values
    if column.dtype == pl.Float64:
        return _filled(column, 0.0).to_numpy()
    return _filled(column.cast(pl.Int64), 0).to_numpy()


def _filled(column: pl.Series, value: float) -> pl.Series:
    return column.fill_null(value) if column.null_count() else column


def ledger_of(batch: Batch, rows: Rows, late: Mask, dead: int, from_some: Mask | None = None) -> Ledger:
    """Count the events of a batch, each once, by what became of the rows made from it.

    `rows` are the input rows of what the steps left, in stream order, several of one event side by side; `late` says
    which of them are late, `from_some` which count from some window of theirs on; `dead` rows could not be computed. An
    event is accepted when any of its rows is, late when all that are left are, and filtered when none is left.
    """
    n_dead = batch.n_dead + dead
    present, accepted = n_events(rows), n_events(rows[~late])
    return Ledger(
        read=batch.n_events,
        accepted=accepted,
        filtered=batch.n_events - n_dead - present,
        late=present - accepted,
        dead=n_dead,
        partial=0 if from_some is None else n_events(rows[~late & from_some]),
        backfilled=n_events(rows[~late & batch.backfill[rows]]) if batch.has_backfill else 0,
        replayed=batch.n_replayed,
    )


def n_events(rows: Rows) -> int:
    """How many events rows in stream order were made from."""
    return int(np.count_nonzero(np.diff(rows))) + 1 if len(rows) else 0
