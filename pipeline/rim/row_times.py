"""The times of rows that went past the door, by plain `XADD`: read and judged as the worker does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from pipeline.core.batches import read_batch
from pipeline.core.definitions import Stream
from pipeline.core.entries import parse_entry
from pipeline.core.events import Reader


class RowTimes(NamedTuple):
    """Of some rows: the largest `min(event time, arrival)`, and the largest event time."""

    seen_ms: int
    newest_ms: int


def times_of(stream: Stream, partition: int, rows: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> RowTimes | None:
    """The times of rows by (entry id, fields); None where none of them is valid."""
    entries = [parse_entry(entry_id, fields) for entry_id, fields in rows]
    batch = read_batch(entries, _reader(stream), partition=partition, max_future_ms=stream.time.max_future_ms)
    if not len(batch.times_ms):
        return None
    return RowTimes(int(batch.effective_ms.max()), int(batch.times_ms.max()))


@cache  # a stream of a config each
def _reader(stream: Stream) -> Reader:
    return Reader(stream, ())
