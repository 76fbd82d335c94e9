"""A DataFrame as a log: batches without JSON, with the time and the order that the stored log had where they are known.

    _partition _position   _arrival_ms  _kind   _tick_ms  _cut_ms  _error   columns of the stream
    0          1712-4      1712         cut     9000      9500              the log before was trimmed: its running
    0          1713-0/0    1713         chunk                               maximum, and the largest event time in it
    0          1713-0/1    1713         chunk                               events
    0          1714-0      1714         tick    9900                        moves time
    0          1715-0/0    1715         row                        missing  could not be read: dead, `_events` of them
    0          1716-0      1716         control                             from here on `_table` has another content

Beside them, of an event: `_backfill` (old data, which moves no time) and `_only` (the one consumer group that it was
replayed for); of a control row: the hash of the content that `_table` has from here on (`_hash`), and in one of the
rows that name it the content (`_content`, Parquet in base64). Before the first row that names a table, it has that one.

These are the columns of `client.raw`. Without them the rows are the events of partition 0 in their order, arrived later
than any time in them, and after the last one every window is final.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.core.accumulators import PLACE_SHIFT, ROW_BITS, Int64
from pipeline.core.batches import Batch, DeadEntry
from pipeline.core.definitions import Stream
from pipeline.core.entries import Chunk
from pipeline.core.events import Reader
from pipeline.core.frame_columns import frame_of, schema_columns
from pipeline.core.process import TimeState
from pipeline.core.watermarks import NO_TIME_MS
from pipeline.errors import FrameError

PLACED = ("_partition", "_position", "_arrival_ms", "_kind")  # all of them, or none
KINDS = ("row", "chunk", "tick", "cut", "control")
SLICE_ROWS = 50_000  # of one batch; where a log is cut changes nothing
LIVE = Chunk(b"0-0", 0, 0, 0, 0, b"ndjson", b"")
TOO_FAR = "event time is further ahead of its arrival than max_future; check the source's clock"
Kind = Literal["row", "chunk", "tick", "cut", "control"]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class FrameBatch:
    """A batch, and the row in the DataFrame of each of its events, and of each of its dead entries."""

    batch: Batch
    numbers: Int64
    dead_numbers: tuple[int, ...]

    def read_by(self, group: str) -> FrameBatch:
        """As one consumer group reads it: without the events that were replayed for another one."""
        entries = [entry for entry in self.batch.entries if isinstance(entry, Chunk)]
        kept = np.array([entry.is_for(group) for entry in entries], dtype=np.bool_)
        if kept.all():
            return self
        foreign = {entry.id for entry in entries if not entry.is_for(group)}
        numbered = zip(self.batch.dead, self.dead_numbers, strict=True)
        return FrameBatch(
            self.batch.read_by(group),
            self.numbers[kept[self.batch.entry_of]],
            tuple(number for dead, number in numbered if dead.entry_id not in foreign),
        )


@dataclass(frozen=True, slots=True)
class FrameLog:
    """A checked DataFrame in log order; parallel arrays, one element a row.

    `numbers`: the row in the DataFrame as it was given. `columns`: the stream's fields, of the rows that are events.
    `event_of`: for each row the number of its event in `columns`, -1 for others. `origins`: stand-ins for the chunks,
    one of each kind (live, backfill) and one of each entry that was replayed for one group, and `origin_of` which of
    them each row came in. `reloads`: (table, hash) of the rows that name the content of one, by row; `contents`: those
    that the frame brings, in base64 by hash.
    """

    stream: Stream
    is_placed: bool
    numbers: Int64
    partitions: Int64
    places: Int64
    rows: Int64
    kinds: npt.NDArray[Any]
    arrivals_ms: Int64
    ticks_ms: Int64
    cuts_ms: Int64
    errors: list[str | None]
    counts: Int64
    event_of: Int64
    columns: pl.DataFrame
    times_ms: Int64
    origins: tuple[Chunk, ...] = (LIVE,)
    origin_of: Int64 | None = None
    reloads: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    contents: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, stream: Stream, given: Any) -> FrameLog:
        """Check a pandas or polars DataFrame against a stream and put it into log order.

        Raises:
            FrameError: a column is missing, has a value of another type, or the columns of the log are not all there.
        """
        frame = frame_of(given)
        there = [name for name in PLACED if name in frame.columns]
        if there and len(there) < len(PLACED):
            missing = ", ".join(name for name in PLACED if name not in there)
            raise FrameError(
                f"the DataFrame has {', '.join(there)} and not {missing}; client.raw gives all of them, without any of "
                "them the rows count in their order"
            )
        return _placed(stream, frame) if there else _unplaced(stream, frame)

    def partition_numbers(self) -> list[int]:
        return sorted(set(self.partitions.tolist()))

    def begin(self, partition: int, tables: Mapping[str, str]) -> TimeState:
        """The time state where a partition's log begins: behind its cut, where there is one.

        `tables`: the content (hash) of those that its rows do not name.
        """
        named = [reload for row, reload in self.reloads.items() if self.partitions[row] == partition]
        known = {**tables, **dict(reversed(named))}
        found = np.flatnonzero((self.partitions == partition) & (self.kinds == "cut"))
        if not len(found):
            return TimeState(tables=known)
        first = int(found[0])
        cut_ms = int(self.cuts_ms[first])
        return TimeState(int(self.ticks_ms[first]), cut_ms, cut_ms, tables=known)

    def batches(self, partition: int, reader: Reader) -> Iterator[FrameBatch]:
        """The partition's log in batches; `reader` says which columns are needed."""
        mine = np.flatnonzero(self.partitions == partition)
        names = [field.name for field in reader.columns]
        for at in range(0, len(mine), SLICE_ROWS):
            yield self._batch(mine[at : at + SLICE_ROWS], reader, names)

    def _batch(self, rows: Int64, reader: Reader, names: list[str]) -> FrameBatch:
        events = rows[self.event_of[rows] >= 0]
        number = self.event_of[events]
        times_ms, arrivals_ms = self.times_ms[number], self.arrivals_ms[events]
        too_far = (
            times_ms > arrivals_ms + self.stream.time.max_future_ms
            if self.is_placed
            else np.zeros(len(events), dtype=np.bool_)
        )
        kept, number, times_ms = events[~too_far], number[~too_far], times_ms[~too_far]
        failed = [int(row) for row in rows if self.errors[row] is not None]
        dead_rows = sorted([*failed, *events[too_far].tolist()])
        ticks = rows[self.kinds[rows] == "tick"]
        origins = np.zeros(len(kept), dtype=np.int64) if self.origin_of is None else self.origin_of[kept]
        moves = ~np.array([origin.backfill for origin in self.origins], dtype=np.bool_)[origins]
        batch = Batch(
            frame=self.columns[number].select(names) if names else pl.DataFrame(height=len(kept)),
            times_ms=times_ms,
            effective_ms=np.where(moves, np.minimum(times_ms, self.arrivals_ms[kept]), NO_TIME_MS),
            places=self.places[kept],
            rows=self.rows[kept],
            ticks=tuple(
                (int(np.searchsorted(kept, tick)), int(min(self.ticks_ms[tick], self.arrivals_ms[tick])))
                for tick in ticks
            ),
            dead=tuple(self._dead(row) for row in dead_rows),
            entries=self.origins,
            entry_of=origins.astype(np.intp),
            reader=reader,
            reloads=tuple(
                (int(np.searchsorted(kept, row)), *self.reloads[row]) for row in rows.tolist() if row in self.reloads
            ),
        )
        return FrameBatch(batch, self.numbers[kept], tuple(int(self.numbers[row]) for row in dead_rows))

    def _dead(self, row: int) -> DeadEntry:
        entry_id = b"%d-%d" % (int(self.places[row]) & ((1 << PLACE_SHIFT) - 1), int(self.rows[row]) >> ROW_BITS)
        in_entry = int(self.rows[row]) & ((1 << ROW_BITS) - 1)
        error = self.errors[row]
        if error is None:
            return DeadEntry(entry_id, in_entry, 1, "too_far_ahead", TOO_FAR, b"")
        return DeadEntry(entry_id, in_entry, int(self.counts[row]), "unreadable", error, b"")


