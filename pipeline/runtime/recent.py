"""The newest events of a stream, as they are stored: to look at, not to count.

Invariant: bounded whatever the log holds. Entries are read newest first in small steps; a chunk gives its last rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
import redis

from pipeline.core.batches import read_row
from pipeline.core.definitions import Stream
from pipeline.core.entries import Chunk, EntryError, Row, parse_entry
from pipeline.core.entry_header import KIND, split_id
from pipeline.core.events import ChunkError, Events, Reader, RowError
from pipeline.rim import keys, replies
from pipeline.rim.replies import Entry

MAX_ENTRIES = 1_000  # looked at in a partition: behind that many ticks there is no news
MAX_STEP = 100  # entries a read, of rows; a chunk has up to 4 MB, so chunks are read one by one

Kind = Literal["row", "chunk"]


@dataclass(frozen=True, slots=True)
class RecentEvent:
    """One stored event; `error` says why the workers cannot read it, then `event` holds what was sent, as text."""

    partition: int
    entry_id: bytes
    row: int
    kind: Kind
    arrival_ms: int
    time_ms: int | None
    event: dict[str, Any]
    error: str | None = None

    @property
    def order(self) -> tuple[int, int, int, int]:
        return (*split_id(self.entry_id), self.partition, self.row)


def newest_events(client: redis.Redis, stream: Stream, limit: int) -> list[RecentEvent]:
    """The newest `limit` events over all partitions, newest first."""
    reader = Reader(stream, [field.name for field in stream.fields])
    found = [e for partition in range(stream.partitions) for e in _newest(client, stream, reader, partition, limit)]
    return sorted(found, key=lambda event: event.order, reverse=True)[:limit]


def _newest(client: redis.Redis, stream: Stream, reader: Reader, partition: int, limit: int) -> list[RecentEvent]:
    found: list[RecentEvent] = []
    for entry in _backwards(client, keys.raw(stream.name, partition)):
        found += _events(reader, partition, entry, limit - len(found))
        if len(found) >= limit:
            break
    return found


def _backwards(client: redis.Redis, key: str) -> Iterator[Entry]:
    """The entries of a log, newest first, at most MAX_ENTRIES."""
    end, step, seen = "+", 1, 0
    while seen < MAX_ENTRIES:
        entries = replies.parse_entries(client.execute_command("XREVRANGE", key, end, "-", "COUNT", step))
        yield from entries
        if len(entries) < step:
            return
        seen += step
        end = f"({entries[-1].id.decode()}"
        has_chunk = any(entry.fields and entry.fields.get(KIND) == b"chunk" for entry in entries)
        step = 1 if has_chunk else min(step * 4, MAX_STEP)


def _events(reader: Reader, partition: int, raw: Entry, most: int) -> list[RecentEvent]:
    assert raw.fields is not None, f"XREVRANGE gave entry {raw.id!r} without fields"
    match parse_entry(raw.id, raw.fields):
        case Chunk() as chunk:
            return _of_chunk(reader, partition, chunk, most)
        case Row() as row:
            return [_of_row(reader, partition, row)]
        case _:
            return []


def _of_chunk(reader: Reader, partition: int, chunk: Chunk, most: int) -> list[RecentEvent]:
    """The last `most` events of a chunk, newest first; a damaged one is shown as one event without fields."""
    try:
        chunk.check()
        events = reader.events(chunk)
    except (EntryError, ChunkError) as error:
        return [RecentEvent(partition, chunk.id, 0, "chunk", chunk.arrival_ms, None, {}, str(error))]
    first = max(0, len(events) - most)
    shown = decoded(reader, events, chunk.arrival_ms, first)
    return [
        RecentEvent(partition, chunk.id, first + number, "chunk", chunk.arrival_ms, time_ms, event)
        for number, (time_ms, event) in reversed(list(enumerate(shown)))
    ]


def _of_row(reader: Reader, partition: int, row: Row) -> RecentEvent:
    try:
        [(time_ms, event)] = decoded(reader, [read_row(row, reader, partition)], row.arrival_ms)
    except RowError as error:
        texts = {name.decode(errors="replace"): text.decode(errors="replace") for name, text in row.fields.items()}
        return RecentEvent(partition, row.id, 0, "row", row.arrival_ms, None, texts, str(error))
    return RecentEvent(partition, row.id, 0, "row", row.arrival_ms, time_ms, event)


def decoded(reader: Reader, events: Events, arrival_ms: int, first: int = 0) -> list[tuple[int, dict[str, Any]]]:
    """Event time and declared fields of the events from `first` on, in JSON types; times are epoch milliseconds."""
    frame, times_ms = reader.joined([events], np.full(len(events), arrival_ms, dtype=np.int64))
    frame, times_ms = frame.slice(first), times_ms[first:]
    as_json = frame.select(_json_column(name, dtype) for name, dtype in frame.schema.items())
    return list(zip(times_ms.tolist(), as_json.to_dicts(), strict=True))


def _json_column(name: str, dtype: pl.DataType) -> pl.Expr:
    if isinstance(dtype, pl.Datetime):
        return pl.col(name).cast(pl.Int64)
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Datetime):
        return pl.col(name).cast(pl.List(pl.Int64))
    return pl.col(name)
