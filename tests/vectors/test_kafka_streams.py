"""Kafka Streams' tumbling cases. Its grace g is our disorder g where there is no allowed lateness.

Kafka drops a record when window end <= stream time - grace and emits a final result at the same moment; stream time is
the largest time seen, the record's own included, which cannot close the window the record is in. Our watermark is the
largest time before the record less the disorder bound: the same rule. (With allowed lateness the two would part: a
window of ours closes at its end and is revised; a final result of Kafka's waits for the grace.)
"""

from __future__ import annotations

import pytest

from pipeline.core.definitions import Tumbling
from tests.servers import RunningServer
from tests.vectors.vectors import Bench, Case, Question, answers, by_name, expected, load

CASES = by_name(load("05_kafka_streams_time_windows.json")["cases"])

HOPPING = {
    "hopping_12_by_5_assign_21",
    "hopping_6_by_5_assign_7",
    "hopping_10_by_5_grace_100_on_update_out_of_order",
    "hopping_10_by_5_grace_90_late",
    "hopping_10_by_5_grace_5_emit_final_progress",
    "hopping_10_by_5_grace_5_emit_final_multi_key",
}
FINAL = ["tumbling_2_grace_1_final", "tumbling_2_grace_2_final_large_jump"]
RUN_BELOW = {*FINAL, "tumbling_12_assign_21", "tumbling_10_grace_90_late"}


def test_no_case_is_forgotten() -> None:
    """What a case says of every update (`expect_on_update`) waits for `emit: on_update`; the rest of it is run."""
    assert CASES.keys() == RUN_BELOW | HOPPING
    assert {name for name, case in CASES.items() if case["window"]["type"] == "hopping"} == HOPPING


def test_a_time_is_assigned_to_its_window(server: RunningServer) -> None:
    case = CASES["tumbling_12_assign_21"]
    bench = bench_of(server, case)

    for ts, windows in case["assign"]:
        bench.event(ts)
        bench.end()
        assert answers(bench.closed()) == [(start, end, 1) for start, end in windows]


@pytest.mark.parametrize("name", FINAL)
def test_a_final_result_comes_out_once_and_late_records_are_dropped(server: RunningServer, name: str) -> None:
    case = CASES[name]
    bench = bench_of(server, case)

    bench.events(case["events"])

    # a result's timestamp is Kafka's largest event time in the window; for us it is an aggregate like any other
    found = [row | {"ts": row["newest"]} for row in bench.closed()]
    assert answers(found, "key", "ts") == expected(case["expect_on_close"], "key", "ts")
    assert [(row["window_start"], row["key"]) for row in bench.newly_published()] == [
        (str(row["start"]), row["key"]) for row in case["expect_on_close"]
    ]
    dropped = [case["events"][number]["ts"] for number in case["dropped_events"]]
    assert [int(row["time"]) for row in bench.late()] == dropped


def test_every_record_behind_the_grace_is_late(server: RunningServer) -> None:
    case = CASES["tumbling_10_grace_90_late"]
    bench = bench_of(server, case)

    bench.events(case["events"])

    [only] = case["expect_on_update"]
    assert answers(bench.open_and_closed(), "key") == [(only["start"], only["end"], len(only["value"]), only["key"])]
    late = bench.late()
    assert len(late) == case["late_window_drops"]
    # Kafka measures lateness from stream time; ours is from the watermark, which is the grace behind it
    for row, drop in zip(late, case["late_window_drop_detail"], strict=True):
        assert int(row["time"]) == drop["ts"]
        assert [int(row["window_start"]), int(row["window_end"])] == drop["window"]
        assert int(row["late_by_ms"]) == drop["stream_time"] - case["grace"] - drop["ts"]


def bench_of(server: RunningServer, case: Case) -> Bench:
    window = Tumbling(case["window"]["size"])
    return Bench(server, [Question(window, "count", ("key",))], case.get("grace", 0), value="string")
