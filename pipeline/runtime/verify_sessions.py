"""Published and live sessions against the twin's, one by one.

    accounts, then rows             a final session they cover has its row; what they do not cover yet is still to be
                                    published. Where its row is in place, its earlier forms are retracted
    live sessions, then checkpoint  the twin goes on to it, and what no commit has changed meanwhile is compared

Invariant: only what no later event can change is compared with its row: sessions that are final where the twin is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from pipeline.core.definitions import Session
from pipeline.core.programs import Program
from pipeline.core.session_form import StoredSession, parse_session
from pipeline.core.session_process import session_window
from pipeline.core.session_twin import PartitionSessions, SessionTwin
from pipeline.core.windows import FOREVER_MS, Span
from pipeline.rim import keys, session_store
from pipeline.rim.session_store import Account, PublishedSession, bucket_of, parse_published, session_field
from pipeline.runtime.verify_report import Difference, MetricReport, Where
from pipeline.runtime.verify_results import group_differences

LOOKS = 2  # at live sessions: what differs is looked at again before it is said

Identity = tuple[int, bytes]  # partition, `FIRST:LAST GROUPJSON`
Follow = Callable[[PartitionSessions], set[bytes] | None]
"""Take a partition's twin on to where the partition is by now; return the groups that got events meanwhile.

