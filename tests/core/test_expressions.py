"""SQL expressions: what they give, and what is refused before any event arrives."""

from __future__ import annotations

from datetime import datetime

import polars as pl
import pytest

from pipeline.core.expressions import ExpressionError, compile_expression, compile_filter, plausible_frame

TIMESTAMP = pl.Datetime("ms")
COLUMNS: dict[str, pl.DataType] = {
    "ts": TIMESTAMP,
    "status": pl.Int64(),
    "load_ms": pl.Float64(),
    "page": pl.String(),
    "agent": pl.String(),
    "ok": pl.Boolean(),
    "sizes": pl.List(pl.Float64()),
}
EVENTS = pl.DataFrame(
    {
        "ts": [datetime(2026, 5, 17, 23, 30), datetime(1969, 12, 31, 23, 0)],
        "status": [200, 2**62],
        "load_ms": [0.5, -20.0],
        "page": ["/docs/install", "x"],
        "agent": ["Googlebot", None],
        "ok": [True, False],
        "sizes": [[1.0, 2.0], []],
    },
    schema=COLUMNS,
)

ROW_WISE: list[tuple[str, pl.DataType, list[object]]] = [
    ("SPLIT_PART(page, '/', 2)", pl.String(), ["docs", ""]),
    ("agent NOT ILIKE '%bot%'", pl.Boolean(), [False, None]),
    ("COALESCE(agent, '') NOT ILIKE '%bot%'", pl.Boolean(), [False, True]),
    ("status IN (200, 304)", pl.Boolean(), [True, False]),
    ("CASE WHEN status >= 500 THEN 'error' ELSE 'fine' END", pl.String(), ["fine", "error"]),
    ("status / 200", pl.Float64(), [1.0, 2**62 / 200]),
    ("load_ms / 0", pl.Float64(), [None, None]),
    ("ROUND(load_ms * 1.25, 1)", pl.Float64(), [0.6, -25.0]),
    ("load_ms = 0.5", pl.Boolean(), [True, False]),
    ("EXTRACT(hour FROM ts) * 60 + EXTRACT(minute FROM ts)", pl.Int64(), [1410, 1380]),
    ("POWER(EXTRACT(hour FROM ts), 2)", pl.Int64(), [529, 529]),
    ("LENGTH(page) - 10", pl.Int64(), [3, -9]),
    ("CAST(status AS INT)", pl.Int64(), [200, 2**62]),
    ("CAST(ts AS DATE)", TIMESTAMP, [datetime(2026, 5, 17), datetime(1969, 12, 31)]),
    ("ts > TIMESTAMP '2000-01-01 00:00:00'", pl.Boolean(), [True, False]),
    ("sizes[1]", pl.Float64(), [1.0, None]),
    ("ARRAY_SUM(sizes)", pl.Float64(), [3.0, 0.0]),
    ("page || ':' || status", pl.String(), ["/docs/install:200", f"x:{2**62}"]),
    ("TRY_CAST(page AS BIGINT)", pl.Int64(), [None, None]),
    ("REGEXP_LIKE(page, '^/docs')", pl.Boolean(), [True, False]),
    ("page = 'now()' OR page = 'it''s SELECT'", pl.Boolean(), [False, False]),
    ("1", pl.Int64(), [1, 1]),
]


@pytest.mark.parametrize(("text", "dtype", "values"), ROW_WISE)
def test_an_expression_gives_one_canonical_value_per_event(text: str, dtype: pl.DataType, values: list[object]) -> None:
    expression = compile_expression(text, COLUMNS)

    column = EVENTS.with_columns(expression.expr.alias("answer"))["answer"]

    assert expression.dtype == dtype
    assert column.dtype == dtype
    assert column.to_list() == values


@pytest.mark.parametrize("text", [text for text, _, _ in ROW_WISE])
def test_an_answer_does_not_depend_on_how_the_batch_is_cut(text: str) -> None:
    expression = compile_expression(text, COLUMNS).expr.alias("answer")
    frame = plausible_frame(COLUMNS)

    whole = frame.with_columns(expression)["answer"]
    cut = pl.concat([part.with_columns(expression)["answer"] for part in frame.iter_slices(2)])

    assert whole.equals(cut, null_equal=True)


def test_an_expression_says_which_columns_it_reads() -> None:
    assert compile_expression("status >= 500 AND page LIKE '/a%'", COLUMNS).names == {"status", "page"}


