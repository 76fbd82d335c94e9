"""VictoriaMetrics' streaming aggregates over one interval: one window of ours, one group a series.

Where the systems part:
- its stddev and stdvar are of the population, ours of the sample (as var and stddev are in SQL), null for one value;
- its increase of a first-seen series is 0, ours null: one sample shows no growth;
- its median of six values is the upper of the middle two, ours the lower rank, floor(q·(n - 1)); both within 1 %;
- it takes a sample that is older than the last for nothing; we order samples by time first, which gives the same
  numbers in its case; and its rate of two samples at one time is 0, ours null: no time has passed;
- `rate_sum` and `rate_avg` are over the series of a group: ours are asked by series and added by the reader, as an
  aggregate does not read a metric.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.core.definitions import AggregateSpec, Tumbling
from tests.line import Row
from tests.servers import RunningServer
from tests.vectors.vectors import Bench, Case, Question, by_name, load

CASES = by_name(load("13_victoriametrics_stream_aggregates.json")["cases"])

LINE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)(?: (?P<at>\d+))?$")
OUTPUT = re.compile(r"^(?P<output>[\w.]+)(?:\{(?P<series>.*)\})?$")
HOUR_MS = 3_600_000
FUNCTIONS = {  # of theirs → ours
    "count": "n",
    "count_series": "series",
    "sum": "value",
    "avg": "mean",
    "min": "min",
    "max": "max",
    "last": "last",
    "stddev": "stddev",
    "stdvar": "var",
    "increase": "increase",
    "total": "increase",
    "q0": "q0",
    "q0.5": "q50",
    "q1": "q100",
}
OTHERS = (
    AggregateSpec("n", "count"),
    AggregateSpec("series", "distinct_exact", "labels"),
    *(
        AggregateSpec(name, name, "value")
        for name in ("mean", "min", "max", "last", "stddev", "var", "increase", "rate")
    ),
    *(AggregateSpec(f"q{share}", "quantile", "value", share / 100) for share in (0, 50, 100)),
)
PLAIN = ["by_all_labels", "by_nothing", "without_abc", "last_by_timestamp_out_of_order"]
COUNTERS = ["counter_increase_with_reset", "counter_total_older_sample_ignored"]
RATES = ["rate_sum_avg_by_cde", "rate_duplicate_events"]
QUANTILES = ["quantiles_0_0.5_1", "quantiles_without_cpu"]


def test_no_case_is_forgotten() -> None:
    assert CASES.keys() == {*PLAIN, *COUNTERS, *RATES, *QUANTILES}
    named = {OUTPUT.match(text)["output"] for case in CASES.values() for text in case["outputs"]}  # type: ignore[index]
    assert named == FUNCTIONS.keys() | {"rate_sum", "rate_avg"}


@pytest.mark.parametrize("name", PLAIN)
def test_counts_sums_and_spreads_by_the_labels_of_a_group(server: RunningServer, name: str) -> None:
    rows = run(server, CASES[name])

    for (output, series), theirs in outputs(CASES[name]).items():
        ours = rows[series][FUNCTIONS[output]]
        if output in ("stddev", "stdvar"):
            assert same(ours, of_the_sample(output, theirs, rows[series]["n"]))
        else:
            assert same(ours, theirs), (output, series)


def of_the_sample(output: str, of_the_population: float, n: int) -> float | None:
    """What the sample's spread is, where the population's is known."""
    if n < 2:
        return None
    return of_the_population * (n / (n - 1) if output == "stdvar" else math.sqrt(n / (n - 1)))


@pytest.mark.parametrize("name", COUNTERS)
def test_a_counter_that_falls_began_again_and_one_sample_shows_no_growth(server: RunningServer, name: str) -> None:
    rows = run(server, CASES[name])

    for (_, series), theirs in outputs(CASES[name]).items():
        alone = rows[series]["n"] == 1
        assert theirs == 0 or not alone
        assert same(rows[series]["increase"], None if alone else theirs), series


@pytest.mark.parametrize("name", RATES)
def test_rates_are_by_series_and_null_where_no_time_passes(server: RunningServer, name: str) -> None:
    case = CASES[name]
    rates = [row["rate"] for row in run(server, case | {"by": None}).values()]

    theirs = {output: value for (output, _), value in outputs(case).items()}
    if name == "rate_duplicate_events":
        assert (theirs, rates) == ({"rate_avg": 0, "rate_sum": 0}, [None])
    else:
        assert same(sum(rates), theirs["rate_sum"])
        assert same(sum(rates) / len(rates), theirs["rate_avg"])


@pytest.mark.parametrize("name", QUANTILES)
def test_quantiles_are_of_the_lower_rank_within_a_percent(server: RunningServer, name: str) -> None:
    rows = run(server, CASES[name])

    for (output, series), theirs in outputs(CASES[name]).items():
        # of six values the lower middle is 13, theirs the upper; of seven and of one there is one middle
        exact = 13 if rows[series]["n"] == 6 and output == "q0.5" else theirs
        assert rows[series][FUNCTIONS[output]] == pytest.approx(exact, rel=0.01)


def run(server: RunningServer, case: Case) -> Mapping[str, Row]:
    """Send a case's samples; return its rows by what the case calls their series."""
    window = Tumbling(HOUR_MS)
    bench = Bench(server, [Question(window, "sum", ("key",), others=OTHERS)], disorder_ms=HOUR_MS)
    for text in case["input"]:
        found = LINE.match(text)
        assert found is not None, text
        labels = dict(re.findall(r'(\w+)="(\w+)"', found["labels"] or ""))
        series = ",".join([found["name"], *(f"{name}={value}" for name, value in labels.items())])
        at_ms = int(found["at"] or 0) * 1_000
        bench.event(at_ms, float(found["value"]), key=group(case, found["name"], labels), labels=series)
    bench.end()
    rows = bench.closed()
    assert {row["window_start"] for row in rows} == {0}
    return {row["key"]: row for row in rows}


def group(case: Case, name: str, labels: Mapping[str, str]) -> str:
    """What a sample is grouped by: its name and its labels, or some of them; without a `by` of labels by all."""
    by = case.get("by")
    kept = [
        f"{label}={value}"
        for label, value in labels.items()
        if (by is None or label in by) and label not in case.get("without", [])
    ]
    return ",".join([name, *kept])


def outputs(case: Case) -> dict[tuple[str, str], Any]:
    """What is expected, by output and series; quantiles and rates leave the name of the metric out."""
    found = {}
    for text, value in case["outputs"].items():
        parts = OUTPUT.match(text)
        assert parts is not None, text
        series = parts["series"] or ""
        if parts["output"].startswith("q"):
            series = ",".join(filter(None, ["cpu_usage", series]))
        found[parts["output"], series] = value
    return found


def same(ours: Any, theirs: Any) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return math.isclose(ours, theirs, rel_tol=1e-9, abs_tol=1e-12)
