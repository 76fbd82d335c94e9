"""A body of rows stored as columns: parsed once, at the door, and a quarter as long (decision 22).

    door     NDJSON → columns → texts that repeat once each, with an index a row (`texts`) → Arrow IPC
    worker   reads the columns it needs; no JSON

Invariant: the chunk reads to the values its rows read to. So only what loses nothing is stored so: rows read natively,
without undeclared fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core import texts
from pipeline.core.arrow_chunks import encode
from pipeline.core.arrow_columns import stored_type
from pipeline.core.arrow_numpy import Mask, column_of, mask_of, numpy_of
from pipeline.core.codings import ARROW, coding_of
from pipeline.core.definitions import Field, Stream
from pipeline.core.native import NativeReader, NativeRows
from pipeline.core.partitioning import CHUNK_BYTES, CHUNK_ROWS, Chunk
from pipeline.core.timestamps import Int64

# Fewer rows stay as they came: columns cost the door and each reader half a millisecond a chunk, whatever is in it, and
# small chunks of rows are read together.
WORTH_ROWS = 1_500


def can_pack(stream: Stream) -> bool:
    """Whether bodies of a stream may be stored as columns: where all of its fields are read natively."""
    return texts.IS_BUILT and NativeReader.of(stream, [field.name for field in stream.fields]) is not None


def is_packed(rows: NativeRows, n: int) -> bool:
    """Whether `n` of the rows, which have all fields of their stream, are better stored as columns."""
    return n >= WORTH_ROWS and not rows.undeclared


def packed_chunks(stream: Stream, rows: NativeRows, places: Int64 | None) -> Iterator[Chunk]:
    """Rows of a body as chunks, in order: those at `places`, or (None) all."""
    n = len(rows) if places is None else len(places)
    for first in range(0, n, CHUNK_ROWS):
        yield from _chunks(stream, rows, places, first, min(CHUNK_ROWS, n - first))


def _chunks(stream: Stream, rows: NativeRows, places: Int64 | None, first: int, count: int) -> Iterator[Chunk]:
    columns = {field.name: _stored(field, rows, places, first, count) for field in stream.fields}
    batch = pa.record_batch(columns)
    if batch.nbytes > CHUNK_BYTES and count > 1:
        half = count // 2
        yield from _chunks(stream, rows, places, first, half)
        yield from _chunks(stream, rows, places, first + half, count - half)
        return
    lo_ms = hi_ms = None
    if stream.time.field is not None:
        times_ms = _chosen(rows.times_ms[stream.time.field], places, first, count)
        lo_ms, hi_ms = int(times_ms.min()), int(times_ms.max())
    yield Chunk(encode(batch, stream.compression), count, lo_ms, hi_ms, coding_of(ARROW, stream.compression))


def _stored(field: Field, rows: NativeRows, places: Int64 | None, first: int, count: int) -> Any:
    column = rows.columns.column(field.name)
    if field.type == "string":
        return texts.packed(column, places, first, count)
    given = rows.given(field.name)
    given = None if given is None else _chosen(given, places, first, count)
    if field.type == "bool":
        return _bools(_chosen(mask_of(column), places, first, count), given)
    values = rows.times_ms[field.name] if field.type == "timestamp" else numpy_of(column)
    return column_of(stored_type(field), _chosen(values, places, first, count), given)


def _bools(values: Mask, given: Mask | None) -> Any:
    validity = None if given is None else pa.py_buffer(np.packbits(given, bitorder="little"))
    bits = pa.py_buffer(np.packbits(values, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(values), [validity, bits])


def _chosen(values: Any, places: Int64 | None, first: int, count: int) -> Any:
    return values[first : first + count] if places is None else values[places[first : first + count]]
