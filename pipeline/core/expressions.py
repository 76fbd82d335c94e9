"""SQL expressions over one event, checked against the columns before any event arrives.

An expression is row-wise: the same row gives the same answer in any batch, on any day. That is why aggregates, window
functions, subqueries and the clock are refused here. Integers are computed in 64 bits and decimals in float64.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from pipeline.core.column_types import type_text
from pipeline.core.expression_meaning import check_text, to_sql_meaning
from pipeline.core.expression_tree import TreeError, column_names, compares_with_null, parse_tree, to_expr, widen
from pipeline.core.spelling import did_you_mean
from pipeline.errors import StreamgaugeError

MAX_TEXT_LENGTH = 4_000  # of an expression; longer ones are programs, and the SQL parser recurses
KEPT = 1_024  # checked expressions that a process remembers: more than any config we know has
MAX_REASON_LENGTH = 200  # of polars's words: its parser repeats the whole expression

_DATETIME = pl.Datetime("ms")
_WORDS = {"CASE", "WHEN", "THEN", "ELSE", "NOT", "AND", "OR", "LIKE", "ILIKE", "BETWEEN"}
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", re.DOTALL)
_CLOCK_WORDS = r"current_timestamp|current_date|current_time|localtimestamp|localtime"
_CLOCK = re.compile(rf"(?<![\"`])\b({_CLOCK_WORDS})\b|\b(now|{_CLOCK_WORDS})[\"`]?\s*\(", re.IGNORECASE)
_SELECT = re.compile(r"(?<![\"`])\b(?:select|exists)\b", re.IGNORECASE)

_OWN_WORD = re.compile(r"unsupported function '(\w+)'|found '(\w+)' clause")

# What polars says when one *value* does not convert: a property of the data, not of the expression.
_VALUE_ERRORS = ("conversion from `", "could not find an appropriate format", "JSON")

_PLAUSIBLE: dict[pl.DataType, tuple[object, ...]] = {
    pl.String(): ("a", "/b/c?d=1", "12", "2026-05-17 10:05:03", None, ""),
    pl.Int64(): (1, 200, -7, 0, None, 1_431_857_103_000),
    pl.Float64(): (1.5, 20.25, -0.5, 0.0, None, 1e6),
    pl.Boolean(): (True, False, True, True, None, False),
    _DATETIME: (0, 1_431_857_103_000, -1, 86_399_999, None, 1_431_857_103_001),
}


class ExpressionError(StreamgaugeError):
    """An expression that cannot be used; the message says why and what to write instead."""


@dataclass(frozen=True, slots=True)
class Expression:
    """A checked expression: `expr` gives a canonical column of `dtype` from the columns `names`."""

    text: str
    expr: pl.Expr
    dtype: pl.DataType
    names: frozenset[str]
    may_fail: bool  # on a value that does not convert, such as CAST('a' AS BIGINT): that event becomes a dead letter

    def null_from(self, columns: Mapping[str, pl.DataType], nullable: Iterable[str]) -> tuple[str, ...]:
        """Return those of the `nullable` columns whose null alone makes the answer null."""
        full = plausible_frame(columns).head(1)
        asked = sorted(self.names & set(nullable))
        return tuple(name for name in asked if _is_null(full, name, self.expr))


def compile_expression(text: str, columns: Mapping[str, pl.DataType]) -> Expression:
    """Parse and check a SQL expression over `columns` (canonical types).

    The same text over the same columns is tried out once in a process: loading a config, describing it and compiling
    its programs each ask, and trying it out costs 4 to 10 ms.

    Raises:
        ExpressionError: it does not parse, names an unknown column, is not row-wise, or its type is not a field's.
    """
    return _compiled(text, tuple(columns.items()))


@lru_cache(KEPT)
def _compiled(text: str, typed: tuple[tuple[str, pl.DataType], ...]) -> Expression:
    columns = dict(typed)
    tree = _parse(text)
    names = column_names(tree)
    for name in sorted(names - columns.keys()):
        raise ExpressionError(unknown_name(name, columns))
    frame = plausible_frame(columns)
    try:
        empty = frame.clear()
        raw = to_expr(to_sql_meaning(widen(tree, empty), empty))
        dtype, may_fail = _try_out(raw, frame)
    except TreeError as error:
        raise ExpressionError(str(error)) from error
    expr, canonical = _canonical(raw, dtype)
    _check_row_wise(expr, frame)
    return Expression(text, expr, canonical, names, may_fail)


def compile_filter(text: str, columns: Mapping[str, pl.DataType]) -> Expression:
    """Compile an expression that keeps or drops a row: as `compile_expression`, and it must be Boolean."""
    expression = compile_expression(text, columns)
    if expression.dtype != pl.Boolean:
        raise ExpressionError(
            f"a filter must be true or false, and this one gives {type_text(expression.dtype)}. "
            "Compare it with something, such as `... > 0`."
        )
    if compares_with_null(parse_tree(pl.sql_expr(text))):
        raise ExpressionError(
            "a comparison with NULL is null for every event, and so never true. Write x IS NULL or x IS NOT NULL."
        )
    return expression


def expression_names(text: str) -> frozenset[str]:
    """Return the names of fields in an expression, whether there are such fields or not.

    Raises:
        ExpressionError: it does not parse, or is not row-wise.
    """
    return column_names(_parse(text))


def unknown_name(name: str, columns: Iterable[str]) -> str:
    """Say that no field has this name; polars reads what breaks off (`CASE WHEN`) as a field with a new name."""
    if name.upper() in _WORDS:
        return (
            f"'{name}' is a word of SQL, and what follows it is missing or misspelt: CASE WHEN a > 0 THEN 1 ELSE 0 END."
            f' A field of this name stands in quotes: "{name}".'
        )
    return f"unknown field '{name}'.{did_you_mean(name, columns)}"


def plausible_frame(columns: Mapping[str, pl.DataType]) -> pl.DataFrame:
    """Return rows of everyday values, one of them all null, to run an expression on before events exist."""
    series = []
    for name, dtype in columns.items():
        if isinstance(dtype, pl.List):
            inner = dtype.inner if isinstance(dtype.inner, pl.DataType) else dtype.inner()
            values = _PLAUSIBLE[inner]
            pairs = [values[0], values[1]]
            lists: tuple[list[object] | None, ...] = (pairs, [values[2]], [], [None], None, [values[5]])
            series.append(pl.Series(name, lists, dtype=dtype, strict=False))
        else:
            series.append(pl.Series(name, _PLAUSIBLE[dtype], dtype=dtype))
    return pl.DataFrame(series) if series else pl.DataFrame({"": [0] * 6})


def _parse(text: str) -> object:
    if len(text) > MAX_TEXT_LENGTH:
        raise ExpressionError(f"the expression is {len(text)} characters long; at most {MAX_TEXT_LENGTH} are allowed.")
    bare = _QUOTED.sub(_hide, text)
    if _SELECT.search(bare):
        raise ExpressionError("subqueries are not possible in an expression: it sees one event and nothing else.")
    if (clock := _CLOCK.search(bare)) is not None:
        raise ExpressionError(f"{clock[1] or clock[2]} {_NOT_REPEATABLE}")
    try:
        check_text(bare)
        tree = parse_tree(pl.sql_expr(text))
        # The clock is read while parsing, in microseconds: what slipped through the words above differs now.
        if tree != parse_tree(pl.sql_expr(text)):
            raise ExpressionError(f"the clock {_NOT_REPEATABLE}")
        return tree
    except TreeError as error:
        raise ExpressionError(str(error)) from error
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = f"{reason_of(error)}.{_word_hint(str(error), bare)}"
        raise ExpressionError(f"this is not a SQL expression that works here: {reason}") from error


def _word_hint(message: str, bare: str) -> str:
    """SQL has words that fields often have as names, such as user, and reads them as its own."""
    found = _OWN_WORD.search(message)
    word = found[1] or found[2] if found is not None else None
    if word is None or re.search(rf"\b{word}\s*\(", bare, re.IGNORECASE):
        return ""
    return f" '{word}' is a word of SQL; a field of this name stands in quotes: \"{word}\"."


def _hide(quoted: re.Match[str]) -> str:
    """Blank what is no code: comments and string literals. A quoted identifier stays, since it may be called."""
    return {"'": "''", "-": " ", "/": " "}.get(quoted[0][0], quoted[0])


def _try_out(expr: pl.Expr, frame: pl.DataFrame) -> tuple[pl.DataType, bool]:
    """Run on no rows, on nulls, then on everyday values; return the type, and whether one of those did not convert."""
    nulls = pl.DataFrame({name: pl.Series([None], dtype=dtype) for name, dtype in frame.schema.items()})
    dtype = _run(expr, frame.clear()).dtype
    _run(expr, nulls)
    may_fail = False
    for row in frame.iter_slices(1):
        try:
            _run(expr, row)
        except ExpressionError as error:
            if not _is_value_error(error):
                raise
            may_fail = True
    return dtype, may_fail


def _run(expr: pl.Expr, frame: pl.DataFrame) -> pl.Series:
    try:
        return frame.select(expr.alias("_")).to_series()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, TypeError) as error:
        raise ExpressionError(f"{reason_of(error)}.{_hint(str(error))}") from error


def _hint(message: str) -> str:
    if "to a string value" in message:
        return " Write a timestamp as TIMESTAMP '2026-05-17 00:00:00'."
    if "casting from string to date" in message or "string to datetime" in message:
        return " Use STRPTIME(field, '%Y-%m-%d %H:%M:%S')."
    return ""


def _is_value_error(error: ExpressionError) -> bool:
    return any(part in str(error) for part in _VALUE_ERRORS)


def reason_of(error: BaseException) -> str:
    """Return polars's own words in one line of bounded length."""
    text = str(error).split("\n\nThis error occurred", 1)[0].split("\n\nDid you mean", 1)[0]
    line = " ".join(text.split()).rstrip(".")
    if isinstance(error, pl.exceptions.StructFieldNotFoundError):
        return f"no field has a part named '{line}'"
    return line if len(line) <= MAX_REASON_LENGTH else f"{line[:MAX_REASON_LENGTH]}…"


