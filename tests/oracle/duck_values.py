"""The values of a metric's row, said in SQL over the events that count in it; nulls are left out of every aggregate.

What SQL has no one word for is brought by helper columns over the events (`increase`, `time_weighted_mean`: differences
between neighbours in the order time, partition, position) or finished here from a list (`quantile`, `topk`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.core.definitions import AggregateSpec
from tests.oracle.expectations import QUANTILE_ERROR, Buckets, Distinct, Near, Top

TINY = 1e-9  # absolute error of a variance or mean whose exact value is 0
ORDER = "event_ms, part, position"  # ties at equal times go by partition, then position
CELL = "_cell"


@dataclass(frozen=True, slots=True)
class Asked:
    """How one named value is asked of DuckDB: helper columns by name, the aggregate, and what is made of its answer.

    `helpers` are SQL with functions over the window CELL: the events of one window and group in ORDER.
    """

    aggregate: str
    helpers: Mapping[str, str]
    finish: Callable[[Any], Any] = lambda value: value


def asked(spec: AggregateSpec) -> Asked:
    """How a value is asked; raises KeyError for a function that has no oracle, such as a user's own."""
    if spec.field is None:
        return Asked(f"count(*){_filter(spec.where)}", {})
    return _FUNCTIONS[spec.function](spec, f'"{spec.field}"')


def is_number(spec: AggregateSpec) -> bool:
    """Whether DuckDB's answer is a number as it stands, so that a `select` may use it."""
    return spec.function not in ("quantile", "histogram", "topk")


def selected(select: Mapping[str, str], numbers: Sequence[str]) -> str:
    """SQL of `select` over one row `_row` of finished aggregates: all of them as float64; inf and NaN are null."""
    columns = ", ".join(f'TRY_CAST(_row."{name}" AS DOUBLE) AS "{name}"' for name in numbers)
    values = ", ".join(
        f"""CASE WHEN isfinite(({text})::DOUBLE) THEN ({text})::DOUBLE END AS "{name}" """
        for name, text in select.items()
    )
    return f"SELECT {values} FROM (SELECT {columns})"


def _filter(*conditions: str | None) -> str:
    wanted = " AND ".join(f"({condition})" for condition in conditions if condition is not None)
    return f" FILTER (WHERE {wanted})" if wanted else ""


def _plain(function: str) -> Callable[[AggregateSpec, str], Asked]:
    return lambda spec, name: Asked(f"{function}({name}){_filter(spec.where)}", {})


def _sum(spec: AggregateSpec, name: str) -> Asked:
    return Asked(f"coalesce(sum({name}){_filter(spec.where)}, 0)", {})


def _edge(spec: AggregateSpec, name: str) -> Asked:
    return Asked(f"{spec.function}({name} ORDER BY {ORDER}){_filter(f'{name} IS NOT NULL', spec.where)}", {})


def _spread(function: str) -> Callable[[AggregateSpec, str], Asked]:
    return lambda spec, name: Asked(
        f"{function}({name}::DOUBLE){_filter(spec.where)}",
        {},
        lambda value: None if value is None else Near(value, absolute=TINY),
    )


def _list(spec: AggregateSpec, name: str) -> str:
    return f"list({name}){_filter(f'{name} IS NOT NULL', spec.where)}"


def _quantile(spec: AggregateSpec, name: str) -> Asked:
    assert spec.argument is not None
    share = Fraction(repr(spec.argument))  # as it is written: 0.29 of 101 values is rank 29, in floats it is 28

    def at_rank(values: list[float] | None) -> Near | None:
        return Near(sorted(values)[math.floor(share * (len(values) - 1))], QUANTILE_ERROR) if values else None

    return Asked(_list(spec, name), {}, at_rank)


def _histogram(spec: AggregateSpec, name: str) -> Asked:
    return Asked(_list(spec, name), {}, lambda values: Buckets(tuple(values or ())))


def _distinct(spec: AggregateSpec, name: str) -> Asked:
    counted = f"count(DISTINCT {name}){_filter(spec.where)}"
    return Asked(counted, {}, Distinct if spec.function == "distinct" else lambda value: value)


def _topk(spec: AggregateSpec, name: str) -> Asked:
    assert isinstance(spec.argument, int)
    k = spec.argument

    return Asked(_list(spec, name), {}, lambda values: Top(Counter(values or ()), k))


def _increase(spec: AggregateSpec, name: str) -> Asked:
    """A fall is a reset: the new value counts whole. One sample shows no growth: null, as in Prometheus."""
    sample = _sample(spec, name)
    before = f"lag({sample} IGNORE NULLS) OVER {CELL}"
    grown = f"CASE WHEN {sample} IS NULL THEN NULL WHEN {before} IS NULL THEN 0 "
    grown += f"WHEN {sample} >= {before} THEN {sample} - {before} ELSE {sample} END"
    helper = f"_grown_{spec.name}"
    return Asked(f"CASE WHEN count({helper}) > 1 THEN sum({helper}) END", {helper: grown}, _near)


def _rate(spec: AggregateSpec, name: str) -> Asked:
    """Increase a second between the first and the last sample; null where no time has passed."""
    increase = _increase(spec, name)
    [helper] = increase.helpers
    at = f"FILTER (WHERE {helper} IS NOT NULL)"
    seconds = f"(max(event_ms) {at} - min(event_ms) {at}) / 1000.0::DOUBLE"
    return Asked(f"{increase.aggregate} / nullif({seconds}, 0)", increase.helpers, _near)


def _time_weighted_mean(spec: AggregateSpec, name: str) -> Asked:
    """Each value holds until the next sample, the last one until the end of the window: of a session, last + gap."""
    sample = _sample(spec, name)
    after = f"lead(CASE WHEN {sample} IS NOT NULL THEN event_ms END IGNORE NULLS) OVER {CELL}"
    helper = f"_held_{spec.name}"
    held = f"CASE WHEN {sample} IS NOT NULL THEN coalesce({after}, window_end) - event_ms END"
    mean = f"sum({name} * {helper}::DOUBLE) / nullif(sum({helper}), 0)"
    last = f"last({name} ORDER BY {ORDER}) FILTER (WHERE {helper} IS NOT NULL)"
    return Asked(f"coalesce({mean}, {last})", {helper: held}, _near)


def _sample(spec: AggregateSpec, name: str) -> str:
    return name if spec.where is None else f"CASE WHEN {spec.where} THEN {name} END"


def _near(value: Any) -> Near | None:
    return None if value is None else Near(value, absolute=TINY)


_FUNCTIONS: Mapping[str, Callable[[AggregateSpec, str], Asked]] = {
    "count": _plain("count"),
    "sum": _sum,
    "mean": _plain("avg"),
    "min": _plain("min"),
    "max": _plain("max"),
    "first": _edge,
    "last": _edge,
    "var": _spread("var_samp"),
    "stddev": _spread("stddev_samp"),
    "quantile": _quantile,
    "histogram": _histogram,
    "distinct": _distinct,
    "distinct_exact": _distinct,
    "topk": _topk,
    "increase": _increase,
    "rate": _rate,
    "time_weighted_mean": _time_weighted_mean,
}
