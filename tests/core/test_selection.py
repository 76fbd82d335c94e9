"""`select` over finished rows: ratios, nulls, and what cannot be computed."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from pipeline.core.expressions import ExpressionError
from pipeline.core.selection import Selection

COLUMNS = {
    "views": "int",
    "visitors": "int",
    "load": "float",
    "page": "string",
    "ok": "bool",
    "seen": "timestamp",
    "pages": "list",
}
ROWS: list[dict[str, Any]] = [
    {"views": 6, "visitors": 4, "load": 0.5, "page": "/a", "ok": True, "seen": 1_431_857_103_001, "pages": [["/a", 6]]},
    {"views": 3, "visitors": 0, "load": None, "page": None, "ok": None, "seen": None, "pages": []},
    {"views": 0, "visitors": 0, "load": -2.0, "page": "12", "ok": False, "seen": -1, "pages": []},
]
ANSWERS = [
    ("views / visitors", "float", [1.5, None, None]),
    ("FLOOR(views / visitors)", "float", [1.0, None, None]),
    ("load * 100", "float", [50.0, None, -200.0]),
    ("views", "float", [6.0, 3.0, 0.0]),
    ("1.0 * 2", "float", [2.0, 2.0, 2.0]),
    ("CASE WHEN visitors = 0 THEN NULL ELSE views / visitors END", "float", [1.5, None, None]),
    ("CASE WHEN views > 5 THEN 'busy' ELSE 'quiet' END", "string", ["busy", "quiet", "quiet"]),
    ("COALESCE(load, 0)", "float", [0.5, 0.0, -2.0]),
    ("COALESCE(page, '') || '!'", "string", ["/a!", "!", "12!"]),
    ("views > 3 AND ok", "bool", [True, False, False]),
    ("seen", "timestamp", [1_431_857_103_001, None, -1]),
    ("EXTRACT(hour FROM seen)", "int", [10, None, 23]),
    ("LN(load + 2)", "float", [pytest.approx(0.9162907), None, None]),
    ("TRY_CAST(page AS BIGINT)", "int", [None, None, 12]),
]


def apply(selection: Selection, rows: list[dict[str, Any]]) -> None:
    """Add the selected values to rows of finished ones."""
    columns = {name: [row[name] for row in rows] for name in selection.columns}
    for name, values in selection.computed(columns, len(rows)).items():
        for row, value in zip(rows, values, strict=True):
            row[name] = value


@pytest.mark.parametrize(("text", "kind", "values"), ANSWERS)
def test_a_select_is_computed_from_the_finished_values_of_each_row(text: str, kind: str, values: list[object]) -> None:
    selection = Selection.compile({"answer": text}, COLUMNS)
    rows = [dict(row) for row in ROWS]

    apply(selection, rows)

    assert selection.types == {"answer": kind}
    assert [row.pop("answer") for row in rows] == values
    assert rows == ROWS  # what they are computed from stays as it is, ints too


@pytest.mark.parametrize(("text", "kind", "values"), ANSWERS)
def test_a_row_alone_has_the_same_answer(text: str, kind: str, values: list[object]) -> None:
    selection = Selection.compile({"answer": text}, COLUMNS)
    rows = [dict(row) for row in ROWS]

    for row in rows:
        apply(selection, [row])

    assert [row["answer"] for row in rows] == values


def test_several_selects_are_added_in_their_order_and_do_not_see_one_another() -> None:
    selection = Selection.compile({"b": "views + 1", "a": "views * 2"}, COLUMNS)
    rows: list[dict[str, Any]] = [{"views": 1}]

    apply(selection, rows)

    assert list(rows[0].items()) == [("views", 1), ("b", 2.0), ("a", 2.0)]
    with pytest.raises(ExpressionError, match="unknown field 'b'"):
        Selection.compile({"b": "views + 1", "a": "b * 2"}, COLUMNS)


def test_sums_beyond_64_bits_and_beyond_float64_are_computed_with_or_null() -> None:
    selection = Selection.compile({"half": "views / 2"}, COLUMNS)
    rows: list[dict[str, Any]] = [{"views": 2**80}, {"views": -(2**64)}, {"views": 10**400}, {"views": None}]

    apply(selection, rows)

    assert [row["half"] for row in rows] == [2.0**79, -(2.0**63), None, None]


def test_what_leaves_float64_is_null() -> None:
    selection = Selection.compile({"huge": "load * 1e300"}, COLUMNS)
    rows = [{"load": 1e300}, {"load": 2.0}]

    apply(selection, rows)

    assert [row["huge"] for row in rows] == [None, 2e300]


def test_a_row_that_fails_is_null_and_the_others_are_not() -> None:
    """No text is known that passes the check and fails on a value; if polars has one, results must not stop for it."""
    selection = Selection.compile({"n": "LENGTH(page)"}, COLUMNS)
    expression = selection.expressions["n"]
    strict = pl.col("page").cast(pl.Int64)
    object.__setattr__(expression, "expr", strict)
    rows: list[dict[str, Any]] = [{"page": text} for text in ("1", "x", "3", None, "y", "6", "7")]

    apply(selection, rows)

    assert [row["n"] for row in rows] == [1, None, 3, None, None, 6, 7]


def test_nothing_selected_and_no_rows_change_nothing() -> None:
    rows: list[dict[str, Any]] = [{"views": 1}]

    apply(Selection.compile({}, COLUMNS), rows)
    apply(Selection.compile({"a": "views"}, COLUMNS), [])

    assert rows == [{"views": 1}]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("pages", "'pages' is a list, and a select computes with single values."),
        ("ARRAY_LENGTH(pages) + views", "'pages' is a list"),
        ("STRING_TO_ARRAY(page, '/')", "must give a single value, and this gives list"),
        (
            "CAST(page AS BIGINT)",
            "fails on values that do not convert, and `//` by 0. Write TRY_CAST, or FLOOR(a / b).",
        ),
        ("views // visitors", "fails on values that do not convert, and `//` by 0."),
        ("visits / views", "unknown field 'visits'. Did you mean 'visitors'?"),
        ("views / page", "division with 'String' datatypes is not allowed"),
        ("SUM(views)", "aggregates are not possible"),
        ("seen - seen", "gives a duration"),
        ("NOW()", "a replay of the same events must give the same answer"),
    ],
)
def test_what_cannot_be_selected_says_why(text: str, sentence: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        Selection.compile({"a": text}, COLUMNS)

    assert sentence in str(caught.value)
