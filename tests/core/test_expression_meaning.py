"""Every operator against DuckDB, null by null: equal, or refused, or docs/expressions.md says how it differs."""

from __future__ import annotations

import math
from datetime import date, datetime
from decimal import Decimal
from itertools import product
from pathlib import Path

import duckdb
import polars as pl
import pytest

from pipeline.core.expressions import ExpressionError, compile_expression

PAGE = Path(__file__).resolve().parents[2] / "docs/expressions.md"
COLUMNS: dict[str, pl.DataType] = {
    "b": pl.Boolean(),
    "d": pl.Boolean(),
    "i": pl.Int64(),
    "j": pl.Int64(),
    "f": pl.Float64(),
    "s": pl.String(),
    "t": pl.String(),
    "ts": pl.Datetime("ms"),
}
TIMES = [datetime(2026, 5, 17, 23, 30, 15, 123_000), datetime(1969, 12, 31, 23, 59, 59, 999_000), None]
FLOATS = [-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.125, 1.005, None]
STRINGS = ["", "a", "A/b/c", "12", " 12 ", "abc", "true", "x%y_z", "été", "-5", None]
# Every pair of what one expression combines: all of (b, d), of (i, j) and of (s, t); floats and times in turn.
PAIRS = list(
    zip(
        list(product([True, False, None], [True, False, None])) * 8,
        list(product([-7, -3, 0, 2, 3, 7, None], [2, -2, 3, None])) * 3,
        list(product(STRINGS, ["/", "a", "%", None])) * 2,
        strict=False,
    )
)
ROWS = [
    (*bools, *ints, FLOATS[n % len(FLOATS)], *texts, TIMES[n % len(TIMES)])
    for n, (bools, ints, texts) in enumerate(PAIRS)
]
EVENTS = pl.DataFrame(ROWS, schema=COLUMNS, orient="row")