def _unplaced(stream: Stream, frame: pl.DataFrame) -> FrameLog:
    if stream.time.field is None:
        raise FrameError(
            f"{stream.name} has no time field, so its event time is the arrival: the DataFrame needs "
            f"{', '.join(PLACED)}, as client.raw gives them"
        )
    columns = _all_columns(stream, frame)
    n = len(frame)
    numbers = np.arange(n, dtype=np.int64)
    nothing = np.zeros(n, dtype=np.int64)
    times_ms = _times(stream, columns, nothing)
    return FrameLog(
        stream=stream,
        is_placed=False,
        numbers=numbers,
        partitions=nothing,
        places=nothing,
        rows=numbers,
        kinds=np.full(n, "row", dtype=object),
        arrivals_ms=times_ms,
        ticks_ms=nothing,
        cuts_ms=nothing,
        errors=[None] * n,
        counts=np.ones(n, dtype=np.int64),
        event_of=numbers,
        columns=columns,
        times_ms=times_ms,
    )


def _placed(stream: Stream, frame: pl.DataFrame) -> FrameLog:
    numbers = np.arange(len(frame), dtype=np.int64)
    partitions, arrivals_ms = (_whole(frame, name, numbers) for name in ("_partition", "_arrival_ms"))
    outside = np.flatnonzero((partitions < 0) | (partitions >= stream.partitions))
    if len(outside):
        row = int(outside[0])
        raise FrameError(
            f"column '_partition', row {row}: {partitions[row]}; {stream.name} has partitions 0 to "
            f"{stream.partitions - 1}"
        )
    kinds = _kinds(frame)
    ms, sequences, in_entry = _positions(frame)
    order = np.lexsort((in_entry, sequences, ms, partitions))
    frame, kinds = frame[order], kinds[order]
    partitions, arrivals_ms, ms, in_entry, sequences = (
        column[order] for column in (partitions, arrivals_ms, ms, in_entry, sequences)
    )
    errors = _texts(frame, "_error")
    is_event = np.isin(kinds, ("row", "chunk")) & np.array([error is None for error in errors], dtype=np.bool_)
    columns = _all_columns(stream, frame.filter(pl.Series(is_event)), numbers[order][is_event])
    event_of = np.where(is_event, np.cumsum(is_event) - 1, -1)
    origins, origin_of = _origins(frame, _marks(frame, "_backfill", numbers[order]))
    reloads, contents = _reloads(frame)
    return FrameLog(
        origins=origins,
        origin_of=origin_of,
        stream=stream,
        is_placed=True,
        numbers=numbers[order],
        partitions=partitions,
        places=(partitions << PLACE_SHIFT) + ms,
        rows=(sequences << ROW_BITS) + in_entry,
        kinds=kinds,
        arrivals_ms=arrivals_ms,
        ticks_ms=_whole(frame, "_tick_ms", numbers[order], np.isin(kinds, ("tick", "cut"))),
        cuts_ms=_whole(frame, "_cut_ms", numbers[order], kinds == "cut"),
        errors=errors,
        counts=_counts(frame, numbers[order]),
        event_of=event_of,
        columns=columns,
        times_ms=_times(stream, columns, arrivals_ms[is_event]),
        reloads=reloads,
        contents=contents,
    )


