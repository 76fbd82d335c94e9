"""Reads of session state: live sessions of partitions, published ones by bucket, and how far each partition is.

bucket   sessions whose `first` lies in [k·width, (k+1)·width) are one hash, so that a range of time is a few reads
account  `TO OWN OLDEST` of a partition: every session that closed by TO is published as it was when the partition's
         own watermark was OWN; OLDEST is the `first` of the oldest one that was still live, `-` for none
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import redis

from pipeline.core.definitions import HOUR_MS, SECOND_MS, Session
from pipeline.core.session_blocks import COUNT, StoredSessions
from pipeline.rim import keys, replies

SCAN_COUNT = 1_000  # fields a step: some 100 kB, well under 2 ms of the server
SMALL_HASH = 2_000  # fields read at once
BUCKETS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Account:
    """How far the sessions of one partition are published; all in ms."""

    to_ms: int
    own_ms: int
    oldest_ms: int | None

    def __str__(self) -> str:
        return f"{self.to_ms} {self.own_ms} {'-' if self.oldest_ms is None else self.oldest_ms}"

    @classmethod
    def parse(cls, text: bytes) -> Account:
        to_ms, own_ms, oldest_ms = text.split(b" ")
        return cls(int(to_ms), int(own_ms), None if oldest_ms == b"-" else int(oldest_ms))


@dataclass(frozen=True, slots=True)
class PublishedSession:
    """One row of a session metric as it was published: `state` closed or retracted."""

    first: int
    last: int
    group: bytes
    state: str
    revision: int
    published_ms: int
    partition: int
    cell: bytes


def bucket_width_ms(window: Session) -> int:
    """A quarter of the gap, from ten seconds to an hour: some hundred to ten thousand buckets a day."""
    return min(max(window.gap_ms // 4, 10 * SECOND_MS), HOUR_MS)


def bucket_of(window: Session, first_ms: int) -> int:
    """The start of the bucket of a session."""
    return first_ms - first_ms % bucket_width_ms(window)


def session_field(first_ms: int, last_ms: int, group: bytes) -> bytes:
    """The field of a published session: its identity."""
    return b"%d:%d %b" % (first_ms, last_ms, group)


def parse_published(field: bytes, value: bytes) -> PublishedSession:
    span, _, group = field.partition(b" ")
    first, _, last = span.partition(b":")
    state, revision, published_ms, partition, cell = value.split(b" ", 4)
    return PublishedSession(
        int(first), int(last), group, state.decode(), int(revision), int(published_ms), int(partition), cell
    )


def stored_sessions(client: redis.Redis, stream: str, partition: int, group: str) -> StoredSessions:
    """The live sessions of a partition as of one commit, and where each is.

    Raises:
        ValueError: something else wrote into them.
    """
    key = keys.live_sessions(stream, partition, group)
    return StoredSessions.read(replies.parse_hash(client.execute_command("HGETALL", key)))


def live_sessions(client: redis.Redis, stream: str, partition: int, group: str) -> dict[bytes, bytes]:
    """The live sessions of a partition as of one commit, by `FIRST GROUPJSON`."""
    return stored_sessions(client, stream, partition, group).pairs()


def scan(client: redis.Redis, key: str) -> Iterator[tuple[bytes, bytes]]:
    """Every field of a hash, in steps when it is large; a field that changes meanwhile may come twice."""
    if int(client.execute_command("HLEN", key)) <= SMALL_HASH:
        yield from replies.parse_hash(client.execute_command("HGETALL", key)).items()
        return
    cursor = b"0"
    while True:
        cursor, page = client.execute_command("HSCAN", key, cursor, "COUNT", SCAN_COUNT)
        yield from replies.parse_hash(page).items()
        if int(cursor) == 0:
            return


def count_live(client: redis.Redis, stream: str, partitions: int, group: str) -> int:
    """How many live sessions a metric has in all partitions."""
    pipe = client.pipeline(transaction=False)
    for partition in range(partitions):
        pipe.execute_command("HGET", keys.live_sessions(stream, partition, group), COUNT)
    return sum(int(count or 0) for count in pipe.execute())


def accounts(client: redis.Redis, metric: str, version: str, partitions: int) -> list[Account | None]:
    """How far each partition is; None where nothing was said of it yet."""
    stored = replies.parse_hash(client.execute_command("HGETALL", keys.session_accounts(metric, version)))
    found = (stored.get(b"%d" % partition) for partition in range(partitions))
    return [None if text is None else Account.parse(text) for text in found]


def buckets(
    client: redis.Redis, metric: str, version: str, start_ms: int | None = None, end_ms: int | None = None
) -> list[int]:
    """The buckets that may hold sessions overlapping [start, end), in order of time."""
    lowest = "-inf" if start_ms is None else f"({start_ms}"
    members = map(int, client.execute_command("ZRANGEBYSCORE", keys.windows(metric, version), lowest, "+inf"))
    return sorted(bucket for bucket in members if end_ms is None or bucket < end_ms)


def published_sessions(
    client: redis.Redis, metric: str, version: str, wanted: Iterable[int]
) -> Iterator[PublishedSession]:
    """The published sessions of some buckets, retracted ones too."""
    for bucket in wanted:
        for field, value in scan(client, keys.session_rows(metric, version, bucket)):
            yield parse_published(field, value)
