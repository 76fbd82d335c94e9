"""The columns of a DataFrame as a stream's schema has them: checked value by value where a type is wrong, not guessed.

Invariant: what comes out is what the same values read from the log would be, times in milliseconds UTC.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import polars as pl

from pipeline.core.column_types import column_type, type_text
from pipeline.core.definitions import Field, Stream
from pipeline.core.events import series_of
from pipeline.core.schema import fields_of
from pipeline.core.timestamps import Int64, TimestampsError, to_ms
from pipeline.errors import FrameError

_MS = pl.Datetime("ms")


def frame_of(given: Any) -> pl.DataFrame:
    """A pandas or polars DataFrame as a polars one; values of no one type stay Python objects.

    Raises:
        FrameError: it is neither, or two columns have one name.
    """
    if isinstance(given, pl.DataFrame):
        return given
    if not hasattr(given, "iloc") or not hasattr(given, "columns"):
        raise FrameError(f"a pandas or polars DataFrame is needed, not a {type(given).__name__}")
    named = given.reset_index() if any(name is not None for name in given.index.names) else given
    names = [str(name) for name in named.columns]
    if len(set(names)) != len(names):
        raise FrameError(f"the columns of the DataFrame need distinct names, got {names}")
    return pl.DataFrame([_from_pandas(name, named.iloc[:, at]) for at, name in enumerate(names)])


def _from_pandas(name: str, column: Any) -> pl.Series:
    kind = column.dtype.kind
    missing = np.asarray(column.isna())
    if kind == "M":
        naive = column.dt.tz_convert("UTC").dt.tz_localize(None) if column.dt.tz is not None else column
        numbers = naive.dt.as_unit("ms").astype("int64").to_numpy()
        return _with_gaps(pl.Series(name, numbers).cast(_MS), missing)
    if kind in "iufb":
        dtype = {"i": np.int64, "u": np.uint64, "f": np.float64, "b": np.bool_}[kind]
        return _with_gaps(pl.Series(name, column.to_numpy(dtype=dtype, na_value=0 if missing.any() else None)), missing)
    values = [None if gap else value for value, gap in zip(column.tolist(), missing.tolist(), strict=True)]
    if all(value is None or isinstance(value, str) for value in values):
        return pl.Series(name, values, dtype=pl.String)
    return pl.Series(name, values, dtype=pl.Object)


def _with_gaps(column: pl.Series, missing: Any) -> pl.Series:
    return column.set(pl.Series(missing), None) if missing.any() else column


def schema_columns(
    stream: Stream, names: Sequence[str], frame: pl.DataFrame, numbers: Int64 | None = None
) -> pl.DataFrame:
    """The stream's fields of `names` in canonical types, one row a row of `frame`.

    `numbers`: what its rows are called in messages, where that is not their place in it.

    A nullable field that is not there is null throughout; columns of other names are left out.

    Raises:
        FrameError: a column is missing or has a value of another type; it names the column, the row and the value.
    """
    fields = [field for field in fields_of(stream) if field.name in names]
    rows = np.arange(len(frame)) if numbers is None else numbers
    return (
        pl.DataFrame([_checked(stream, field, frame, rows) for field in fields])
        if fields
        else pl.DataFrame(height=len(frame))
    )


def _checked(stream: Stream, field: Field, frame: pl.DataFrame, rows: Int64) -> pl.Series:
    if field.name not in frame.columns:
        if not field.nullable:
            raise FrameError(f"the DataFrame has no column '{field.name}', which {stream.name} requires")
        return pl.Series(field.name, [None] * len(frame), dtype=column_type(field))
    column = frame[field.name]
    canonical = _converted(stream, field, column, rows)
    if not field.nullable and canonical.null_count():
        row = int(rows[int(canonical.is_null().arg_true()[0])])
        raise FrameError(f"column '{field.name}', row {row}: null, and {stream.name} requires a value")
    return canonical


def _converted(stream: Stream, field: Field, column: pl.Series, rows: Int64) -> pl.Series:
    """By the type of the whole column where it has one that fits, else value by value."""
    kind = column.dtype
    wanted = column_type(field)
    match field.type:
        case "string" if kind in (pl.String, pl.Categorical) or isinstance(kind, pl.Enum):
            return column.cast(pl.String)
        case "bool" if kind == pl.Boolean:
            return column
        case "int" if kind.is_integer() and kind != pl.UInt64:
            return column.cast(pl.Int64)
        case "float" if kind.is_integer() or (kind.is_float() and not column.is_infinite().any()):
            return column.cast(pl.Float64).fill_nan(None)
        case "timestamp" if isinstance(kind, pl.Datetime | pl.Date):
            return _naive_ms(column)
        case "list" if kind == wanted and field.item != "float":
            return column
        case _ if kind == pl.Null:
            return pl.Series(field.name, [None] * len(column), dtype=wanted)
    values = [_value(stream, field, row, value) for row, value in zip(rows.tolist(), column.to_list(), strict=True)]
    return series_of(field, values)


def _naive_ms(column: pl.Series) -> pl.Series:
    """Times of any unit and zone as milliseconds UTC; what is finer is floored."""
    if isinstance(column.dtype, pl.Datetime) and column.dtype.time_zone is not None:
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return column.cast(_MS)


def _value(stream: Stream, field: Field, row: int, value: Any) -> Any:
    """One value as JSON would have brought it."""
    if value is None or (isinstance(value, float) and value != value):
        return None
    if field.type != "list":
        return _scalar(stream, field, field.type, row, value)
    if not isinstance(value, list | tuple | np.ndarray | pl.Series):
        raise _wrong(stream, field, row, value)
    assert field.item is not None
    return [_scalar(stream, field, field.item, row, item) for item in value]


def _scalar(stream: Stream, field: Field, kind: str, row: int, value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    match kind:
        case "string" if isinstance(value, str):
            return value
        case "bool" if isinstance(value, bool):
            return value
        case "int" if is_number and value == value // 1 and -(2**63) <= value < 2**63:
            return int(value)
        case "float" if is_number and math.isfinite(value):
            return float(value)
        case "float" if is_number:
            raise FrameError(
                f"column '{field.name}', row {row}: {value} is out of range: {stream.name} takes finite numbers, and "
                "null where there is none"
            )
        case "timestamp" if is_number or isinstance(value, str | date):
            return _time(stream, field, row, value)
    raise _wrong(stream, field, row, value)


def _time(stream: Stream, field: Field, row: int, value: Any) -> str | int | float:
    """A time that `to_ms` reads: a datetime without a zone is UTC, as in the canonical column."""
    if isinstance(value, date):
        moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
        value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()
    try:
        to_ms([value], field.unit, field.zone)
    except TimestampsError as error:
        raise FrameError(f"column '{field.name}', row {row}: {error}") from None
    return value  # type: ignore[no-any-return]


def _wrong(stream: Stream, field: Field, row: int, value: Any) -> FrameError:
    wanted = type_text(column_type(field))
    return FrameError(
        f"column '{field.name}', row {row}: {value!r:.60} ({type(value).__name__}) is not of type {wanted}, which "
        f"{stream.name} declares; convert the column, or correct the schema"
    )
