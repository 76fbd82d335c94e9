"""What is found column-wise of the rows an expression fails on is what halving finds, which is the definition."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.core import steps
from pipeline.core.batches import ROW
from pipeline.core.expressions import ExpressionError, compile_expression
from pipeline.core.steps import DeadRow, DeriveStep, FilterStep, Step, apply_steps

COLUMNS: dict[str, pl.DataType] = {
    "s": pl.String(),
    "t": pl.String(),
    "n": pl.Int64(),
    "x": pl.Float64(),
    "b": pl.Boolean(),
}
TEXTS = ("1", "-7", "1.5", "abc", "", "2026-01-31", "2026-02-31", "99999999999999999999", " 3", "NaN", None)

texts = st.sampled_from(["s", "t", "UPPER(s)", "COALESCE(s, t)", "t || '0'", "SPLIT_PART(s, '-', 1)", "'12'", "'no'"])


def number_of(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    condition = st.sampled_from(["b", "n > 0", "s = '1'", "t IS NULL", "NOT b", "CAST(t AS BIGINT) > 1"])
    return st.one_of(
        st.builds("({} + {})".format, inner, inner),
        st.builds("ABS({})".format, inner),
        st.builds("CASE WHEN {} THEN {} ELSE {} END".format, condition, inner, inner),
        st.builds("CASE WHEN {} THEN {} END".format, condition, inner),
        st.builds("COALESCE({}, {})".format, inner, inner),
        st.builds("NULLIF({}, {})".format, inner, inner),
        st.builds("CAST(CAST({} AS VARCHAR) AS BIGINT)".format, inner),
    )


leaves = st.one_of(
    st.builds("CAST({} AS BIGINT)".format, texts),
    st.builds("CAST({} AS DOUBLE)".format, texts),
    st.builds("TRY_CAST({} AS BIGINT)".format, texts),
    st.sampled_from(["n", "1", "CAST(x AS BIGINT)", "CAST(n AS SMALLINT)", "LENGTH(s)", "n / 0"]),
    st.builds("EXTRACT(day FROM STRPTIME({}, '%Y-%m-%d'))".format, texts),
)
numbers = st.recursive(leaves, number_of, max_leaves=5)
conditions = st.builds("{} {} {}".format, numbers, st.sampled_from(["<", "=", ">="]), numbers)

events = st.lists(
    st.fixed_dictionaries(
        {
            "s": st.sampled_from(TEXTS),
            "t": st.sampled_from(TEXTS),
            "n": st.sampled_from([0, 1, -5, 40_000, None]),
            "x": st.sampled_from([0.0, 1.5, 1e30, None]),
            "b": st.sampled_from([True, False, None]),
        }
    ),
    max_size=30,
)


def frame_of(rows: list[dict[str, Any]], repeats: list[int]) -> pl.DataFrame:
    """Rows in stream order, some of them several of one event."""
    frame = pl.DataFrame(rows, schema=COLUMNS)
    numbers = np.cumsum([repeats[at % len(repeats)] for at in range(len(rows))], dtype=np.int64)
    return pl.DataFrame({ROW: numbers}).hstack(frame)


def by_halving(step: Step, frame: pl.DataFrame) -> tuple[pl.DataFrame, dict[int, DeadRow]]:
    dead: dict[int, DeadRow] = {}
    done = steps._halve_poison(
        lambda part: steps._run(step, part, {}, {}), frame, dead, lambda row, error: steps._dead_row(step, row, error)
    )
    return done.filter(~pl.col(ROW).is_in(list(dead))), dead


def compiled(text: str) -> pl.Expr:
    try:
        return compile_expression(text, COLUMNS).expr
    except ExpressionError:
        assume(False)
        raise


derives = given(st.lists(numbers, min_size=1, max_size=2), events, st.lists(st.integers(0, 1), min_size=1, max_size=5))


@settings(max_examples=40, deadline=None)
@derives
def test_derives_lose_the_rows_that_halving_finds(
    texts: list[str], rows: list[dict[str, Any]], repeats: list[int]
) -> None:
    derives_lose_what_halving_finds(texts, rows, repeats)


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None)
@derives
def test_derives_lose_the_rows_that_halving_finds_2000_times(
    texts: list[str], rows: list[dict[str, Any]], repeats: list[int]
) -> None:
    derives_lose_what_halving_finds(texts, rows, repeats)


def derives_lose_what_halving_finds(texts: list[str], rows: list[dict[str, Any]], repeats: list[int]) -> None:
    step = DeriveStep("t", tuple(compiled(text).alias(f"d{number}") for number, text in enumerate(texts)))
    frame = frame_of(rows, repeats)

    done, dead = apply_steps((step,), frame)

    halved, expected = by_halving(step, frame)
    assert [(each.row, each.code, each.message) for each in dead] == [
        (each.row, each.code, each.message) for each in (expected[row] for row in sorted(expected))
    ]
    assert done.equals(halved)


@settings(max_examples=40, deadline=None)
@given(conditions, events)
def test_filters_lose_the_rows_that_halving_finds(text: str, rows: list[dict[str, Any]]) -> None:
    filters_lose_what_halving_finds(text, rows)


@pytest.mark.slow
@settings(max_examples=2_000, deadline=None)
@given(conditions, events)
def test_filters_lose_the_rows_that_halving_finds_2000_times(text: str, rows: list[dict[str, Any]]) -> None:
    filters_lose_what_halving_finds(text, rows)


def test_a_part_that_is_never_computed_is_not_why_a_row_is_lost() -> None:
    # Both branches are one, so polars never asks which; the row is lost by the second field
    texts = [
        "CASE WHEN CAST(t AS BIGINT) > 1 THEN SPLIT_PART(s, '-', 1) ELSE SPLIT_PART(s, '-', 1) END",
        "CAST(s AS BIGINT)",
    ]
    row = {"s": "1", "t": "1", "n": 0, "x": 0.0, "b": None}
    derives_lose_what_halving_finds(texts, [row, row | {"s": "2026-01-31", "t": "1.5"}], [1])


def test_a_part_that_is_never_computed_takes_no_row_with_it() -> None:
    # STRPTIME fails for every row, but of NULLIF(NULL, ...) it is not asked; every fifth row fails otherwise
    text = "CAST(t AS BIGINT) < NULLIF(TRY_CAST('no' AS BIGINT), EXTRACT(day FROM STRPTIME('12', '%Y-%m-%d')))"
    row = {"s": "1", "t": "1", "n": 0, "x": 0.0, "b": None}
    filters_lose_what_halving_finds(text, [row | {"t": "1" if place % 5 else "1.5"} for place in range(20)])


def test_what_never_decides_takes_no_row_that_stands_behind_rows_that_fail() -> None:
    # Both branches are one: of the last row, CAST(t AS BIGINT) would fail, and t || '0' does not
    branch = "CAST(t || '0' AS BIGINT)"
    text = f"n < CASE WHEN CAST(t AS BIGINT) > 1 THEN {branch} ELSE {branch} END"
    row = {"s": "1", "t": "1", "n": 0, "x": 0.0, "b": None}
    filters_lose_what_halving_finds(text, [row | {"t": t} for t in ["1", "abc", "abc", "abc", "abc", ""]])


def filters_lose_what_halving_finds(text: str, rows: list[dict[str, Any]]) -> None:
    step, frame = FilterStep("t", compiled(text)), frame_of(rows, [1])

    done, dead = apply_steps((step,), frame)

    halved, expected = by_halving(step, frame)
    assert [each.row for each in dead] == sorted(expected)
    assert done.equals(halved)


BAD_ROWS = 20_000
IN_TIME_S = 2.0  # halving takes half a millisecond a row: 10 s


@pytest.mark.parametrize(
    "texts",
    [
        ["CAST(s AS BIGINT)"],
        ["CAST(s AS BIGINT)", "CAST(t AS DOUBLE) + n"],
        ["CASE WHEN n > 0 THEN CAST(s AS BIGINT) ELSE 0 END"],
        ["EXTRACT(day FROM STRPTIME(s, '%Y-%m-%d'))"],
    ],
)
def test_a_batch_of_bad_rows_is_no_matter_of_seconds(texts: list[str]) -> None:
    step = DeriveStep("t", tuple(compiled(text).alias(f"d{number}") for number, text in enumerate(texts)))
    rows = [{"s": f"no {n}" if n % 10 else "", "t": "x", "n": n % 3 + 1, "x": 0.0, "b": None} for n in range(BAD_ROWS)]

    begin_s = time.process_time()
    done, dead = apply_steps((step,), frame_of(rows, [1]))

    assert (len(done), len(dead)) == (0, BAD_ROWS)
    assert time.process_time() - begin_s < IN_TIME_S