def _origins(frame: pl.DataFrame, old: Mask) -> tuple[tuple[Chunk, ...], Int64]:
    """Stand-ins for the chunks that rows came in, and the number of its own for each row.

    One for all live rows and one for all `old` data; those that were replayed for one group have one for each entry
    and its id, by which the dead among them are told from those of other groups.
    """
    groups = [group or "" for group in _texts(frame, "_only")]
    entries = frame["_position"].str.split("/").list.first().to_list()
    kinds = [
        (mark, group, entry if group else "") for mark, group, entry in zip(old.tolist(), groups, entries, strict=True)
    ]
    numbers = {kind: number for number, kind in enumerate(dict.fromkeys([(False, "", ""), *kinds]))}
    origins = tuple(
        replace(LIVE, id=entry.encode() or b"0-%d" % number, backfill=backfill, only=group)
        for (backfill, group, entry), number in numbers.items()
    )
    return origins, np.array([numbers[kind] for kind in kinds], dtype=np.int64)


def _reloads(frame: pl.DataFrame) -> tuple[dict[int, tuple[str, str]], dict[str, str]]:
    """(table, hash) of each row that says which content a table has from there on, and the contents in the frame."""
    tables, hashes, brought = (_texts(frame, name) for name in ("_table", "_hash", "_content"))
    reloads = {
        row: (table, named)
        for row, (table, named) in enumerate(zip(tables, hashes, strict=True))
        if table is not None and named is not None
    }
    contents = {
        named: content
        for named, content in zip(hashes, brought, strict=True)
        if named is not None and content is not None
    }
    return reloads, contents


