"""The batch twin of a session metric: every session that a log makes, those still live apart from those that are final.

    take a batch ──▶ live sessions (the worker's table) ──▶ final for their partition? ──▶ packed, and out of the table

Invariant: a session has the worker's bits, and names every earlier form of it that may have been published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.core.batches import Batch
from pipeline.core.cell_keys import CellKeys
from pipeline.core.definitions import Session
from pipeline.core.process import Prepared, TimeState
from pipeline.core.programs import Program
from pipeline.core.session_form import StoredSession, parse_session
from pipeline.core.session_process import arrivals, doubtful, fold_sessions, session_window
from pipeline.core.sessions import SessionTable
from pipeline.core.twin import Compute, PaneTwin, PartitionTwin, Twin, first_arrival_ms


@dataclass(slots=True)
class PartitionSessions(PartitionTwin):
    """One partition's sessions, packed, by their field in the hash of live sessions.

    `final`: those that no event can join any more. `arrivals_ms`: for each session, an arrival before which it was not
    what it is.
    """

    table: SessionTable = field(init=False)
    final: dict[bytes, bytes] = field(default_factory=dict)
    arrivals_ms: dict[bytes, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.table = SessionTable(self.program.layout, session_window(self.program))

    def _fold(self, batch: Batch, prepared: Prepared) -> tuple[int, CellKeys]:
        changed = fold_sessions(self.program, batch, prepared, arrivals(self.program, batch, prepared), self.table)
        for name in changed.gone:
            self.arrivals_ms.pop(name)
        self.arrivals_ms.update(dict.fromkeys(self.table.fields(changed.slots), first_arrival_ms(batch)))
        if self.watermark_ms is not None:
            final = self.table.final(self.watermark_ms, self.program.stage.allowed_lateness_ms)
            self.final.update(zip(self.table.fields(final), self.table.packed(final), strict=True))
            self.table.drop(final)
        return 0, prepared.cells

    def live(self) -> dict[bytes, bytes]:
        """The sessions that an event may still join."""
        slots = np.flatnonzero(self.table.live)
        return dict(zip(self.table.fields(slots), self.table.packed(slots), strict=True))

    def stored(self) -> dict[bytes, bytes]:
        """All sessions."""
        return self.final | self.live()

    def sessions(self) -> Iterator[StoredSession]:
        """All sessions that are known to be whole: none may have begun in what the stage never saw of the log."""
        for name, value in self.stored().items():
            session = parse_session(name, value)
            if not self.is_doubtful(session.first, self.time.floor_ms):
                yield session

    def is_doubtful(self, first_ms: int, floor_ms: int | None) -> bool:
        """Whether a session that begins then may have lost its beginning in a log that is cut at `floor_ms`."""
        return bool(doubtful(self.table.window, np.array([first_ms], dtype=np.int64), floor_ms)[0])

    def is_final(self, last_ms: int) -> bool:
        """Whether no event that is still to come can join a session whose last event was then."""
        waits_ms = 2 * self.table.window.gap_ms + self.program.stage.allowed_lateness_ms
        return self.watermark_ms is not None and last_ms + waits_ms <= self.watermark_ms


@dataclass(slots=True)
class SessionTwin(Twin[PartitionSessions]):
    """A session metric over all partitions of its stream; a key's sessions are all in one of them."""

    of_partition = PartitionSessions


def twin_of(
    program: Program, times: Mapping[int, TimeState] | None = None, compute: Compute | None = None
) -> PaneTwin | SessionTwin:
    """The twin of a program, whatever its windows are: see `Twin.of`."""
    if isinstance(program.window, Session):
        return SessionTwin.of(program, times, compute)
    return PaneTwin.of(program, times, compute)
