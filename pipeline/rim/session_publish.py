"""Publishing closed sessions: rows, retractions and downstream entries of some sessions are one script call.

A call carries the mark of the commit its sessions are as of, and is refused when the partition has published a newer
one: a worker that was paused cannot bring back a form that grew since. What is in place already is skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.core.definitions import OutputKind, Session
from pipeline.core.session_walk import Span
from pipeline.rim import keys
from pipeline.rim.commit import Checkpoint, Mark
from pipeline.rim.scripts import Scripts
from pipeline.rim.session_store import Account, bucket_width_ms

ROWS_A_STEP = 250  # published or retracted: some 6 µs each, with its row downstream
FIELDS_A_STEP = 2_000  # deleted by one script


Outgoing = Mapping[str, str] | bytes
"""What goes downstream: texts of an entry, or the members of a JSON object, without its braces, for a chunk."""


@dataclass(frozen=True, slots=True)
class ClosedSession:
    """A session to publish: its packed cell, its `latest` as JSON, and what its downstream row says."""

    first: int
    last: int
    group: bytes
    cell: bytes
    latest: bytes
    named: Outgoing  # the group
    values: Outgoing
    forebears: Sequence[Span]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Whose sessions they are, and as of which commit."""

    metric: str
    version: str
    window: Session
    partition: int
    mark: Mark
    output: OutputKind


def steps(sessions: Sequence[ClosedSession]) -> Iterator[list[ClosedSession]]:
    """Sessions in portions of about ROWS_A_STEP rows; a session and its retractions stay together."""
    step: list[ClosedSession] = []
    rows = 0
    for session in sessions:
        step.append(session)
        rows += 1 + len(session.forebears)
        if rows >= ROWS_A_STEP:
            yield step
            step, rows = [], 0
    if step:
        yield step


def publish_sessions(
    scripts: Scripts, of: Snapshot, sessions: Sequence[ClosedSession], account: Account | None
) -> int | None:
    """Publish one step, and say how far the partition is if `account` is given; return the rows that changed.

    None: sessions of a newer commit have been published, nothing was written.
    """
    numbers: dict[int, int] = {}  # bucket → its number among those of this call
    width_ms = bucket_width_ms(of.window)

    def form(first: int, last: int) -> str:
        start = first - first % width_ms
        number = numbers.setdefault(start, len(numbers) + 1)
        return f"{number} {first} {last} {last + of.window.gap_ms}"

    rows: list[bytes | str | int] = []
    for session in sessions:
        named, values = _pairs(session.named), _pairs(session.values)
        counts = f"{len(named) // 2} {len(values) // 2} {len(session.forebears)}"
        rows += (f"{form(session.first, session.last)} {counts}", session.cell, session.group, session.latest)
        rows += (*named, *values, *(form(*span) for span in session.forebears))
    args: list[bytes | str | int] = [of.version, of.partition, str(of.mark), "" if account is None else str(account)]
    args += [of.output, len(numbers), len(sessions), *numbers, *rows]
    changed = scripts.run(
        "publish_sessions",
        keys=[
            keys.published(of.metric, of.version),
            keys.session_accounts(of.metric, of.version),
            keys.windows(of.metric, of.version),
            keys.ages(of.metric, of.version),
            keys.rows(of.metric),
            keys.latest(of.metric),
            keys.versions(of.metric),
            *(keys.session_rows(of.metric, of.version, start) for start in numbers),
        ],
        args=args,
    )
    return None if int(changed) < 0 else int(changed)


def _pairs(values: Outgoing) -> list[str | bytes]:
    if isinstance(values, bytes):
        return ["", values]
    return [part for pair in values.items() for part in pair]


def settle_sessions(
    scripts: Scripts, stream: str, partition: int, group: str, at: Checkpoint, fields: Sequence[bytes]
) -> bool:
    """Delete final sessions from the hash of live ones; False when the partition is not at this checkpoint any more."""
    where = [keys.checkpoint(stream, partition, group), keys.live_sessions(stream, partition, group)]
    seen = "" if at.max_seen_ms is None else at.max_seen_ms
    for step in range(0, len(fields), FIELDS_A_STEP):
        args = [at.cursor, at.commit, seen, *fields[step : step + FIELDS_A_STEP]]
        if int(scripts.run("settle_sessions", keys=where, args=args)) < 0:
            return False
    return True
