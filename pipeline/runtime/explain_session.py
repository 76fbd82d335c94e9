"""One session as what `explain` is asked about: named by where it begins and ends and by its group, as answers show it.

Its account is of its group's events between its first event and `closes_at`: no other session of the group is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import redis

from pipeline.core.fates import Side
from pipeline.core.ndjson import iso_time
from pipeline.core.programs import Program
from pipeline.core.session_process import doubtful, session_window
from pipeline.core.session_twin import SessionTwin
from pipeline.core.twin import PaneTwin
from pipeline.errors import BadRequestError
from pipeline.runtime.answer_groups import group_filter
from pipeline.runtime.explain_subject import Stored, Values, one_ending, together
from pipeline.runtime.session_query import SessionReader, SessionRow


@dataclass(frozen=True, slots=True)
class SessionSubject:
    """A session; or several with the same ends, where no group was chosen."""

    side: Side
    sessions: Sequence[SessionRow]

    @property
    def final_ms(self) -> int:
        return (
            self.side.span[1] + session_window(self.side.program).gap_ms + self.side.program.stage.allowed_lateness_ms
        )

    @property
    def partitions(self) -> Sequence[int]:
        return sorted({session.partition for session in self.sessions})

    def stored(self, client: redis.Redis, state: str) -> Stored:
        revisions = [session.revision for session in self.sessions if session.state != "open"]
        cells = [session.cell for session in self.sessions]
        return Stored(self._values(cells), len(cells), max(revisions, default=None))

    def recomputed(self, twin: PaneTwin | SessionTwin) -> Values | None:
        assert isinstance(twin, SessionTwin)
        wanted = {(session.first, session.last, session.group) for session in self.sessions}
        found = (session for number in self.partitions for session in twin.partitions[number].sessions())
        return self._values([s.cell for s in found if (s.first, s.last, s.group) in wanted])

    def _values(self, cells: Sequence[bytes]) -> Values | None:
        layout = self.side.program.layout
        return together(self.side.program, layout.unpack(cells), len(cells), self.side.span[1]) if cells else None

    def is_whole(self, floors_ms: Sequence[int | None]) -> bool:
        window, first = session_window(self.side.program), np.array([self.side.span[0]], dtype=np.int64)
        return not any(doubtful(window, first, floors_ms[number])[0] for number in self.partitions)


def session_named(
    client: redis.Redis, program: Program, start_ms: int, end_ms: int | None, where: Mapping[str, Sequence[Any]]
) -> SessionSubject:
    """The session that begins at `start` (and ends at `end`), of the groups that `where` chooses.

    Raises:
        BadRequestError: 422, there is none, or `start` alone names several; the message says what there is.
    """
    there = SessionReader(client, program).at(start_ms, where, group_filter(program, where))
    gap_ms = session_window(program).gap_ms
    begun = [session for session in there if session.first == start_ms]
    if not begun:
        raise BadRequestError(_not_there(program, start_ms, there), code="no_window", status=422)
    span = one_ending(sorted({(s.first, s.last + gap_ms) for s in begun}), end_ms)
    sessions = [session for session in begun if session.last + gap_ms == span[1]]
    groups = {session.group for session in sessions}
    return SessionSubject(Side(program, span, groups.__contains__ if program.stage.group_by else None), sessions)


def _not_there(program: Program, start_ms: int, there: Sequence[SessionRow]) -> str:
    said = f"start: no session of {program.name} that stands begins at {start_ms} ({iso_time(start_ms)})"
    if not there:
        return f"{said}, and none of those asked for goes on then; GET /v1/metrics/{program.name} lists them"
    nearest = max(there, key=lambda session: session.first)
    end_ms = nearest.last + session_window(program).gap_ms
    return f"{said}; one goes on then, from {nearest.first} ({iso_time(nearest.first)}) to {end_ms}"
