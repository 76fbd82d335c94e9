"""The aggregates of a metric: which partials each needs, and how a finished value comes out of them.

Partials are kept and merged; averages, rates and percentiles are computed on the way out and never stored (DESIGN
section 5). Nulls are left out by every aggregate but `count` without a field. Over no values count, sum and the
distincts are 0, lists are empty, and all else is null. What JSON cannot say (infinity, nan) is null.

    count                       Count                        distinct          Distinct (exact to 512, then 0.81 %)
    sum, mean                   Count, IntSum or FloatSum    distinct_exact    DistinctExact (null above its cap)
    min, max                    Count, Extreme               topk              Items
    first, last                 Count, Edge                  increase, rate,
    var, stddev                 Count, Moments                 time_weighted_mean   Samples
    quantile, histogram         Quantiles (1 %)              a registered one  UserPartials
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

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
    Moments,
    Slots,
)
from pipeline.core.column_types import type_text
from pipeline.core.definitions import AggregateSpec
from pipeline.core.registry import RegisteredAggregate, registered_aggregate
from pipeline.core.sketch_distinct import Distinct, DistinctExact, estimate
from pipeline.core.sketch_items import Items, top
from pipeline.core.sketch_quantiles import Quantiles, histogram, quantiles
from pipeline.core.sketch_samples import Samples, increase, rate, time_weighted_mean
from pipeline.core.sketch_user import UserPartials
from pipeline.core.sketches import Sketch

Value = int | float | str | bool | list[Any] | None
Part = Accumulator | Sketch

_NUMBERS = ("int", "float")
_ITEMS = ("string", "int", "bool", "timestamp")
_SCALARS = ("string", "int", "float", "bool", "timestamp")
ARGUMENT_TYPES: Mapping[str, tuple[str, ...]] = {
    "sum": _NUMBERS,
    "mean": _NUMBERS,
    "min": (*_NUMBERS, "timestamp"),
    "max": (*_NUMBERS, "timestamp"),
    "first": _SCALARS,
    "last": _SCALARS,
    "var": _NUMBERS,
    "stddev": _NUMBERS,
    "quantile": _NUMBERS,
    "histogram": _NUMBERS,
    "distinct": _SCALARS,  # of floats: -0.0 is 0.0, and all nans are one value
    "distinct_exact": _ITEMS,
    "topk": _ITEMS,  # floats are rarely equal: round or cast them in a derive
    "increase": _NUMBERS,
    "rate": _NUMBERS,
    "time_weighted_mean": _NUMBERS,
}  # count takes any; a registered aggregate takes USER_ARGUMENT_TYPES
USER_ARGUMENT_TYPES = _SCALARS

_TYPES: Mapping[str, str] = {
    "count": "int",
    "mean": "float",
    "var": "float",
    "stddev": "float",
    "quantile": "float",
    "histogram": "list",
    "distinct": "int",
    "distinct_exact": "int",
    "topk": "list",
    "rate": "float",
    "time_weighted_mean": "float",
}  # the others answer in the type of their field


@dataclass(frozen=True, slots=True)
class Finisher:
    """One named value of a metric, bound to its parts: the count of its values, and what the value is made of."""

    spec: AggregateSpec
    parts: tuple[Part, ...]
    dtype: pl.DataType | None  # of the field, None for count of events

    @property
    def type(self) -> str:
        """`int`, `float`, `string`, `bool`, `timestamp` or `list`: the JSON type of the answer."""
        if self.spec.function in _TYPES:
            return _TYPES[self.spec.function]
        part = self.parts[-1]
        if isinstance(part, UserPartials):
            return part.registered.returns
        assert self.dtype is not None
        return type_text(self.dtype)

    @property
    def item_type(self) -> str | None:
        """The config type of the items of a `topk`."""
        return None if self.spec.function != "topk" or self.dtype is None else type_text(self.dtype)

    @property
    def empty(self) -> Value:
        """The answer over no values, in the type of the answer over some."""
        match self.spec.function:
            case "count" | "distinct" | "distinct_exact":
                return 0
            case "sum":
                return 0.0 if self.dtype == pl.Float64 else 0
            case "histogram" | "topk":
                return []
            case _:
                return None

    def finish(
        self, state: Mapping[str, Column], slots: Slots, ends_ms: Sequence[int] | Column | None = None
    ) -> list[Value]:
        """Return the finished value of each cell in `slots`, in JSON types; times are epoch milliseconds.

        `state` has the columns of every part by name; a sketch's is an object array under its name. `ends_ms`, parallel
        to `slots`, are the ends of the cells' windows (of a session: last event plus gap), None where nobody asks
        for a time_weighted_mean until there.
        """
        found = state[self.parts[0].name][slots]
        counts = found.tolist()
        if self.spec.function == "count":
            return counts  # type: ignore[no-any-return]
        values = self._values(state, slots, counts, ends_ms)
        if found.all():
            return list(values)
        return [value if count else self.empty for value, count in zip(values, counts, strict=True)]

    def truncated(self, state: Mapping[str, Column], slots: Slots) -> list[bool]:
        """Return for each cell whether a cap kept values out of its answer."""
        part = self.parts[-1]
        partials = state[part.name][slots] if isinstance(part, Items | Samples | DistinctExact) else None
        if partials is None:
            return [False] * len(slots)
        if isinstance(part, DistinctExact):
            return [part.is_over(partial) for partial in partials]
        return [partial.truncated for partial in partials]

    def failed(self, state: Mapping[str, Column], slots: Slots) -> bool:
        """Whether the value of any cell is null for a failure of a registered aggregate's code."""
        part = self.parts[-1]
        return isinstance(part, UserPartials) and any(part.fails(partial) for partial in state[part.name][slots])

    def _values(
        self, state: Mapping[str, Column], slots: Slots, counts: list[int], ends_ms: Sequence[int] | Column | None
    ) -> Sequence[Value]:
        function, part = self.spec.function, self.parts[-1]
        match part:
            case IntSum() | FloatSum():
                if function == "sum":
                    return _totals(part, state, slots)
                return _means(part, state, slots, np.array(counts, dtype=np.int64))
            case Extreme():
                return self._scalars(state[part.name][slots])
            case Edge():
                return self._scalars(state[f"{part.name}.value"][slots])
            case Moments():
                variances = part.variances(state, slots)
                return [each if each is None or function == "var" else math.sqrt(each) for each in variances]
            case Quantiles() if function == "quantile":
                assert self.spec.argument is not None
                # the decimal as it is written: 0.29 and not the float nearest to it
                q = Fraction(repr(self.spec.argument))
                return quantiles(state[part.name][slots], q)
            case Quantiles():
                return [histogram(buckets) for buckets in state[part.name][slots]]
            case Distinct():
                return [estimate(registers) for registers in state[part.name][slots]]
            case DistinctExact():
                return [part.size(values) for values in state[part.name][slots]]
            case Items():
                assert self.spec.argument is not None
                tops = (top(items, int(self.spec.argument)) for items in state[part.name][slots])
                is_bool = self.dtype == pl.Boolean
                return [[[bool(item) if is_bool else item, n] for item, n in each] for each in tops]
            case Samples():
                ends = [None] * len(slots) if ends_ms is None else [int(end) for end in ends_ms]
                cells = zip(state[part.name][slots], ends, strict=True)
                return [self._of_samples(*part.series(samples), end) for samples, end in cells]
            case UserPartials():
                return [part.finish(partial) for partial in state[part.name][slots]]
            case _:
                raise AssertionError(f"{function} is bound to {part.name}")

    def _of_samples(self, times_ms: Column, values: Column, end_ms: int | None) -> Value:
        value: Value
        match self.spec.function:
            case "increase":
                value = increase(values)
            case "rate":
                value = rate(times_ms, values)
            case _:
                value = time_weighted_mean(times_ms, values, end_ms)
        return finite(value)  # type: ignore[no-any-return]

    def _scalars(self, values: Column) -> list[Value]:
        if self.dtype == pl.Boolean:
            return values.astype(np.bool_).tolist()  # type: ignore[no-any-return]
        return values.tolist()  # type: ignore[no-any-return]


