"""Dense numbers for groups: every row gets the number of its (pane, group), column-wise and without sorting strings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.core import texts
from pipeline.core.frames import rows_of

Codes = npt.NDArray[np.int64]
_DENSE_FACTOR = 4  # a lookup table of up to 4 places a row is cheaper than np.unique's sort


def column_codes(values: pl.Series) -> tuple[Codes, int]:
    """Return a code in [0, size) for each value of a column, and size; null has a code of its own."""
    if values.dtype == pl.String and texts.IS_BUILT:
        numbers, firsts = texts.codes(values)
        size = len(firsts)
        return np.where(numbers < 0, size, numbers).astype(np.int64), size + 1
    if values.dtype == pl.String:
        # an Enum of the batch's own values, 36 ns a row: a global Categorical would keep every value ever seen
        uniques = values.drop_nulls().unique()
        codes = values.cast(pl.Enum(uniques)).to_physical().cast(pl.Int64)
        return codes.fill_null(len(uniques)).to_numpy(), len(uniques) + 1
    integers = values.cast(pl.Int64)
    numbered, size = integer_codes((integers.fill_null(0) if integers.null_count() else integers).to_numpy())
    if integers.null_count():
        numbered = np.where(integers.is_null().to_numpy(), size, numbered)
    return numbered, size + 1


def integer_codes(values: Codes) -> tuple[Codes, int]:
    """Return a code in [0, size) for each value, and size; the values are sorted only where nothing better is built."""
    if texts.IS_BUILT:
        numbers, firsts = texts.number_codes(values)
        return numbers.astype(np.int64), len(firsts)
    found, inverse = np.unique(values, return_inverse=True)
    return inverse.astype(np.int64), len(found)


def compact(codes: Codes, size: int) -> tuple[Codes, npt.NDArray[np.intp]]:
    """Renumber codes in [0, size) without holes.

    Returns:
        (inverse, representative): the new code of each row, and for each new code the first row that has it.
    """
    if texts.IS_BUILT:
        numbers, firsts = texts.number_codes(codes)
        return numbers.astype(np.int64), firsts
    return ranked(codes, size)


def ranked(codes: Codes, size: int) -> tuple[Codes, npt.NDArray[np.intp]]:
    """As `compact`, with the new codes in the order of the old; sorted only where few in [0, size) are used."""
    if size <= _DENSE_FACTOR * len(codes) + 1024:
        first = np.full(size, -1, dtype=np.intp)
        first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)
        used = np.flatnonzero(first >= 0)
        renumbered = np.empty(size, dtype=np.int64)
        renumbered[used] = np.arange(len(used))
        return renumbered[codes], first[used]
    _, representative, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return inverse.astype(np.int64), representative


def combined_codes(columns: Sequence[tuple[Codes, int]], n_rows: int) -> tuple[Codes, npt.NDArray[np.intp]]:
    """Return codes of the tuples of several code columns, compacted after each so that sizes cannot overflow."""
    codes: Codes = np.zeros(n_rows, dtype=np.int64)
    representative = np.zeros(min(1, n_rows), dtype=np.intp)
    size = 1
    for column, column_size in columns:
        codes, representative = compact(codes * column_size + column, size * column_size)
        size = len(representative)
    return codes, representative


def group_tuples(frame: pl.DataFrame, group_by: Sequence[str], rows: npt.NDArray[np.intp]) -> list[tuple[Any, ...]]:
    """The values of the group columns at `rows`, as JSON types; timestamps are epoch milliseconds."""
    if not group_by:
        return [()] * len(rows)
    columns = [frame.get_column(name) for name in group_by]
    return rows_of([c.cast(pl.Int64) if isinstance(c.dtype, pl.Datetime) else c for c in columns], rows)
