"""Quix Streams' cases. Its grace is our disorder (see Kafka's cases); its `current()` is our open window.

Quix closes windows per key by default, so a key that falls silent never closes ("C never closes"); we close per
partition, as its `closing_strategy="partition"` does: one watermark for all groups, and the last window closes.
Its `updated` are the windows that an event changed; ours are read, which shows them all.
"""

from __future__ import annotations

from pipeline.core.definitions import Tumbling
from tests.servers import RunningServer
from tests.vectors.vectors import Bench, Question, answers, by_name, expected, hopping, load

CASES = by_name(load("08_quix_windows.json")["cases"])

NOT_OURS = {
    "sliding_1h_mean_current": "sliding windows",
    "count_sliding_3_mean_final": "count_sliding windows",
    "count_tumbling_3_collect_final": "count_tumbling windows",
    "closing_strategy_key": "time of its own for each key",
    "early_trigger_sum_ge_100_hopping_100_by_50_grace_100": "closing a window by its value",
    "sliding_10_grace_15_right_window_created": "sliding windows",
    "sliding_10_grace_15_right_becomes_left": "sliding windows",
    "sliding_10_grace_0_expiry": "sliding windows",
    "sliding_10_no_negative_start": "sliding windows",
}
"""What Quix has and we do not, by design: DESIGN section 5 has no window per event or per count, and no triggers."""
RUN_BELOW = {
    "tumbling_1h_mean_current",
    "tumbling_10s_sum_final",
    "closing_strategy_partition",
    "tumbling_10_partition_grace_2_sum",
    "hopping_10_by_5_expire",
}


def test_no_case_is_forgotten() -> None:
    assert RUN_BELOW | NOT_OURS.keys() == CASES.keys()
    for name, reason in NOT_OURS.items():
        case = CASES[name]
        kind = case["window"]["type"]
        match kind:
            case "tumbling":
                assert (reason, case["time_scope"]) == ("time of its own for each key", "key")
            case "hopping":
                assert reason == "closing a window by its value"
                assert "early_close_when" in case
            case _:
                assert reason == f"{kind} windows"


def test_an_open_window_answers_after_every_event(server: RunningServer) -> None:
    case = CASES["tumbling_1h_mean_current"]
    bench = Bench(server, [Question(Tumbling(case["window"]["size"]), "mean")])

    for event, update in zip(case["events"], case["expect"], strict=True):
        bench.events([event])
        [row] = bench.open_and_closed()
        assert row["state"] == "open"
        assert answers([row]) == expected([update])


def test_an_open_window_comes_out_after_every_event_on_update(server: RunningServer) -> None:
    case = CASES["tumbling_1h_mean_current"]
    bench = Bench(server, [Question(Tumbling(case["window"]["size"]), "mean", emit="on_update")])

    for event, update in zip(case["events"], case["expect"], strict=True):
        bench.events([event])
        [row] = bench.newly_updated()
        assert answers([row | {"value": float(row["value"])}]) == expected([update])


def test_a_sum_comes_out_when_the_next_window_begins(server: RunningServer) -> None:
    case = CASES["tumbling_10s_sum_final"]
    bench = Bench(server, [Question(Tumbling(case["window"]["size"]), "sum")], case["grace"], value="int")

    bench.events(case["events"])

    assert answers(bench.closed()) == expected(case["expect"])


def test_one_key_s_event_closes_the_windows_of_all(server: RunningServer) -> None:
    case = CASES["closing_strategy_partition"]
    bench = Bench(server, [Question(Tumbling(case["window"]["size"]), "sum", ("key",))], case["grace"], value="int")

    bench.events(case["events"])

    assert answers(bench.closed(), "key") == expected(case["expect"], "key")
    assert [int(row["time"]) for row in bench.late()] == [case["events"][n]["ts"] for n in case["dropped_events"]]


def test_what_closes_after_each_event_with_a_grace(server: RunningServer) -> None:
    case = CASES["tumbling_10_partition_grace_2_sum"]
    bench = Bench(server, [Question(Tumbling(case["window"]["size"]), "sum", ("key",))], case["grace"], value="int")

    for event in case["events"]:
        bench.events([event])
        newly = [row | {"value": int(row["value"])} for row in bench.newly_published()]
        assert answers(newly, "key") == expected(event.get("closed", []), "key")
        updated = set(expected(event.get("updated", []), "key"))
        assert updated <= set(answers(bench.open_and_closed(), "key"))


def test_what_closes_after_each_event_of_hopping_windows(server: RunningServer) -> None:
    case = CASES["hopping_10_by_5_expire"]
    bench = Bench(server, [Question(hopping(case), "sum")], case["grace"], value="int")

    for event in case["events"]:
        bench.events([event])
        newly = [row | {"value": int(row["value"])} for row in bench.newly_published()]
        assert answers(newly) == expected(event["closed"])
        assert set(expected(event.get("updated", []))) <= set(answers(bench.open_and_closed()))
