"""What is done column by column is what polars does with the whole frame."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal, assert_series_equal

from pipeline.core.frames import kept, rows_of, taken, with_column

FRAME = pl.DataFrame(
    {
        "_row": [0, 1, 1, 3],
        "text": ["a", None, "a text of more than twelve bytes", ""],
        "value": [0.5, None, float("inf"), -0.0],
        "tags": [["x"], [], None, ["y", "z"]],
        "at": pl.Series([1, 2, None, 4], dtype=pl.Datetime("ms")),
    }
)


@pytest.mark.parametrize("keep", [[True, False, True, False], [False] * 4, [True] * 4])
def test_rows_are_kept_as_a_filter_keeps_them(keep: list[bool]) -> None:
    assert_frame_equal(kept(FRAME, np.array(keep)), FRAME.filter(pl.Series(keep)))
    assert_frame_equal(kept(FRAME.clear(), np.array([], dtype=np.bool_)), FRAME.clear())


def test_a_column_is_added_or_put_in_the_place_of_another() -> None:
    for name in ("more", "text"):
        column = pl.Series(name, [1, 2, 3, 4])
        assert_frame_equal(with_column(FRAME, column), FRAME.with_columns(column))
    with pytest.raises(pl.exceptions.ShapeError):
        with_column(FRAME, pl.Series("more", [1]))


def test_values_are_taken_by_place_and_null_where_there_is_none() -> None:
    for column in FRAME.get_columns():
        assert_series_equal(taken(column, np.array([3, 0, 0])), column.gather([3, 0, 0]))
        places = pl.Series([3, None, 0], dtype=pl.UInt32)
        assert_series_equal(taken(column, places), column.gather(places))
        assert taken(column, np.array([], dtype=np.int64)).to_list() == []


def test_rows_are_tuples_of_python_values() -> None:
    columns = FRAME.select("text", "value").get_columns()
    assert rows_of(columns, np.array([2, 0])) == FRAME.select("text", "value")[[2, 0]].rows()
