"""Bytewax' tumbling cases: window numbers, folds, its event clock and its guide's data set.

Where the systems part: Bytewax drops what is behind the watermark even if its window is open; we ask whether the
window has ended, as Flink and Kafka do. Its clock moves with the wall clock; ours by ticks in the log, written by the
scheduler, so that a replay gives the same numbers.
"""

from __future__ import annotations

import pytest

from pipeline.core.definitions import Tumbling
from tests.servers import RunningServer
from tests.vectors.vectors import Bench, Case, Question, answers, by_name, load, ms

VECTORS = load("07_bytewax_windows_and_watermarks.json")
WINDOW_IDS = by_name(VECTORS["window_ids"])
FOLDS = by_name(VECTORS["fold"])
CLOCK = by_name(VECTORS["event_clock"])

TUMBLING = sorted(name for name, case in WINDOW_IDS.items() if case["slide_s"] == case["size_s"])
BY_EVENTS_ALONE = ["item_minus_wait", "advances_in_batch", "never_back"]
NOT_BUILT = {
    "session_gap_5s": "session windows",
    "sliding_10s_by_5s": "hopping windows",
    "collect_tumbling_10s_wait_forever_sorted": "an aggregate that collects values",
}
WALL_CLOCK = {"forward_by_system_time", "never_back_and_forward_by_wall", "item_slower_than_wall", "docs_table"}


def test_no_case_is_forgotten() -> None:
    assert len(TUMBLING) == 7
    assert all(name.startswith("tumble_") for name in TUMBLING)
    assert all(name.startswith(("overlap_", "indivisible")) for name in WINDOW_IDS.keys() - set(TUMBLING))  # hopping
    assert {"tumbling_10s"} | NOT_BUILT.keys() == FOLDS.keys()
    assert {*BY_EVENTS_ALONE, "eof"} | WALL_CLOCK == CLOCK.keys()
    assert all("gap_s" in case for case in VECTORS["session_merge"])  # session windows
    assert VECTORS["dataset_smoothie"].keys() == {"events", "tumbling_30m", "hopping_60m_by_15m", "session_gap_5m"}
    assert VECTORS.keys() == {"source", "semantics", "window_ids", "fold"} | {
        "session_merge",
        "event_clock",
        "dataset_smoothie",
    }


@pytest.mark.parametrize("name", TUMBLING)
def test_window_numbers_count_from_where_windows_are_aligned_to(server: RunningServer, name: str) -> None:
    case = WINDOW_IDS[name]
    size_ms, align_ms = case["size_s"] * 1_000, ms(case["align_to"])
    bench = Bench(server, [Question(Tumbling(size_ms, align_ms % size_ms))])

    bench.event(case["ts"])
    bench.end()

    [(start, end, _)] = answers(bench.closed())
    assert [(start - align_ms) // size_ms] == case["window_ids"]
    assert end - start == size_ms


def test_counts_by_window_and_type(server: RunningServer) -> None:
    case = FOLDS["tumbling_10s"]
    bench = Bench(server, [Question(Tumbling(case["size_s"] * 1_000), group_by=("key",))], case["wait_s"] * 1_000)

    for at_s, kind in case["events"]:
        bench.event(at_s * 1_000, key=kind)
    bench.end()

    expected = [
        (int(number) * 10_000, kind, count)
        for number, counts in case["expect"].items()
        for kind, count in counts.items()
    ]
    assert [(row["window_start"], row["key"], row["value"]) for row in bench.closed()] == expected


@pytest.mark.parametrize("name", BY_EVENTS_ALONE)
def test_the_watermark_is_the_newest_event_less_the_wait(server: RunningServer, name: str) -> None:
    case = CLOCK[name]
    bench = Bench(server, [Question(Tumbling(1_000))], case["wait_s"] * 1_000)

    for step in case["steps"]:
        bench.event(f"2024-01-01T{step['item']}Z")

    assert watermark(bench) == ms(f"2024-01-01T{case['steps'][-1]['watermark']}Z")


def test_the_end_of_the_input_closes_every_window(server: RunningServer) -> None:
    """Bytewax jumps to infinity; an end tick goes to the end of the newest window, so that a stream can go on."""
    case: Case = CLOCK["eof"]
    assert case["steps"] == [{"eof": True, "watermark": "+inf"}]
    bench = Bench(server, [Question(Tumbling(1_000))], case["wait_s"] * 1_000)

    bench.event(500)
    assert bench.closed() == []
    bench.end()

    assert answers(bench.closed()) == [(0, 1_000, 1)]
    assert watermark(bench) == 1_000


def test_half_hours_of_the_guide_s_data_set(server: RunningServer) -> None:
    data = VECTORS["dataset_smoothie"]
    bench = Bench(server, [Question(Tumbling(30 * 60_000))])

    bench.events(data["events"])
    bench.end()

    expected = [(ms(row["start"]), ms(row["end"]), row["count"]) for row in data["tumbling_30m"]]
    assert answers(bench.closed()) == expected


def watermark(bench: Bench) -> int | None:
    bench.line.settle()
    found: int | None = bench.line.get("answer")["meta"]["watermark"]
    return found
