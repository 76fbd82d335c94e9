"""Bytewax' cases: window numbers, folds, sessions, its event clock and its guide's data set.

Where the systems part:
- Bytewax drops what is behind the watermark even if its window is open; we ask whether the window has ended, as Flink
  and Kafka do;
- its clock moves with the wall clock; ours by ticks in the log, written by the scheduler, so that a replay gives the
  same numbers: the tests write the ticks that its clock stands for;
- its session ends with its last event; ours a gap later, when the next event would be apart.
"""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.core.definitions import Hopping, Session, Tumbling, Window
from tests.servers import RunningServer
from tests.vectors.vectors import Bench, Case, Question, answers, by_name, hopping, load, ms

VECTORS = load("07_bytewax_windows_and_watermarks.json")
WINDOW_IDS = by_name(VECTORS["window_ids"])
FOLDS = by_name(VECTORS["fold"])
CLOCK = by_name(VECTORS["event_clock"])
MERGES = VECTORS["session_merge"]

BY_EVENTS_ALONE = ["item_minus_wait", "advances_in_batch", "never_back"]
BY_THE_WALL = ["forward_by_system_time", "never_back_and_forward_by_wall", "item_slower_than_wall"]
FOREVER_MS = 10**9  # a wait that no event of a case reaches


def test_no_case_is_forgotten() -> None:
    tumbling = {name for name, case in WINDOW_IDS.items() if case["slide_s"] == case["size_s"]}
    assert len(tumbling) == 7
    assert all(name.startswith("tumble_") for name in tumbling)
    assert all(name.startswith(("overlap_", "indivisible")) for name in WINDOW_IDS.keys() - tumbling)  # hopping
    assert {
        "tumbling_10s",
        "sliding_10s_by_5s",
        "session_gap_5s",
        "collect_tumbling_10s_wait_forever_sorted",
    } == FOLDS.keys()
    assert {*BY_EVENTS_ALONE, *BY_THE_WALL, "eof", "docs_table"} == CLOCK.keys()
    assert all({"gap_s", "events_s", "sessions"} <= case.keys() for case in MERGES)
    assert VECTORS["dataset_smoothie"].keys() == {"events", "tumbling_30m", "hopping_60m_by_15m", "session_gap_5m"}
    assert VECTORS.keys() == {"source", "semantics", "window_ids", "fold"} | {
        "session_merge",
        "event_clock",
        "dataset_smoothie",
    }


