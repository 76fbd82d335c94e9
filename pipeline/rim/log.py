"""Reading a partition's raw log from where it begins: in bounded steps, and never over a hole that a trim made.

removed by trims | cut                     place        cursor of a stage
-----------------+--------------------------+-----------------+------------
                 | what is known of time    | a place where a trim may cut later: likewise
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import redis

from pipeline.errors import LogTrimmedError
from pipeline.rim import keys, replies, tables
from pipeline.rim.replies import Entry
from pipeline.rim.trim import Sample

STEP_BYTES = 8_000_000  # of one read, by the size of the entries before: some 10 ms of the server's time
FIRST_STEP = 4  # entries: chunks have up to 4 MB
MAX_STEP = 2_000
BEGIN = b"0-0"  # before every entry


@dataclass(frozen=True, slots=True)
class LogPlace:
    """A place in a log at which the state is known: behind the entry `cursor`, what came before had made of it."""

    cursor: bytes = BEGIN
    max_seen_ms: int | None = None
    max_ts_ms: int | None = None
    tables: Mapping[str, str] = field(default_factory=dict)  # lookup table → the content (hash) it has there

    @property
    def is_begin(self) -> bool:
        return self.cursor == BEGIN


def log_begin(client: redis.Redis, stream: str, partition: int) -> LogPlace:
    """Where a partition's log begins: at the last trim's cut, or with its first entry."""
    stored = client.execute_command("HMGET", keys.cut(stream, partition), "cursor", "max_seen_ms", "max_ts_ms")
    cursor, seen_ms, ts_ms = stored
    joined = tables.at(client, (stream, partition), BEGIN if cursor is None else cursor)
    if cursor is None:
        return LogPlace(tables=joined)
    return LogPlace(cursor, None if seen_ms is None else int(seen_ms), None if ts_ms is None else int(ts_ms), joined)


def place_before(
    client: redis.Redis, stream: str, partition: int, *, time_ms: int | None = None, entry_id: bytes | None = None
) -> LogPlace:
    """The last known place before which no event is of `time_ms` or later, and which is before `entry_id`."""
    found = log_begin(client, stream, partition)
    for member in client.execute_command("ZRANGE", keys.cuts(stream, partition), 0, -1):
        sample = Sample.parse(member)
        if time_ms is not None and (sample.max_ts_ms is None or sample.max_ts_ms >= time_ms):
            continue
        if entry_id is not None and sample.order >= order_of(entry_id):
            continue
        if sample.order > order_of(found.cursor):
            found = LogPlace(sample.cursor.encode(), sample.max_seen_ms, sample.max_ts_ms)
    return found if found.tables else replace(found, tables=tables.at(client, (stream, partition), found.cursor))


def order_of(entry_id: bytes) -> tuple[int, int]:
    """Entry ids in the order of the log."""
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms), int(sequence or 0)


def read_log(client: redis.Redis, stream: str, partition: int, after: LogPlace, to: bytes) -> Iterator[list[Entry]]:
    """The entries behind a place up to the id `to` (included; `+`: all there are; `(id`: before it), in steps.

    Raises:
        LogTrimmedError: a trim removed entries that were still to be read.
    """
    raw, cut = keys.raw(stream, partition), keys.cut(stream, partition)
    at, step = after.cursor, FIRST_STEP
    while True:
        pipe = client.pipeline(transaction=False)
        pipe.execute_command("XRANGE", raw, b"(" + at, to, "COUNT", step)
        pipe.execute_command("HGET", cut, "cursor")  # written before entries go: read after them
        reply, cursor = pipe.execute()
        if cursor is not None and order_of(cursor) > order_of(at):
            raise LogTrimmedError(
                f"{stream}, partition {partition}: the log was trimmed to {cursor.decode()} while it was read and had "
                f"come to {at.decode()}; try again"
            )
        entries = replies.parse_entries(reply)
        if not entries:
            return
        yield entries
        at = entries[-1].id
        size = sum(len(value) for entry in entries for value in (entry.fields or {}).values())
        step = max(1, min(MAX_STEP, STEP_BYTES * len(entries) // max(size, 1)))
