"""Between polars frames and the pandas a registered function may ask for; only such a function imports this.

string `str`, int `Int64`, float `float64`, bool `boolean`, timestamp `datetime64[ms, UTC]`, a list an object; what is
missing is what pandas calls missing in each. No pyarrow: the dtypes are the same with and without it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from pipeline.core.column_types import type_text

_TIME = "datetime64[ms, UTC]"
_DTYPES = {"int": "Int64", "float": "float64", "bool": "boolean", "string": "str", "timestamp": _TIME}


def to_pandas(frame: pl.DataFrame) -> pd.DataFrame:
    """A frame as pandas, one column each, with a fresh index."""
    return pd.DataFrame({column.name: _to_pandas(column) for column in frame})


def _to_pandas(column: pl.Series) -> pd.Series[Any]:
    if isinstance(column.dtype, pl.List):
        values = np.empty(len(column), dtype=object)
        values[:] = column.to_list()
        return pd.Series(values, dtype=object)
    kind = type_text(column.dtype)
    if kind == "timestamp":
        numbers = pd.array(column.cast(pl.Int64).to_list(), dtype="Int64")
        return pd.Series(pd.to_datetime(numbers, unit="ms", utc=True).as_unit("ms"))
    if kind in ("int", "float") and not column.null_count():
        return pd.Series(column.to_numpy(writable=True), dtype=_DTYPES[kind])
    return pd.Series(column.to_list(), dtype=_DTYPES[kind])


def from_pandas(answer: Any) -> dict[str, pl.Series]:
    """The columns of a pandas DataFrame as polars sees them.

    Raises:
        ValueError, TypeError: it is no DataFrame, two columns have one name, or one mixes types.
    """
    if not isinstance(answer, pd.DataFrame):
        raise ValueError(f"returned {type(answer).__name__}; it has to return a pandas DataFrame.")
    names = [str(name) for name in answer.columns]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"returned the column '{twice[0]}' twice.")
    return {name: _from_pandas(name, answer.iloc[:, at]) for at, name in enumerate(names)}


def _from_pandas(name: str, column: pd.Series[Any]) -> pl.Series:
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_convert("UTC").dt.tz_localize(None)
    if isinstance(column.dtype, np.dtype):
        if column.dtype.kind == "M":
            return pl.Series(name, column.to_numpy().astype("datetime64[ms]"))
        if column.dtype.kind in "iufb":
            return pl.Series(name, column.to_numpy())
    missing = column.isna().tolist()
    values = [None if gone else _plain(value) for value, gone in zip(column.tolist(), missing, strict=True)]
    try:
        return pl.Series(name, values, strict=True)
    except TypeError as error:
        raise ValueError(f"returned '{name}' with values of several types: {error}.") from error


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return [_plain(each) for each in value] if isinstance(value, (list, tuple, np.ndarray)) else value