None when it is not ahead: it begins again.
"""


@dataclass(slots=True)
class _Expected:
    """What the twin says of the rows, and what was seen of them.

    `finals`: by bucket, the sessions that are final, and whether the closer says that they are published. `forms`: what
    else may stand, and the session it has become: earlier forms, and sessions that another partition still holds back.
    `in_place`: final sessions whose row is as it should be. `standing`: earlier forms that are not retracted.
    """

    finals: dict[int, dict[Identity, tuple[StoredSession, bool]]] = field(default_factory=lambda: defaultdict(dict))
    forms: dict[Identity, Identity] = field(default_factory=dict)
    in_place: set[Identity] = field(default_factory=set)
    standing: list[PublishedSession] = field(default_factory=list)


@dataclass(slots=True)
class _Look:
    """One look at the live sessions of a partition."""

    compared: int = 0
    moved: int = 0
    differences: list[Difference] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class SessionComparison:
    """A session metric in Redis; what may have lost events up to the `floors_ms` of its partition is not compared."""

    client: redis.Redis
    program: Program
    report: MetricReport
    floors_ms: Sequence[int | None]
    now_ms: int
    retention_ms: int

    # --- published sessions

    def compare_published(self, twin: SessionTwin) -> None:
        """Compare every final session with its row, and look for rows that the log does not have."""
        name, version, partitions = self.program.name, self.program.version, self.program.stream.partitions
        accounts = session_store.accounts(self.client, name, version, partitions)
        expected = self._expected(twin, accounts)
        there = session_store.buckets(self.client, name, version)
        for bucket in sorted(expected.finals.keys() | set(there)):
            rows, finals = self._rows(bucket), expected.finals.get(bucket, {})
            for identity in sorted(rows.keys() - finals.keys()):
                self._compare_other(twin, expected, identity, rows[identity])
            for identity, (session, is_due) in finals.items():
                part = twin.partitions[identity[0]]
                if self._compare_final(part, session, rows.get(identity), is_due=is_due):
                    expected.in_place.add(identity)
        self._compare_standing(expected)

    def _expected(self, twin: SessionTwin, accounts: Sequence[Account | None]) -> _Expected:
        found = _Expected()
        for part in twin.partitions.values():
            account, floor_ms = accounts[part.partition], self.floors_ms[part.partition]
            for name, value in part.stored().items():
                session = parse_session(name, value)
                is_known = name in part.final and not part.is_doubtful(session.first, floor_ms)
                identity = _identity(part, (session.first, session.last), session.group)
                for span in session.forebears:
                    found.forms[_identity(part, span, session.group)] = identity
                if is_known and session.last + self._window.gap_ms <= _least(twin):
                    is_due = account is not None and self._covers(account, session.last)
                    found.finals[bucket_of(self._window, session.first)][identity] = (session, is_due)
                elif is_known:  # another partition holds it back, and may not by now
                    found.forms[identity] = identity
        return found

    def _covers(self, account: Account, last_ms: int) -> bool:
        """Whether the closer says that a session, which is final, is published as it is."""
        closes_ms = last_ms + self._window.gap_ms
        final_ms = closes_ms + self._window.gap_ms + self.program.stage.allowed_lateness_ms
        return closes_ms <= account.to_ms and final_ms <= account.own_ms

    def _rows(self, bucket: int) -> dict[Identity, PublishedSession]:
        """The readable rows of a bucket; the others are differences."""
        rows = {}
        key = keys.session_rows(self.program.name, self.program.version, bucket)
        for name, value in session_store.scan(self.client, key):
            try:
                row = parse_published(name, value)
            except ValueError as error:
                said = f"{name.decode(errors='replace')}: unreadable: {error}"
                self.report.differ([Difference(self.program.name, "result", "row", said, "a readable one")])
            else:
                rows[row.partition, name] = row
        return rows

    def _compare_other(self, twin: SessionTwin, expected: _Expected, identity: Identity, row: PublishedSession) -> None:
        """A row of no final session: an earlier form of one, a session that may still change, or none at all."""
        part = twin.partitions.get(row.partition)
        if part is not None and part.is_doubtful(row.first, self.floors_ms[row.partition]):
            self.report.not_checkable += row.state == "closed"
        elif part is not None and not part.is_final(row.last):
            return
        elif identity not in expected.forms:
            self._differ_row(row, "window", None)
        elif row.state != "retracted":
            expected.standing.append(row)

    def _compare_standing(self, expected: _Expected) -> None:
        """Earlier forms that stood as results: one step publishes what they have become and retracts them."""
        for row in expected.standing:
            bucket, name = bucket_of(self._window, row.first), session_field(row.first, row.last, row.group)
            if expected.forms[row.partition, name] in expected.in_place:
                key = keys.session_rows(self.program.name, self.program.version, bucket)
                now = self.client.execute_command("HGET", key, name)  # it was read before the row of its successor
                if now is not None and parse_published(name, now).state != "retracted":
                    self._differ_row(row, "state", "retracted")

    def _differ_row(self, row: PublishedSession, name: str, again: Any) -> None:
        found = self._difference(
            name, row.state, again, row.partition, self._span(row), row.group.decode(errors="replace"), "result"
        )
        self.report.differ([found])

    def _compare_final(
        self, part: PartitionSessions, session: StoredSession, row: PublishedSession | None, *, is_due: bool
    ) -> bool:
        """A final session against its row, due when the closer says it is published; return whether it is there."""
        span, group = self._span(session), session.group.decode()
        if row is None:
            found = [self._difference("window", None, "published", part.partition, span, group, "result")]
        elif row.state != "closed":
            found = [self._difference("state", row.state, "closed", part.partition, span, group, "result")]
        else:
            cells = ({session.group: row.cell}, {session.group: session.cell})
            found = group_differences(self.program, "result", part.partition, span, *cells)
        if found and not is_due:
            self.report.pending += 1
        elif row is None and self._may_have_expired(part, session):
            self.report.expired += 1
        else:
            self.report.windows += 1
            self.report.groups += 1
            self.report.differ(found)
        return not found

    def _may_have_expired(self, part: PartitionSessions, session: StoredSession) -> bool:
        """Whether a row that is not there can be one that retention removed, or is removing: buckets go in steps."""
        arrived_ms = part.arrivals_ms[b"%d %b" % (session.first, session.group)]
        if self.now_ms - arrived_ms < self.retention_ms:
            return False
        ages, bucket = keys.ages(self.program.name, self.program.version), bucket_of(self._window, session.first)
        published_ms = self.client.execute_command("ZSCORE", ages, bucket)
        return published_ms is None or int(float(published_ms)) <= self.now_ms - self.retention_ms

    # --- live sessions

    def compare_live(self, part: PartitionSessions, follow: Follow) -> None:
        """Compare the hash of live sessions with the twin's; sessions that commits change meanwhile are counted."""
        for _ in range(LOOKS):
            look = self._look(part, follow)
            if not look.differences:
                break
        self.report.live_sessions += look.compared
        self.report.moved += look.moved
        self.report.differ(look.differences)

    def _look(self, part: PartitionSessions, follow: Follow) -> _Look:
        stored = session_store.live_sessions(self.client, self.program.stream.name, part.partition, self.program.group)
        before = part.stored()
        busy = follow(part)
        if busy is None:
            return _Look(moved=len(stored))
        live, after, look = part.live(), part.stored(), _Look()
        changed = {name for name, _ in before.items() ^ after.items()}
        for name in sorted(stored.keys() | live.keys()):
            came_and_went = name not in after and name.partition(b" ")[2] in busy
            if name in changed or came_and_went:
                look.moved += 1
            else:
                self._compare_one(part, name, stored.get(name), after.get(name), look)
        return look

    def _compare_one(
        self, part: PartitionSessions, name: bytes, stored: bytes | None, again: bytes | None, look: _Look
    ) -> None:
        try:
            kept, known = (None if value is None else parse_session(name, value) for value in (stored, again))
        except ValueError as error:  # the twin's can be read
            said = f"unreadable: {error}"
            look.differences.append(self._difference("session", said, "a readable one", part.partition))
            return
        session = known or kept
        assert session is not None
        if not part.is_doubtful(session.first, self.floors_ms[part.partition]):
            look.compared += 1
            look.differences += self._live_differences(part.partition, self._span(session), kept, known)

    def _live_differences(
        self, partition: int, span: Span, kept: StoredSession | None, known: StoredSession | None
    ) -> Iterator[Difference]:
        """Where two forms of a live session differ; earlier forms that are retracted for good need not be there."""
        cells = [{} if session is None else {session.group: session.cell} for session in (kept, known)]
        yield from group_differences(self.program, "session", partition, span, *cells)
        if kept is None or known is None:
            return
        group = known.group.decode()
        if kept.last != known.last:
            yield self._difference("last", kept.last, known.last, partition, span, group)
        if more := sorted(set(kept.forebears) - set(known.forebears)):
            yield self._difference("earlier forms", more, [], partition, span, group)

    # --- words

    @property
    def _window(self) -> Session:
        return session_window(self.program)

    def _span(self, session: StoredSession | PublishedSession) -> Span:
        return session.first, session.last + self._window.gap_ms

    def _difference(
        self,
        name: str,
        stored: Any,
        again: Any,
        partition: int,
        span: Span | None = None,
        group: str | None = None,
        where: Where = "session",
    ) -> Difference:
        return Difference(self.program.name, where, name, stored, again, partition, span, group)


def _identity(part: PartitionSessions, span: Span, group: bytes) -> Identity:
    return part.partition, session_field(*span, group)


def _least(twin: SessionTwin) -> int:
    """The least watermark: before all time while a partition has seen nothing."""
    return -FOREVER_MS if twin.watermark_ms is None else twin.watermark_ms
