"""The `select` of a metric: SQL over the finished aggregates of one row, computed on the way out and never stored.

Numbers are float64, and what cannot be computed is null: x / 0, and whatever a null makes null. Since it is computed
from finished values, a ratio over any range of time is the ratio of its totals, not a mean of ratios.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from pipeline.core.column_types import type_text
from pipeline.core.expressions import Expression, ExpressionError, compile_expression, expression_names

_DTYPES: Mapping[str, pl.DataType] = {
    "int": pl.Float64(),
    "float": pl.Float64(),
    "string": pl.String(),
    "bool": pl.Boolean(),
    "timestamp": pl.Datetime("ms"),
}
_ROW = "."  # a column that gives a frame its height; no aggregate has this name


@dataclass(frozen=True, slots=True)
class Selection:
    """The compiled expressions by name, and the finished columns they read."""

    expressions: Mapping[str, Expression]
    columns: Mapping[str, pl.DataType]

    @classmethod
    def compile(cls, select: Mapping[str, str], columns: Mapping[str, str]) -> Selection:
        """Compile name → SQL over the finished aggregates, given as name → config type (`int`, `list`, …).

        Raises:
            ExpressionError: an expression is wrong, reads a list, gives a list, or may fail on a value.
        """
        usable = {name: _DTYPES[kind] for name, kind in columns.items() if kind in _DTYPES}
        lists = frozenset(columns.keys() - usable.keys())
        expressions = {name: _compile(text, usable, lists) for name, text in select.items()}
        read = frozenset().union(*(each.names for each in expressions.values()))
        return cls(expressions, {name: dtype for name, dtype in usable.items() if name in read})

    @property
    def types(self) -> dict[str, str]:
        """Name → config type of each selected value."""
        return {name: type_text(expression.dtype) for name, expression in self.expressions.items()}

    def computed(
        self, columns: Mapping[str, Sequence[Any]], height: int, names: Collection[str] | None = None
    ) -> dict[str, list[Any]]:
        """The selected values (those of `names`) over columns of finished ones, in JSON types; times are epoch ms."""
        wanted = {name: each for name, each in self.expressions.items() if names is None or name in names}
        if not height:
            return {name: [] for name in wanted}
        if not wanted:
            return {}
        read = frozenset().union(*(each.names for each in wanted.values()))
        series = [_series(name, columns[name], dtype) for name, dtype in self.columns.items() if name in read]
        frame = pl.DataFrame([pl.Series(_ROW, range(height)), *series])
        return {name: _json_values(_evaluate(each, frame)) for name, each in wanted.items()}

    def needs(self, names: Collection[str]) -> frozenset[str]:
        """The finished values that some of the selected ones are computed from."""
        return frozenset().union(*(each.names for name, each in self.expressions.items() if name in names))


def _series(name: str, values: Sequence[Any], dtype: pl.DataType) -> pl.Series:
    if dtype != pl.Float64:
        return pl.Series(name, values, dtype=dtype)
    if None in values:
        return pl.Series(name, [_number(value) for value in values], dtype=dtype)
    try:
        return pl.Series(name, np.array(values, dtype=np.float64))
    except OverflowError:
        return pl.Series(name, [_number(value) for value in values], dtype=dtype)


def _compile(text: str, usable: Mapping[str, pl.DataType], lists: frozenset[str]) -> Expression:
    for name in sorted(expression_names(text) & lists):
        raise ExpressionError(f"'{name}' is a list, and a select computes with single values.")
    expression = compile_expression(text, usable)
    if isinstance(expression.dtype, pl.List):
        raise ExpressionError(f"must give a single value, and this gives {type_text(expression.dtype)}.")
    if expression.may_fail:
        raise ExpressionError("fails on values that do not convert, and `//` by 0. Write TRY_CAST, or FLOOR(a / b).")
    return expression


def _number(value: float | None) -> float | None:
    """A sum of ints is exact and may have any size: beyond float64 it is null, as infinity is."""
    try:
        return None if value is None else float(value)
    except OverflowError:
        return None


def _evaluate(expression: Expression, frame: pl.DataFrame) -> pl.Series:
    """Evaluate on all rows at once; where one cannot be computed, halve until it stands alone: that one is null.

    A result that could not be published would hold back every later one, for one value of one group. Only what polars
    says of values is taken so: a missing column is a mistake of ours.
    """
    try:
        return frame.select(_ROW, expression.expr.alias("value"))["value"]
    except (pl.exceptions.InvalidOperationError, pl.exceptions.ComputeError):
        if frame.height == 1:
            return pl.Series("value", [None], dtype=expression.dtype)
    half = frame.height // 2
    return pl.concat([_evaluate(expression, frame.head(half)), _evaluate(expression, frame.tail(-half))])


def _json_values(values: pl.Series) -> list[Any]:
    return values.to_physical().to_list() if isinstance(values.dtype, pl.Datetime) else values.to_list()
