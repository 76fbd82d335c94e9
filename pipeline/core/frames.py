"""Frames in flight, changed column by column.

Whatever is asked of a whole frame, polars makes a query of, hands it to its threads and waits: 0.1 ms of CPU time each,
whatever is in it, which is most of what a small batch costs. Invariant: the same rows and columns as polars' own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl


def kept(frame: pl.DataFrame, keep: npt.NDArray[np.bool_]) -> pl.DataFrame:
    """The rows of a frame with columns where `keep` is true."""
    mask = pl.Series(keep)
    return pl.DataFrame([column.filter(mask) for column in frame.get_columns()])


def with_column(frame: pl.DataFrame, column: pl.Series) -> pl.DataFrame:
    """A frame with one more column, or with another one in the place of that of its name."""
    if column.name not in frame.columns:
        return frame.hstack([column])
    return pl.DataFrame([column if each.name == column.name else each for each in frame.get_columns()])


def taken(column: pl.Series, places: npt.NDArray[Any] | pl.Series) -> pl.Series:
    """The values of a column at `places`, null where the place is."""
    if not isinstance(places, pl.Series):
        places = pl.Series(places.astype(np.uint32))
    return column[places]


def rows_of(columns: Sequence[pl.Series], places: npt.NDArray[Any]) -> list[tuple[Any, ...]]:
    """The rows at `places` of columns of one length, one at least."""
    at = pl.Series(places.astype(np.uint32))
    return list(zip(*(column[at].to_list() for column in columns), strict=True))
