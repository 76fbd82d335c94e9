"""What becomes of each event of a batch in one stage, and the account of one window from the other side.

    events whose time falls in the window = accepted + filtered + late + dead        (late: for this window)

Nothing is decided here: `prepare` decides, and this reads off its answer what it decided about whom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.core.batches import Batch
from pipeline.core.cells import from_end_order, split_field
from pipeline.core.entries import Row
from pipeline.core.events import ChunkError, RowError
from pipeline.core.process import Prepared, Rows, TimeState
from pipeline.core.programs import Program
from pipeline.core.twin import Compute
from pipeline.core.watermarks import NO_TIME_MS
from pipeline.core.windows import Span

Matches = Callable[[bytes], bool]  # of a group's JSON
Mask = npt.NDArray[np.bool_]
Place = tuple[int, int]  # of an event in the log of all partitions: see accumulators


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the events whose time falls in a window.

    `late`: those that do not count in it because the watermark had passed it; of them, `partial` count in a later
    window. `revised`: of the accepted, those that came when their partition's watermark had already passed its end.
    `filtered` and `dead` have no group, so they are None where groups were chosen. `first`, `last`: the places of the
    accepted ones.
    """

    accepted: int = 0
    late: int = 0
    partial: int = 0
    revised: int = 0
    filtered: int | None = 0
    dead: int | None = 0
    first: Place | None = None
    last: Place | None = None

    @property
    def read(self) -> int:
        return self.accepted + self.late + (self.filtered or 0) + (self.dead or 0)

    def __add__(self, other: Account) -> Account:
        return Account(
            self.accepted + other.accepted,
            self.late + other.late,
            self.partial + other.partial,
            self.revised + other.revised,
            None if self.filtered is None or other.filtered is None else self.filtered + other.filtered,
            None if self.dead is None or other.dead is None else self.dead + other.dead,
            min((place for place in (self.first, other.first) if place is not None), default=None),
            max((place for place in (self.last, other.last) if place is not None), default=None),
        )


def account_of(
    program: Program, batch: Batch, before: TimeState, span: Span, matches: Matches | None, compute: Compute
) -> tuple[Account, TimeState]:
    """Account for a batch's events in one window; `matches` chooses groups (None: all, and those that have none).

    `compute` is the program's `prepare`, with what its lookups join.

    Returns:
        (the account, the time state after the batch).
    """
    prepared = compute(batch, before)
    inside = (batch.times_ms >= span[0]) & (batch.times_ms < span[1])
    counted, elsewhere = _counted(program, batch, prepared, span, matches)
    late = _late(batch, before, prepared, inside, matches, compute) | elsewhere
    late -= counted
    dead = {row.row for row in prepared.dead if inside[row.row]}
    rows = np.array(sorted(counted), dtype=np.intp)
    after_close = set(prepared.rows[prepared.watermarks_ms >= span[1]].tolist())
    places = list(zip(batch.places[rows].tolist(), batch.rows[rows].tolist(), strict=True))
    account = Account(
        accepted=len(counted),
        late=len(late),
        partial=len(elsewhere - counted),
        revised=len(counted & after_close),
        filtered=int(inside.sum()) - len(counted | late | dead) if matches is None else None,
        dead=len(dead) + sum(span[0] <= ms < span[1] for ms in dead_times(batch)) if matches is None else None,
        first=min(places, default=None),
        last=max(places, default=None),
    )
    return account, prepared.time


def _counted(
    program: Program, batch: Batch, prepared: Prepared, span: Span, matches: Matches | None
) -> tuple[set[int], set[int]]:
    """The rows that count in a window, and those in its panes that count only in later ones."""
    panes = set(program.panes.panes_of(span))
    now, later = np.zeros(len(prepared.cells), dtype=np.bool_), np.zeros(len(prepared.cells), dtype=np.bool_)
    for number, (pane, name) in enumerate(prepared.cells):
        from_end, group = split_field(name)
        if pane in panes and (matches is None or matches(group)):
            (now if from_end_order(from_end) <= span[1] else later)[number] = True
    rows, cells = prepared.rows, prepared.cell_of
    return set(rows[now[cells]].tolist()), set(rows[later[cells]].tolist())


def _late(
    batch: Batch, before: TimeState, prepared: Prepared, inside: Mask, matches: Matches | None, compute: Compute
) -> set[int]:
    """The rows of a window that were late for all windows."""
    rows = prepared.late.rows[inside[prepared.late.rows]]
    if matches is None or not len(rows):
        return set(rows.tolist())
    groups = _late_groups(batch, before, rows, compute)
    return {row for row, group in groups if matches(group)}


def _late_groups(batch: Batch, before: TimeState, rows: Rows, compute: Compute) -> list[tuple[int, bytes]]:
    """(row, its group) of rows that were late: computed again as if nothing had moved time before them."""
    mine = rows_of(batch, np.unique(rows))
    in_time = replace(mine, effective_ms=np.full(len(mine.times_ms), NO_TIME_MS, dtype=np.int64))
    again = compute(in_time, TimeState(tables=before.tables))
    groups = [split_field(name)[1] for _, name in again.cells]
    numbers = np.unique(rows)[again.rows].tolist()
    return [(row, groups[cell]) for row, cell in zip(numbers, again.cell_of.tolist(), strict=True)]


def rows_of(batch: Batch, rows: Rows) -> Batch:
    """Some rows of a batch alone, in their order: no ticks, nothing undecodable."""
    return replace(
        batch,
        frame=batch.frame[rows],
        times_ms=batch.times_ms[rows],
        effective_ms=batch.effective_ms[rows],
        places=batch.places[rows],
        rows=batch.rows[rows],
        entry_of=batch.entry_of[rows],
        ticks=(),
        dead=(),
        reloads=tuple((int(np.searchsorted(rows, row)), table, content) for row, table, content in batch.reloads),
    )


def dead_times(batch: Batch) -> list[int]:
    """The event times of what was refused while decoding, where they can be read: of rows too far ahead, say."""
    entries = {entry.id: entry for entry in batch.entries} if batch.dead else {}
    times_ms: list[int] = []
    for dead in batch.dead:
        entry = entries.get(dead.entry_id)
        arrival_ms = np.array([getattr(entry, "arrival_ms", 0)], dtype=np.int64)
        try:
            fields = entry.fields if isinstance(entry, Row) else None
            struct = batch.reader.row(fields) if fields is not None else batch.reader.chunk(dead.body, 1)[0]
        except (ChunkError, RowError):
            continue
        times_ms.append(int(batch.reader.times([struct], arrival_ms)[0]))
    return times_ms
