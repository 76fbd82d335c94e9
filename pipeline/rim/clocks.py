"""What time it is in the partitions of a stream: the door's account, corrected by what went past the door.

The door (`{s.p}:door`) is kept by the append script. Rows by plain `XADD` do not pass it, so what follows `last_id` in
the log is read here and added; entries after `last_id` are never ticks, because the tick script keeps the door itself.
A clock decides only when a tick is written: the watermark is computed by the worker from the log, never from here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import redis

from pipeline.core.definitions import Stream
from pipeline.core.entry_header import BACKFILL, KIND, split_id
from pipeline.core.watermarks import PartitionClock
from pipeline.rim import keys, replies
from pipeline.rim.scripts import Scripts

ROWS_A_STEP = 500  # rows read at once
GROWTH = 8  # from one read to the next: mostly there is nothing to read, and what is there may be a chunk of megabytes
STEPS_A_LOOK = 12  # of one partition, 4,500 rows; a longer backlog is a stream that flows, caught up over several looks


@dataclass(frozen=True, slots=True)
class Look:
    """The clocks of a stream at one moment; `complete` is False while rows past the door wait to be read."""

    clocks: tuple[PartitionClock, ...]
    complete: bool


def look(
    client: redis.Redis,
    scripts: Scripts,
    stream: Stream,
    groups: Sequence[str],
    *,
    steps: int = STEPS_A_LOOK,
) -> Look:
    """Read every partition's clock, correcting the doors that are behind their log.

    `groups` are the consumer groups of the stream: a checkpoint that is ahead of the door saves reading up to it.
    """
    pipe = client.pipeline(transaction=False)
    for partition in range(stream.partitions):
        pipe.execute_command("HGETALL", keys.door(stream.name, partition))
        for group in groups:
            pipe.execute_command(
                "HMGET", keys.checkpoint(stream.name, partition, group), "cursor", "max_seen_ms", "max_ts_ms"
            )
    answers = iter(pipe.execute())
    clocks = []
    complete = True
    for partition in range(stream.partitions):
        door = replies.parse_hash(next(answers))
        checkpoints = [next(answers) for _ in groups]
        clock, whole = _corrected(client, scripts, stream, _clock(partition, door), checkpoints, steps)
        clocks.append(clock)
        complete = complete and whole
    return Look(tuple(clocks), complete)


def _clock(partition: int, door: Mapping[bytes, bytes]) -> PartitionClock:
    def number(name: bytes) -> int | None:
        text = door.get(name)
        return int(text) if text else None

    return PartitionClock(
        partition=partition,
        last_id=door.get(b"last_id", b"0-0").decode(),
        max_seen_ms=number(b"max_seen_ms"),
        max_ts_ms=number(b"max_ts_ms"),
        last_arrival_ms=number(b"last_arrival_ms"),
        last_tick_ms=number(b"last_tick_ms"),
        last_backfill_ms=number(b"last_backfill_ms"),
    )


def _corrected(
    client: redis.Redis,
    scripts: Scripts,
    stream: Stream,
    door: PartitionClock,
    checkpoints: Sequence[Sequence[bytes | None]],
    steps: int,
) -> tuple[PartitionClock, bool]:
    """Follow the log from the door's last entry to its end; store what was found in the door."""
    clock = _ahead(door, checkpoints)
    key = keys.raw(stream.name, door.partition)
    whole = False
    count = 1
    for _ in range(steps):
        entries = replies.parse_entries(client.execute_command("XRANGE", key, f"({clock.last_id}", "+", "COUNT", count))
        clock = _after(clock, entries, stream)
        if len(entries) < count:
            whole = True
            break
        count = 1 if _has_chunk(entries) else min(count * GROWTH, ROWS_A_STEP)
    if clock.last_id != door.last_id:
        # Refused when the door moved meanwhile; then a tick after this look is refused as well, by the same comparison.
        times_ms = (clock.max_seen_ms, clock.max_ts_ms, clock.last_arrival_ms, clock.last_backfill_ms)
        args = [door.last_id, clock.last_id, *map(_text, times_ms)]
        scripts.run("correct", keys=[keys.door(stream.name, door.partition)], args=args)
    return clock, whole


def _has_chunk(entries: Sequence[replies.Entry]) -> bool:
    return any(entry.fields is not None and entry.fields.get(KIND) == b"chunk" for entry in entries)


def _text(value: int | None) -> str:
    return "" if value is None else str(value)


def _ahead(door: PartitionClock, checkpoints: Sequence[Sequence[bytes | None]]) -> PartitionClock:
    """The furthest of the door and the checkpoints: a worker has already read what its checkpoint says."""
    clock = door
    for cursor, max_seen_ms, max_ts_ms in checkpoints:
        if cursor and max_seen_ms and max_ts_ms and split_id(cursor) > split_id(clock.last_id.encode()):
            clock = _moved(clock, cursor, int(max_seen_ms), int(max_ts_ms), split_id(cursor)[0])
    return clock


def _after(clock: PartitionClock, entries: Sequence[replies.Entry], stream: Stream) -> PartitionClock:
    """The clock after `entries`. Rows that fail validation do not move time; a chunk's header says what it holds."""
    rows: list[tuple[bytes, Mapping[bytes, bytes]]] = []
    for entry_id, fields in entries:
        assert fields is not None, f"XRANGE gave entry {entry_id!r} without fields"
        if fields.get(KIND) == b"chunk":
            arrival_ms, newest_ms = int(fields[b"at"]), int(fields[b"hi"])
            if fields.get(b"mode") == BACKFILL:
                clock = _backfilled(clock, newest_ms, arrival_ms)
            else:
                clock = _moved(clock, entry_id, min(arrival_ms, newest_ms), newest_ms, arrival_ms)
        elif KIND not in fields:
            rows.append((entry_id, fields))
    if rows:
        clock = _after_rows(clock, rows, stream)
    return replace(clock, last_id=entries[-1][0].decode()) if entries else clock


def _after_rows(
    clock: PartitionClock, rows: Sequence[tuple[bytes, Mapping[bytes, bytes]]], stream: Stream
) -> PartitionClock:
    """The clock after rows by plain `XADD`: their times are read as the worker reads them."""
    # What reads rows brings polars and pyarrow, 50 MB that a scheduler does without while every event passes the door.
    from pipeline.rim.row_times import times_of

    times = times_of(stream, clock.partition, rows)
    if times is None:
        return clock
    last_id = rows[-1][0]
    return _moved(clock, last_id, times.seen_ms, times.newest_ms, split_id(last_id)[0])


def _backfilled(clock: PartitionClock, newest_ms: int, arrival_ms: int) -> PartitionClock:
    """Old data moves no time and is no sign of life; what it adds to may have to be closed by the end."""
    return replace(
        clock,
        max_ts_ms=_max(clock.max_ts_ms, newest_ms),
        last_backfill_ms=_max(clock.last_backfill_ms, arrival_ms),
    )


def _moved(clock: PartitionClock, last_id: bytes, seen_ms: int, newest_ms: int, arrival_ms: int) -> PartitionClock:
    return replace(
        clock,
        last_id=last_id.decode(),
        max_seen_ms=_max(clock.max_seen_ms, seen_ms),
        max_ts_ms=_max(clock.max_ts_ms, newest_ms),
        last_arrival_ms=_max(clock.last_arrival_ms, arrival_ms),
    )


def _max(known: int | None, value: int) -> int:
    return value if known is None else max(known, value)
