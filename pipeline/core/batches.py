"""What one read of a partition brings, as columns in stream order: events, ticks between them, the undecodable.

entries   e1 (chunk, 3 events)   e2 (row)   e3 (tick)   e4 (chunk, 2 events)
rows      0  1  2                3                      4  5
ticks                                       before 4
reloads of lookup tables: likewise, (row before which it stands, table, hash)
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, groupby, pairwise
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.core.accumulators import PLACE_SHIFT, ROW_BITS, Int64
from pipeline.core.codings import ARROW, NDJSON
from pipeline.core.entries import Chunk, Control, Entry, EntryError, Row, Tick
from pipeline.core.entry_header import split_id
from pipeline.core.events import ChunkError, Events, Reader, RowError
from pipeline.core.partitioning import partition_of
from pipeline.core.watermarks import NO_TIME_MS, prefix_watermarks

Reload = tuple[int, str, str]  # row before which a control entry stands, table, hash of its content from there on
ROW = "_row"  # column of a frame in flight: the row's number in its batch
_LONG_PIECE = 64  # rows of an entry, from which a slice is faster than np.repeat
SMALL_CHUNK_ROWS = 2_000  # of rows as they came: below, a body costs more than what is in it
_ROW_MASK = (1 << ROW_BITS) - 1
# The door judges age by Redis's clock as it sampled it up to a second before a row arrives: what it let in stays in.
DOOR_CLOCK_MS = 5_000


@dataclass(frozen=True, slots=True)
class DeadEntry:
    """An entry, or rows of one, refused while decoding: how many events, why, and the bytes."""

    entry_id: bytes
    row: int
    n: int
    code: str
    message: str
    body: bytes
    coding: bytes = NDJSON  # of the body of a whole chunk, which is kept as it was stored


@dataclass(frozen=True, slots=True)
class Batch:
    """The rows of several entries as columns; all arrays have one length, one element an event, in stream order.

    `frame`: the decoded fields. `times_ms` event time, `effective_ms` min(event time, arrival), or NO_TIME_MS where an
    event moves no time (backfill), `places` and `rows` the position (see accumulators). `ticks`: (row before which it
    stands, effective ms). `dead`: events without a row here. `unread_ms`: the largest event time of what was left out.
    """

    frame: pl.DataFrame
    times_ms: Int64
    effective_ms: Int64
    places: Int64
    rows: Int64
    ticks: tuple[tuple[int, int], ...]
    dead: tuple[DeadEntry, ...]
    entries: tuple[Entry, ...]
    entry_of: npt.NDArray[np.intp]
    reader: Reader = field(repr=False)
    reloads: tuple[Reload, ...] = ()
    unread_ms: int | None = None

    @property
    def has_backfill(self) -> bool:
        return any(isinstance(entry, Chunk) and entry.backfill for entry in self.entries)

    @property
    def backfill(self) -> npt.NDArray[np.bool_]:
        """Whether each row is old data put into a live stream."""
        return self._of_entries([isinstance(entry, Chunk) and entry.backfill for entry in self.entries])

    def numbered(self, names: Collection[str]) -> pl.DataFrame:
        """The columns of `names` as a frame in flight: its rows numbered from 0."""
        number = pl.Series(ROW, np.arange(len(self.times_ms)))
        return pl.DataFrame([number, *(self.frame.get_column(name) for name in sorted(names))])

    def read_by(self, group: str) -> Batch:
        """The batch as one consumer group reads it: without the events that were replayed for another one."""
        foreign = [isinstance(entry, Chunk) and not entry.is_for(group) for entry in self.entries]
        if not any(foreign):
            return self
        dropped = self._of_entries(foreign)
        ids = {entry.id for entry, drop in zip(self.entries, foreign, strict=True) if drop}
        dead = tuple(letter for letter in self.dead if letter.entry_id not in ids)
        unread_ms = int(self.times_ms[dropped].max()) if dropped.any() else None
        return replace(without_rows(self, dropped), dead=dead, unread_ms=unread_ms)

    @property
    def n_replayed(self) -> int:
        """How many of its events were replayed out of what a stage had put aside."""
        replayed = [isinstance(entry, Chunk) and entry.only != "" for entry in self.entries]
        if not any(replayed):
            return 0
        ids = {entry.id for entry, marked in zip(self.entries, replayed, strict=True) if marked}
        return int(self._of_entries(replayed).sum()) + sum(dead.n for dead in self.dead if dead.entry_id in ids)

    def _of_entries(self, marks: list[bool]) -> npt.NDArray[np.bool_]:
        """Spread what is said of each entry over its rows."""
        spread: npt.NDArray[np.bool_] = np.array(marks, dtype=np.bool_)[self.entry_of]
        return spread

    @property
    def n_dead(self) -> int:
        return sum(dead.n for dead in self.dead)

    @property
    def n_events(self) -> int:
        return len(self.times_ms) + self.n_dead

    @property
    def max_beat_ms(self) -> int | None:
        """The largest effective time of the heartbeats among its entries; None without one."""
        beats = [entry for entry in self.entries if isinstance(entry, Tick) and entry.by == "heartbeat"]
        return max((min(beat.time_ms, beat.arrival_ms) for beat in beats), default=None)

    def prefix_watermarks(self, max_seen_ms: int | None, disorder_ms: int) -> tuple[Int64, int | None]:
        """Return the watermark before each row, and the running maximum after the batch (ticks counted in)."""
        if not self.ticks:
            return prefix_watermarks(self.effective_ms, max_seen_ms, disorder_ms)
        at = [row for row, _ in self.ticks]
        with_ticks = np.insert(self.effective_ms, at, [effective for _, effective in self.ticks])
        watermarks_ms, newest = prefix_watermarks(with_ticks, max_seen_ms, disorder_ms)
        return np.delete(watermarks_ms, np.array(at) + np.arange(len(at))), newest

    def raw_rows(self, rows: Sequence[int]) -> list[bytes]:
        """The events at `rows` as they were stored, as JSON objects; each entry is looked at once for rows in order."""
        if not len(rows):
            return []
        numbers, in_entry = self.entry_of[rows], self.rows[rows] & _ROW_MASK
        cuts = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)]
        found: list[bytes] = []
        for first, last in pairwise(cuts):
            found += self._raw_rows(self.entries[int(numbers[first])], in_entry[first:last].tolist())
        return found

    def _raw_rows(self, entry: Entry, rows: Sequence[int]) -> list[bytes]:
        if isinstance(entry, Row):
            return [row_json(entry)] * len(rows)
        assert isinstance(entry, Chunk), f"no row stands in {entry}"
        return self.reader.stored_rows(entry.body, entry.coding, entry.n, rows)

    def row_in_entry(self, row: int) -> int:
        return int(self.rows[row]) & _ROW_MASK

    def places_of(self, rows: Sequence[int]) -> tuple[list[bytes], list[int]]:
        """The id of the entry that each of some rows came in, and their numbers in it."""
        ids = [self.entries[number].id for number in self.entry_of[rows].tolist()]
        return ids, (self.rows[rows] & _ROW_MASK).tolist()

    def entry_id(self, row: int) -> bytes:
        entry_id: bytes = self.entries[int(self.entry_of[row])].id
        return entry_id


def row_json(entry: Row) -> bytes:
    """A row entry's flat fields as one JSON object of strings."""
    texts = {name.decode(errors="replace"): value.decode(errors="replace") for name, value in entry.fields.items()}
    return msgspec.json.encode(texts)


