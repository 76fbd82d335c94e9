"""The rows that an expression fails on, found column-wise: what a cast made null that was not null did not convert.

    CASE WHEN n > 0 THEN CAST(s AS BIGINT) ELSE 0 END        s is given, and TRY_CAST(s AS BIGINT) is null, where n > 0
                         └ may fail, for the rows of its branch

One look finds what halving finds with an evaluation a row (10,000 bad rows: 5 s). What fails otherwise is not found:
the caller computes the rows that are left strictly, and halves them where that fails too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import polars as pl
from polars.exceptions import PolarsError

from pipeline.core.expression_tree import Node, TreeError, kind_of, parse_tree, rebuild, to_expr

MAX_VALUE_LENGTH = 60  # of a value that is shown in a message
PROVED = 4  # of the rows that one conversion fails on, which are computed alone before all of them are believed

_SQL_NAMES = {
    "Int8": "TINYINT",
    "Int16": "SMALLINT",
    "Int32": "INT",
    "Int64": "BIGINT",
    "Float32": "REAL",
    "Float64": "DOUBLE",
    "Boolean": "BOOLEAN",
    "String": "VARCHAR",
    "Date": "DATE",
    "Datetime": "TIMESTAMP",
    "Decimal": "DECIMAL",
    "Time": "TIME",
}


@dataclass(frozen=True, slots=True)
class Probe:
    """One conversion in an expression: TRUE in `failed` where it does not convert `value` to what `wanted` names."""

    failed: pl.Expr
    value: pl.Expr
    wanted: str


def failing_rows(exprs: Sequence[pl.Expr], frame: pl.DataFrame) -> dict[int, tuple[int, str]]:
    """The rows of a frame that some conversion fails on: place → (number of the first such expression, why).

    Empty where nothing was found, or where it cannot be told without computing each row alone.
    """
    found: dict[int, tuple[int, str]] = {}
    for number, expr in enumerate(exprs):
        for probe in _probes(expr.meta.serialize()):
            try:
                failed = frame.select(pl.first().is_null().alias("_"), probe.failed.fill_null(False).alias("failed"))
                places = failed["failed"].arg_true().to_list()
                values = frame[places].select(pl.first().alias("_"), probe.value.alias("value"))["value"].to_list()
            except PolarsError:
                return {}
            new = {
                place: (number, f"cannot read {shown(value)} as {probe.wanted}")
                for place, value in zip(places, values, strict=True)
                if place not in found
            }
            if not _is_proved(expr, frame, list(new)):
                return {}
            found |= new
    return found


def _is_proved(expr: pl.Expr, frame: pl.DataFrame, places: Sequence[int]) -> bool:
    """Whether some of the rows fail alone indeed: a polars that computes less than we think is not to cost events."""
    for place in places[:: max(1, len(places) // PROVED)][:PROVED]:
        try:
            frame[place : place + 1].select(expr.alias("_"))
        except PolarsError:
            continue
        return False
    return True


def shown(value: Any) -> str:
    """A value as a message shows it, bounded."""
    text = value if isinstance(value, str) else str(value)
    cut = text if len(text) <= MAX_VALUE_LENGTH else f"{text[:MAX_VALUE_LENGTH]}…"
    return repr(cut) if isinstance(value, str) else cut


@cache
def _probes(serialized: bytes) -> tuple[Probe, ...]:
    """The conversions of an expression, innermost first; none where polars does not give its form."""
    try:
        return tuple(_found(parse_tree(pl.Expr.deserialize(serialized)), ()))
    except TreeError:
        return ()


def _found(node: Node, active: tuple[Node, ...]) -> Iterator[Probe]:
    """The conversions below a node, `active` being what must be TRUE for its rows to be computed."""
    kind, content = kind_of(node)
    if kind == "Ternary":
        holds = content["predicate"]
        if content["truthy"] == content["falsy"]:  # polars computes the one, and never asks which
            yield from _found(content["truthy"], active)
            return
        yield from _found(holds, active)
        yield from _found(content["truthy"], (*active, holds))
        yield from _found(content["falsy"], (*active, _not(holds)))
        return
    if kind == "Eval":
        return  # over the items of a list
    for child in _children(kind, content):
        yield from _found(child, active)
    if (converted := _conversion(kind, content)) is not None:
        child, wanted = converted
        value, result = to_expr(_lenient(child)), to_expr(_lenient(node))
        failed = value.is_not_null() & result.is_null()
        for condition in active:
            failed = failed & to_expr(_lenient(condition)).fill_null(False)
        yield Probe(failed, value, wanted)


def _children(kind: str, content: Any) -> list[Node]:
    below: list[Node] = []

    def kept(child: Node) -> Node:
        below.append(child)
        return child

    rebuild(kind, content, kept)
    return below


def _not(node: Node) -> Node:
    return parse_tree(~to_expr(_lenient(node)).fill_null(False))


def _conversion(kind: str, content: Any) -> tuple[Node, str] | None:
    """What a node converts, and to what; None where it is no conversion that fails on values."""
    if kind == "Cast" and content["options"] == "Strict":
        return content["expr"], _sql_name(content["dtype"])
    if kind == "Function" and (asked := _strptime(content["function"])) is not None and asked[1]["format"] is not None:
        dtype, options = asked
        return content["input"][0], f"{_sql_name(dtype)} by the format {options['format']!r}"
    return None


def _strptime(function: Node) -> tuple[Node, Mapping[str, Any]] | None:
    string = function.get("StringExpr") if isinstance(function, dict) else None
    asked = string.get("Strptime") if isinstance(string, dict) else None
    return (asked[0], asked[1]) if asked is not None and asked[1]["strict"] else None


def _lenient(node: Node) -> Node:
    """The same expression, null where it would fail to convert."""
    kind, content = kind_of(node)
    if kind == "Eval":
        return node
    same = rebuild(kind, content, _lenient)
    if kind == "Cast":
        return {kind: {**same[kind], "options": "NonStrict"}} if content["options"] == "Strict" else same
    if kind == "Function" and (asked := _strptime(content["function"])) is not None:
        dtype, options = asked
        return {kind: {**same[kind], "function": {"StringExpr": {"Strptime": [dtype, {**options, "strict": False}]}}}}
    return same


def _sql_name(dtype: Node) -> str:
    """What SQL calls a type; the literal form holds its name, or its name and its parameters."""
    named = dtype.get("Literal") if isinstance(dtype, dict) else dtype
    name = next(iter(named)) if isinstance(named, dict) else named
    return _SQL_NAMES.get(name, str(name).upper()) if isinstance(name, str) else "another type"
