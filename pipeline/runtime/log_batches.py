"""A stage's log again, as batches for its twin: what killed workers is set aside as it was.

Invariant: a row that a worker gave up, because computing it ended processes, is not computed here either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import redis

from pipeline.core.batches import Batch, DeadEntry, read_batch, row_json, without_rows
from pipeline.core.definitions import Stream
from pipeline.core.entries import Chunk, Entry, Row, parse_entry
from pipeline.core.events import Reader
from pipeline.core.process import TimeState
from pipeline.core.programs import Program
from pipeline.rim import keys, replies
from pipeline.rim.commit import Checkpoint
from pipeline.rim.log import LogPlace, read_log
from pipeline.runtime.poison import DECODING, KILLED_WORKER

ROWS_A_READ = 1_000  # of a stream of dead letters or late rows
MESSAGE = "computing this row alone ended worker processes"
GIVEN_UP = b"given up"  # coding of an entry that is a dead letter whole
Killed = Mapping[bytes, frozenset[int] | None]  # entry id → its rows that killed workers; None: decoding it did


def time_at(place: LogPlace, checkpoint: Checkpoint) -> TimeState:
    """The state of a stage at a place: windows that begin at or before its floor are not its own.

    What had expired when old data was counted is not on record, so it is judged by what has expired by now: windows
    that are still there are the same either way.
    """
    return TimeState(
        place.max_seen_ms,
        place.max_ts_ms,
        checkpoint.floor_ms,
        tables=place.tables,
        expired_ms=checkpoint.expired_ms,
    )


def stage_batches(
    client: redis.Redis, program: Program, partition: int, after: LogPlace, to: bytes, killed: Killed
) -> Iterator[Batch]:
    """What the stage read of a partition behind a place, up to the entry `to`, in stream order.

    Raises:
        LogTrimmedError: a trim removed entries that were still to be read.
    """
    reader = Reader(program.stream, program.needs)
    for entries in read_log(client, program.stream.name, partition, after, to):
        parsed = [parse_entry(entry.id, entry.fields or {}) for entry in entries]
        yield decode(program.stream, partition, reader, parsed, killed).read_by(program.group)


def decode(stream: Stream, partition: int, reader: Reader, entries: Iterable[Entry], killed: Killed) -> Batch:
    """Entries as the batch that a worker counted."""
    kept = [_given_up(entry) if entry.id in killed and killed[entry.id] is None else entry for entry in entries]
    max_future_ms = stream.time.max_future_ms
    return _set_aside(read_batch(kept, reader, partition=partition, max_future_ms=max_future_ms), killed)


def killed_rows(client: redis.Redis, program: Program, partition: int) -> Killed:
    """What killed workers, as the stage's dead letters say."""
    killed: dict[bytes, frozenset[int] | None] = {}
    for letter in side_rows(client, keys.dead(program.stream.name, partition, program.group)):
        if letter[b"code"] != KILLED_WORKER.encode():
            continue
        entry, rows = letter[b"entry"], killed.get(letter[b"entry"], frozenset())
        whole = letter[b"error"].startswith(DECODING.encode()) or rows is None
        killed[entry] = None if whole else (rows or frozenset()) | {int(letter[b"row"])}
    return killed


def side_rows(client: redis.Redis, key: str) -> Iterator[dict[bytes, bytes]]:
    """The entries of a stream of late rows or dead letters, oldest first."""
    at = b"-"
    while True:
        page = replies.parse_entries(client.execute_command("XRANGE", key, at, "+", "COUNT", ROWS_A_READ))
        yield from (entry.fields or {} for entry in page)
        if len(page) < ROWS_A_READ:
            return
        at = b"(" + page[-1].id


def _given_up(entry: Entry) -> Entry:
    """An entry whose decoding killed: its events are dead, and nothing in it moves time."""
    match entry:
        case Chunk():
            return replace(entry, coding=GIVEN_UP)
        case Row():
            return Chunk(entry.id, 1, 0, 0, entry.arrival_ms, GIVEN_UP, row_json(entry))
        case _:
            return entry


def _set_aside(batch: Batch, killed: Killed) -> Batch:
    """Rows that killed alone are dead; each still moves time, as any row that was decoded."""
    if not killed:
        return batch
    places = [(batch.entry_id(row), batch.row_in_entry(row)) for row in range(len(batch.times_ms))]
    aside = [row for row, (entry_id, number) in enumerate(places) if number in (killed.get(entry_id) or ())]
    if not aside:
        return batch
    dropped = np.zeros(len(batch.times_ms), dtype=np.bool_)
    dropped[aside] = True
    moved = [(row, int(batch.effective_ms[row])) for row in aside]
    left = without_rows(replace(batch, ticks=tuple(sorted([*moved, *batch.ticks]))), dropped)
    bodies = batch.raw_rows(aside)
    dead = [DeadEntry(*places[row], 1, KILLED_WORKER, MESSAGE, body) for row, body in zip(aside, bodies, strict=True)]
    return replace(left, dead=(*batch.dead, *dead))
