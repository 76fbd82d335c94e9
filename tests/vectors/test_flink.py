"""Flink's tumbling cases: window TVFs of its SQL documentation, and dropping of late records by its window operator."""

from __future__ import annotations

import pytest

from pipeline.core.definitions import Tumbling
from tests.servers import RunningServer
from tests.vectors.vectors import Bench, Question, answers, by_name, expected, load, ms

SQL = by_name(load("01_flink_sql_tvf.json")["cases"])
OPERATOR = by_name(load("02_flink_window_operator_lateness.json")["cases"])

NOT_BUILT = {
    "hopping_10m_every_5m": "hopping windows",
    "cumulate_step_2m_max_10m": "cumulating windows",
    "session_gap_5m_by_item": "session windows",
    "session_gap_5m_unkeyed": "session windows",
    "lateness_500ms_purging_tumbling_2s": "allowed lateness",
    "drop_late_per_window_sliding_3s_by_1s_zero_lateness": "hopping windows",
    "session_gap_3s_zero_lateness": "session windows",
    "session_gap_3s_lateness_10ms_accumulating": "session windows",
    "session_gap_3s_lateness_10s_accumulating": "session windows",
    "session_gap_3s_lateness_10s_purging": "session windows",
}
RUN_BELOW = {
    "tumbling_10m",
    "tumbling_10m_offset_1m",
    "tumbling_10m_grouping_sets_supplier_and_total",
    "tumbling_10m_offset_assignment_table",
    "drop_late_tumbling_2s_zero_lateness",
}


def test_no_case_is_forgotten() -> None:
    assert RUN_BELOW | NOT_BUILT.keys() == SQL.keys() | OPERATOR.keys()
    for name, reason in NOT_BUILT.items():
        case = (SQL | OPERATOR)[name]
        kind = case["window"]["type"]
        assert reason == ("allowed lateness" if kind == "tumbling" else f"{kind.replace('ate', 'ating')} windows")
        assert kind != "tumbling" or case["allowed_lateness"] > 0


@pytest.mark.parametrize("name", ["tumbling_10m", "tumbling_10m_offset_1m"])
def test_tumbling_sums(server: RunningServer, name: str) -> None:
    case = SQL[name]
    window = Tumbling(case["window"]["size_s"] * 1_000, case["window"].get("offset_s", 0) * 1_000)
    bench = Bench(server, [Question(window, "sum")])

    bench.events(case["events"])
    bench.end()

    assert answers(bench.closed()) == expected(case["expect"])


def test_a_grouping_set_is_a_stage_of_its_own(server: RunningServer) -> None:
    case = SQL["tumbling_10m_grouping_sets_supplier_and_total"]
    window = Tumbling(case["window"]["size_s"] * 1_000)
    bench = Bench(server, [Question(window, "sum", ("key",), "by_supplier"), Question(window, "sum", (), "total")])

    for event in case["events"]:
        bench.event(event["ts"], event["value"], event["supplier"])
    bench.end()

    found = [row | {"supplier": row["key"]} for row in bench.closed("by_supplier")]
    by_supplier = [row for row in case["expect"] if row["supplier"] is not None]
    total = [row for row in case["expect"] if row["supplier"] is None]
    assert answers(found, "supplier") == expected(by_supplier, "supplier")
    assert answers(bench.closed("total")) == expected(total)


def test_offsets_of_either_sign_and_larger_than_the_window_assign_as_flink_does(server: RunningServer) -> None:
    case = SQL["tumbling_10m_offset_assignment_table"]
    size_ms = case["window"]["size_s"] * 1_000
    rows = {f"offset_{number}": row for number, row in enumerate(case["expect"])}
    questions = [Question(Tumbling(size_ms, row["offset_s"] * 1_000), name=name) for name, row in rows.items()]
    bench = Bench(server, questions)

    bench.event(case["event_ts"])
    bench.end()

    for name, row in rows.items():
        assert answers(bench.closed(name)) == [(ms(row["start"]), ms(row["end"]), 1)]


def test_windows_before_1970_are_floored_not_truncated(server: RunningServer) -> None:
    """No vector has negative times with an offset; the rule is Flink's: start = ts - floormod(ts - offset, size)."""
    questions = [Question(Tumbling(600), name="plain"), Question(Tumbling(600, 60), name="moved")]
    bench = Bench(server, questions, disorder_ms=1_000)

    for ts in (-1, -600, -601, -541, 59, 60):
        bench.event(ts)
    bench.end()

    assert answers(bench.closed("plain")) == [(-1_200, -600, 1), (-600, 0, 3), (0, 600, 2)]
    assert answers(bench.closed("moved")) == [(-1_140, -540, 3), (-540, 60, 2), (60, 660, 1)]


def test_the_window_operator_drops_what_is_late_at_zero_lateness(server: RunningServer) -> None:
    """The case moves time itself: a disorder bound larger than all its times keeps events from doing so, ticks do.

    Flink's watermark w says that no more time <= w is coming and fires a window at w >= end - 1; ours says that no more
    time < W is coming and closes at W >= end. So W = w + 1, and the tick that lifts W there stands `disorder` later.
    """
    case = OPERATOR["drop_late_tumbling_2s_zero_lateness"]
    disorder_ms = 100_000
    bench = Bench(server, [Question(Tumbling(case["window"]["size"]), "sum", ("key",))], disorder_ms, value="int")
    came_out = []

    for step in [*case["script"], {"op": "expect", "out": []}]:
        match step["op"]:
            case "event":
                bench.event(step["ts"], step["value"], step["key"])
            case "watermark":
                bench.tick(step["ts"] + 1 + disorder_ms)
                came_out += bench.newly_published()
            case "expect":
                found = [(row["key"], int(row["value"]), int(row["window_start"])) for row in came_out]
                assert found == [(row["key"], row["value"], row["start"]) for row in step["out"]]
                came_out = []

    assert len(bench.late()) == case["dropped"]
