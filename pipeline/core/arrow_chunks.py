"""Chunks as columns: the declared fields of a stream as one Arrow record batch, and back, whole or only some of them.

Invariant: what is read is what the same events sent as NDJSON read to; what is no such batch is an ArrowBodyError.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.types as kinds

from pipeline.core import texts
from pipeline.core.arrow_columns import plain_text, stored_column, stored_type
from pipeline.core.arrow_numpy import Mask, column_of, column_of_mask, numpy_of
from pipeline.core.arrow_stream import ArrowBodyError, Limits, expanded_bytes, read_stream
from pipeline.core.codings import ARROW, MAX_INFLATED_BYTES, coding_of
from pipeline.core.definitions import Compression, Field, Stream
from pipeline.core.partitioning import CHUNK_BYTES, CHUNK_ROWS, Chunk
from pipeline.core.schema import fields_of
from pipeline.core.timestamps import MAX_AUTO_MS, MAX_AUTO_S, Int64

# Fewer rows are stored as NDJSON: a schema costs 1 kB and reading a batch 0.2 ms, as much as reading so many lines.
SMALL_ROWS = 256

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHUNK_LIMITS = Limits(rows=10 * CHUNK_ROWS, bytes=MAX_INFLATED_BYTES)
_encoder = msgspec.json.Encoder()


def schema_of(stream: Stream) -> Any:
    """The columns of a stream's chunks."""
    return pa.schema([pa.field(field.name, stored_type(field)) for field in stream.fields])


