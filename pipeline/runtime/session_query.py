"""Sessions on read: published ones from their buckets, open ones from the hashes of live sessions.

    all        ──▶ published, closed or final  +  live ones of which no form as large is published: open
    closed     ──▶ published                          final     ──▶ those that cannot change any more
    retracted  ──▶ forms that grew or merged          step=1h   ──▶ final sessions by `first`, merged, and how many

Two forms of one session are never in one answer: of forms that touch, the larger is the later. A session is final when
its partition had published everything as of a moment at which no event could join it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import redis

from pipeline.core.accumulators import Int64
from pipeline.core.cells import CellTable
from pipeline.core.completeness import least_sure, moved_by
from pipeline.core.definitions import Session
from pipeline.core.programs import Program
from pipeline.core.session_form import parse_session
from pipeline.core.session_process import doubtful, session_ends, session_window
from pipeline.errors import BadRequestError
from pipeline.rim import keys, session_store, store
from pipeline.rim.commit import Checkpoint
from pipeline.rim.session_store import Account, PublishedSession
from pipeline.runtime.answer import Table
from pipeline.runtime.answer_groups import AnswerGroups
from pipeline.runtime.closer import minimum_watermark
from pipeline.runtime.finishing import finished_columns
from pipeline.runtime.metric_completeness import Completeness, complete_from_ms
from pipeline.runtime.metric_query import MetricQuery

MAX_SESSIONS = 200_000  # looked at for one answer, open and published ones apart
NEWEST_BUCKETS = 1_000  # an answer covers when no start was given

Matches = Callable[[bytes], bool]


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One form of a session, on its way to a row."""

    first: int
    last: int
    group: bytes
    state: str
    revision: int
    cell: bytes
    partition: int


@dataclass(frozen=True, slots=True)
class SessionAnswer:
    """Rows in no order yet, and what they cover."""

    table: Table
    start_ms: int | None
    end_ms: int | None
    step_ms: int | None
    completeness: Completeness


