"""What config.yaml calls the type of a column: `string int float bool timestamp list[…]`; one spelling everywhere."""

from __future__ import annotations

import polars as pl

_NAMES: dict[pl.DataType, str] = {
    pl.String(): "string",
    pl.Int64(): "int",
    pl.Float64(): "float",
    pl.Boolean(): "bool",
    pl.Datetime("ms"): "timestamp",
}


def type_text(dtype: pl.DataType) -> str:
    """Name a canonical column type as config.yaml does; any other as polars does, in lower case."""
    if isinstance(dtype, pl.List):
        inner = dtype.inner
        return f"list[{type_text(inner if isinstance(inner, pl.DataType) else inner())}]"
    return _NAMES.get(dtype, str(dtype).lower())
