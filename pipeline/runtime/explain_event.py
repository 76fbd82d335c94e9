"""The path of one stored event: where it stands, the time before it, and what every stage that reads it made of it.

Invariant: the stages' own functions are asked again, with the watermark that the log had before the event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import polars as pl
import redis

from pipeline.core.batches import ROW, Batch, DeadEntry, read_batch
from pipeline.core.cell_fields import ALWAYS, OTHERS, from_end_order, split_field
from pipeline.core.definitions import Aggregate, Config, Session, Stream, Transform
from pipeline.core.entries import Chunk, Row, parse_entry
from pipeline.core.events import Reader
from pipeline.core.fates import rows_of
from pipeline.core.process import TimeState
from pipeline.core.programs import Program
from pipeline.core.session_process import session_window
from pipeline.core.spelling import did_you_mean
from pipeline.core.steps import Joins, Step, apply_steps, hashes_in
from pipeline.core.watermarks import NO_TIME_MS, watermark_ms
from pipeline.core.windows import FOREVER_MS
from pipeline.errors import BadRequestError, LogTrimmedError
from pipeline.rim import keys, replies, store
from pipeline.rim.commit import Checkpoint
from pipeline.rim.log import log_begin, order_of, place_before, read_log
from pipeline.rim.table_cache import TableCache
from pipeline.runtime.assignments import computations_of, reads_log
from pipeline.runtime.closer import minimum_watermark, state_at
from pipeline.runtime.computations import AggregateComputation, PublishComputation
from pipeline.runtime.explain_window import ATTEMPTS, beside, why_not_again
from pipeline.runtime.finishing import group_values
from pipeline.runtime.log_batches import Killed, decode, killed_rows, time_at
from pipeline.runtime.query import Metrics
from pipeline.runtime.session_query import SessionReader

Outcome = Literal["accepted", "filtered", "late", "dead", "published", "not for it", "not known"]


@dataclass(frozen=True, slots=True)
class WindowShown:
    """A window an event counts in, and how it stands now."""

    start_ms: int
    end_ms: int
    state: str


@dataclass(frozen=True, slots=True)
class Counted:
    """One row made from the event: its group and pane, and the windows it counts in from `from_end_ms` on.

    A session metric has no panes, and its one window is the session that the row is part of now.
    """

    group: dict[str, Any]
    pane_ms: int | None
    from_end_ms: int | None
    windows: list[WindowShown]


@dataclass(frozen=True, slots=True)
class StageFate:
    """What one stage made of the event; `processed`: it has committed it, otherwise it will."""

    stage: str
    group: str
    outcome: Outcome
    processed: bool
    filtered_by: str | None = None
    error: str | None = None
    late_by_ms: int | None = None
    missed: WindowShown | None = None
    reason: str | None = None
    counted: list[Counted] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class EventExplained:
    """Where an event stands, and its stages. `watermark_ms`: before it; None: nothing came before.

    `event`: the JSON as it is stored. `error`: why no stage can read it.
    """

    stream: str
    partition: int
    entry: str
    row: int
    kind: Literal["row", "chunk"]
    arrival_ms: int
    time_ms: int | None
    watermark_ms: int | None
    event: str
    error: str | None
    stages: list[StageFate]


@dataclass(frozen=True, slots=True)
class _Seen:
    """The event as a stage sees it: alone in a batch (None: it cannot be read, see `dead`), and the time before it."""

    one: Batch | None
    dead: DeadEntry | None
    max_seen_ms: int | None
    body: bytes

    @property
    def time_ms(self) -> int | None:
        return None if self.one is None else int(self.one.times_ms[0])


def explain_event(
    client: redis.Redis,
    config: Config,
    stream_name: str,
    entry_id: str,
    row: int | None = None,
    partition: int | None = None,
) -> EventExplained:
    """Follow one event through the stages that read its stream.

    Raises:
        BadRequestError: 404, it is not in what is left of the log; 422, several events are meant, or none.
    """
    stream, name = config.streams[stream_name], entry_id.encode()
    number, stored = _find(client, stream, name, partition)
    entry = parse_entry(name, stored.fields or {})
    if not isinstance(entry, Chunk | Row):
        raise BadRequestError(
            f"{entry_id} is a tick or a control entry of {stream.name}: no event", code="no_event", status=422
        )
    row = _row_number(entry, row)
    path = _Path(
        client, config, stream, number, entry, row, _time_before(client, stream, number, name), TableCache(client)
    )
    seen = path.seen({})
    return EventExplained(
        stream=stream.name,
        partition=number,
        entry=entry_id,
        row=row,
        kind="chunk" if isinstance(entry, Chunk) else "row",
        arrival_ms=entry.arrival_ms,
        time_ms=seen.time_ms,
        watermark_ms=watermark_ms(seen.max_seen_ms, stream.time.disorder_ms),
        event=seen.body.decode(errors="replace"),
        error=None if seen.dead is None else f"{seen.dead.code}: {seen.dead.message}",
        stages=list(path.fates()),
    )


_NAMED = re.compile(r"(?:([a-z][a-z0-9_]*):(\d{1,6}):)?(\d{1,14}-\d{1,20})(?:/(\d{1,6}))?", re.ASCII)


class UnknownEventError(BadRequestError):
    """The log does not hold the entry."""


def event_named(client: redis.Redis, config: Config, name: str) -> EventExplained:
    """Follow the event that a text names: `ID`, `ID/ROW` or `STREAM:PARTITION:ID/ROW`.

    Raises:
        BadRequestError: the text names no event, or several.
    """
    parts = _NAMED.fullmatch(name)
    if parts is None:
        raise BadRequestError(
            f"'{name:.80}' names no event: write ID, ID/ROW or STREAM:PARTITION:ID/ROW, such as 1763928012400-0/4"
        )
    stream, partition, entry_id, row = parts.groups()
    number = None if row is None else int(row)
    if stream is None:
        return explain_event(client, config, _stream_with(client, config, name, entry_id), entry_id, number)
    if stream not in config.streams:
        raise BadRequestError(f"there is no stream '{stream}'.{did_you_mean(stream, config.streams)}")
    if int(partition) >= config.streams[stream].partitions:
        raise BadRequestError(f"{stream} has partitions 0 to {config.streams[stream].partitions - 1}")
    return explain_event(client, config, stream, entry_id, number, int(partition))


def _stream_with(client: redis.Redis, config: Config, name: str, entry_id: str) -> str:
    """The one stream that holds an entry."""
    found = []
    for each in config.streams.values():
        with suppress(UnknownEventError):
            _find(client, each, entry_id.encode(), None)
            found.append(each.name)
    if len(found) > 1:
        raise BadRequestError(f"the entry {entry_id} stands in {' and '.join(found)}: write STREAM:PARTITION:{name}")
    if not found:
        raise BadRequestError(f"there is no entry {entry_id} in any stream; it may have been trimmed", status=404)
    return found[0]


def _find(client: redis.Redis, stream: Stream, entry_id: bytes, partition: int | None) -> tuple[int, replies.Entry]:
    """The partition that holds an entry: an id may stand in several, they are made by the clock."""
    partitions = range(stream.partitions) if partition is None else [partition]
    pipe = client.pipeline(transaction=False)
    for number in partitions:
        pipe.execute_command("XRANGE", keys.raw(stream.name, number), entry_id, entry_id)
    answers = zip(partitions, pipe.execute(), strict=True)
    found = [(number, entry) for number, reply in answers for entry in replies.parse_entries(reply)]
    if len(found) == 1:
        return found[0]
    shown = entry_id.decode()
    if found:
        named = ", ".join(str(number) for number, _ in found)
        raise BadRequestError(
            f"the entry {shown} stands in the partitions {named} of {stream.name}; say which with "
            f"partition, or {stream.name}:{found[0][0]}:{shown}",
            code="several_events",
            status=422,
        )
    cuts = [log_begin(client, stream.name, number).cursor for number in partitions]
    trimmed = any(order_of(entry_id) <= order_of(cut) for cut in cuts)
    why = "it may have been trimmed: the log begins after it" if trimmed else "GET …/events shows the newest ones"
    raise UnknownEventError(f"there is no entry {shown} in {stream.name}; {why}", code="unknown_event", status=404)


def _row_number(entry: Chunk | Row, row: int | None) -> int:
    n = max(1, entry.n) if isinstance(entry, Chunk) else 1
    if row is None and n == 1:
        return 0
    if row is None or row >= n:
        said = "holds" if row is None else f"has no row {row}, it holds"
        raise BadRequestError(
            f"the entry {entry.id.decode()} {said} {n} events; say which with row, from 0 to {n - 1}",
            code="which_row",
            status=422,
        )
    return row


def _time_before(client: redis.Redis, stream: Stream, partition: int, entry_id: bytes) -> TimeState:
    """What time it was in the partition before an entry: read from the last place where that is known."""
    reader = Reader(stream, [])
    for _ in range(ATTEMPTS):
        place = place_before(client, stream.name, partition, entry_id=entry_id)
        time = time_at(place, Checkpoint())
        try:
            for entries in read_log(client, stream.name, partition, place, b"(" + entry_id):
                parsed = [
                    beside(e, stream.time.max_future_ms, None) or parse_entry(e.id, e.fields or {}) for e in entries
                ]
                batch = read_batch(parsed, reader, partition=partition, max_future_ms=stream.time.max_future_ms)
                time = time.after(batch, batch.prefix_watermarks(time.max_seen_ms, stream.time.disorder_ms)[1])
        except LogTrimmedError as error:
            trimmed = error
        else:
            return time
    raise BadRequestError(str(trimmed), code="trimmed", status=410)


@dataclass(frozen=True, slots=True)
class _Path:
    """One event, and the stages it goes through."""

    client: redis.Redis
    config: Config
    stream: Stream
    partition: int
    entry: Chunk | Row
    row: int
    before: TimeState
    tables: TableCache

    def fates(self) -> Iterator[StageFate]:
        metrics = Metrics(self.config, self.client)
        for stage in self.config.stages.values():
            if self.config.stream_of(stage).name != self.stream.name or not reads_log(stage):
                continue
            if isinstance(stage, Aggregate):
                yield self._aggregate(metrics.program(stage.name))
            else:
                yield self._transform(stage, metrics.programs)

    def seen(self, killed: Killed) -> _Seen:
        """The event as it is decoded, all fields."""
        reader = Reader(self.stream, [each.name for each in self.stream.fields])
        batch = decode(self.stream, self.partition, reader, [self.entry], killed)
        marks_ms, _ = batch.prefix_watermarks(self.before.max_seen_ms, self.stream.time.disorder_ms)
        for at in range(len(batch.times_ms)):
            if batch.row_in_entry(at) == self.row:
                seen_ms = int(marks_ms[at]) + self.stream.time.disorder_ms
                one = rows_of(batch, np.array([at]))
                return _Seen(one, None, None if seen_ms == NO_TIME_MS else seen_ms, one.raw_rows([0])[0])
        dead = next(dead for dead in batch.dead if dead.row <= self.row < dead.row + max(1, dead.n))
        return _Seen(None, dead, self.before.max_seen_ms, dead.body)

    def _is_processed(self, checkpoint: Checkpoint) -> bool:
        return bool(checkpoint.cursor) and order_of(checkpoint.cursor) >= order_of(self.entry.id)

    def _aggregate(self, program: Program) -> StageFate:
        checkpoints = store.load_checkpoints(self.client, self.stream.name, self.stream.partitions, program.group)
        seen = self.seen(killed_rows(self.client, program, self.partition))
        checkpoint = checkpoints[self.partition]
        base = StageFate(program.name, program.group, "accepted", self._is_processed(checkpoint))
        if isinstance(self.entry, Chunk) and not self.entry.is_for(program.group):
            return replace(base, outcome="not for it")
        if seen.one is None:
            return _dead(base, seen.dead)
        if (why := why_not_again(program.name, program.steps)) is not None:
            return replace(base, outcome="not known", error=why)
        before = replace(
            self.before,
            max_seen_ms=seen.max_seen_ms,
            floor_ms=checkpoint.floor_ms,
            expired_ms=checkpoint.expired_ms,
        )
        prepared = AggregateComputation(program, self.partition, self.tables).compute(seen.one, before)
        minimum_ms = minimum_watermark(checkpoints, self.stream.time.disorder_ms)
        if prepared.dead:
            return replace(base, outcome="dead", error=f"{prepared.dead[0].code}: {prepared.dead[0].message}")
        if prepared.ledger.filtered:
            return replace(
                base, outcome="filtered", filtered_by=self._filtered_by(program.steps, seen.one, program.needs)
            )
        if prepared.ledger.late:
            late = prepared.late
            start_ms, end_ms = int(late.starts_ms[0]), int(late.ends_ms[0])
            return replace(
                base,
                outcome="late",
                late_by_ms=int(late.watermarks_ms[0] - late.times_ms[0]),
                missed=WindowShown(start_ms, end_ms, state_at(program, end_ms, minimum_ms)),
                reason="before_log" if late.before_log[0] else "expired" if late.expired[0] else "late",
            )
        cells = [prepared.cells[cell] for cell in prepared.cell_of.tolist()]
        if isinstance(program.window, Session):
            times_ms = seen.one.times_ms[prepared.rows].tolist()
            return replace(base, counted=[self._joined(program, *each) for each in zip(cells, times_ms, strict=True)])
        return replace(base, counted=[self._counted(program, cell, minimum_ms) for cell in cells])

    def _counted(self, program: Program, cell: tuple[int, bytes], minimum_ms: int | None) -> Counted:
        """A cell the event was added to, and the windows it is part of."""
        pane_ms, name = cell
        from_end, group = split_field(name)
        first_ms = from_end_order(from_end)
        spans = program.panes.windows_of(pane_ms, first_ms, FOREVER_MS)
        return Counted(
            group=group_values(program, self._group(program, pane_ms, from_end, group)),
            pane_ms=pane_ms,
            from_end_ms=None if from_end == ALWAYS else first_ms,
            windows=[WindowShown(start, end, state_at(program, end, minimum_ms)) for start, end in spans],
        )

    def _joined(self, program: Program, cell: tuple[int, bytes], time_ms: int) -> Counted:
        """A session key the event was added to, and the session that it is in by now; none while it is not shown."""
        name = split_field(cell[1])[1]
        group = group_values(program, name)
        where = {field: [value] for field, value in group.items()}
        there = SessionReader(self.client, program).at(time_ms, where, name.__eq__)
        windows = [
            WindowShown(session.first, session.last + session_window(program).gap_ms, session.state)
            for session in there
            if session.first <= time_ms <= session.last
        ]
        return Counted(group=group, pane_ms=None, from_end_ms=None, windows=windows)

    def _group(self, program: Program, pane_ms: int, from_end: bytes, group: bytes) -> bytes:
        """The group it was counted in: above the cap of its pane, `__other__`."""
        key = keys.pane(self.stream.name, self.partition, program.group, pane_ms)
        own, others = (from_end + b" " + name for name in (group, OTHERS))
        there = self.client.execute_command("HMGET", key, own, others)
        return OTHERS if there[0] is None and there[1] is not None else group

    def _transform(self, stage: Transform, programs: Mapping[str, Program]) -> StageFate:
        """A published transform: the same computation the worker runs, on this event alone."""
        works = computations_of(self.config, programs, self.stream, self.partition, self.tables)
        work = next(each for each in works if isinstance(each, PublishComputation) and each.name == stage.name)
        checkpoint = store.load_checkpoint(self.client, self.stream.name, self.partition, work.group)
        seen = self.seen({})
        base = StageFate(stage.name, work.group, "published", self._is_processed(checkpoint))
        if isinstance(self.entry, Chunk) and not self.entry.is_for(work.group):
            return replace(base, outcome="not for it")
        if seen.one is None:
            return _dead(base, seen.dead)
        if (why := why_not_again(stage.name, work.steps)) is not None:
            return replace(base, outcome="not known", error=why)
        published = work.compute(seen.one, TimeState(seen.max_seen_ms, tables=self.before.tables))
        if published.dead:
            return replace(base, outcome="dead", error=f"{published.dead[0].code}: {published.dead[0].message}")
        if published.ledger.filtered:
            return replace(base, outcome="filtered", filtered_by=self._filtered_by(work.steps, seen.one, work.needs))
        return base

    def _filtered_by(self, steps: Sequence[Step], one: Batch, needs: frozenset[str]) -> str | None:
        """The transform behind which the event is no longer there."""
        frame = pl.DataFrame({ROW: np.arange(1)}).hstack(one.frame.select(sorted(needs)))
        joins = Joins(self.before.tables, (), self.tables.contents(hashes_in(steps, self.before.tables, ())))
        for number, step in enumerate(steps, start=1):
            if not len(apply_steps(steps[:number], frame, joins)[0]):
                return getattr(step, "transform", None)
        return None


def _dead(base: StageFate, dead: DeadEntry | None) -> StageFate:
    return replace(base, outcome="dead", error=None if dead is None else f"{dead.code}: {dead.message}")
