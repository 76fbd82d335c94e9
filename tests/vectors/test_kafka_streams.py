"""Kafka Streams' time windows. Its grace g is our disorder g where there is no allowed lateness.

Kafka drops a record when window end <= stream time - grace and emits a final result at the same moment; stream time is
the largest time seen, the record's own included, which cannot close the window the record is in. Our watermark is the
largest time before the record less the disorder bound: the same rule. (With allowed lateness the two would part: a
window of ours closes at its end and is revised; a final result of Kafka's waits for the grace.)

Where the systems part:
- Kafka has no window that begins before 0; ours begin there too, since times before 1970 are times;
- Kafka sends an update for the key that changed, we send the window as a whole; both have the changed key in it;
- Kafka's aggregate here concatenates values; ours counts them;
- Kafka's session windows include their end and ours do not, since [first, last + gap) is when the next event would be
  apart; the vectors have no case of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.core.definitions import Tumbling, Window
from tests.line import Row
from tests.servers import RunningServer
from tests.vectors.vectors import Bench, Case, Question, answers, by_name, expected, hopping, load

CASES = by_name(load("05_kafka_streams_time_windows.json")["cases"])

ASSIGNED = ["tumbling_12_assign_21", "hopping_12_by_5_assign_21", "hopping_6_by_5_assign_7"]
FINAL = ["tumbling_2_grace_1_final", "tumbling_2_grace_2_final_large_jump"]
PROGRESS = ["hopping_10_by_5_grace_5_emit_final_progress", "hopping_10_by_5_grace_5_emit_final_multi_key"]
UPDATES = "hopping_10_by_5_grace_100_on_update_out_of_order"
LATE = ["tumbling_10_grace_90_late", "hopping_10_by_5_grace_90_late"]


def test_no_case_is_forgotten() -> None:
    assert CASES.keys() == {*ASSIGNED, *FINAL, *PROGRESS, UPDATES, *LATE}


@pytest.mark.parametrize("name", ASSIGNED)
def test_a_time_is_assigned_to_its_windows(server: RunningServer, name: str) -> None:
    case = CASES[name]
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


@pytest.mark.parametrize("name", FINAL)
def test_every_change_comes_out_on_update(server: RunningServer, name: str) -> None:
    case = CASES[name]
    bench = bench_of(server, case, on_update=True)
    updates = iter(case["expect_on_update"])

    for number, event in enumerate(case["events"]):
        bench.events([event])
        came_out = counted(bench.newly_updated())
        if number not in case["dropped_events"]:
            assert update_of(next(updates)) in came_out
    assert next(updates, None) is None


def test_every_window_of_a_change_comes_out_on_update(server: RunningServer) -> None:
    case = CASES[UPDATES]
    bench = bench_of(server, case, on_update=True)
    updates = iter(case["expect"])

    for event in case["events"]:
        bench.events([event])
        came_out = counted(bench.newly_updated())
        for _ in windows_of(case, event["ts"]):
            assert update_of(next(updates)) in came_out
    assert next(updates, None) is None
    assert bench.closed() == case["expect_on_close"] == []


@pytest.mark.parametrize("name", PROGRESS)
def test_final_results_come_out_as_stream_time_goes_on(server: RunningServer, name: str) -> None:
    case = CASES[name]
    bench = bench_of(server, case)

    for step in case["script"]:
        bench.events(step["events"])
        came_out = [row for row in counted(bench.newly_published()) if row[0] >= 0]
        assert sorted(came_out) == sorted(map(update_of, step["emits"]))


@pytest.mark.parametrize("name", LATE)
def test_a_record_behind_the_grace_is_late_for_the_windows_that_closed(server: RunningServer, name: str) -> None:
    """A record that only some of its windows are closed for counts in the others: `partial`, not late."""
    case = CASES[name]
    bench = bench_of(server, case)

    bench.events(case["events"])

    last_updates = {(row["start"], row["end"], row["key"]): len(row["value"]) for row in case["expect_on_update"]}
    assert answers(bench.open_and_closed(), "key") == sorted(
        (start, end, n, key) for (start, end, key), n in last_updates.items()
    )
    closed = [(row["start"], row["end"], len(row["value"])) for row in case.get("expect_on_close", [])]
    assert answers(bench.closed()) == closed
    counted_elsewhere = [row for row in case["late_window_drop_detail"] if row["ts"] in (5, 6) and closed]
    late, drops = bench.late(), case["late_window_drop_detail"]
    assert len(drops) == case["late_window_drops"] == len(late) + bench.partial()
    assert bench.partial() == len(counted_elsewhere)
    # Kafka measures lateness from stream time; ours is from the watermark, which is the grace behind it
    for row, drop in zip(late, drops, strict=False):
        assert int(row["time"]) == drop["ts"]
        assert [int(row["window_start"]), int(row["window_end"])] == drop["window"]
        assert int(row["late_by_ms"]) == drop["stream_time"] - case["grace"] - drop["ts"]


def bench_of(server: RunningServer, case: Case, *, on_update: bool = False) -> Bench:
    window: Window = hopping(case) if case["window"]["type"] == "hopping" else Tumbling(case["window"]["size"])
    question = Question(window, "count", ("key",), emit="on_update" if on_update else "on_close")
    return Bench(server, [question], case.get("grace", 0), value="string")


def counted(rows: list[Row]) -> list[tuple[int, int, str, int, int]]:
    """(start, end, key, count, newest) of downstream rows."""
    return [(int(r["window_start"]), int(r["window_end"]), r["key"], int(r["value"]), int(r["newest"])) for r in rows]


def update_of(row: Case) -> tuple[int, int, str, int, int]:
    """An update of the vectors in the same form: what they concatenate is counted."""
    value = row["value"] if isinstance(row["value"], int) else len(row["value"])
    return row["start"], row["end"], row["key"], value, row["ts"]


def windows_of(case: Case, ts: int) -> Iterator[int]:
    """The starts of Kafka's windows of a time: none below 0."""
    window = hopping(case)
    return (start for start in range(0, ts + 1, window.every_ms) if ts < start + window.size_ms)
