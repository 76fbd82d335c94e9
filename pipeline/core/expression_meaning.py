"""Where the SQL of polars means something else than SQL: rewritten to SQL's meaning, or refused by name.

Invariant: what passes here and is not named in docs/expressions.md gives what DuckDB gives, nulls included
(tests/core/test_expression_meaning.py). A difference that only a null shows would drop events without a word.
"""

from __future__ import annotations

import re

import polars as pl

from pipeline.core.expression_tree import Node, TreeError, column_names, dtype_of, kind_of, parse_tree, rebuild

# polars reads `x IS TRUE` as `x = TRUE`, which is null for null; both parse to the same form, so the text decides.
_IS_TRUTH = re.compile(r"\bIS\s+(NOT\s+)?(TRUE|FALSE)\b", re.IGNORECASE)
_INSTEAD = {
    (False, "TRUE"): "COALESCE(x, FALSE)",
    (True, "TRUE"): "NOT COALESCE(x, FALSE)",
    (False, "FALSE"): "NOT COALESCE(x, TRUE)",
    (True, "FALSE"): "COALESCE(x, TRUE)",
}
_LOG = re.compile(r"\blog[\"`]?\s*\(", re.IGNORECASE)
_LOG_ORDER = "LOG(a, b) has its base first in some databases and last in others. Write LN(x), LOG10(x) or LOG2(x)."
_FIND = (
    "STRPOS and POSITION are not possible here: they would count bytes, read the text as a pattern, and give 0 for "
    "null. Write x LIKE '%text%', STARTS_WITH(x, 'text') or SPLIT_PART(x, 'text', 1)."
)
_DISTINCT = (
    "IS DISTINCT FROM takes everything after it, AND and OR too. Put it in brackets: (x IS DISTINCT FROM y) AND …"
)
_VALIDITY = {"EqValidity", "NotEqValidity"}
_DIVIDE = {"Sql": {"Binary": "Div"}}
_LOGICAL = {"And", "Or"}


def check_text(bare: str) -> None:
    """Refuse what only the text shows; `bare` has no literals and no comments.

    Raises:
        TreeError: the text would mean something else than in SQL.
    """
    if (found := _IS_TRUTH.search(bare)) is not None:
        negated, word = found[1] is not None, found[2].upper()
        said = f"IS {'NOT ' if negated else ''}{word}"
        raise TreeError(f"`x {said}` would be null for null here. Write {_INSTEAD[negated, word]}.")
    if _LOG.search(bare) is not None:
        raise TreeError(_LOG_ORDER)


def to_sql_meaning(node: Node, empty: pl.DataFrame) -> Node:
    """Return the tree with halves rounded away from zero, and divisions that are divisions.

    Raises:
        TreeError: it holds what would mean something else than in SQL.
    """
    kind, content = kind_of(node)
    if kind == "BinaryExpr" and content["op"] in _VALIDITY and _is_logical(content["right"]):
        raise TreeError(_DISTINCT)
    if kind == "Function" and _is_find(content["function"]):
        raise TreeError(_FIND)
    if kind == "Eval":
        return node  # its inner expression is over list elements, which `empty` has no column for
    same = rebuild(kind, content, lambda child: to_sql_meaning(child, empty))
    if kind == "Function" and content["function"] == _DIVIDE:
        return _divided(same)
    if kind == "Function" and (decimals := _rounded_to(content["function"])) is not None:
        return _round_half_away(same, decimals, empty)
    return same


def _is_logical(node: Node) -> bool:
    kind, content = kind_of(node)
    return kind == "BinaryExpr" and content["op"] in _LOGICAL


def _is_find(function: Node) -> bool:
    string = function.get("StringExpr") if isinstance(function, dict) else None
    return isinstance(string, dict) and "Find" in string


def _divided(node: Node) -> Node:
    """A division whose divisor polars cannot take for a constant.

    By a constant it multiplies with the reciprocal, unless there is one row only: x / 7 had other bits in a batch of
    one, and neither IEEE's nor SQL's in the others.
    """
    dividend, divisor = node["Function"]["input"]
    columns = sorted(column_names(dividend))
    if not columns or column_names(divisor):
        return node
    zero = parse_tree(pl.col(columns[0]).is_null().cast(pl.Float64) * 0.0)
    varying = {"BinaryExpr": {"left": divisor, "op": "Plus", "right": zero}}
    return {"Function": node["Function"] | {"input": [dividend, varying]}}


def _rounded_to(function: Node) -> int | None:
    """The number of decimals where `function` is SQL's ROUND, which polars rounds to even: ROUND(2.5) was 2."""
    sql = function.get("Sql") if isinstance(function, dict) else None
    decimals = sql["Round"]["decimals"] if isinstance(sql, dict) and "Round" in sql else None
    return decimals if isinstance(decimals, int) else None


def _round_half_away(node: Node, decimals: int, empty: pl.DataFrame) -> Node:
    dtype = dtype_of(node, empty)
    if dtype is None or not dtype.is_float():
        return node
    rounding = {"Round": {"decimals": decimals, "mode": "HalfAwayFromZero"}}
    return {"Function": {**node["Function"], "function": rounding}}
