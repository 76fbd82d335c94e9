"""Publishing closed sessions: rows, retractions and downstream entries of some sessions are one script call.

A call carries the mark of the commit its sessions are as of, and is refused when the partition has published a newer
one: a worker that was paused cannot bring back a form that grew since. What is in place already is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.accumulators import Int64
from pipeline.core.cells import PaneChange
from pipeline.core.definitions import OutputKind, Session
from pipeline.core.json_names import json_names
from pipeline.core.names import Names, joined
from pipeline.core.session_walk import Span
from pipeline.rim import keys
from pipeline.rim.commit import Checkpoint, Mark
from pipeline.rim.packed_arguments import PackedArguments
from pipeline.rim.scripts import Argument, Operands, Scripts
from pipeline.rim.session_store import Account, bucket_width_ms

ROWS_A_STEP = 250  # published or retracted: some 6 µs each, with its row downstream
PLAIN_A_STEP = 500  # of plain sessions, some 3 µs each


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
class PlainSessions:
    """Sessions without forebears and with nothing that goes downstream, as columns in order of their ends."""

    firsts: Int64
    lasts: Int64
    groups: Names
    cells: Names
    latest: Names

    def __len__(self) -> int:
        return len(self.firsts)


Step = tuple[Sequence[ClosedSession], PlainSessions]
"""What one call publishes."""

NO_PLAIN = PlainSessions(np.empty(0, np.int64), np.empty(0, np.int64), *(Names.of(()) for _ in range(3)))


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


def publish_sessions(scripts: Scripts, of: Snapshot, steps: Iterable[Step]) -> Iterator[int | None]:
    """Publish steps, one put together while the server works on the one before; yield the rows each has changed.

    None: sessions of a newer commit have been published, nothing was written.
    """
    calls = (_operands(of, sessions, plain, None) for sessions, plain in steps)
    return map(_changed, scripts.run_each("publish_sessions", calls))


def say_account(scripts: Scripts, of: Snapshot, account: Account) -> bool:
    """Say how far the partition is; False when sessions of a newer commit have been published."""
    call = _operands(of, (), NO_PLAIN, account)
    return _changed(scripts.run("publish_sessions", keys=call.keys, args=call.args)) is not None


def _changed(reply: int) -> int | None:
    return None if int(reply) < 0 else int(reply)


def _operands(
    of: Snapshot, sessions: Sequence[ClosedSession], plain: PlainSessions, account: Account | None
) -> Operands:
    numbers: dict[int, int] = {}  # bucket → its number among those of this call
    width_ms = bucket_width_ms(of.window)

    def form(first: int, last: int) -> str:
        start = first - first % width_ms
        number = numbers.setdefault(start, len(numbers) + 1)
        return f"{number} {first} {last} {last + of.window.gap_ms}"

    rows: list[Argument] = []
    for session in sessions:
        named, values = _pairs(session.named), _pairs(session.values)
        counts = f"{len(named) // 2} {len(values) // 2} {len(session.forebears)}"
        rows += (f"{form(session.first, session.last)} {counts}", session.cell, session.group, session.latest)
        rows += (*named, *values, *(form(*span) for span in session.forebears))
    args: list[Argument] = [of.version, of.partition, str(of.mark), "" if account is None else str(account)]
    starts = plain.firsts - plain.firsts % width_ms
    for start in np.unique(starts).tolist():
        numbers.setdefault(start, len(numbers) + 1)
    args += [of.output, len(numbers), len(sessions), len(plain)]
    args += numbers
    args += rows
    if len(plain):
        args.append(_packed(plain, starts, list(numbers), of.window.gap_ms))
    return Operands(
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


def _packed(plain: PlainSessions, starts: Int64, buckets: Sequence[int], gap_ms: int) -> PackedArguments:
    """Plain sessions as the script takes them: of each bucket their number and greatest end, then column by column."""
    members = [np.flatnonzero(starts == start) for start in buckets]
    ends = [int(plain.lasts[places].max()) + gap_ms if len(places) else 0 for places in members]
    counts = [b"%d %d" % (len(places), end) for places, end in zip(members, ends, strict=True)]
    order = np.concatenate(members)
    spans = joined([json_names(plain.firsts.tolist()), b":", json_names(plain.lasts.tolist()), b" "], len(plain))
    fields = joined([spans, plain.groups], len(plain))
    columns = (Names.of(counts), fields.taken(order), plain.cells.taken(order), plain.groups, plain.latest)
    return PackedArguments.of([Names.together(columns)], len(counts) + 4 * len(plain))


def _pairs(values: Outgoing) -> list[str | bytes]:
    if isinstance(values, bytes):
        return ["", values]
    return [part for pair in values.items() for part in pair]


def settle_sessions(
    scripts: Scripts, stream: str, partition: int, group: str, at: Checkpoint, change: PaneChange
) -> bool:
    """Take final sessions out of the hash of live ones; False when the partition is not at this checkpoint any more."""
    where = [keys.checkpoint(stream, partition, group), keys.live_sessions(stream, partition, group)]
    seen = "" if at.max_seen_ms is None else at.max_seen_ms
    args: list[Argument] = [at.cursor, at.commit, seen, len(change.cells)]
    args += [part for pair in change.cells.items() for part in pair]
    args += change.gone
    return int(scripts.run("settle_sessions", keys=where, args=args)) >= 0