@dataclass(frozen=True, slots=True)
class SessionReader:
    """The reading side of one session metric."""

    client: redis.Redis
    program: Program

    def completeness(self) -> Completeness:
        """How far the metric is: every session that closed by `complete_to_ms` is published."""
        checkpoints, accounts = self._read_accounts()
        return self._completeness(checkpoints, accounts)

    def query(self, query: MetricQuery, groups: AnswerGroups) -> SessionAnswer:
        """Answer for sessions that overlap [start, end); with a step, for final ones that began in it.

        Raises:
            BadRequestError: the range holds too many sessions (400), or too many are open (422).
        """
        step_ms = query.step_ms
        start_ms, end_ms = query.start_ms, query.end_ms
        if step_ms is not None:
            start_ms = None if start_ms is None else start_ms - start_ms % step_ms
            end_ms = None if end_ms is None else end_ms + -end_ms % step_ms
        # before what is published: a session that is published in between is then found twice, never not at all
        checkpoints, accounts = self._read_accounts()
        completeness = self._completeness(checkpoints, accounts)
        live: list[SessionRow] = []
        if step_ms is None and query.state in ("all", "open"):
            live = self._live(checkpoints, query.where, groups.matches)
        buckets = session_store.buckets(self.client, self.program.name, self.program.version, start_ms, end_ms)
        if start_ms is None and len(buckets) > NEWEST_BUCKETS:
            buckets = buckets[-NEWEST_BUCKETS:]
            start_ms = buckets[0] if step_ms is None else buckets[0] + -buckets[0] % step_ms
        published = self._published(buckets, groups.matches)
        if query.state == "retracted":
            found = [_row(session, "retracted") for session in published if session.state == "retracted"]
        else:
            found = self._newest(published, live, accounts)
        if step_ms is not None:
            final = [row for row in found if row.state == "final"]
            table = self._steps(final, step_ms, accounts, (start_ms, end_ms), groups)
            return SessionAnswer(table, start_ms, end_ms, step_ms, completeness)
        wanted = [row for row in self._overlapping(found, start_ms, end_ms) if _is_wanted(row.state, query.state)]
        return SessionAnswer(self._table(wanted, groups), start_ms, end_ms, None, completeness)

    def at(self, time_ms: int, where: Mapping[str, Sequence[Any]], matches: Matches) -> list[SessionRow]:
        """The sessions, published or open, that a time lies in.

        Raises:
            BadRequestError: the range holds too many sessions (400), or too many are open (422).
        """
        checkpoints, accounts = self._read_accounts()
        live = self._live(checkpoints, where, matches)
        program, end_ms = self.program, time_ms + 1
        buckets = session_store.buckets(self.client, program.name, program.version, time_ms, end_ms)
        found = self._newest(self._published(buckets, matches), live, accounts)
        return self._overlapping(found, time_ms, end_ms)

    def latest(self, limit: int, groups: AnswerGroups) -> SessionAnswer:
        """The newest closed session of each group; of at most `limit` groups."""
        checkpoints, accounts = self._read_accounts()
        name, version, window = self.program.name, self.program.version, session_window(self.program)
        fields: list[tuple[int, bytes]] = []
        for group, text in session_store.scan(self.client, keys.latest(name)):
            newest = msgspec.json.decode(text)
            if len(fields) < limit and "last" in newest:  # else of another version, whose windows are no sessions
                first = newest["window_start"]
                field = session_store.session_field(first, newest["window_end"] - window.gap_ms, group)
                fields.append((session_store.bucket_of(window, first), field))
        pipe = self.client.pipeline(transaction=False)
        for bucket, field in fields:
            pipe.execute_command("HGET", keys.session_rows(name, version, bucket), field)
        values = pipe.execute() if fields else []
        found = [
            session_store.parse_published(field, value)
            for (_, field), value in zip(fields, values, strict=True)
            if value is not None
        ]
        table = self._table([_row(s, self._state(s, accounts)) for s in found if s.state == "closed"], groups)
        return SessionAnswer(table, None, None, None, self._completeness(checkpoints, accounts))

    # --- reading

    def _newest(
        self, published: Sequence[PublishedSession], live: Sequence[SessionRow], accounts: Sequence[Account | None]
    ) -> list[SessionRow]:
        out = [_row(session, self._state(session, accounts)) for session in published if session.state == "closed"]
        return newest_forms(session_window(self.program), [*out, *live])

    def _overlapping(self, rows: Iterable[SessionRow], start_ms: int | None, end_ms: int | None) -> list[SessionRow]:
        gap_ms = session_window(self.program).gap_ms
        return [
            row
            for row in rows
            if (start_ms is None or row.last + gap_ms > start_ms) and (end_ms is None or row.first < end_ms)
        ]

    def _read_accounts(self) -> tuple[list[Checkpoint], list[Account | None]]:
        stream, program = self.program.stream, self.program
        accounts = session_store.accounts(self.client, program.name, program.version, stream.partitions)
        return store.load_checkpoints(self.client, stream.name, stream.partitions, program.group), accounts

    def _completeness(self, checkpoints: Sequence[Checkpoint], accounts: Sequence[Account | None]) -> Completeness:
        disorder_ms = self.program.stream.time.disorder_ms
        watermark_ms = minimum_watermark(checkpoints, disorder_ms)
        known = [account.to_ms for account in accounts if account is not None]
        begins_ms = complete_from_ms(self.program, checkpoints)
        if watermark_ms is None or len(known) < len(accounts):
            return Completeness(watermark_ms, None, None, begins_ms)
        to_ms = min(known)
        by = least_sure(moved_by(to_ms + disorder_ms, each.max_event_ms, each.max_beat_ms) for each in checkpoints)
        return Completeness(watermark_ms, to_ms, by, begins_ms)

    def _live(
        self, checkpoints: Sequence[Checkpoint], where: Mapping[str, Sequence[Any]], matches: Matches
    ) -> list[SessionRow]:
        """The live sessions of all partitions."""
        stream, program, window = self.program.stream, self.program, session_window(self.program)
        one = self._one_group(where)
        count = session_store.count_live(self.client, stream.name, stream.partitions, program.group)
        if one is None and count > MAX_SESSIONS:
            raise BadRequestError(
                f"{program.name} has {count} live sessions; an answer looks at no more than {MAX_SESSIONS} of them. "
                "Ask with state=closed, which leaves open ones out, or for one group",
                code="too_many_open",
                status=422,
            )
        found: list[SessionRow] = []
        for partition, checkpoint in enumerate(checkpoints):
            pairs = session_store.live_sessions(self.client, stream.name, partition, program.group).items()
            stored = [parse_session(*pair) for pair in pairs if one is None or pair[0].endswith(one)]
            firsts = np.array([session.first for session in stored], dtype=np.int64)
            hidden = doubtful(window, firsts, checkpoint.floor_ms).tolist()
            found += [
                SessionRow(s.first, s.last, s.group, "open", 0, s.cell, partition)
                for s, is_hidden in zip(stored, hidden, strict=True)
                if not is_hidden and matches(s.group)
            ]
        return found

    def _one_group(self, where: Mapping[str, Sequence[Any]]) -> bytes | None:
        """How the fields of the one group that is asked for end, if it is one."""
        group_by = self.program.stage.group_by
        if not group_by or any(len(where.get(name, ())) != 1 for name in group_by):
            return None
        return b" " + msgspec.json.encode([where[name][0] for name in group_by])

    def _published(self, buckets: Sequence[int], matches: Matches) -> list[PublishedSession]:
        name, version = self.program.name, self.program.version
        pipe = self.client.pipeline(transaction=False)
        for bucket in buckets:
            pipe.execute_command("HLEN", keys.session_rows(name, version, bucket))
        count = sum(map(int, pipe.execute())) if buckets else 0
        if count > MAX_SESSIONS:
            raise BadRequestError(
                f"the range holds {count} sessions of {name}; an answer looks at no more than {MAX_SESSIONS}. "
                "Ask for a shorter range",
                code="range_too_long",
            )
        found = session_store.published_sessions(self.client, name, version, buckets)
        return [session for session in found if matches(session.group)]

    def _state(self, session: PublishedSession, accounts: Sequence[Account | None]) -> str:
        """`final` when its partition published it as of a watermark at which no event can join it any more."""
        account, gap_ms = accounts[session.partition], session_window(self.program).gap_ms
        if account is None or session.last + gap_ms > account.to_ms:
            return "closed"
        final_ms = session.last + 2 * gap_ms + self.program.stage.allowed_lateness_ms
        return "final" if final_ms <= account.own_ms else "closed"

    # --- rows

    def _table(self, sessions: Sequence[SessionRow], groups: AnswerGroups) -> Table:
        program, gap_ms = self.program, session_window(self.program).gap_ms
        firsts = np.array([session.first for session in sessions], dtype=np.int64)
        lasts = [session.last for session in sessions]
        closes_at = np.array(lasts, dtype=np.int64) + gap_ms
        about = {
            "state": [session.state for session in sessions],
            "revision": [session.revision for session in sessions],
            "first": firsts.tolist(),
            "last": lasts,
            "closes_at": closes_at.tolist(),
        }
        columns = program.layout.unpack([session.cell for session in sessions])
        values = finished_columns(program, columns, np.arange(len(sessions)), session_ends(program, lasts))
        return Table(firsts, closes_at, _numbers(groups, [session.group for session in sessions]), about, values)

    def _steps(
        self,
        sessions: Sequence[SessionRow],
        step_ms: int,
        accounts: Sequence[Account | None],
        wanted: tuple[int | None, int | None],
        groups: AnswerGroups,
    ) -> Table:
        """Merge sessions by the step their `first` is in, in order of `first`."""
        program = self.program
        start_ms, end_ms = wanted
        table = CellTable(program.layout)
        counts: dict[tuple[int, bytes], int] = {}
        lasts: dict[tuple[int, bytes], int] = {}
        taken = [
            session
            for session in sorted(sessions, key=lambda session: (session.first, session.group))
            if (start_ms is None or session.first >= start_ms) and (end_ms is None or session.first < end_ms)
        ]
        places = [(session.first - session.first % step_ms, session.group) for session in taken]
        for place, session in zip(places, taken, strict=True):
            counts[place] = counts.get(place, 0) + 1
            lasts[place] = session.last  # of one group the one that begins last ends last
        if taken:
            table.merge(places, program.layout.unpack([session.cell for session in taken]))
        ends_ms = session_ends(program, lasts.values())
        values = finished_columns(program, table.columns, table.slots(counts), ends_ms)
        starts = np.array([step for step, _ in counts], dtype=np.int64)
        over = {step: "final" if self._is_over(step + step_ms, accounts) else "open" for step in set(starts.tolist())}
        about: dict[str, Sequence[Any]] = {
            "state": [over[step] for step, _ in counts],
            "revision": [0] * len(counts),
            "sessions": list(counts.values()),
        }
        return Table(starts, starts + step_ms, _numbers(groups, [group for _, group in counts]), about, values)

    def _is_over(self, end_ms: int, accounts: Sequence[Account | None]) -> bool:
        """Whether every session that began before `end_ms` is final: none is live, and none can begin there."""
        late_ms = session_window(self.program).gap_ms + self.program.stage.allowed_lateness_ms
        return all(
            account is not None
            and account.own_ms >= end_ms + late_ms
            and (account.oldest_ms is None or account.oldest_ms >= end_ms)
            for account in accounts
        )


def _numbers(groups: AnswerGroups, stored: list[bytes]) -> Int64:
    """The numbers of the rows' groups, as the answer shows them."""
    return groups.shown_as(groups.stored.numbers(stored))


def newest_forms(window: Session, rows: Iterable[SessionRow]) -> list[SessionRow]:
    """Leave out forms of sessions that have grown: of those that touch the largest, of equal ones the published."""
    kept: list[SessionRow] = []
    for row in sorted(rows, key=lambda row: (row.group, row.first, row.last, row.state == "open")):
        if kept and _touch(window, kept[-1], row):
            if row.last - row.first > kept[-1].last - kept[-1].first:
                kept[-1] = row
        else:
            kept.append(row)
    return kept


def _touch(window: Session, before: SessionRow, after: SessionRow) -> bool:
    if before.group != after.group or after.first > before.last + window.gap_ms:
        return False
    return window.max_ms is None or before.first // window.max_ms == after.first // window.max_ms


def _row(session: PublishedSession, state: str) -> SessionRow:
    return SessionRow(
        session.first, session.last, session.group, state, session.revision, session.cell, session.partition
    )


def _is_wanted(state: str, wanted: str) -> bool:
    return wanted in ("all", state) or (wanted == "closed" and state == "final")
