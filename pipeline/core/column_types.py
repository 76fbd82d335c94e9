"""What config.yaml calls the type of a column: `string int float bool timestamp list[…]`; one spelling everywhere."""

from __future__ import annotations

import polars as pl

from pipeline.core.definitions import Field, Stream

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


def column_type(field: Field) -> pl.DataType:
    """The canonical column type of a declared field."""
    return type_of(f"list[{field.item}]" if field.type == "list" else field.type)


def stream_columns(stream: Stream) -> dict[str, pl.DataType]:
    return {field.name: column_type(field) for field in stream.fields}


def type_of(text: str) -> pl.DataType:
    """The canonical column type that config.yaml calls `text`; a `?` after it says nothing about a column.

    Raises:
        ValueError: there is no such type.
    """
    name = text.removesuffix("?")
    if name.startswith("list[") and name.endswith("]"):
        return pl.List(type_of(name[len("list[") : -1]))
    found = next((dtype for dtype, known in _NAMES.items() if known == name), None)
    if found is None:
        raise ValueError(f"unknown type '{text}'. There are: {', '.join(_NAMES.values())} and list[…] of them.")
    return found
