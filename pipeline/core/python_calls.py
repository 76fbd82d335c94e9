"""Calls of registered functions: what a function gets, and the checks of what it gives back.

Nothing a function does reaches beyond its rows: whatever it raises or returns that is not what it announced is a
`CallError` about these rows, with the traceback where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import polars as pl
from polars.exceptions import PanicException, PolarsError

from pipeline.core.batches import ROW
from pipeline.core.column_types import type_text
from pipeline.core.definitions import Engine
from pipeline.core.tracebacks import traceback_text

MAX_SHOWN = 5  # names or numbers in a message


class CallError(Exception):
    """A call that failed on its rows: `code` names the rule, the message says what to do."""

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


def call(
    name: str, function: Callable[[Any], Any], engine: Engine, frame: pl.DataFrame, after: Mapping[str, pl.DataType]
) -> pl.DataFrame:
    """Call a function on some rows; return its rows in stream order, with the columns of `after` beside `_row`.

    Raises:
        CallError: it raised (`function_failed`), or gave back something else than it announced (`function_result`).
    """
    given = frame.clone() if engine == "polars" else _pandas().to_pandas(frame)
    try:
        answer = function(given)
    except (Exception, PanicException) as error:  # whatever it is, it is about these rows
        raise CallError("function_failed", f"the function '{name}' failed:\n{traceback_text(error)}") from error
    try:
        return _checked(_polars_columns(answer, engine), frame[ROW], after)
    except (ValueError, TypeError, OverflowError, PolarsError) as error:
        raise CallError("function_result", f"the function '{name}' {error}") from error


def _pandas() -> Any:
    """The module that speaks pandas, imported only where a function asks for it: it takes half a second."""
    from pipeline.core import pandas_frames

    return pandas_frames


def _polars_columns(answer: Any, engine: Engine) -> dict[str, pl.Series]:
    """The columns of what a function gave back, as polars sees them."""
    if engine == "pandas":
        columns: dict[str, pl.Series] = _pandas().from_pandas(answer)
        return columns
    if not isinstance(answer, pl.DataFrame):
        raise ValueError(f"returned {type(answer).__name__}; it has to return a polars DataFrame.")
    return {column.name: column for column in answer}


def _checked(columns: Mapping[str, pl.Series], given: pl.Series, after: Mapping[str, pl.DataType]) -> pl.DataFrame:
    expected = {ROW: pl.Int64(), **after}
    missing, unknown = [n for n in expected if n not in columns], [n for n in columns if n not in expected]
    if missing or unknown:
        said = [f"returned no {_shown(missing)}"] * bool(missing)
        said += [f"returned {_shown(unknown)}, not named in its `returns`"] * bool(unknown)
        raise ValueError(f"{' and '.join(said)}. Its columns have to be: {', '.join(expected)}.")
    frame = pl.DataFrame([_conform(columns[name], name, dtype) for name, dtype in expected.items()])
    rows = frame[ROW]
    strange = rows.filter(~rows.is_in(given.implode())) if not rows.null_count() else rows.filter(rows.is_null())
    if len(strange):
        raise ValueError(f"returned _row {_shown(strange.to_list())}, which it was not given.")
    return frame if rows.is_sorted() else frame.sort(ROW, maintain_order=True)


def _conform(column: pl.Series, name: str, dtype: pl.DataType) -> pl.Series:
    """A column that came back as the type it has to have; nothing is rounded, cut or guessed on the way."""
    seen = column.dtype
    match dtype:
        case _ if seen == dtype and dtype != pl.Float64:
            return column.alias(name)
        case _ if seen == pl.Null:
            return column.cast(dtype).alias(name)
        case pl.Float64() if seen.is_numeric():
            numbers = column.cast(pl.Float64)
            # No JSON number is infinite, and one would stay in a sum for good: null, as in a `derive`.
            return numbers.set(~numbers.is_finite(), None).alias(name)
        case pl.Int64() if seen.is_integer():
            return column.cast(pl.Int64).alias(name)
        case pl.Int64() if seen.is_float():  # pandas makes floats of ints where one is missing
            numbers = column.cast(pl.Float64)
            numbers = numbers.set(numbers.is_nan(), None)
            if (numbers.drop_nulls() == numbers.drop_nulls().floor()).all():
                return numbers.cast(pl.Int64).alias(name)
        case pl.String() if isinstance(seen, (pl.Categorical, pl.Enum)):
            return column.cast(pl.String).alias(name)
        case pl.Datetime() if isinstance(seen, (pl.Date, pl.Datetime)):
            zone = seen.time_zone if isinstance(seen, pl.Datetime) else None
            times = column if zone is None else column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
            return times.cast(dtype).alias(name)
        case pl.List() if isinstance(seen, pl.List):
            inner = dtype.inner if isinstance(dtype.inner, pl.DataType) else dtype.inner()
            items = _conform(column.explode(empty_as_null=False, keep_nulls=False), name, inner)
            return _lists_of(items, column).alias(name)
    raise ValueError(f"returned '{name}' as {type_text(seen)}, and it is {type_text(dtype)}.")


def _lists_of(items: pl.Series, like: pl.Series) -> pl.Series:
    """Items as lists of the lengths that `like` has."""
    values, lengths = iter(items.to_list()), like.list.len().to_list()
    lists = [None if length is None else [next(values) for _ in range(length)] for length in lengths]
    return pl.Series(like.name, lists, dtype=pl.List(items.dtype))


def _shown(names: Any) -> str:
    listed = [str(name) for name in names]
    shown = ", ".join(listed[:MAX_SHOWN])
    return shown if len(listed) <= MAX_SHOWN else f"{shown} and {len(listed) - MAX_SHOWN} more"
