"""A row's expressions give the same bits whatever rows are computed beside it: else batch cuts would change numbers."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.expressions import compile_expression
from tests.laws.logs import floats, law

COLUMNS: dict[str, pl.DataType] = {"v": pl.Float64(), "k": pl.Int64(), "text": pl.String()}
rows = st.fixed_dictionaries(
    {
        "v": floats | st.none(),
        "k": st.integers(-(2**31), 2**31) | st.none(),
        "text": st.sampled_from(["", "a", "1.5", "ü/b", None]),
    }
)


@pytest.mark.parametrize(
    "text",
    [
        "v / 3",
        "k / 7",
        "v / (1 + 2)",
        "v / 3 / 7",
        "v / k",
        "3 / v",
        "v * 0.1 + k",
        "v % 0.7",
        "k % 7",
        "k // 7",
        "ROUND(v * 0.1, 2)",
        "ABS(v) - v",
        "SQRT(ABS(v))",
        "CASE WHEN v > 1 THEN v ELSE k END",
        "COALESCE(v, k, 0)",
        "SPLIT_PART(text, '/', 2)",
        "TRY_CAST(text AS DOUBLE)",
        "k IN (1, 2, 3) OR v IS NULL",
    ],
)
def test_a_row_alone_gives_what_it_gives_among_others(text: str) -> None:
    expression = compile_expression(text, COLUMNS).expr.alias("x")

    @settings(law, max_examples=40)  # inside a test: no run asks for it by name
    @given(events=st.lists(rows, min_size=1, max_size=9))
    def holds(events: list[dict[str, Any]]) -> None:
        frame = pl.DataFrame(events, schema=COLUMNS)
        together = frame.select(expression)["x"].to_list()
        alone = [frame[at : at + 1].select(expression)["x"].to_list()[0] for at in range(len(frame))]
        assert list(map(repr, alone)) == list(map(repr, together))

    holds()
