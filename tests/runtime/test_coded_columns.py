"""Coded columns are the lists they stand for, whatever is done with them."""

from __future__ import annotations

from itertools import chain
from typing import Any

import msgspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.coded_columns import Coded, taken, under_each_other

VALUES: list[Any] = ["a", None, 7, 'Ü,"', [1, "x"], 2.5]
CODES = st.one_of(
    st.lists(st.integers(0, 5), max_size=40),
    st.lists(st.integers(1, 9), max_size=5).map(
        lambda runs: [n % 6 for n, length in enumerate(runs) for _ in range(length)]
    ),
    st.lists(st.sampled_from([[0, 1, 2, 3, 4, 5], [0, 2, 4], [5]]), max_size=9).map(
        lambda rows: list(chain.from_iterable(rows))
    ),
)


def coded(codes: list[int]) -> tuple[Coded, list[Any]]:
    return Coded(VALUES, np.array(codes, dtype=np.int64)), [VALUES[code] for code in codes]


@given(CODES)
def test_a_coded_column_is_its_list(codes: list[int]) -> None:
    column, rows = coded(codes)
    assert list(column) == rows
    assert len(column) == len(rows)
    assert [column[place] for place in range(len(rows))] == rows
    assert list(column[1:3]) == rows[1:3]
    assert column.json() == msgspec.json.encode(rows)


@given(st.lists(CODES, min_size=1, max_size=4), st.booleans(), st.randoms())
def test_columns_are_put_under_each_other_and_taken_from_as_lists_are(
    several: list[list[int]], mixed: bool, random: Any
) -> None:
    pairs = [coded(codes) for codes in several]
    rows = [value for _, listed in pairs for value in listed]
    columns = [listed if mixed and number == 0 else column for number, (column, listed) in enumerate(pairs)]
    together = under_each_other(columns)
    assert isinstance(together, Coded) != mixed
    assert list(together) == rows
    places = [random.randrange(len(rows)) for _ in range(5 if rows else 0)]
    assert list(taken(together, np.array(places, dtype=np.intp))) == [rows[place] for place in places]


@given(st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(1, 4)), max_size=9))
def test_runs_of_numbers_are_coded_by_run(runs: list[tuple[int, int]]) -> None:
    rows = [number for number, length in runs for _ in range(length)]
    column = Coded.of_runs(np.array(rows, dtype=np.int64))
    assert list(column) == rows
    assert len(column.values) <= len(runs)
