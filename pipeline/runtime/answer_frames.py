"""Rows as a pandas DataFrame whose dtypes follow from the config's types: one spelling for the client and the twin.

Invariant: an empty answer has the columns and dtypes of a full one. A column is of objects instead only where a value
of it fits no dtype: an int of more than 64 bits, or `__other__` among groups that are no texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

TIME_DTYPE = "datetime64[ms, UTC]"
DTYPES = {"string": "str", "int": "Int64", "float": "float64", "bool": "boolean", "timestamp": TIME_DTYPE}
MIN_INT, MAX_INT = -(2**63), 2**63 - 1  # of Int64
WINDOW_DTYPES = {"window_start": TIME_DTYPE, "window_end": TIME_DTYPE, "state": "str", "revision": "Int64"}


def answer_frame(rows: Sequence[Mapping[str, Any]], types: Mapping[str, str]) -> pd.DataFrame:
    """A metric's rows, indexed by `window_start`; `types` are those of its groups and values, in order."""
    dtypes = WINDOW_DTYPES | {name: dtype_of(kind) for name, kind in types.items()}
    return typed_frame(rows, dtypes).set_index("window_start")


def typed_frame(rows: Sequence[Mapping[str, Any]], dtypes: Mapping[str, str]) -> pd.DataFrame:
    """Rows as a DataFrame of exactly these columns; what a row does not have is missing."""
    return pd.DataFrame({name: typed_series([row.get(name) for row in rows], dtype) for name, dtype in dtypes.items()})


def dtype_of(kind: str) -> str:
    """The dtype of a config type: `int?` is `Int64`; lists and the like are objects."""
    return DTYPES.get(kind.removesuffix("?"), "object")


def typed_series(values: list[Any], dtype: str) -> pd.Series:
    """Values as the API gives them (times in epoch milliseconds) as a column; None is missing.

    Values that the dtype cannot hold make a column of objects, each exactly what it is: pandas would round or refuse.
    """
    if not _all_fit(values, dtype):
        return pd.Series([_object(value, dtype) for value in values], dtype=object)
    if dtype == TIME_DTYPE:
        return pd.Series(pd.to_datetime(pd.array(values, dtype="Int64"), unit="ms", utc=True).as_unit("ms"))
    return pd.Series(values, dtype=dtype)


def _all_fit(values: list[Any], dtype: str) -> bool:
    if dtype in ("str", "object"):
        return True
    has_text = any(isinstance(value, str) for value in values)
    has_large = dtype == "Int64" and any(isinstance(v, int) and not MIN_INT <= v <= MAX_INT for v in values)
    return not has_text and not has_large


def _object(value: Any, dtype: str) -> Any:
    is_time = dtype == TIME_DTYPE and isinstance(value, int)
    return pd.Timestamp(value, unit="ms", tz="UTC").as_unit("ms") if is_time else value