def chunks_of(stream: Stream, batch: Any, times_ms: Int64 | None) -> Iterator[Chunk]:
    """Cut the rows of a record batch (columns as `schema_of`, or texts as views) into chunks, in order."""
    step, size = CHUNK_ROWS, size_of(batch)
    if size > CHUNK_BYTES:
        step = max(1, min(step, CHUNK_BYTES * batch.num_rows // (2 * size)))  # half: rows differ in size
    views = _views(stream, batch)
    for first in range(0, batch.num_rows, step):
        fits = size <= CHUNK_BYTES  # then every part of it does
        yield from _chunks(stream, batch, views, times_ms, first, min(step, batch.num_rows - first), fits=fits)


def _views(stream: Stream, batch: Any) -> dict[str, Any]:
    """The columns of texts that can be packed, as string views."""
    found = {}
    for field in stream.fields if texts.IS_BUILT else ():
        column = batch.column(field.name)
        if kinds.is_string_view(column.type):
            found[field.name] = column
        elif field.type == "string" and not column.offset:
            found[field.name] = texts.viewed(column)
    return found


def size_of(batch: Any) -> int:
    """Bytes of the rows of a batch: `nbytes` counts a text that views point into whole, whoever else points there."""
    views = [column for column in batch.columns if kinds.is_string_view(column.type)]
    others = [column for column in batch.columns if not kinds.is_string_view(column.type)]
    plain_bytes = sum(int(column.nbytes) for column in others)
    return plain_bytes + sum(4 * len(column) + expanded_bytes(column) for column in views)


def without_views(batch: Any) -> Any:
    """The same with texts as they are stored: pyarrow 26 neither filters views nor takes some of them."""
    if not any(kinds.is_string_view(column.type) for column in batch.columns):
        return batch
    plain = (plain_text(column) if kinds.is_string_view(column.type) else column for column in batch.columns)
    return pa.record_batch(dict(zip(batch.schema.names, plain, strict=True)))


def _chunks(
    stream: Stream, batch: Any, views: dict[str, Any], times_ms: Int64 | None, first: int, n: int, *, fits: bool = False
) -> Iterator[Chunk]:
    """The `n` rows from `first` on, as one chunk or as several."""
    part = batch.slice(first, n)
    if n > 1 and not fits and size_of(part) > CHUNK_BYTES:
        half = n // 2
        yield from _chunks(stream, batch, views, times_ms, first, half)
        yield from _chunks(stream, batch, views, times_ms, first + half, n - half)
        return
    lo_ms = hi_ms = None
    if times_ms is not None:
        lo_ms, hi_ms = int(times_ms[first : first + n].min()), int(times_ms[first : first + n].max())
    if n < SMALL_ROWS:
        yield Chunk(b"\n".join(json_rows(stream, without_views(part))), n, lo_ms, hi_ms).compressed(stream.compression)
        return
    columns = {
        field.name: texts.packed(views[field.name], None, first, n) if field.name in views else part.column(field.name)
        for field in stream.fields
    }
    body = encode(pa.record_batch(columns), stream.compression)
    yield Chunk(body, n, lo_ms, hi_ms, coding_of(ARROW, stream.compression))


def encode(batch: Any, compression: Compression) -> bytes:
    """A record batch as the body of a chunk."""
    options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression, use_threads=False)
    out = pa.BufferOutputStream()
    with pa.ipc.new_stream(out, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    body: bytes = out.getvalue().to_pybytes()
    return body


def decode(stream: Stream, fields: Sequence[Field], body: bytes, n: int) -> dict[str, Any]:
    """The columns of `fields` of a chunk's body, by name: arrays of `n` values.

    A field that came into the schema later is null throughout; one that is required makes the chunk unreadable.

    Raises:
        ArrowBodyError: the body is damaged, has another number of rows, or does not fit the schema.
    """
    columns, unreadable = _read(fields, body, n)
    return {field.name: _decoded(stream, field, columns, unreadable, n) for field in fields}


def _read(fields: Sequence[Field], body: bytes, n: int) -> tuple[dict[str, Any], dict[str, str]]:
    """The columns of `fields` as they stand in a chunk's body, and the types of those that no field has."""
    found = read_stream(body, [field.name for field in fields], _CHUNK_LIMITS)
    if found.n_rows != n or len(found.batches) != 1:
        raise ArrowBodyError(f"the chunk's body holds {found.n_rows} events, its header says {n}")
    [(_, columns)] = found.batches
    return columns, found.unreadable


def _decoded(stream: Stream, field: Field, columns: dict[str, Any], unreadable: dict[str, str], n: int) -> Any:
    column = columns.get(field.name)
    if column is None:
        if field.name in unreadable or not field.nullable:
            kind = unreadable.get(field.name, "missing")
            raise ArrowBodyError(f"the chunk's body does not fit the schema of {stream.name}: {field.name} is {kind}")
        return pa.nulls(n, stored_type(field))

    def refuse(row: int, code: str, message: str) -> None:
        raise ArrowBodyError(f"the chunk's body does not fit the schema of {stream.name}: row {row}: {message}")

    is_packed = kinds.is_dictionary(column.type) and kinds.is_string(column.type.value_type)
    if field.type == "string" and is_packed and (field.nullable or not column.null_count):
        return column
    return stored_column(field, column, refuse)


def readable(columns: dict[str, Any], names: Collection[str]) -> Any:
    """Decoded columns as a table that polars takes without a copy of its texts."""
    return pa.table({name: _readable(column) for name, column in columns.items() if name in names})


def frame_of(tables: Sequence[Any]) -> pl.DataFrame:
    """Readable columns, table after table, as one DataFrame of canonical types: taken over at once, since each time
    costs as much as some hundreds of rows."""
    return pl.DataFrame(pl.from_arrow(pa.concat_tables(tables)))


def _readable(column: Any) -> Any:
    """A column as polars takes it without a copy of its texts."""
    if not (kinds.is_dictionary(column.type) or kinds.is_string(column.type)):
        return column
    return texts.viewed(column) if texts.IS_BUILT and not column.offset else plain_text(column)


def times_of(column: Any) -> Int64:
    """A stored column of times without nulls as epoch milliseconds."""
    return numpy_of(column)


def body_rows(stream: Stream, body: bytes, n: int, rows: Sequence[int] | None = None) -> list[bytes]:
    """The events of a chunk's body as JSON objects: those at `rows`, or (None) all.

    Raises:
        ArrowBodyError: as `decode`.
    """
    fields = fields_of(stream)
    columns, unreadable = _read(fields, body, n)
    if rows is not None:  # before they are decoded: some late rows of a chunk cost what all of it does otherwise
        places, n = column_of(pa.int64(), np.array(rows, dtype=np.int64)), len(rows)
        columns = {name: column.take(places) for name, column in columns.items()}
    return json_rows(
        stream, pa.record_batch({field.name: _decoded(stream, field, columns, unreadable, n) for field in fields})
    )


def json_rows(stream: Stream, batch: Any) -> list[bytes]:
    """The rows of a batch of stored columns as JSON objects, which the door and every reader take as the same."""
    columns = {}
    for field in stream.fields:
        values = batch.column(field.name)
        if field.type == "timestamp":
            columns[field.name] = values.view(pa.int64()).to_pylist()
        elif field.item == "timestamp":
            columns[field.name] = values.cast(pa.list_(pa.int64())).to_pylist()
        else:
            columns[field.name] = (plain_text(values) if kinds.is_dictionary(values.type) else values).to_pylist()
    return rows_as_json(stream, [columns[field.name] for field in fields_of(stream)])


def rows_as_json(stream: Stream, columns: Sequence[list[Any]]) -> list[bytes]:
    """Rows as JSON objects; `columns` are the values of each field, times as epoch milliseconds."""
    shown = [_shown(field, values) for field, values in zip(fields_of(stream), columns, strict=True)]
    names = [field.name for field in fields_of(stream)]
    lines = _encoder.encode_lines([dict(zip(names, row, strict=True)) for row in zip(*shown, strict=True)])
    return lines.splitlines()  # in JSON a newline is written as an escape


def _shown(field: Field, values: list[Any]) -> list[Any]:
    if field.type == "timestamp" and field.unit != "ms":
        return [None if ms is None else json_time(field, ms) for ms in values]
    if field.item == "timestamp":
        return [None if items is None else [json_time(field, ms) for ms in items] for items in values]
    return values


def json_time(field: Field, time_ms: int) -> int | str:
    """A time as a sender of this field would write it: as a number where that is read as milliseconds, else as text."""
    if field.unit == "ms" or (field.unit == "auto" and MAX_AUTO_S <= abs(time_ms) < MAX_AUTO_MS):
        return time_ms
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds")


def concatenated(schema: Any, batches: Sequence[Any]) -> Any:
    """Record batches of one schema as one."""
    if not batches:
        return pa.RecordBatch.from_pylist([], schema=schema)
    if len(batches) == 1:
        return batches[0]
    columns = [pa.concat_arrays([batch.column(at) for batch in batches]) for at in range(len(schema))]
    return pa.record_batch(columns, schema=schema)


def kept(batch: Any, keep: Mask) -> Any:
    """The rows of a batch where `keep` is true."""
    return without_views(batch).filter(column_of_mask(keep))
