"""The parsed form of an expression: which nodes may stand in it, and where its arithmetic is widened to 64 bits.

Reads the JSON form of `polars.Expr` (stable within the pinned polars). A kind of node that is not listed is refused, so
a polars that learns a new one cannot smuggle it in.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import polars as pl

Node = Any  # a JSON value: {"Kind": content}, or a bare "Len"

_SEVERAL_EVENTS = "are not possible in an expression: it sees one event at a time. Aggregate in a stage with a window."
_ONE_VALUE = "are not possible in an expression: it gives one value for one event."
_REFUSED = {
    "Agg": f"aggregates {_SEVERAL_EVENTS}",
    "Len": f"aggregates {_SEVERAL_EVENTS}",
    "Over": f"window functions {_SEVERAL_EVENTS}",
    "Rolling": f"window functions {_SEVERAL_EVENTS}",
    "Explode": f"functions that make several rows of one (UNNEST) {_ONE_VALUE}",
    "Selector": f"patterns that match several fields {_ONE_VALUE}",
}
MAX_DEPTH = 40  # of nested operations (a chain of 40 additions is one too): polars reads back 128 levels of JSON
_TOO_DEEP = f"the expression is nested more than {MAX_DEPTH} deep. Split it over several derived fields."
_COMPARISONS = {"Eq", "NotEq", "Lt", "LtEq", "Gt", "GtEq"}
_NULL = {"Literal": {"Scalar": {"Null": "Null"}}}
_WRAPPING_OPERATORS = {"Plus", "Minus", "Multiply"}


class TreeError(ValueError):
    """A node that may not stand in an expression."""


def parse_tree(expr: pl.Expr) -> Node:
    """Return the JSON tree of `expr`.

    Raises:
        TreeError: it holds an aggregate, a window function, a subquery or another node that is not row-wise.
    """
    try:
        tree = json.loads(expr.meta.serialize(format="json"))
    except RecursionError as error:
        raise TreeError(_TOO_DEEP) from error
    for kind, _ in _walk(tree):
        if kind in _REFUSED:
            raise TreeError(_REFUSED[kind])
        if kind not in _CHILDREN:
            raise TreeError(f"this expression holds something that is not possible here ({kind}).")
    return tree


def to_expr(tree: Node) -> pl.Expr:
    """Return the expression of a tree.

    Raises:
        TreeError: polars does not read back so deep a tree.
    """
    try:
        return pl.Expr.deserialize(io.StringIO(json.dumps(tree)), format="json")
    except pl.exceptions.ComputeError as error:
        raise TreeError(_TOO_DEEP) from error


def column_names(tree: Node) -> frozenset[str]:
    return frozenset(content for kind, content in _walk(tree) if kind == "Column")


def compares_with_null(tree: Node) -> bool:
    """True where a comparison has NULL itself on a side, cast or not: its answer is null, whatever the event."""
    comparisons = (content for kind, content in _walk(tree) if kind == "BinaryExpr" and content["op"] in _COMPARISONS)
    return any(_is_null_literal(content[side]) for content in comparisons for side in ("left", "right"))


def _is_null_literal(node: Node) -> bool:
    kind, content = kind_of(node)
    return _is_null_literal(content["expr"]) if kind == "Cast" else node == _NULL


def widen(node: Node, empty: pl.DataFrame) -> Node:
    """Return the tree with decimal literals as float64 and small-integer arithmetic in int64.

    EXTRACT gives 8 bits and LENGTH unsigned 32, and polars wraps silently: `EXTRACT(hour FROM ts) * 60` was -88 at
    14 o'clock, and `LENGTH(s) - 10` of a short text 4,294,967,287.
    """
    kind, content = kind_of(node)
    if kind == "Literal":
        return _cast(node, "Float64") if _is_decimal(node, empty) else node
    if kind == "Eval":
        return node  # its inner expression is over list elements, which `empty` has no column for
    widened = rebuild(kind, content, lambda child: widen(child, empty))
    if kind == "Cast" and content["dtype"] == {"Literal": "Int32"}:
        return {kind: {**widened[kind], "dtype": {"Literal": "Int64"}}}  # an `int` has 64 bits here, CAST or not
    wraps = kind == "Function" or (kind == "BinaryExpr" and content["op"] in _WRAPPING_OPERATORS)
    if wraps and _is_small_integer(widened, empty):
        return rebuild(kind, widened[kind], lambda child: _widen_integer(child, empty))
    return widened


def kind_of(node: Node) -> tuple[str, Any]:
    """Return the kind of a node and its content; a bare node has none."""
    if isinstance(node, str):
        return node, None
    ((kind, content),) = node.items()
    return kind, content


# Where each allowed kind keeps its child expressions: keys of its content, or positions.
_CHILDREN: dict[str, tuple[str | int, ...]] = {
    "Column": (),
    "Literal": (),
    "Element": (),
    "Alias": (0,),
    "Cast": ("expr",),
    "BinaryExpr": ("left", "right"),
    "Ternary": ("predicate", "truthy", "falsy"),
    "Function": ("input",),
    "Eval": ("expr",),
}


def _walk(node: Node, depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > MAX_DEPTH:
        raise TreeError(_TOO_DEEP)
    kind, content = kind_of(node)
    yield kind, content
    for key in _CHILDREN.get(kind, ()):
        child = content[key]
        for each in child if key == "input" else [child]:
            yield from _walk(each, depth + 1)


def rebuild(kind: str, content: Any, change: Callable[[Node], Node]) -> Node:
    """Return the node with `change` applied to its children."""
    if not _CHILDREN[kind]:
        return kind if content is None else {kind: content}
    copy = list(content) if isinstance(content, list) else dict(content)
    for key in _CHILDREN[kind]:
        child = content[key]
        copy[key] = [change(each) for each in child] if key == "input" else change(child)  # type: ignore[index]
    return {kind: copy}


def _cast(node: Node, dtype: str) -> Node:
    return {"Cast": {"expr": node, "dtype": {"Literal": dtype}, "options": "Strict"}}


def _widen_integer(node: Node, empty: pl.DataFrame) -> Node:
    return _cast(node, "Int64") if _is_small_integer(node, empty) else node


def dtype_of(node: Node, empty: pl.DataFrame) -> pl.DataType | None:
    """Return the type of a subtree, or None where it has none: the whole expression then fails, in polars's words."""
    try:
        return empty.select(to_expr(node).alias("_")).dtypes[0]
    except pl.exceptions.PolarsError:
        return None


def _is_decimal(node: Node, empty: pl.DataFrame) -> bool:
    return isinstance(dtype_of(node, empty), pl.Decimal)


def _is_small_integer(node: Node, empty: pl.DataFrame) -> bool:
    dtype = dtype_of(node, empty)
    return dtype is not None and dtype.is_integer() and dtype != pl.Int64