def _canonical(expr: pl.Expr, dtype: pl.DataType) -> tuple[pl.Expr, pl.DataType]:
    """Cast to the one column type that a field of this kind has; what no field can hold is refused by name."""
    if dtype.is_integer():
        return expr.cast(pl.Int64), pl.Int64()
    if dtype.is_float() or dtype.is_decimal():
        number = expr.cast(pl.Float64)
        # Division by zero gives infinity, which no JSON number is and which would stay in a sum for good.
        return pl.when(number.is_finite()).then(number), pl.Float64()
    if isinstance(dtype, (pl.Date, pl.Datetime)):
        return expr.cast(_DATETIME), _DATETIME
    if isinstance(dtype, (pl.Categorical, pl.Enum, pl.String)):
        return expr.cast(pl.String), pl.String()
    if isinstance(dtype, pl.Boolean):
        return expr, dtype
    if isinstance(dtype, pl.List):
        return _canonical_list(expr, dtype)
    raise ExpressionError(_unusable_type(dtype))


def _canonical_list(expr: pl.Expr, dtype: pl.List) -> tuple[pl.Expr, pl.DataType]:
    inner = dtype.inner if isinstance(dtype.inner, pl.DataType) else dtype.inner()
    if isinstance(inner, pl.List):
        raise ExpressionError("this expression gives a list of lists, which no field can hold.")
    canonical = pl.List(_canonical(pl.element(), inner)[1])
    return expr.cast(canonical), canonical


