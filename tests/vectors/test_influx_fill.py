"""InfluxDB's documented example of `fill()`. Ours without `fill` is `fill(none)`: an empty window has no row."""

from __future__ import annotations

import pytest

from pipeline.core.definitions import Tumbling
from tests.servers import RunningServer
from tests.vectors.vectors import Bench, Question, load, ms

VECTOR = load("15_influx_fill.json")
FILLED = {"fill(0)", "fill(linear)", "fill(null)", "fill(previous)"}


def bench_of(server: RunningServer) -> Bench:
    bench = Bench(server, [Question(Tumbling(VECTOR["bucket_s"] * 1_000), "mean")])
    for start, mean in VECTOR["raw_bucket_means"]:
        bench.event(start, mean)
    bench.end()
    return bench


def test_no_case_is_forgotten() -> None:
    assert VECTOR["expect"].keys() == FILLED | {"fill(none)"}


def test_a_window_without_events_has_no_row(server: RunningServer) -> None:
    assert VECTOR["expect"]["fill(none)"] == "the 01:00 row is absent"
    start, end = VECTOR["range"]

    rows = bench_of(server).rest("answer", start=start, end=end)

    assert [(row["window_start"], row["value"]) for row in rows] == [
        (ms(start), mean) for start, mean in VECTOR["raw_bucket_means"]
    ]


@pytest.mark.parametrize("case", sorted(FILLED))
def test_a_gap_is_filled_as_influxdb_does(server: RunningServer, case: str) -> None:
    start, end = VECTOR["range"]
    fill = case.removeprefix("fill(").removesuffix(")").replace("0", "zero")

    rows = bench_of(server).rest("answer", start=start, end=end, fill=fill)

    expected = VECTOR["expect"][case]
    assert [row["value"] for row in rows] == [None if mean is None else pytest.approx(mean) for mean in expected]
    assert [row["filled"] for row in rows] == [False, False, True, False]
