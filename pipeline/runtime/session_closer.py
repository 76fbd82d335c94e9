"""Publishing sessions: by the worker that holds their partition, from its memory as of its last commit.

    commit ──▶ closed for every partition? ──▶ publish_sessions.lua ──▶ rows, retractions, downstream
                                          └──▶ final and published? ──▶ settle_sessions.lua, forgotten

A crash between any two steps is made good by the next worker: what it loads it publishes again, and what is in place is
skipped row by row. So is a restart of the server that lost the newest of these steps and not the commit before them:
the worker's connection to another run is refused (`connection.owner`), and it loads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import redis

from pipeline.core.accumulators import Slots
from pipeline.core.json_names import json_names
from pipeline.core.names import Names, joined
from pipeline.core.programs import Program
from pipeline.core.session_process import doubtful, session_ends, session_window
from pipeline.core.session_walk import Span
from pipeline.core.sessions import SessionTable
from pipeline.rim import publish, session_store, store
from pipeline.rim.commit import Checkpoint
from pipeline.rim.scripts import Scripts
from pipeline.rim.session_publish import (
    NO_PLAIN,
    PLAIN_A_STEP,
    ClosedSession,
    Outgoing,
    PlainSessions,
    Snapshot,
    Step,
    publish_sessions,
    say_account,
    settle_sessions,
    steps,
)
from pipeline.rim.session_store import Account, PublishedSession
from pipeline.runtime.closer import Pass, minimum_watermark
from pipeline.runtime.downstream import text
from pipeline.runtime.finishing import finished_columns, finished_rows, group_values, members_of
from pipeline.runtime.session_computation import SessionComputation

SESSIONS_A_PASS = 5_000  # published at most, so that a worker gets back to its events


@dataclass(frozen=True, slots=True)
class SessionCloser:
    """Publishes the sessions of one metric."""

    program: Program
    client: redis.Redis
    scripts: Scripts

    def close_once(self, computation: SessionComputation, at: Checkpoint) -> Pass:
        """Publish what has closed of one partition, and forget what is final; `at`: what the state is as of."""
        program, stream, partition = self.program, self.program.stream, computation.partition
        checkpoints = store.load_checkpoints(self.client, stream.name, stream.partitions, program.group)
        watermark_ms = minimum_watermark(checkpoints, stream.time.disorder_ms)
        if checkpoints[partition].fence != at.fence or watermark_ms is None or at.max_seen_ms is None:
            return Pass(0, more=False)  # not ours any more: the next commit or the next look finds out
        table = computation.table
        waiting = table.closed(watermark_ms)
        waiting = waiting[~doubtful(table.window, table.firsts[waiting], at.floor_ms)]
        taken, more = table.first_ended(waiting, SESSIONS_A_PASS), len(waiting) > SESSIONS_A_PASS
        of = Snapshot(
            program.name,
            program.version,
            table.window,
            partition,
            at.mark,
            output=program.stage.output,
        )
        published = self._publish(of, computation, taken)
        if published is None:
            return Pass(0, more=False)
        if not more and not self._account(of, computation, at, watermark_ms):
            return Pass(published, more=False)
        self._settle(computation, at)
        return Pass(published, more)

    def _publish(self, of: Snapshot, computation: SessionComputation, slots: Slots) -> int | None:
        """Publish sessions in steps; None when a newer commit's have been published."""
        published, table = 0, computation.table
        under_way: deque[Slots] = deque()
        for changed in publish_sessions(self.scripts, of, self._steps(of, table, slots, under_way)):
            if changed is None:
                return None
            out = under_way.popleft()
            table.published[out] = True
            for slot in out.tolist() if table.forebears else ():
                table.forebears.pop(slot, None)  # retracted for good; what is stored of them does no harm
            published += changed
        return published

    def _steps(self, of: Snapshot, table: SessionTable, slots: Slots, under_way: deque[Slots]) -> Iterator[Step]:
        """The sessions of each call, whose slots are noted: one by one where they retract something or go downstream,
        else as columns."""
        is_plain = np.full(len(slots), of.output == "none")
        if table.forebears:
            is_plain &= np.fromiter((slot not in table.forebears for slot in slots.tolist()), np.bool_, len(slots))
        others, done = slots[~is_plain], 0
        for step in steps(closed_sessions(self.program, table, others)):
            under_way.append(others[done : done + len(step)])
            yield step, NO_PLAIN
            done += len(step)
        plain = slots[is_plain]
        for done in range(0, len(plain), PLAIN_A_STEP):
            portion = plain[done : done + PLAIN_A_STEP]
            under_way.append(portion)
            yield (), plain_sessions(self.program, table, portion)

    def _account(self, of: Snapshot, computation: SessionComputation, at: Checkpoint, to_ms: int) -> bool:
        """Say how far the partition is, when that has changed; False when another worker is ahead."""
        table, own_ms = computation.table, self._watermark_ms(at)
        stays = table.live.copy()
        stays[self._settled(table, at.floor_ms, own_ms)] = False
        firsts = table.firsts[stays]
        account = Account(to_ms, own_ms, int(firsts.min()) if len(firsts) else None)
        if account != computation.accounted:
            if not say_account(self.scripts, of, account):
                return False
            computation.accounted = account
        return True

    def _watermark_ms(self, at: Checkpoint) -> int:
        assert at.max_seen_ms is not None
        return at.max_seen_ms - self.program.stream.time.disorder_ms

    def _settle(self, computation: SessionComputation, at: Checkpoint) -> None:
        table, stream = computation.table, self.program.stream
        final = self._settled(table, at.floor_ms, self._watermark_ms(at))
        if not len(final):
            return
        change = computation.blocks.forget(final, len(table) - len(final))
        if settle_sessions(self.scripts, stream.name, computation.partition, computation.group, at, change):
            table.drop(final)

    def _settled(self, table: SessionTable, floor_ms: int | None, own_ms: int) -> Slots:
        """The sessions that are final, and published unless they never will be."""
        final = table.final(own_ms, self.program.stage.allowed_lateness_ms)
        return final[table.published[final] | doubtful(table.window, table.firsts[final], floor_ms)]

    def show_latest(self) -> None:
        """Put the newest session of every group into the `latest` hash, when this version begins to answer."""
        program = self.program
        newest: dict[bytes, PublishedSession] = {}
        buckets = session_store.buckets(self.client, program.name, program.version)
        for session in session_store.published_sessions(self.client, program.name, program.version, buckets):
            known = newest.get(session.group)
            if session.state == "closed" and (known is None or known.last <= session.last):
                newest[session.group] = session
        found = list(newest.values())
        rows = finished_cells(program, found)
        pairs = [(s.group, latest_json(program, (s.first, s.last), row)) for s, row in zip(found, rows, strict=True)]
        publish.replace_latest(self.client, program.name, pairs)