REFUSED = [
    ("sum(status) > 3", "aggregates are not possible"),
    ("status - MAX(status)", "aggregates are not possible"),
    ("COALESCE(status, MAX(status))", "aggregates are not possible"),
    ("COUNT(*)", "aggregates are not possible"),
    ("FIRST(status)", "aggregates are not possible"),
    ("ROW_NUMBER()", "aggregates are not possible"),
    ("STDDEV(load_ms)", "aggregates are not possible"),
    ("CORR(status, load_ms)", "depends on several"),
    ("LAG(status) OVER (ORDER BY ts)", "window functions are not possible"),
    ("RANK() OVER (ORDER BY ts)", "not possible"),
    ("UNNEST(sizes)", "UNNEST"),
    ('"^.*$"', "patterns"),
    ("COLUMNS('s.*')", "patterns"),
    ("status IN (SELECT 1)", "subqueries"),
    ("EXISTS(SELECT 1)", "subqueries"),
    ("status = ALL(SELECT 1)", "subqueries"),
    ("ts > NOW()", "NOW is not possible"),
    ("ts > now ( )", "now is not possible"),
    ("ts > CURRENT_TIMESTAMP", "CURRENT_TIMESTAMP is not possible"),
    ("CAST(ts AS DATE) = current_date", "current_date is not possible"),
    ("ts > LOCALTIMESTAMP", "LOCALTIMESTAMP is not possible"),
    ("ts > now/**/()", "now is not possible"),
    ("ts > now -- x\n()", "now is not possible"),
    ('ts > "now"()', "now is not possible"),
    ('ts > "localtimestamp" ()', "localtimestamp is not possible"),
    ("ts > {fn now()}", "now is not possible"),
    ("/* ' */ ts > now() /* ' */", "now is not possible"),
    ("RANDOM() > 0.5", "unsupported function 'random'"),
    ("read_csv('/etc/passwd')", "unsupported function 'read_csv'"),
    ("stauts >= 500", "unknown field 'stauts'. Did you mean 'status'?"),
    ("STATUS >= 500", "unknown field 'STATUS'. Did you mean 'status'?"),
    ("zzz", "unknown field 'zzz'. There are: ts, status"),
    ("status = page", "cannot compare string with numeric type"),
    ("ts > '2026-05-17'", "TIMESTAMP '2026-05-17 00:00:00'"),
    ("CAST(page AS TIMESTAMP)", "STRPTIME"),
    ("REGEXP_LIKE(page, '(')", "unclosed group"),
    ("ts - ts", "gives a duration"),
    ("CAST(ts AS TIME)", "gives time"),
    ("CAST(page AS BINARY)", "gives binary"),
    ("NULL", "always null"),
    ("page.x", "no field has a part named 'x'"),
    ("", "not a SQL expression"),
    ("status >", "not a SQL expression"),
    ("status; page", "not a SQL expression"),
    ("status FROM read_csv('x')", "not a SQL expression"),
    ("(" * 900 + "status" + ")" * 900, "not a SQL expression"),
    ("+".join(["status"] * 500), "nested more than"),
    ("status = " + "1" * 4_000, "characters long"),
]


@pytest.mark.parametrize(("text", "reason"), REFUSED, ids=[text[:40] for text, _ in REFUSED])
def test_what_cannot_be_computed_per_event_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, COLUMNS)

    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_field_may_have_the_name_of_a_word_that_is_refused_as_code() -> None:
    columns = {"now": TIMESTAMP, "select": pl.Int64(), "current_date": TIMESTAMP}

    assert compile_expression("now > TIMESTAMP '2000-01-01'", columns).names == {"now"}
    assert compile_expression('"select" > 1 AND "current_date" = now', columns).names == columns.keys()


def test_a_filter_must_be_true_or_false() -> None:
    with pytest.raises(ExpressionError, match="must be true or false, and this one gives int"):
        compile_filter("status + 1", COLUMNS)


def test_a_value_that_does_not_convert_is_not_a_fault_of_the_expression() -> None:
    cast = compile_expression("CAST(page AS BIGINT)", COLUMNS)
    parsed = compile_expression("STRPTIME(page, '%d/%b/%Y')", COLUMNS)

    assert (cast.dtype, cast.may_fail) == (pl.Int64(), True)
    assert (parsed.dtype, parsed.may_fail) == (TIMESTAMP, True)
    assert not compile_expression("TRY_CAST(page AS BIGINT)", COLUMNS).may_fail
    assert not compile_expression("CAST(status AS DOUBLE)", COLUMNS).may_fail


def test_a_filter_names_the_columns_whose_null_makes_it_null() -> None:
    nullable = ["agent", "status"]

    assert compile_filter("agent NOT ILIKE '%bot%'", COLUMNS).null_from(COLUMNS, nullable) == ("agent",)
    assert compile_filter("COALESCE(agent, '') = ''", COLUMNS).null_from(COLUMNS, nullable) == ()
    assert compile_filter("agent IS NULL", COLUMNS).null_from(COLUMNS, nullable) == ()


def test_the_longest_chain_that_is_allowed_compiles() -> None:
    chain = "+".join(["LENGTH(page)"] * 20)

    assert compile_expression(chain, COLUMNS).dtype == pl.Int64()


@pytest.mark.parametrize("word", ["user", "top"])
def test_a_field_named_as_a_word_of_sql_is_told_to_stand_in_quotes(word: str) -> None:
    with pytest.raises(ExpressionError, match=f"'{word}' is a word of SQL; a field of this name stands in quotes"):
        compile_expression(f"{word} = 'a'", {word: pl.String()})

    assert compile_expression(f"\"{word}\" = 'a'", {word: pl.String()}).dtype == pl.Boolean()


def test_a_function_that_is_not_there_is_not_taken_for_a_field() -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression("nowhere (page)", COLUMNS)

    assert "stands in quotes" not in str(caught.value)


def test_an_expression_is_tried_out_once_for_the_same_columns_and_a_refusal_each_time() -> None:
    columns: dict[str, pl.DataType] = {"v": pl.Float64(), "k": pl.Int64()}
    first = compile_expression("v + k", columns)

    assert compile_expression("v + k", dict(columns)) is first
    assert compile_expression("v + k", {"v": pl.Int64(), "k": pl.Int64()}).dtype == pl.Int64()
    for _ in range(2):
        with pytest.raises(ExpressionError, match="unknown field 'w'"):
            compile_expression("w", columns)
