"""InfluxDB's documented example of `fill()`. What `fill=` asks for is refused by name until it is built (issue 5).

What answers without it is `fill(none)`: a window without events has no row.
"""

from __future__ import annotations

import pytest

from pipeline.core.definitions import Tumbling
from tests.servers import RunningServer
from tests.vectors.vectors import Bench, Question, load, ms

VECTOR = load("15_influx_fill.json")
WAITS_FOR_FILL = {"fill(0)", "fill(linear)", "fill(null)", "fill(previous)"}


def bench_of(server: RunningServer) -> Bench:
    bench = Bench(server, [Question(Tumbling(VECTOR["bucket_s"] * 1_000), "mean")])
    for start, mean in VECTOR["raw_bucket_means"]:
        bench.event(start, mean)
    bench.end()
    return bench


def test_no_case_is_forgotten() -> None:
    assert VECTOR["expect"].keys() == WAITS_FOR_FILL | {"fill(none)"}


def test_a_window_without_events_has_no_row(server: RunningServer) -> None:
    assert VECTOR["expect"]["fill(none)"] == "the 01:00 row is absent"
    start, end = VECTOR["range"]

    rows = bench_of(server).rest("answer", start=start, end=end)

    assert [(row["window_start"], row["value"]) for row in rows] == [
        (ms(start), mean) for start, mean in VECTOR["raw_bucket_means"]
    ]


@pytest.mark.parametrize("case", sorted(WAITS_FOR_FILL))
def test_fill_is_refused_by_name_until_it_is_built(server: RunningServer, case: str) -> None:
    """When `fill=` is built this fails: then the case's numbers are to be compared here."""
    fill = case.removeprefix("fill(").removesuffix(")").replace("0", "zero")
    answer = bench_of(server).line.http.get("/v1/metrics/answer", query_string={"fill": fill})

    problem = answer.get_json()
    assert (answer.status_code, problem["code"]) == (400, "not_built"), answer.text
    assert "fill" in problem["detail"]
