"""A page of a stream's raw log as it is stored: events, ticks and where it begins, for whoever recomputes a number.

Invariant: bounded: whole entries until there are enough rows, and an entry holds at most 10,000.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import redis

from pipeline.core.batches import read_row
from pipeline.core.definitions import Stream
from pipeline.core.entries import Chunk, Control, EntryError, Row, Tick, parse_entry
from pipeline.core.events import ChunkError, Reader, RowError
from pipeline.errors import BadRequestError, LogTrimmedError
from pipeline.rim.log import LogPlace, log_begin, order_of, place_before, read_log
from pipeline.rim.replies import Entry
from pipeline.runtime.recent import decoded

RawKind = Literal["row", "chunk", "tick", "cut", "control"]


@dataclass(frozen=True, slots=True)
class RawRow:
    """One line of the log: an event, a tick, a control entry, or the cut the log begins at.

    `tick_ms`: where a tick moves time to; of a cut, the running maximum there. `cut_ms`: the largest event time that
    went with the cut. `error`: why it cannot be read, `events` then says how many events it stands for.
    `backfill`: old data put into a live stream. `only`: the one consumer group it was replayed for. `table`, `hash`: of
    a control entry, the lookup table that has the content with this hash from here on; those at the place of a cut say
    what the tables are there.
    """

    position: str
    arrival_ms: int
    kind: RawKind
    time_ms: int | None = None
    event: dict[str, Any] | None = None
    tick_ms: int | None = None
    cut_ms: int | None = None
    events: int = 1
    error: str | None = None
    backfill: bool = False
    only: str | None = None
    table: str | None = None
    hash: str | None = None


@dataclass(frozen=True, slots=True)
class RawPage:
    """Some lines of the log in order, and the entry after which the next page begins; None at the end."""

    rows: list[RawRow]
    next_after: str | None


def raw_page(
    client: redis.Redis,
    stream: Stream,
    partition: int,
    *,
    limit: int,
    after: bytes | None = None,
    start_ms: int | None = None,
    end_ms: int | None = None,
) -> RawPage:
    """The log of a partition as stored in [start, end), or what follows the entry `after` of the page before.

    With `start_ms` it begins at the last place before it where the watermark is known: a `cut` row says it.

    Raises:
        BadRequestError: 410, the entries after `after` have been trimmed.
    """
    begin = log_begin(client, stream.name, partition)
    if after is not None and order_of(after) < order_of(begin.cursor):
        raise _gone(stream, partition)
    place = begin if after is None else LogPlace(after)
    if after is None and start_ms is not None:
        place = place_before(client, stream.name, partition, entry_id=b"%d-0" % max(start_ms, 0))
    rows = [] if after is not None or place.is_begin else [_cut(place), *_tables_at(place)]
    reader = Reader(stream, [field.name for field in stream.fields])
    to = b"+" if end_ms is None else b"(%d-0" % max(end_ms, 0)
    try:
        for entries in read_log(client, stream.name, partition, place, to):
            for entry in entries:
                rows += _rows(reader, partition, entry)
                if len(rows) >= limit:
                    return RawPage(rows, entry.id.decode())
    except LogTrimmedError:
        raise _gone(stream, partition) from None
    return RawPage(rows, None)


def _gone(stream: Stream, partition: int) -> BadRequestError:
    return BadRequestError(
        f"{stream.name}, partition {partition}: the log was trimmed meanwhile, and the next entries are gone; "
        "begin again",
        code="trimmed",
        status=410,
    )


def _cut(begin: LogPlace) -> RawRow:
    arrival_ms = order_of(begin.cursor)[0]
    return RawRow(begin.cursor.decode(), arrival_ms, "cut", tick_ms=begin.max_seen_ms, cut_ms=begin.max_ts_ms, events=0)


def _tables_at(place: LogPlace) -> Iterator[RawRow]:
    return (_control(Control(place.cursor, "table", table, named)) for table, named in place.tables.items())


def _rows(reader: Reader, partition: int, raw: Entry) -> Iterator[RawRow]:
    assert raw.fields is not None, f"XRANGE gave entry {raw.id!r} without fields"
    name = raw.id.decode()
    match parse_entry(raw.id, raw.fields):
        case Tick() as tick:
            yield RawRow(name, tick.arrival_ms, "tick", tick_ms=tick.time_ms, events=0)
        case Chunk() as chunk:
            yield from _of_chunk(reader, name, chunk)
        case Row() as row:
            yield _of_row(reader, partition, name, row)
        case Control() as control:
            yield _control(control)


def _control(entry: Control) -> RawRow:
    row = RawRow(entry.id.decode(), order_of(entry.id)[0], "control", events=0)
    return replace(row, table=entry.table, hash=entry.hash) if entry.kind == "table" else row


def _of_chunk(reader: Reader, name: str, chunk: Chunk) -> Iterator[RawRow]:
    about = RawRow(name, chunk.arrival_ms, "chunk", backfill=chunk.backfill, only=chunk.only or None)
    try:
        chunk.check()
        events = reader.events(chunk)
    except (EntryError, ChunkError) as error:
        yield replace(about, position=f"{name}/0", events=chunk.n, error=str(error))
        return
    for number, (time_ms, event) in enumerate(decoded(reader, events, chunk.arrival_ms)):
        yield replace(about, position=f"{name}/{number}", time_ms=time_ms, event=event)


def _of_row(reader: Reader, partition: int, name: str, row: Row) -> RawRow:
    try:
        [(time_ms, event)] = decoded(reader, [read_row(row, reader, partition)], row.arrival_ms)
    except RowError as error:
        return RawRow(f"{name}/0", row.arrival_ms, "row", error=str(error))
    return RawRow(f"{name}/0", row.arrival_ms, "row", time_ms, event)
