"""A DataFrame as Arrow bodies: its columns typed by the stream's schema, cut to what one request may hold.

Invariant: what no field of a type could hold is named by column and row before anything is sent; what only this schema
refuses (a null where a value is required, a fraction for an int) is the door's to say, row by row.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, get_args
from uuid import UUID

import polars as pl
from polars.exceptions import PolarsError

from pipeline.core.definitions import Field, ScalarType, Stream
from pipeline.core.frame_columns import frame_of, schema_columns
from pipeline.core.ndjson import datetime_to_ms, is_missing
from pipeline.core.validation import MAX_ROWS
from pipeline.errors import FrameError

BATCH_ROWS = 50_000  # a fifth of what the door takes: a batch that is sent again costs little
BODY_BYTES = 8_000_000  # of one request; the door takes 32 MB
_TIME = pl.Datetime("ms", "UTC")
_TEXTS = (pl.String, pl.Categorical, pl.Enum)
_PLAIN = (*_TEXTS, pl.Boolean, pl.Decimal, pl.Datetime, pl.Date, pl.Null)


def sendable(given: Any, stream: str, types: Mapping[str, str]) -> pl.DataFrame:
    """A pandas or polars DataFrame with columns that Arrow and the door know; `types` are those of the schema.

    A named index (a time, usually) is a column like the others. Columns whose type says what they are go as they are:
    the door reads times without a zone, numbers as times, and whole floats as integers by the schema. Columns of Python
    objects are converted to the declared type, value by value.

    Raises:
        FrameError: it is no DataFrame, two columns have one name, or a column holds what no field can.
    """
    frame = frame_of(given)
    return pl.DataFrame([_column(stream, column, types.get(column.name)) for column in frame], height=len(frame))


def arrow_bodies(frame: pl.DataFrame, rows: int) -> Iterator[tuple[bytes, int]]:
    """The frame in order, as Arrow streams of at most `rows` rows and about `BODY_BYTES`; each with its row count.

    The same frame and `rows` give the same bytes, so an idempotency key stays with its batch.
    """
    if not 1 <= rows <= MAX_ROWS:
        raise ValueError(f"batch is the rows of one request, 1 to {MAX_ROWS:,}, got {rows}")
    for first in range(0, len(frame), rows):
        yield from _bodies(frame.slice(first, rows))


def _bodies(part: pl.DataFrame) -> Iterator[tuple[bytes, int]]:
    """By halves until each fits; a single row that does not is the door's to refuse."""
    body = io.BytesIO()
    part.rechunk().write_ipc_stream(body, compat_level=pl.CompatLevel.oldest())  # views would write what they share
    if body.tell() <= BODY_BYTES or len(part) == 1:
        yield body.getvalue(), len(part)
        return
    half = len(part) // 2
    yield from _bodies(part.slice(0, half))
    yield from _bodies(part.slice(half))


def _column(stream: str, column: pl.Series, kind: str | None) -> pl.Series:
    if column.dtype == pl.Object:
        return _of_objects(stream, column, kind)
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        return column.cast(pl.String)
    if not _is_known(column.dtype):
        raise FrameError(
            f"column '{column.name}' is of type {column.dtype}, which no field of a stream can hold. "
            "Convert it, or leave it out"
        )
    return column


def _is_known(kind: pl.DataType) -> bool:
    if isinstance(kind, pl.List | pl.Array):
        return _is_known(kind.inner) and not isinstance(kind.inner, pl.List | pl.Array)  # type: ignore[arg-type]
    return (kind.is_integer() and kind not in (pl.Int128, pl.UInt128)) or kind.is_float() or isinstance(kind, _PLAIN)


def _of_objects(stream: str, column: pl.Series, kind: str | None) -> pl.Series:
    """A column of Python objects (pandas: mixed ones, lists, decimals, dates) in its declared type."""
    values = [_plain(value) for value in column.to_list()]
    if kind == "timestamp" and any(isinstance(value, date) for value in values):
        return _times(stream, column.name, values)
    if kind is not None and kind != "timestamp":
        return _declared(stream, column.name, kind, values)
    try:
        return pl.Series(column.name, values, strict=True)
    except (TypeError, PolarsError) as error:
        raise FrameError(
            f"column '{column.name}' mixes types ({_first_lines(error)}). Convert it, or leave it out"
        ) from None


def _declared(stream: str, name: str, kind: str, values: list[Any]) -> pl.Series:
    item = kind.removeprefix("list[").removesuffix("]") if kind.startswith("list[") else None
    field = Field(name, "list", True, _scalar(item)) if item is not None else Field(name, _scalar(kind), True)
    objects = pl.DataFrame([pl.Series(name, values, dtype=pl.Object)])
    return schema_columns(Stream(stream, (field,)), [name], objects)[name]


def _scalar(kind: str) -> ScalarType:
    return next(known for known in get_args(ScalarType) if known == kind)


def _times(stream: str, name: str, values: list[Any]) -> pl.Series:
    for row, value in enumerate(values):
        if value is not None and not isinstance(value, date):
            raise FrameError(
                f"column '{name}', row {row}: {value!r:.60} ({type(value).__name__}) stands among datetimes, and "
                f"{stream} declares a timestamp. Make the column one type: pandas.to_datetime does"
            )
    return pl.Series(name, [None if value is None else _time_ms(value) for value in values], pl.Int64).cast(_TIME)


def _time_ms(value: date) -> int:
    return datetime_to_ms(value if isinstance(value, datetime) else datetime(value.year, value.month, value.day))


def _plain(value: Any) -> Any:
    """What a field can hold of a Python object; what is missing is None."""
    if is_missing(value):
        return None
    match value:
        case Decimal():
            return int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
        case UUID():
            return str(value)
        case set():
            return list(value)
    return value


def _first_lines(error: Exception) -> str:
    return str(error).splitlines()[0][:120]