def _totals(part: IntSum | FloatSum, state: Mapping[str, Column], slots: Slots) -> list[Any]:
    """Sums as JSON numbers: exact Python integers of any size, or finite floats."""
    if isinstance(part, IntSum):
        return part.totals(state, slots)
    return _finite_list(state[part.name][slots])


def _means(part: IntSum | FloatSum, state: Mapping[str, Column], slots: Slots, counts: Column) -> list[float | None]:
    """Means, column-wise where that gives the very floats that Python's division of exact totals does."""
    totals = state[part.name][slots] if isinstance(part, FloatSum) else part.small_totals(state, slots)
    if totals is None:
        return [_mean(*pair) for pair in zip(_totals(part, state, slots), counts.tolist(), strict=True)]
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return _finite_list(totals / counts)


def _finite_list(values: Column) -> list[float | None]:
    found: list[float | None] = values.tolist()
    for place in np.flatnonzero(~np.isfinite(values)).tolist():
        found[place] = None
    return found


def _mean(total: int | float | None, count: int) -> float | None:
    return None if total is None or not count else finite(total / count)


def finite(value: Any) -> Any:
    """JSON has no infinity and no nan: a float that overflowed is null. Integers of any size stay."""
    return value if not isinstance(value, float) or math.isfinite(value) else None


def bind(
    spec: AggregateSpec,
    columns: Mapping[str, pl.DataType],
    registered: Callable[[str], RegisteredAggregate] = registered_aggregate,
) -> Finisher:
    """Bind an aggregate to the columns it reads; the config loader has checked names and types.

    Aggregates of one field and `where` share their parts, which are told apart by name alone.
    """
    count = Count(spec.field, spec.where)
    if spec.field is None:
        return Finisher(spec, (count,), None)
    dtype = columns[spec.field]
    if spec.function == "count":
        return Finisher(spec, (count,), dtype)
    return Finisher(spec, (count, _value_part(spec, spec.field, dtype, registered)), dtype)


def _value_part(
    spec: AggregateSpec, field: str, dtype: pl.DataType, registered: Callable[[str], RegisteredAggregate]
) -> Part:
    is_float = dtype == pl.Float64
    number: Any = "<f8" if is_float else "<i8"
    where = spec.where
    match spec.function:
        case "sum" | "mean":
            return FloatSum(field, where) if is_float else IntSum(field, where)
        case "min" | "max" as side:
            return Extreme(field, side, number, where)
        case "first" | "last" as side:
            return Edge(field, side, "O" if dtype == pl.String else number, where)
        case "var" | "stddev":
            return Moments(field, where)
        case "quantile" | "histogram":
            return Quantiles(field, where)
        case "distinct":
            return Distinct(field, where)
        case "distinct_exact":
            return DistinctExact(field, where)
        case "topk":
            return Items(field, where)
        case "increase" | "rate" | "time_weighted_mean":
            return Samples(field, where, number)
        case name:
            return UserPartials(name, field, registered(name), where, dtype == pl.Boolean)
