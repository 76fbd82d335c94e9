"""Safe trim: entries go when they are past retention and every group of the running config has committed them.

A cut is made only where a checkpoint was sampled, so the time state at the start of the remaining log is known: who
reads the log from its start (a new version, `rebuild`, `verify`) begins with the watermark the removed entries made.

    removed | gone soon      | kept: younger than retention | kept: not committed by all
    --------+----------------+------------------------------+---------------------------
          cut             samples …                       slowest checkpoint
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from pipeline.core.definitions import Stream
from pipeline.core.entry_header import split_id
from pipeline.rim import keys
from pipeline.rim.scripts import Scripts

SAMPLES_A_RETENTION = 100  # so an entry stays at most 1 % longer than retention says
SHORTEST_GAP_MS = 1_000
MAX_SAMPLES = 1_000  # of a partition under memory pressure, when one is taken at every run
STEP_BYTES = 30_000_000  # freeing 1 MB takes the server about 40 µs (measured, Redis 7.0.15): a step is 1.2 ms
MAX_STEP = 5_000  # small entries: 0.3 ms a step
MEMORY_SAMPLES = 50  # entries MEMORY USAGE looks at; chunks differ in size


@dataclass(frozen=True, slots=True)
class Sample:
    """Where a cut may be: an entry id every group had committed, and the time state after it."""

    cursor: str
    max_seen_ms: int
    max_ts_ms: int | None

    @property
    def arrival_ms(self) -> int:
        return split_id(self.cursor.encode())[0]

    @property
    def order(self) -> tuple[int, int]:
        return split_id(self.cursor.encode())

    @property
    def next_id(self) -> str:
        """The smallest id after the cursor: a stream's ids are 64 bits each side."""
        ms, sequence = self.order
        return f"{ms}-{sequence + 1}" if sequence < 2**64 - 1 else f"{ms + 1}-0"

    def __str__(self) -> str:
        return f"{self.cursor} {self.max_seen_ms} {'' if self.max_ts_ms is None else self.max_ts_ms}"

    @classmethod
    def parse(cls, member: bytes) -> Sample:
        cursor, max_seen_ms, max_ts_ms = member.decode().split(" ")
        return cls(cursor, int(max_seen_ms), int(max_ts_ms) if max_ts_ms else None)


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What a run removed, and the checkpoints that would not let more go."""

    entries: int = 0
    held_by: tuple[str, ...] = ()

    def __add__(self, other: Trimmed) -> Trimmed:
        return Trimmed(self.entries + other.entries, tuple(sorted({*self.held_by, *other.held_by})))


def trim_stream(client: redis.Redis, scripts: Scripts, stream: Stream, groups: Sequence[str], now_ms: int) -> Trimmed:
    """Sample the checkpoints of a stream, then remove what is past its retention, oldest first.

    `groups` are all consumer groups of the running config that read the stream; where there are none, nothing waits for
    its entries and retention alone decides. Safe beside other runs: each step is checked inside its script.
    """
    sizes = _memory_bytes(client, stream)
    crowded = sum(sizes) > stream.retention_bytes // 2
    for partition in range(stream.partitions):
        _sample(client, stream, partition, groups, crowded=crowded)
    trimmed = Trimmed()
    for partition in range(stream.partitions):
        expired = client.execute_command(
            "ZREVRANGEBYSCORE", keys.cuts(stream.name, partition), now_ms - stream.retention_ms, "-inf", "LIMIT", 0, 1
        )
        if expired:
            trimmed += _cut(client, scripts, stream, partition, groups, Sample.parse(expired[0]))
    return trimmed + _trim_to_size(client, scripts, stream, groups)


def _trim_to_size(client: redis.Redis, scripts: Scripts, stream: Stream, groups: Sequence[str]) -> Trimmed:
    """Cut at the oldest sample of the whole stream until it fits; partitions so lose the same stretch of time."""
    trimmed = Trimmed()
    sizes = _memory_bytes(client, stream)
    stuck: set[int] = set()
    while sum(sizes) > stream.retention_bytes:
        oldest = _oldest_sample(client, stream, stuck)
        if oldest is None:
            break
        partition, sample = oldest
        done = _cut(client, scripts, stream, partition, groups, sample)
        if done.held_by:
            stuck.add(partition)
        trimmed += done
        sizes = _memory_bytes(client, stream)
    return trimmed


def _oldest_sample(client: redis.Redis, stream: Stream, stuck: set[int]) -> tuple[int, Sample] | None:
    found = []
    for partition in set(range(stream.partitions)) - stuck:
        first = client.execute_command("ZRANGE", keys.cuts(stream.name, partition), 0, 0)
        if first:
            found.append((partition, Sample.parse(first[0])))
    return min(found, key=lambda pair: (pair[1].order, pair[0]), default=None)


def _memory_bytes(client: redis.Redis, stream: Stream) -> list[int]:
    """Redis's own estimate for each partition's log."""
    pipe = client.pipeline(transaction=False)
    for partition in range(stream.partitions):
        pipe.execute_command("MEMORY USAGE", keys.raw(stream.name, partition), "SAMPLES", MEMORY_SAMPLES)
    return [int(size or 0) for size in pipe.execute()]


def _sample(client: redis.Redis, stream: Stream, partition: int, groups: Sequence[str], *, crowded: bool) -> None:
    """Remember where a cut may be, if the slowest group has come far enough since the last sample."""
    sample = _slowest(client, stream, partition, groups)
    if sample is None:
        return
    cuts = keys.cuts(stream.name, partition)
    newest = client.execute_command("ZRANGE", cuts, -1, -1)
    gap_ms = max(SHORTEST_GAP_MS, stream.retention_ms // SAMPLES_A_RETENTION)
    if newest:
        last = Sample.parse(newest[0])
        due = sample.arrival_ms - last.arrival_ms >= gap_ms
        pressed = crowded and sample.order > last.order and int(client.execute_command("ZCARD", cuts)) < MAX_SAMPLES
        if not (due or pressed):
            return
    client.execute_command("ZADD", cuts, sample.arrival_ms, str(sample))


def _slowest(client: redis.Redis, stream: Stream, partition: int, groups: Sequence[str]) -> Sample | None:
    """The checkpoint furthest behind, or the door where there is no group; None while a group has not begun."""
    if not groups:
        door = keys.door(stream.name, partition)
        return _as_sample(client.execute_command("HMGET", door, "last_id", "max_seen_ms", "max_ts_ms"))
    samples = []
    for group in groups:
        checkpoint = keys.checkpoint(stream.name, partition, group)
        sample = _as_sample(client.execute_command("HMGET", checkpoint, "cursor", "max_seen_ms", "max_ts_ms"))
        if sample is None:
            return None
        samples.append(sample)
    return min(samples, key=lambda sample: sample.order)


def _as_sample(stored: Sequence[bytes | None]) -> Sample | None:
    cursor, max_seen_ms, max_ts_ms = stored
    if not cursor or not max_seen_ms:
        return None
    return Sample(cursor.decode(), int(max_seen_ms), int(max_ts_ms) if max_ts_ms else None)


def _cut(
    client: redis.Redis, scripts: Scripts, stream: Stream, partition: int, groups: Sequence[str], sample: Sample
) -> Trimmed:
    """Remove everything up to a sample, in steps short enough for the server's other clients."""
    raw = keys.raw(stream.name, partition)
    removed = 0
    while True:
        answer = scripts.run(
            "trim",
            keys=[
                raw,
                keys.cuts(stream.name, partition),
                keys.cut(stream.name, partition),
                keys.tables(stream.name, partition),
                *(keys.checkpoint(stream.name, partition, group) for group in groups),
            ],
            args=[
                sample.cursor,
                sample.max_seen_ms,
                "" if sample.max_ts_ms is None else sample.max_ts_ms,
                sample.next_id,
                _step(client, raw),
            ],
        )
        count, rest = answer
        if int(count) < 0:
            return Trimmed(removed, (rest.decode(),))
        removed += int(count)
        if int(rest) == 1:
            return Trimmed(removed)


def _step(client: redis.Redis, raw: str) -> int:
    """How many entries may go at once, by their average size."""
    size = int(client.execute_command("MEMORY USAGE", raw, "SAMPLES", MEMORY_SAMPLES) or 0)
    length = int(client.execute_command("XLEN", raw))
    return max(1, min(MAX_STEP, STEP_BYTES * length // max(size, 1)))