@pytest.mark.parametrize("name", WINDOW_IDS)
def test_window_numbers_count_from_where_windows_are_aligned_to(server: RunningServer, name: str) -> None:
    case = WINDOW_IDS[name]
    size_ms, every_ms, align_ms = case["size_s"] * 1_000, case["slide_s"] * 1_000, ms(case["align_to"])
    window: Window = Hopping(size_ms, every_ms, align_ms % every_ms)
    if size_ms == every_ms:
        window = Tumbling(size_ms, align_ms % size_ms)
    bench = Bench(server, [Question(window)])

    bench.event(case["ts"])
    bench.end()

    found = answers(bench.closed())
    assert [(start - align_ms) // every_ms for start, _, _ in found] == case["window_ids"]
    assert {end - start for start, end, _ in found} == {size_ms}


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


def test_what_each_hopping_window_collects_is_what_ours_counts(server: RunningServer) -> None:
    case = FOLDS["sliding_10s_by_5s"]
    window = hopping(case)
    bench = Bench(server, [Question(window)], case["wait_s"] * 1_000)

    for at_s, _ in case["events"]:
        bench.event(at_s * 1_000)
    bench.end()

    found = {str(row["window_start"] // window.every_ms): row["value"] for row in bench.closed()}
    assert found == {number: len(letters) for number, letters in case["expect"].items()}
    assert [int(row["time"]) for row in bench.late()] == late_times(case)


def test_what_each_session_collects_is_what_ours_counts(server: RunningServer) -> None:
    case = FOLDS["session_gap_5s"]
    bench = Bench(server, [Question(Session(case["gap_s"] * 1_000), group_by=("key",))], case["wait_s"] * 1_000)
    at_ms = {letter: at_s * 1_000 for at_s, letter in case["events"]}

    for at_s, _ in case["events"]:
        bench.event(at_s * 1_000, key="all")
    bench.end()

    assert answers(bench.closed()) == [
        (at_ms[letters[0]], at_ms[letters[-1]] + case["gap_s"] * 1_000, len(letters)) for letters in case["expect"]
    ]
    assert [int(row["time"]) for row in bench.late()] == late_times(case)


def late_times(case: Case) -> list[int]:
    return [at_s * 1_000 for at_s, letter in case["events"] if letter in case["late"]]


@pytest.mark.parametrize(("function", "place"), [("first", 0), ("last", -1)])
def test_first_and_last_go_by_event_time_as_a_sorted_collection_does(
    server: RunningServer, function: str, place: int
) -> None:
    """An aggregate that collects values is a user's own here (`@aggregate`); first and last are its ends."""
    case = FOLDS["collect_tumbling_10s_wait_forever_sorted"]
    assert case["wait_s"] == "max"
    bench = Bench(server, [Question(Tumbling(case["size_s"] * 1_000), function)], FOREVER_MS, value="int")

    for at_s, value in case["events"]:
        bench.event(at_s * 1_000, value)
    bench.end()

    found = {str(row["window_start"] // 10_000): row["value"] for row in bench.closed()}
    assert found == {number: values[place] for number, values in case["expect"].items()}


@pytest.mark.parametrize("case", MERGES, ids=lambda case: ",".join(map(str, case["events_s"])))
def test_sessions_are_found_whatever_the_order_and_the_exact_gap_joins(server: RunningServer, case: Case) -> None:
    bench = Bench(server, [Question(Session(case["gap_s"] * 1_000), group_by=("key",))], FOREVER_MS)

    for at_s in case["events_s"]:
        bench.event(at_s * 1_000, key="one")
    bench.end()

    expected = [(first * 1_000, (last + case["gap_s"]) * 1_000) for first, last in case["sessions"]]
    assert [(row["window_start"], row["window_end"]) for row in bench.closed()] == expected


@pytest.mark.parametrize("name", BY_EVENTS_ALONE)
def test_the_watermark_is_the_newest_event_less_the_wait(server: RunningServer, name: str) -> None:
    case = CLOCK[name]
    bench = Bench(server, [Question(Tumbling(1_000))], case["wait_s"] * 1_000)

    for step in case["steps"]:
        bench.event(at(step["item"]))

    assert watermark(bench) == at(case["steps"][-1]["watermark"])


@pytest.mark.parametrize("name", [*BY_THE_WALL, "docs_table"])
def test_where_the_wall_clock_moves_its_time_a_tick_moves_ours(server: RunningServer, name: str) -> None:
    """A tick's time is the running maximum and what the wall clock went on by, as silence would have it.

    What Bytewax calls late is late here because its window of a second has ended too.
    """
    case = CLOCK[name]
    bench = Bench(server, [Question(Tumbling(1_000))], case["wait_s"] * 1_000)
    newest_ms, wall_ms = 0, None

    for step in case["steps"]:
        passed_ms = passed(step, wall_ms)
        wall_ms = at(step["wall"]) if "wall" in step else None
        if passed_ms:
            newest_ms += passed_ms
            bench.tick(newest_ms)
        if "item" in step:
            bench.event(at(step["item"]))
            newest_ms = max(newest_ms, at(step["item"]))
        if "watermark" in step:
            assert watermark(bench) == at(step["watermark"])

    said = [step for step in case["steps"] if "late" in step]  # only one case says what is
    if said:
        late = [at(step["item"]) for step in said if step["late"]]
        assert [int(row["time"]) for row in bench.late()] == late


def passed(step: Case, wall_ms: int | None) -> int:
    """How long the wall clock went on before this step."""
    if "advance_wall_s" in step:
        return int(step["advance_wall_s"]) * 1_000
    return at(step["wall"]) - wall_ms if wall_ms is not None and "wall" in step else 0


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


@pytest.mark.parametrize(
    ("name", "window"),
    [
        ("tumbling_30m", Tumbling(30 * 60_000)),
        ("hopping_60m_by_15m", Hopping(60 * 60_000, 15 * 60_000)),
    ],
)
def test_windows_of_the_guide_s_data_set(server: RunningServer, name: str, window: Window) -> None:
    data = VECTORS["dataset_smoothie"]
    bench = Bench(server, [Question(window)])

    bench.events(data["events"])
    bench.end()

    expected = [(ms(row["start"]), ms(row["end"]), row["count"]) for row in data[name]]
    assert answers(bench.closed()) == expected


def test_sessions_of_the_guide_s_data_set(server: RunningServer) -> None:
    data = VECTORS["dataset_smoothie"]
    bench = Bench(server, [Question(Session(5 * 60_000), group_by=("key",))])

    for event in data["events"]:
        bench.event(event["ts"], key="all")
    bench.end()

    gap_ms = 5 * 60_000
    expected = [(ms(row["first"]), ms(row["last"]) + gap_ms, len(row["ids"])) for row in data["session_gap_5m"]]
    assert answers(bench.closed()) == expected


def at(time: str) -> int:
    return ms(f"2024-01-01T{time}Z")


def watermark(bench: Bench) -> Any:
    bench.line.settle()
    return bench.line.get("answer")["meta"]["watermark"]