@dataclass(slots=True)
class _Collector:
    """Takes entries one by one; everything column-wise waits for `batch`."""

    reader: Reader
    partition: int
    max_future_ms: int
    entries: list[Entry] = field(default_factory=list)
    parts: list[Events] = field(default_factory=list)
    n_rows: int = 0
    spans: list[tuple[int, int, int]] = field(default_factory=list)  # entry number, rows, arrival ms
    ticks: list[tuple[int, int]] = field(default_factory=list)
    reloads: list[Reload] = field(default_factory=list)
    dead: list[DeadEntry] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        match entry:
            case Chunk():
                self._add_chunk(entry)
            case Row():
                self._add_row(entry)
            case Tick():
                self.ticks.append((self.n_rows, min(entry.time_ms, entry.arrival_ms)))
            case Control(kind="table"):
                self.reloads.append((self.n_rows, entry.table, entry.hash))
            case Control():
                pass  # of a kind to come: it is acknowledged and changes nothing

    def add_alike(self, chunks: Sequence[Chunk]) -> None:
        """Add plain chunks of one coding that stand side by side: read at once where nothing in them is unusual."""
        events = self.reader.together(chunks) if len(chunks) > 1 else None
        if events is None:
            for chunk in chunks:
                self.add(chunk)
            return
        for chunk in chunks:
            self.entries.append(chunk)
            self.spans.append((len(self.entries) - 1, chunk.n, chunk.arrival_ms))
        self.parts.append(events)
        self.n_rows += len(events)

    def _add_chunk(self, chunk: Chunk) -> None:
        try:
            chunk.check()
            events = self.reader.events(chunk)
        except (ChunkError, EntryError) as error:
            letter = DeadEntry(chunk.id, 0, chunk.n, "chunk_unreadable", str(error), chunk.body, chunk.coding)
            self.dead.append(letter)
            return
        self._extend(events, chunk.arrival_ms)

    def _add_row(self, row: Row) -> None:
        try:
            struct = read_row(row, self.reader, self.partition)
        except RowError as error:
            self.dead.append(DeadEntry(row.id, 0, 1, error.code, str(error), row_json(row)))
            return
        self._extend([struct], row.arrival_ms)

    def _extend(self, events: Events, arrival_ms: int) -> None:
        self.spans.append((len(self.entries) - 1, len(events), arrival_ms))
        self.parts.append(events)
        self.n_rows += len(events)

    def batch(self) -> Batch:
        counts = [n for _, n, _ in self.spans]
        ids = [split_id(self.entries[number].id) for number, _, _ in self.spans]
        entry_of = _spread([number for number, _, _ in self.spans], counts)
        arrivals_ms = _spread([arrival_ms for _, _, arrival_ms in self.spans], counts)
        firsts = _spread([0, *accumulate(counts)][: len(counts)], counts)
        in_entry = np.arange(self.n_rows, dtype=np.int64) - firsts
        frame, times_ms = self.reader.joined(self.parts, arrivals_ms)
        batch = Batch(
            frame=frame,
            times_ms=times_ms,
            effective_ms=np.minimum(times_ms, arrivals_ms),
            places=_spread([(self.partition << PLACE_SHIFT) + ms for ms, _ in ids], counts),
            rows=_spread([sequence << ROW_BITS for _, sequence in ids], counts) + in_entry,
            ticks=tuple(self.ticks),
            dead=tuple(self.dead),
            entries=tuple(self.entries),
            entry_of=entry_of,
            reader=self.reader,
            reloads=tuple(self.reloads),
        )
        if batch.has_backfill:
            batch = replace(batch, effective_ms=np.where(batch.backfill, NO_TIME_MS, batch.effective_ms))
        too_far = times_ms > arrivals_ms + self.max_future_ms
        return _without_future(batch, too_far) if too_far.any() else batch


