"""The aggregates of a metric: which accumulators each needs, and how a finished value comes out of them.

Partials are kept and merged; averages are computed on the way out and never stored (DESIGN section 5). Nulls are left
out by every aggregate but `count` without a field. An aggregate over no values is null; count and sum are 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import polars as pl

from pipeline.core.accumulators import (
    Accumulator,
    Column,
    Count,
    Edge,
    Extreme,
    FloatSum,
    IntSum,
    Slots,
)
from pipeline.core.column_types import type_text
from pipeline.core.definitions import AggregateSpec
from pipeline.core.sketches import Sketch

Value = int | float | str | bool | None


@dataclass(frozen=True, slots=True)
class Finisher:
    """One named value of a metric, bound to its accumulators; `type` is the JSON type of the answer."""

    spec: AggregateSpec
    parts: tuple[Accumulator | Sketch, ...]
    dtype: pl.DataType | None  # of the field, None for count of events

    @property
    def type(self) -> str:
        """`int`, `float`, `string`, `bool` or `timestamp`."""
        if self.spec.function == "count":
            return "int"
        if self.spec.function == "mean":
            return "float"
        assert self.dtype is not None
        return type_text(self.dtype)

    def finish(self, state: Mapping[str, Column], slots: Slots, ends_ms: Sequence[int] | None = None) -> list[Value]:
        """Return the finished value of each cell in `slots`, in JSON types; times are epoch milliseconds."""
        counts = state[self.parts[0].name][slots]
        if self.spec.function == "count":
            return counts.tolist()  # type: ignore[no-any-return]
        values = self._values(state, slots, counts)
        empty = self._empty
        return [value if count else empty for value, count in zip(values, counts.tolist(), strict=True)]

    @property
    def _empty(self) -> Value:
        """The answer over no values, in the type of the answer over some."""
        if self.spec.function != "sum":
            return None
        return 0.0 if self.dtype == pl.Float64 else 0

    def _values(self, state: Mapping[str, Column], slots: Slots, counts: Column) -> list[Value]:
        part = self.parts[1]
        match self.spec.function:
            case "count" | "sum":
                return _totals(part, state, slots)
            case "mean":
                totals = _totals(part, state, slots)
                return [
                    None if total is None or not count else finite(total / count)
                    for total, count in zip(totals, counts.tolist(), strict=True)
                ]
            case "min" | "max":
                return self._scalars(state[part.name][slots])
            case "first" | "last":
                return self._scalars(state[f"{part.name}.value"][slots])
            case _ as unreachable:
                assert_never(unreachable)

    def _scalars(self, values: Column) -> list[Value]:
        if self.dtype == pl.Boolean:
            return values.astype(np.bool_).tolist()  # type: ignore[no-any-return]
        return values.tolist()  # type: ignore[no-any-return]


def _totals(part: Accumulator, state: Mapping[str, Column], slots: Slots) -> list[Any]:
    """Sums as JSON numbers: exact Python integers of any size, or finite floats."""
    if isinstance(part, IntSum):
        return part.totals(state, slots)
    return [finite(total) for total in state[part.name][slots].tolist()]


def finite(value: int | float) -> int | float | None:
    """JSON has no infinity: a float sum that overflowed is null."""
    return value if isinstance(value, int) or math.isfinite(value) else None


def bind(spec: AggregateSpec, columns: Mapping[str, pl.DataType]) -> Finisher:
    """Bind an aggregate to the columns it reads; the config loader has checked names and types."""
    if spec.field is None:
        return Finisher(spec, (Count(None),), None)
    dtype = columns[spec.field]
    return Finisher(spec, (Count(spec.field), *_value_parts(spec, spec.field, dtype)), dtype)


def _value_parts(spec: AggregateSpec, field: str, dtype: pl.DataType) -> tuple[Accumulator, ...]:
    is_float = dtype == pl.Float64
    number: Any = "<f8" if is_float else "<i8"
    match spec.function:
        case "count":
            return ()
        case "sum" | "mean":
            return (FloatSum(field) if is_float else IntSum(field),)
        case "min" | "max":
            return (Extreme(field, spec.function, number),)
        case "first" | "last":
            return (Edge(field, spec.function, "O" if dtype == pl.String else number),)
        case _ as unreachable:
            assert_never(unreachable)