def _unusable_type(dtype: pl.DataType) -> str:
    name = str(dtype.base_type()).lower()
    if isinstance(dtype, pl.Duration):
        return (
            "this expression gives a duration, which no field can hold. "
            "Subtract EXTRACT(EPOCH FROM ...) of the two times instead: that gives seconds."
        )
    if isinstance(dtype, pl.Null):
        return "this expression is always null, so it has no type. Write CAST(NULL AS VARCHAR) or the type you mean."
    return (
        f"this expression gives {name}, which no field can hold. "
        "Cast it to VARCHAR, BIGINT, DOUBLE, BOOLEAN or TIMESTAMP."
    )


def _check_row_wise(expr: pl.Expr, frame: pl.DataFrame) -> None:
    """Refuse an expression whose answer for a row depends on the rows beside it: batches of one against one batch."""
    rows = list(frame.iter_slices(1))
    answers: list[pl.Series] = []
    kept: list[pl.DataFrame] = []
    for row in rows:
        try:
            answers.append(row.with_columns(expr.alias("_"))["_"])
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
            continue  # a value that does not convert, or a length that does not fit: compared below without it
        kept.append(row)
    if not kept:
        return
    try:
        together = pl.concat(kept).with_columns(expr.alias("_"))["_"]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise ExpressionError(_NOT_ROW_WISE) from error
    if not together.equals(pl.concat(answers), check_names=False, null_equal=True):
        raise ExpressionError(_NOT_ROW_WISE)


_NOT_REPEATABLE = "is not possible in an expression: a replay of the same events must give the same answer."
_NOT_ROW_WISE = (
    "an expression sees one event at a time, and this one depends on several. Aggregate in a stage with a window."
)


def _is_null(frame: pl.DataFrame, name: str, expr: pl.Expr) -> bool:
    row = frame.with_columns(pl.lit(None, dtype=frame.schema[name]).alias(name))
    try:
        return row.select(expr.alias("_")).item() is None
    except pl.exceptions.PolarsError:
        return False  # an everyday value does not convert here: nothing is known about nulls