def _texts(frame: pl.DataFrame, name: str) -> list[str | None]:
    """A column of texts; one that is not there is null throughout."""
    return frame[name].cast(pl.String).to_list() if name in frame.columns else [None] * len(frame)


def _marks(frame: pl.DataFrame, name: str, numbers: Int64) -> Mask:
    """A column of true and false; null, and one that is not there, is false.

    Raises:
        FrameError: it holds something else.
    """
    if name not in frame.columns or frame[name].null_count() == len(frame):
        return np.zeros(len(frame), dtype=np.bool_)
    if frame[name].dtype != pl.Boolean:
        row = int(frame[name].is_not_null().arg_true()[0])
        raise FrameError(f"column '{name}', row {numbers[row]}: {frame[name][row]!r:.60} is neither true nor false")
    marks: Mask = frame[name].fill_null(False).to_numpy()
    return marks


def _all_columns(stream: Stream, frame: pl.DataFrame, numbers: Int64 | None = None) -> pl.DataFrame:
    return schema_columns(stream, [field.name for field in stream.fields], frame, numbers)


def _times(stream: Stream, columns: pl.DataFrame, arrivals_ms: Int64) -> Int64:
    if stream.time.field is None:
        return arrivals_ms
    return columns[stream.time.field].cast(pl.Int64).to_numpy()


def _whole(frame: pl.DataFrame, name: str, numbers: Int64, needed: Mask | None = None) -> Int64:
    """A column of whole numbers; where it is not needed, nulls are 0.

    Raises:
        FrameError: it is not there, or a needed value is not a whole number.
    """
    wanted = np.ones(len(frame), dtype=np.bool_) if needed is None else needed
    if name not in frame.columns:
        if wanted.any():
            raise FrameError(f"the DataFrame has no column '{name}', which its ticks and cuts need")
        return np.zeros(len(frame), dtype=np.int64)
    column = frame[name]
    whole = column.cast(pl.Int64, strict=False) if column.dtype.is_numeric() or column.dtype == pl.Null else None
    if whole is None or (gaps := whole.is_null().to_numpy() & wanted).any():
        row = 0 if whole is None else int(np.flatnonzero(gaps)[0])
        raise FrameError(f"column '{name}', row {numbers[row]}: {column[row]!r:.60} is not a whole number")
    return whole.fill_null(0).to_numpy()


def _counts(frame: pl.DataFrame, numbers: Int64) -> Int64:
    """How many events each row stands for: a damaged chunk is one row."""
    if "_events" not in frame.columns:
        return np.ones(len(frame), dtype=np.int64)
    return np.maximum(_whole(frame, "_events", numbers, np.zeros(len(frame), dtype=np.bool_)), 1)


def _kinds(frame: pl.DataFrame) -> npt.NDArray[Any]:
    kinds = np.array(frame["_kind"].to_list(), dtype=object)
    unknown = np.flatnonzero(~np.isin(kinds.astype(str), KINDS))
    if len(unknown):
        row = int(unknown[0])
        raise FrameError(f"column '_kind', row {row}: {kinds[row]!r:.60} is none of {', '.join(KINDS)}")
    return kinds


def _positions(frame: pl.DataFrame) -> tuple[Int64, Int64, Int64]:
    """Entry milliseconds, entry sequence and row in the entry of `1763928012400-0/4`; without a row, 0."""
    texts = frame["_position"]
    if texts.dtype != pl.String:
        raise FrameError(f"column '_position': {texts.dtype} is not text such as '1763928012400-0/4'")
    found = texts.str.extract_groups(r"^(\d{1,14})-(\d{1,13})(?:/(\d{1,6}))?$").struct.unnest()
    ms, sequence, row = (found[name].cast(pl.Int64) for name in found.columns)
    if ms.null_count():
        at = int(ms.is_null().arg_true()[0])
        raise FrameError(f"column '_position', row {at}: {texts[at]!r:.60} is not a place such as '1763928012400-0/4'")
    return ms.to_numpy(), sequence.to_numpy(), row.fill_null(0).to_numpy()