def _spread(values: Sequence[int], counts: Sequence[int]) -> Int64:
    """Each value as often as its count says: piece by piece where they are long, which np.repeat does row by row."""
    n = sum(counts)
    if n < _LONG_PIECE * len(counts):
        return np.repeat(np.array(values, dtype=np.int64), counts)
    spread, at = np.empty(n, dtype=np.int64), 0
    for value, count in zip(values, counts, strict=True):
        spread[at : at + count] = value
        at += count
    return spread


def _without_future(batch: Batch, too_far: npt.NDArray[np.bool_]) -> Batch:
    """Rows further ahead of their arrival than `max_future` are dead and do not move time."""
    refused = np.flatnonzero(too_far)
    message = "event time is further ahead of its arrival than max_future; check the source's clock"
    dead = [
        DeadEntry(batch.entry_id(int(row)), batch.row_in_entry(int(row)), 1, "too_far_ahead", message, body)
        for row, body in zip(refused, batch.raw_rows(refused.tolist()), strict=True)
    ]
    return replace(without_rows(batch, too_far), dead=(*batch.dead, *dead))


def without_rows(batch: Batch, dropped: npt.NDArray[np.bool_]) -> Batch:
    """A batch less some of its rows."""
    keep = ~dropped
    kept_before = np.concatenate([[0], np.cumsum(keep)])
    return replace(
        batch,
        frame=batch.frame.filter(pl.Series(keep)),
        times_ms=batch.times_ms[keep],
        effective_ms=batch.effective_ms[keep],
        places=batch.places[keep],
        rows=batch.rows[keep],
        ticks=tuple((int(kept_before[row]), effective) for row, effective in batch.ticks),
        entry_of=batch.entry_of[keep],
        reloads=tuple((int(kept_before[row]), table, content) for row, table, content in batch.reloads),
    )


def read_row(row: Row, reader: Reader, partition: int) -> Any:
    """Decode a row entry of a partition.

    Raises:
        RowError: it does not fit the schema, it is older than the stream's `max_age` (`too_old`), or it stands in
            another partition than its key's (`misplaced`), where it would escape the order of its key; the door lets
            none of these in, a foreign XADD does.
    """
    struct, stream = reader.row(row.fields), reader.stream
    max_age_ms = stream.time.max_age_ms
    if max_age_ms is not None:
        age_ms = row.arrival_ms - int(reader.times([struct], np.array([row.arrival_ms]))[0])
        if age_ms > max_age_ms + DOOR_CLOCK_MS:
            message = f"the event is {age_ms / 1000:.0f} s old; max_age of {stream.name} is {max_age_ms / 1000:.0f} s"
            raise RowError(stream.time.field, "too_old", message)
    if stream.partition_by is not None:
        right = partition_of(reader.partition_key(row.fields), stream.partitions)
        if right != partition:
            message = (
                f"the row stands in {{{stream.name}.{partition}}}:raw, but by its {stream.partition_by} it belongs to "
                f"{{{stream.name}.{right}}}:raw: crc32({stream.partition_by}) mod {stream.partitions} is {right}"
            )
            raise RowError(stream.partition_by, "misplaced", message)
    return struct


def read_batch(entries: Sequence[Entry], reader: Reader, *, partition: int, max_future_ms: int) -> Batch:
    """Decode entries of one partition, in stream order, to one batch."""
    collector = _Collector(reader, partition, max_future_ms)
    for alike, side_by_side in groupby(entries, key=_plain_coding):
        if alike is not None:
            collector.add_alike([entry for entry in side_by_side if isinstance(entry, Chunk)])
        else:
            for entry in side_by_side:
                collector.add(entry)
    return collector.batch()


def _plain_coding(entry: Entry) -> bytes | None:
    """What chunks have to have in common to be read at once: columns, or rows, if these are few."""
    if not isinstance(entry, Chunk):
        return None
    return entry.coding if entry.coding == ARROW or (entry.coding == NDJSON and entry.n <= SMALL_CHUNK_ROWS) else None
