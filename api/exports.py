"""Answers as tables for other programs, written a part at a time: CSV, NDJSON and an Arrow stream.

Invariant: whatever the format, the numbers are those of the JSON answer, bit for bit; only their types have names.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec
import pyarrow as pa

from api.csv_text import csv_text
from pipeline.core.cell_fields import OTHER
from pipeline.errors import BadRequestError
from pipeline.runtime.answer import Answer, AnswerColumn

ExportFormat = Literal["csv", "ndjson", "arrow"]

PART_ROWS = 5_000  # written at once: about a megabyte of text
# Whether a row is of groups that were not told apart; a column of numbers cannot say so. No field has such a name.
OTHER_COLUMN = OTHER
CONTENT_TYPES: Mapping[ExportFormat, str] = {
    "csv": "text/csv; charset=utf-8; header=present",
    "ndjson": "application/x-ndjson",
    "arrow": "application/vnd.apache.arrow.stream",
}
_TIME = pa.timestamp("ms", tz="UTC")
_SCALARS: Mapping[str, pa.DataType] = {
    "int": pa.int64(),
    "float": pa.float64(),
    "string": pa.string(),
    "bool": pa.bool_(),
    "timestamp": _TIME,
    "list": pa.string(),  # of items whose types only JSON can say: as JSON
}
_BUCKET = pa.struct([("low", pa.float64()), ("high", pa.float64()), ("count", pa.int64())])


def csv_parts(answer: Answer) -> Iterator[bytes]:
    """RFC 4180 with a header row; an answer without rows is its header."""
    names = list(answer.columns)
    yield csv_text((names,)).encode()
    for part in _parts(answer):
        yield csv_text(zip(*part.columns.values(), strict=True)).encode()


def ndjson_parts(answer: Answer) -> Iterator[bytes]:
    """One flat JSON object a line, as in `data` of the JSON answer."""
    encoder = msgspec.json.Encoder()
    for part in _parts(answer):
        yield encoder.encode_lines(part.rows)


def arrow_parts(answer: Answer) -> Iterator[bytes]:
    """An Arrow IPC stream whose columns have the same types whatever is in them, also where there are none.

    Raises:
        BadRequestError: 422, a sum is beyond 64 bits, which an Arrow integer cannot say.
    """
    schema = _schema(answer)
    batches = [_batch(part, schema) for part in _parts(answer)]  # before the first byte: a refusal is an answer too
    return _written(schema, batches)


BODIES: Mapping[ExportFormat, Callable[[Answer], Iterator[bytes]]] = {
    "csv": csv_parts,
    "ndjson": ndjson_parts,
    "arrow": arrow_parts,
}


def _parts(answer: Answer) -> Iterator[Answer]:
    for start in range(0, len(answer), PART_ROWS):
        yield answer.part(start, start + PART_ROWS)


def _written(schema: pa.Schema, batches: list[pa.RecordBatch]) -> Iterator[bytes]:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield sink.getvalue()
            sink.seek(0)
            sink.truncate()
    yield sink.getvalue()


def _schema(answer: Answer) -> pa.Schema:
    others = [pa.field(OTHER_COLUMN, pa.bool_())] if _needs_other(answer) else []
    return pa.schema([*(pa.field(each.name, arrow_type(answer, each)) for each in answer.fields), *others])


def _needs_other(answer: Answer) -> bool:
    return any(each.kind == "group" and each.type != "string" for each in answer.fields)


def arrow_type(answer: Answer, column: AnswerColumn) -> pa.DataType:
    """The Arrow type of a column: of `topk` a list of (item, count), of `histogram` one of (low, high, count)."""
    if column.type != "list":
        return _SCALARS[column.type]
    spec = next(each for each in answer.program.finishers if each.spec.name == column.name)
    if spec.spec.function == "histogram":
        return pa.list_(_BUCKET)
    if spec.spec.function == "topk":
        assert spec.item_type is not None
        return pa.list_(pa.struct([("item", _SCALARS[spec.item_type]), ("count", pa.int64())]))
    return _SCALARS["list"]


def _batch(part: Answer, schema: pa.Schema) -> pa.RecordBatch:
    arrays = [_array(part, each, schema.field(each.name).type, list(part.columns[each.name])) for each in part.fields]
    if OTHER_COLUMN in schema.names:
        groups = [part.columns[each.name] for each in part.fields if each.kind == "group"]
        arrays.append(pa.array([all(value == OTHER for value in row) for row in zip(*groups, strict=True)], pa.bool_()))
    return pa.record_batch(arrays, schema=schema)


def _array(part: Answer, column: AnswerColumn, kind: pa.DataType, values: list[Any]) -> pa.Array:
    if column.kind == "group" and column.type != "string":
        values = [None if value == OTHER else value for value in values]
    if pa.types.is_list(kind):
        names = [kind.value_type.field(n).name for n in range(kind.value_type.num_fields)]
        values = [
            None if items is None else [dict(zip(names, item, strict=True)) for item in items] for items in values
        ]
    elif column.type == "list":
        values = [None if value is None else msgspec.json.encode(value).decode() for value in values]
    try:
        return pa.array(values, kind)
    except (OverflowError, pa.ArrowInvalid):
        place = next(n for n, value in enumerate(values) if isinstance(value, int) and not -(2**63) <= value < 2**63)
        raise BadRequestError(
            f"{column.name} is {values[place]} in the window beginning at {part.columns['window_start'][place]}, more "
            f"than the 64 bits of an Arrow integer; ask with format=json, or leave {column.name} out",
            code="beyond_64_bits",
            status=422,
        ) from None