def closed_sessions(program: Program, table: SessionTable, slots: Slots) -> list[ClosedSession]:
    """Sessions as they are published, finished."""
    spans = list(zip(table.firsts[slots].tolist(), table.lasts[slots].tolist(), strict=True))
    rows = finished_rows(program, table.columns, slots, session_ends(program, table.lasts[slots].tolist()))
    cells = table.layout.pack(table.columns, slots)
    nothing: Outgoing = {}
    is_sent = program.stage.output != "none"
    return [
        ClosedSession(
            *span,
            group,
            cell,
            latest_json(program, span, row),
            outgoing(program, group_values(program, group)) if is_sent else nothing,
            outgoing(program, row) if is_sent else nothing,
            table.forebears.get(slot, ()),
        )
        for span, group, cell, row, slot in zip(spans, table.groups(slots), cells, rows, slots.tolist(), strict=True)
    ]


def plain_sessions(program: Program, table: SessionTable, slots: Slots) -> PlainSessions:
    """The same of sessions that have nothing but a row and their place in `latest`."""
    firsts, lasts = table.firsts[slots], table.lasts[slots]
    values = finished_columns(program, table.columns, slots, session_ends(program, lasts.tolist()))
    first, last, end = (json_names(each.tolist()) for each in (firsts, lasts, lasts + session_window(program).gap_ms))
    parts: list[bytes | Names] = [b'{"window_start":', first, b',"window_end":', end, b',"first":', first]
    parts += (b',"last":', last, b',"closes_at":', end)
    latest = joined([*parts, *members_of(values), b"}"], len(slots))
    return PlainSessions(firsts, lasts, table.groups(slots), table.layout.pack_names(table.columns, slots), latest)


def finished_cells(program: Program, sessions: Sequence[PublishedSession]) -> list[dict[str, Any]]:
    """The finished values of published sessions, in their order."""
    if not sessions:
        return []
    columns = program.layout.unpack([session.cell for session in sessions])
    ends_ms = session_ends(program, [session.last for session in sessions])
    return finished_rows(program, columns, np.arange(len(sessions)), ends_ms)


def latest_json(program: Program, span: Span, row: Mapping[str, Any]) -> bytes:
    """What `latest` holds of a session; the script compares its first two fields."""
    first, last = span
    end = last + session_window(program).gap_ms
    about = {"window_start": first, "window_end": end, "first": first, "last": last, "closes_at": end}
    return msgspec.json.encode({**about, **row})


def outgoing(program: Program, values: Mapping[str, Any]) -> Outgoing:
    """Values as the downstream stream shows them: texts of an entry, or members of an object in a chunk of NDJSON."""
    match program.stage.output:
        case "rows":
            return {name: text(value) for name, value in values.items() if value is not None}
        case "chunks":
            return msgspec.json.encode(values)[1:-1]
        case "none":
            return {}