EQUAL = [
    *("NOT b", "b AND d", "b OR d", "b AND NOT d", "NOT b OR d", "NOT b AND d", "b OR d AND NOT b", "NULL AND b"),
    *("b = d", "b <> d", "NOT b = d", "b IS NULL", "b IS NOT NULL", "NOT i IS NULL"),
    *("COALESCE(b, FALSE)", "NOT COALESCE(b, FALSE)", "NOT COALESCE(b, TRUE)", "COALESCE(b, TRUE)"),
    *("i = j", "i <> j", "i != j", "i < j", "i >= j", "i = NULL", "i <> NULL", "s = t", "s <> t", "s < t"),
    *("i IS DISTINCT FROM j", "i IS NOT DISTINCT FROM j", "(i IS DISTINCT FROM j) AND b"),
    *("i IN (2, 7)", "i IN (2, NULL)", "i NOT IN (2, 7)", "i NOT IN (2, NULL)", "NOT i IN (2, 7)", "i IN (j, 2)"),
    *("f IN (1.5, NULL)", "f NOT IN (1.5)", "s IN ('a', 'abc')", "s NOT IN ('a', NULL)"),
    *("i BETWEEN -3 AND 2", "i NOT BETWEEN -3 AND 2", "i BETWEEN j AND 7", "i NOT BETWEEN j AND 7"),
    *("i BETWEEN 7 AND 2", "i BETWEEN NULL AND 2", "i NOT BETWEEN NULL AND 2", "i BETWEEN 1 AND 3 + 4"),
    *("CASE WHEN b THEN 1 ELSE 0 END", "CASE WHEN b THEN 1 END", "CASE WHEN b THEN 1 WHEN d THEN 2 ELSE 3 END"),
    *("CASE i WHEN 2 THEN 'two' WHEN NULL THEN 'null' ELSE 'other' END", "CASE b WHEN TRUE THEN 1 ELSE 0 END"),
    *("CASE WHEN i > j THEN s ELSE t END", "CASE WHEN b THEN i ELSE f END"),
    *("COALESCE(i, j, 0)", "COALESCE(s, t)", "NULLIF(i, 2)", "NULLIF(i, j)", "GREATEST(i, j)", "LEAST(i, f)"),
    *("s LIKE 'a%'", "s NOT LIKE 'a%'", "s ILIKE 'A%'", "s NOT ILIKE 'A%'", "s LIKE '_t_'", "s LIKE 'x%y_z'"),
    *("s LIKE ''", "s LIKE '%'", "s LIKE 'x.y'", "s LIKE '%/%'", "s ILIKE 'ÉT_'", "NOT s LIKE 'a%'", "s ~ '^a'"),
    *("s || t", "s || 'x'", "s || i", "CONCAT(s, t)", "CONCAT(s, NULL)", "CONCAT_WS('-', s, t)"),
    *("i / j", "i // j", "i % j", "i / 2", "i // 2", "i // -2", "i % 2", "i % -2", "-7 // 2", "-7 % 2", "MOD(i, j)"),
    *("i / 0", "f / 0", "f % 1", "f % -1", "-i", "-i + j", "i - j - 2", "i * 3 % 2", "i * 2 / 4", "i + NULL"),
    *("ROUND(f)", "ROUND(-f)", "ROUND(f, 1)", "ROUND(f, 2)", "ROUND(f * 100)", "ROUND(i)", "ROUND(i / 2)"),
    *("ROUND(CAST(i AS DOUBLE) / 4, 1)", "CEIL(f)", "FLOOR(f)", "ABS(f)", "SIGN(i)", "LN(ABS(f))", "LOG2(ABS(f))"),
    *("SPLIT_PART(s, '/', 1)", "SPLIT_PART(s, '/', 2)", "SPLIT_PART(s, '/', 9)", "SPLIT_PART(s, '/', -1)"),
    *("SPLIT_PART(s, '/', -9)", "SPLIT_PART(s, 'b', 2)", "LENGTH(s)", "LOWER(s)", "UPPER(s)", "TRIM(s)"),
    *("LEFT(s, 2)", "RIGHT(s, 2)", "SUBSTR(s, 2)", "SUBSTR(s, 2, 2)", "SUBSTRING(s FROM 2 FOR 2)"),
    *("REPLACE(s, 'a', 'b')", "REPLACE(s, '.', '#')", "STARTS_WITH(s, t)", "ENDS_WITH(s, 'c')", "REVERSE(s)"),
    *("TRY_CAST(SPLIT_PART(s, '/', 2) AS BIGINT)", "CAST(i AS VARCHAR)", "CAST(i AS DOUBLE)", "CAST(b AS BIGINT)"),
    *("CAST(i AS BOOLEAN)", "CAST(b AS VARCHAR)", "CAST(ROUND(f) AS BIGINT)", "CAST(ts AS DATE)"),
    *("EXTRACT(hour FROM ts)", "EXTRACT(dow FROM ts)", "EXTRACT(epoch FROM ts)", "EXTRACT(week FROM ts)"),
    *("ts > TIMESTAMP '2000-01-01 00:00:00'", "ts = TIMESTAMP '1969-12-31 23:59:59.999'"),
    *("ts + INTERVAL '1 month'", "STRFTIME(ts, '%Y-%m-%d')"),
]

REFUSED = {
    "b IS TRUE": "Write COALESCE(x, FALSE).",
    "b IS NOT TRUE": "Write NOT COALESCE(x, FALSE).",
    "b is false": "Write NOT COALESCE(x, TRUE).",
    "(i > j) IS/* */ NOT\nFALSE": "Write COALESCE(x, TRUE).",
    "i IS DISTINCT FROM j AND b": "Put it in brackets",
    "i IS NOT DISTINCT FROM j OR b": "Put it in brackets",
    "STRPOS(s, '.')": "Write x LIKE '%text%'",
    "POSITION('b' IN s)": "Write x LIKE '%text%'",
    "LOG(f, 2)": "Write LN(x), LOG10(x) or LOG2(x)",
    "s LIKE t": "pattern must be a string literal",
    "i = '2'": "cannot compare string with numeric type",
    "i ^ 2": "not currently supported",
}

