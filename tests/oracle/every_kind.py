"""A stage of every aggregate over every kind of window: what the pipeline and the oracle are both asked.

kinds         some windows of each, that meet what is special about it: a step that does not divide the size, days
              of 23 and 25 hours, sessions with and without a longest
aggregates    every function over every type it takes, nulls among the values, with and without a `where`
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from pipeline.core.definitions import (
    AGGREGATE_FUNCTIONS,
    DAY_MS,
    HOUR_MS,
    SECOND_MS,
    Aggregate,
    AggregateSpec,
    Calendar,
    Config,
    Cumulating,
    Field,
    Hopping,
    Session,
    Stream,
    TimePolicy,
    Transform,
    Tumbling,
    Window,
)
from tests.oracle.duck import Fate

Kind = Literal["tumbling", "hopping", "cumulating", "calendar", "session"]
KINDS: tuple[Kind, ...] = get_args(Kind)

STREAM, METRIC = "events", "answer"
GROUPS = ("key", "on")
PARTITIONS = 2
DISORDER_UNITS, LATENESS_UNITS, FUTURE_UNITS = 3, 5, 20
FILTER = "k IS NULL OR k <> 13"
FATE = Fate(kept=FILTER)

FIELDS = (
    Field("ts", "timestamp", unit="ms"),
    Field("key", "string"),
    Field("on", "bool", nullable=True),
    Field("v", "float", nullable=True),
    Field("k", "int", nullable=True),
    Field("counter", "float", nullable=True),
    Field("visitor", "string", nullable=True),
)


FLOATS = (
    *(AggregateSpec(f"{name}_v", name, "v") for name in ("count", "sum", "mean", "min", "max", "first", "last")),
    *(AggregateSpec(f"{name}_v", name, "v") for name in ("var", "stddev", "histogram", "time_weighted_mean")),
    *(AggregateSpec(f"q{number}", "quantile", "v", q) for number, q in enumerate((0, 0.29, 0.5, 0.95, 1))),
    AggregateSpec("n", "count"),
    AggregateSpec("distinct", "distinct", "visitor"),
    AggregateSpec("exactly", "distinct_exact", "visitor"),
    AggregateSpec("top", "topk", "visitor", 3),
    AggregateSpec("increase", "increase", "counter"),
    AggregateSpec("rate", "rate", "counter"),
    AggregateSpec("first_visitor", "first", "visitor"),
    AggregateSpec("last_on", "last", "on"),
    AggregateSpec("newest", "max", "ts"),
)
"""Every function, over floats and texts."""

_WHERE = "v > 1.5 AND visitor <> 'u3'"
_OF_INTEGERS = ("sum", "mean", "min", "max", "first", "last", "var", "stddev", "histogram", "distinct")
INTEGERS = (
    *(
        AggregateSpec(f"{name}_k", name, "k")
        for name in ("sum", "last", "var", "distinct", "distinct_exact", "increase")
    ),
    AggregateSpec("n", "count", "k"),
    AggregateSpec("top", "topk", "k", 2),
    AggregateSpec("some_n", "count", where=_WHERE),
    *(AggregateSpec(f"some_{name}", name, "k", where=_WHERE) for name in _OF_INTEGERS),
    AggregateSpec("some_exactly", "distinct_exact", "visitor", where=_WHERE),
    AggregateSpec("some_quantile", "quantile", "k", 0.75, where=_WHERE),
    AggregateSpec("some_top", "topk", "visitor", 2, where=_WHERE),
    *(AggregateSpec(f"some_{name}", name, "counter", where=_WHERE) for name in ("increase", "rate")),
    AggregateSpec("some_time_weighted_mean", "time_weighted_mean", "v", where=_WHERE),
)
"""Every function, over integers and with a `where`; half as many aggregates in a query take half of DuckDB's time."""

AGGREGATES = {"floats": FLOATS, "integers": INTEGERS}
SELECT = {
    "floats": {"mean_again": "sum_v / count_v", "less": "n - 1"},
    "integers": {"mean_again": "sum_k / n", "share": "some_n / n"},
}


@dataclass(frozen=True, slots=True)
class Case:
    """A window, and the time it is tried in: events step by `unit_ms` and begin around `base_ms`."""

    window: Window
    unit_ms: int
    base_ms: int = 0


PARIS_SPRING_MS = 1_711_825_200_000  # 2024-03-30 19:00 UTC: the next day of Paris has 23 hours
PARIS_AUTUMN_MS = 1_729_951_200_000  # 2024-10-26 14:00 UTC: the next day of Paris has 25 hours

CASES: Mapping[Kind, Sequence[Case]] = {
    "tumbling": [
        Case(Tumbling(10 * SECOND_MS), SECOND_MS),
        Case(Tumbling(10 * SECOND_MS, offset_ms=-3_000), SECOND_MS, 1_700_000_000_000),
    ],
    "hopping": [
        Case(Hopping(10 * SECOND_MS, 5 * SECOND_MS), SECOND_MS),
        Case(Hopping(10 * SECOND_MS, 4 * SECOND_MS, offset_ms=1_000), SECOND_MS, 1_700_000_000_000),
        Case(Hopping(9 * SECOND_MS, 1_500), SECOND_MS, -20_000),
    ],
    "cumulating": [
        Case(Cumulating(20 * SECOND_MS, 5 * SECOND_MS), SECOND_MS),
        Case(Cumulating(12 * SECOND_MS, 4 * SECOND_MS, offset_ms=-1_000), SECOND_MS, 1_700_000_000_000),
    ],
    "calendar": [
        Case(Calendar("day", "Europe/Paris"), 2 * HOUR_MS, PARIS_SPRING_MS),
        Case(Calendar("day", "Europe/Paris"), 2 * HOUR_MS, PARIS_AUTUMN_MS),
        Case(Calendar("week", "America/New_York"), 12 * HOUR_MS, PARIS_AUTUMN_MS),
        Case(Calendar("month", "Asia/Kolkata"), 2 * DAY_MS, -40 * DAY_MS),
    ],
    "session": [
        Case(Session(2 * SECOND_MS), SECOND_MS),
        Case(Session(3 * SECOND_MS, max_ms=10 * SECOND_MS), SECOND_MS, 1_700_000_000_000),
    ],
}
assert CASES.keys() == set(KINDS)
assert {spec.function for spec in FLOATS} == {spec.function for spec in INTEGERS} == set(AGGREGATE_FUNCTIONS)


def config_of(case: Case, of: str, *, is_late_allowed: bool = False) -> Config:
    """One stage of every aggregate over `floats` or `integers`; time goes in the case's units."""
    stream = Stream(
        STREAM,
        FIELDS,
        TimePolicy("ts", disorder_ms=DISORDER_UNITS * case.unit_ms, max_future_ms=FUTURE_UNITS * case.unit_ms),
        partition_by="key",
        partitions=PARTITIONS,
    )
    stage = Aggregate(METRIC, "kept", case.window, GROUPS, AGGREGATES[of], select=SELECT[of])
    if is_late_allowed:
        stage = replace(stage, allowed_lateness_ms=LATENESS_UNITS * case.unit_ms)
    return Config({STREAM: stream}, {"kept": Transform("kept", STREAM, filter=FILTER), METRIC: stage})
