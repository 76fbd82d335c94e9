"""CSV read column by column, where nothing in it is unusual: no quote, no blank line, as many cells in every row.

Invariant: what is taken here is written out to the rows that the careful way (`csv_rows`, `csv_cells`) makes of it; all
else is given back to that, which decides and explains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from pipeline.core.csv_rows import BYTE_ORDER_MARK, NEWLINE, QUOTE
from pipeline.core.definitions import Field

_BOOLS = {"true": True, "1": True, "false": False, "0": False}


def plain_lines(body: bytes) -> bytes | None:
    """The lines of a body without line ends but LF; None where they are not simply its records."""
    if QUOTE in body:
        return None
    lines = body.removeprefix(BYTE_ORDER_MARK).replace(b"\r\n", NEWLINE).removesuffix(NEWLINE)
    if b"\r" in lines or lines.startswith(NEWLINE) or lines.endswith(NEWLINE) or NEWLINE * 2 in lines:
        return None
    return lines


def written_out(lines: bytes, names: Sequence[str], fields: Mapping[str, Field]) -> bytes | None:
    """The rows of `plain_lines` as NDJSON, without columns that are no field; None where it has to be careful."""
    n = lines.count(NEWLINE)  # rows, without the header
    if n == 0 or lines.count(b",") != (n + 1) * (len(names) - 1):
        return None  # with one cell too many polars fails below, so nobody has one too few
    try:
        texts = pl.read_csv(
            lines, has_header=False, skip_rows=1, schema=dict.fromkeys(_numbers(names), pl.String), quote_char=None
        )
    except pl.exceptions.PolarsError:
        return None
    if texts.shape != (n, len(names)):
        return None
    columns = []
    for name, column in zip(names, texts.get_columns(), strict=True):
        if name not in fields:
            continue
        typed = _typed(column, fields[name])
        if typed is None:
            return None
        columns.append(typed.alias(name))
    return pl.DataFrame(columns).write_ndjson().encode()


def _numbers(names: Sequence[str]) -> list[str]:
    """Names of columns that no sender chose."""
    return [f"column_{number}" for number in range(len(names))]


def _typed(column: pl.Series, field: Field) -> pl.Series | None:
    """The values of a field's cells; None where one is no plain value of its type, or is missing and may not be."""
    if column.null_count() and not field.nullable:
        return None
    match field.type:
        case "string":
            return column
        case "int":
            return _cast(column, pl.Int64())
        case "float":
            numbers = _cast(column, pl.Float64())
            return numbers if numbers is not None and numbers.drop_nulls().is_finite().all() else None
        case "bool":
            values = column.replace_strict(_BOOLS, default=None, return_dtype=pl.Boolean)
            return values if values.null_count() == column.null_count() else None
        case "timestamp":
            numbers = _cast(column, pl.Int64())
            is_text = column.str.strip_chars().cast(pl.Float64, strict=False).null_count() == len(column)
            return numbers if numbers is not None else (column if is_text else None)
        case "list":
            return column if column.null_count() == len(column) else None


def _cast(column: pl.Series, dtype: pl.DataType) -> pl.Series | None:
    values = column.cast(dtype, strict=False)
    return values if values.null_count() == column.null_count() else None
