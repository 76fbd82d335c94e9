"""What becomes of each event of a batch in one stage, and the account of one window from the other side.

    events whose time falls in the window = accepted + filtered + late + dead        (late: for this window)
    a session's time                        from its first event to closes_at, where no other of its group is

Nothing is decided here: `prepare` decides, and this reads off its answer what it decided about whom.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.core.batches import Batch
from pipeline.core.cell_fields import from_end_order, split_field
from pipeline.core.definitions import Session
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


@dataclass(frozen=True, slots=True)
class Side:
    """The window to account for; `matches` chooses groups (None: all, and events that have none)."""

    program: Program
    span: Span
    matches: Matches | None

    @property
    def times_ms(self) -> Span:
        """The event times that are the window's: of a session, none behind the cut that `max` makes."""
        window, (start_ms, end_ms) = self.program.window, self.span
        if isinstance(window, Session) and window.max_ms is not None:
            return start_ms, min(end_ms, start_ms - start_ms % window.max_ms + window.max_ms)
        return self.span

    def takes(self, group: bytes) -> bool:
        return self.matches is None or self.matches(group)


def account_of(side: Side, batch: Batch, before: TimeState, prepared: Prepared, compute: Compute) -> Account:
    """Account for a batch's events in one window; `prepared` is what `compute` made of it.

    `compute` is the program's `prepare`, with what its lookups join: asked again for the groups of what was late.
    """
    start_ms, end_ms = side.times_ms
    inside = (batch.times_ms >= start_ms) & (batch.times_ms < end_ms)
    counted, elsewhere = _joined(side, prepared, inside) if _is_session(side) else _counted(side, prepared)
    late = _late(side, batch, before, prepared, inside, compute) | elsewhere
    late -= counted
    dead = {row.row for row in prepared.dead if inside[row.row]}
    rows = np.array(sorted(counted), dtype=np.intp)
    after_close = set(prepared.rows[prepared.watermarks_ms >= side.span[1]].tolist())
    places = list(zip(batch.places[rows].tolist(), batch.rows[rows].tolist(), strict=True))
    every = side.matches is None
    return Account(
        accepted=len(counted),
        late=len(late),
        partial=len(elsewhere - counted),
        revised=len(counted & after_close),
        filtered=int(inside.sum()) - len(counted | late | dead) if every else None,
        dead=len(dead) + sum(start_ms <= ms < end_ms for ms in dead_times(batch)) if every else None,
        first=min(places, default=None),
        last=max(places, default=None),
    )


def _is_session(side: Side) -> bool:
    return isinstance(side.program.window, Session)


def _joined(side: Side, prepared: Prepared, inside: Mask) -> tuple[set[int], set[int]]:
    """The rows that joined a session: all that count and are in its time. None of them counts only elsewhere."""
    mine = np.array([side.takes(split_field(name)[1]) for _, name in prepared.cells], dtype=np.bool_)
    rows = prepared.rows[mine[prepared.cell_of]]
    return set(rows[inside[rows]].tolist()), set()


def _counted(side: Side, prepared: Prepared) -> tuple[set[int], set[int]]:
    """The rows that count in a window, and those in its panes that count only in later ones."""
    panes = set(side.program.panes.panes_of(side.span))
    now, later = np.zeros(len(prepared.cells), dtype=np.bool_), np.zeros(len(prepared.cells), dtype=np.bool_)
    for number, (pane, name) in enumerate(prepared.cells):
        from_end, group = split_field(name)
        if pane in panes and side.takes(group):
            (now if from_end_order(from_end) <= side.span[1] else later)[number] = True
    rows, cells = prepared.rows, prepared.cell_of
    return set(rows[now[cells]].tolist()), set(rows[later[cells]].tolist())


def _late(side: Side, batch: Batch, before: TimeState, prepared: Prepared, inside: Mask, compute: Compute) -> set[int]:
    """The rows of a window that were late for all windows."""
    rows = prepared.late.rows[inside[prepared.late.rows]]
    if side.matches is None or not len(rows):
        return set(rows.tolist())
    return {row for row, group in _late_groups(batch, before, rows, compute) if side.takes(group)}


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