# What is accepted and differs: each stands in docs/expressions.md, with what it gives here.
DIFFERENT: dict[str, tuple[dict[str, object], object]] = {
    "ABS(i)": ({"i": -(2**63)}, -(2**63)),
    "UPPER(s)": ({"s": "ß"}, "SS"),
    "LOWER(s)": ({"s": "İ"}, "i\u0307"),
    "i // j": ({"i": 7, "j": 0}, None),
    "i % j": ({"i": 7, "j": 0}, None),
    "f // 2": ({"f": 2.5}, 1),
    "CAST(f AS BIGINT)": ({"f": 1.5}, 1),
    "TRY_CAST(s AS BIGINT)": ({"s": " 12 "}, None),
    "TRY_CAST(s AS DOUBLE)": ({"s": " 12 "}, None),
    "CAST(f AS VARCHAR)": ({"f": 5e-6}, "5e-6"),
    "CAST(ts AS BIGINT)": ({"ts": datetime(1970, 1, 1, 0, 0, 1)}, 1_000),
    "SPLIT_PART(s, t, 1)": ({"s": "a", "t": None}, ""),
    "SPLIT_PART(s, '/', j)": ({"s": "a", "j": None}, ""),
    "LEFT(s, 0)": ({"s": None}, ""),
    "LEFT(s, i)": ({"s": "abc", "i": None}, "abc"),
    "SUBSTR(s, -1)": ({"s": "abc"}, "abc"),
    "REPLACE(s, '', 'x')": ({"s": "a"}, "xax"),
    "i + j": ({"i": 2**63 - 1, "j": 1}, -(2**63)),
}


@pytest.mark.parametrize("text", EQUAL)
def test_an_expression_gives_what_duckdb_gives_for_every_combination_with_null(text: str) -> None:
    ours = EVENTS.with_columns(compile_expression(text, COLUMNS).expr.alias("answer"))["answer"].to_list()

    differences = [
        (row, here, there)
        for row, here, there in zip(EVENTS.to_dicts(), ours, duck(text, EVENTS), strict=True)
        if not same(here, there)
    ]

    assert differences[:3] == []


@pytest.mark.parametrize(("text", "way_out"), REFUSED.items())
def test_what_would_mean_something_else_than_in_sql_is_refused_with_the_way_out(text: str, way_out: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, COLUMNS)

    assert way_out in str(caught.value)


@pytest.mark.parametrize(("text", "example"), DIFFERENT.items())
def test_what_is_accepted_and_differs_is_in_the_docs(text: str, example: tuple[dict[str, object], object]) -> None:
    event, answer = example
    frame = pl.DataFrame({name: [event.get(name)] for name in COLUMNS}, schema=COLUMNS)

    here = frame.with_columns(compile_expression(text, COLUMNS).expr.alias("answer"))["answer"].to_list()

    assert here == [answer]
    assert f"`{text}`" in PAGE.read_text("utf-8")
    try:
        there = duck(text, frame)
    except duckdb.Error:
        return  # an error there is a difference too
    assert not same(answer, there[0])


def test_what_is_quoted_is_no_operator() -> None:
    assert compile_expression("s = 'x IS TRUE' OR s = 'log('", COLUMNS).dtype == pl.Boolean()


def duck(text: str, events: pl.DataFrame) -> list[object]:
    with duckdb.connect() as connection:
        connection.register("events", events.with_row_index("row_number").to_arrow())
        rows = connection.execute(f"SELECT {text} FROM events ORDER BY row_number").fetchall()
    return [canonical(value) for (value,) in rows]


def canonical(value: object) -> object:
    """Return a value of DuckDB as a field of ours holds it: dates are midnights, decimals floats, infinity null."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day)
    if isinstance(value, Decimal):
        return float(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def same(here: object, there: object) -> bool:
    if isinstance(here, bool) or isinstance(there, bool) or here is None or there is None:
        return here is there
    if isinstance(here, int | float) and isinstance(there, int | float):
        return math.isclose(here, there, rel_tol=1e-12)
    return here == there
