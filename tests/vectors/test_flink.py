"""Flink's cases: window TVFs of its SQL documentation, and what its window operator does with late records.

Where the systems part, the test's name says what we do; the reasons:
- a revision is the whole window again, with the next revision number, whether Flink would accumulate or purge: a reader
  who missed the first publication still has the right number;
- an event is late for sessions by itself, not by what it would merge with: otherwise which event is late would depend
  on what other keys and closers did before (DESIGN section 5);
- a session that has closed can still be joined by what is not late, and is then retracted, which Flink leaves unsaid.
"""

from __future__ import annotations

import pytest

from pipeline.core.definitions import Cumulating, Session, Tumbling, Window
from tests.servers import RunningServer
from tests.vectors.vectors import Bench, Case, Question, answers, by_name, expected, hopping, load, ms

SQL = by_name(load("01_flink_sql_tvf.json")["cases"])
OPERATOR = by_name(load("02_flink_window_operator_lateness.json")["cases"])
DISORDER_MS = 100_000  # beyond all times of the operator's cases: ticks alone move time

RUN_BELOW = {
    "tumbling_10m",
    "tumbling_10m_offset_1m",
    "tumbling_10m_grouping_sets_supplier_and_total",
    "tumbling_10m_offset_assignment_table",
    "hopping_10m_every_5m",
    "cumulate_step_2m_max_10m",
    "session_gap_5m_by_item",
    "session_gap_5m_unkeyed",
    "drop_late_tumbling_2s_zero_lateness",
    "drop_late_per_window_sliding_3s_by_1s_zero_lateness",
    "lateness_500ms_purging_tumbling_2s",
    "session_gap_3s_zero_lateness",
    "session_gap_3s_lateness_10ms_accumulating",
    "session_gap_3s_lateness_10s_accumulating",
    "session_gap_3s_lateness_10s_purging",
}


def test_no_case_is_forgotten() -> None:
    assert SQL.keys() | OPERATOR.keys() == RUN_BELOW


@pytest.mark.parametrize("name", ["tumbling_10m", "tumbling_10m_offset_1m"])
def test_tumbling_sums(server: RunningServer, name: str) -> None:
    case = SQL[name]
    window = Tumbling(case["window"]["size_s"] * 1_000, case["window"].get("offset_s", 0) * 1_000)
    bench = Bench(server, [Question(window, "sum")])

    bench.events(case["events"])
    bench.end()

    assert answers(bench.closed()) == expected(case["expect"])


def test_hopping_sums(server: RunningServer) -> None:
    case = SQL["hopping_10m_every_5m"]
    bench = Bench(server, [Question(hopping(case), "sum")])

    bench.events(case["events"])
    bench.end()

    assert answers(bench.closed()) == expected(case["expect"])


def test_a_cumulating_window_answers_at_every_step_even_one_that_adds_nothing(server: RunningServer) -> None:
    case = SQL["cumulate_step_2m_max_10m"]
    window = Cumulating(case["window"]["size_s"] * 1_000, case["window"]["step_s"] * 1_000)
    bench = Bench(server, [Question(window, "sum")])

    bench.events(case["events"])
    bench.end()

    assert answers(bench.closed()) == expected(case["expect"])


def test_sessions_by_item(server: RunningServer) -> None:
    case = SQL["session_gap_5m_by_item"]
    bench = Bench(server, [Question(Session(case["window"]["gap_s"] * 1_000), "sum", ("key",))], DISORDER_MS * 100)

    for event in case["events"]:
        bench.event(event["ts"], event["value"], event["item"])
    bench.end()

    found = [row | {"item": row["key"]} for row in bench.closed()]
    assert answers(found, "item") == expected(case["expect"], "item")


def test_sessions_of_a_whole_stream_have_one_key_for_all(server: RunningServer) -> None:
    """Flink runs them in one task; ours need a key, so that what they are made of is in one partition."""
    case = SQL["session_gap_5m_unkeyed"]
    bench = Bench(server, [Question(Session(case["window"]["gap_s"] * 1_000), "sum", ("key",))], DISORDER_MS * 100)

    for event in case["events"]:
        bench.event(event["ts"], event["value"], "all")
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


class Operator:
    """A case's script, whose steps move time themselves.

    Flink's watermark w says that no more time <= w is coming and fires a window at w >= end - 1; ours says that no more
    time < W is coming and closes at W >= end. So W = w + 1, and the tick that lifts W there stands `disorder` later.
    """

    def __init__(self, server: RunningServer, case: Case) -> None:
        self.case = case
        lateness_ms = case["allowed_lateness"]
        question = Question(_window(case["window"]), "sum", ("key",), allowed_lateness_ms=lateness_ms)
        self.bench = Bench(server, [question], DISORDER_MS, value="int")

    def run(self) -> list[list[tuple[str, int, int, int]]]:
        """What came out before each `expect` of the script, and after the last step: (key, value, start, end)."""
        came_out: list[list[tuple[str, int, int, int]]] = [[]]
        for step in self.case["script"]:
            match step["op"]:
                case "event":
                    self.bench.event(step["ts"], step["value"], step["key"])
                case "watermark":
                    self.bench.tick(step["ts"] + 1 + DISORDER_MS)
                case "expect":
                    came_out.append([])
                    continue
            came_out[-1] += self._out()
        return came_out

    def _out(self) -> list[tuple[str, int, int, int]]:
        rows = [row for row in self.bench.newly_published() if row["state"] != "retracted"]
        return [(r["key"], int(r["value"]), int(r["window_start"]), int(r["window_end"])) for r in rows]

    def expected(self) -> list[list[tuple[str, int, int, int]]]:
        return expected_of(self.case)


def expected_of(case: Case) -> list[list[tuple[str, int, int, int]]]:
    """What Flink says came out, in the same form as `Operator.run`."""
    expects = [step["out"] for step in case["script"] if step["op"] == "expect"]
    return [[(row["key"], row["value"], row["start"], row["end"]) for row in out] for out in [*expects, []]]


def _window(window: Case) -> Window:
    match window["type"]:
        case "tumbling":
            return Tumbling(window["size"])
        case "hopping":
            return hopping(window)
        case _:
            return Session(window["gap"])


def test_the_window_operator_drops_what_is_late_at_zero_lateness(server: RunningServer) -> None:
    operator = Operator(server, OPERATOR["drop_late_tumbling_2s_zero_lateness"])

    assert operator.run() == operator.expected()
    assert len(operator.bench.late()) == operator.case["dropped"]


def test_an_event_late_for_one_window_counts_in_its_others(server: RunningServer) -> None:
    operator = Operator(server, OPERATOR["drop_late_per_window_sliding_3s_by_1s_zero_lateness"])

    assert [sorted(out) for out in operator.run()] == [sorted(out) for out in operator.expected()]
    assert operator.bench.partial() == 2  # 2400 twice, for the window that ends at 3000
    assert [int(row["time"]) for row in operator.bench.late()] == [3001]


def test_a_late_revision_is_the_whole_window_where_a_purging_flink_sends_what_is_new(server: RunningServer) -> None:
    operator = Operator(server, OPERATOR["lateness_500ms_purging_tumbling_2s"])

    first, revised, last = operator.run()

    flinks_first, purged, _ = operator.expected()
    assert (first, purged, last) == (flinks_first, [("key2", 1, 0, 2000)], [])
    assert revised == [("key2", 3, 0, 2000)]
    assert [row["revision"] for row in operator.bench.closed()] == [1]
    assert len(operator.bench.late()) == operator.case["dropped"]


def test_a_closed_session_is_joined_by_what_is_not_late_where_flink_begins_a_new_one(server: RunningServer) -> None:
    operator = Operator(server, OPERATOR["session_gap_3s_zero_lateness"])

    *before, joined, last = operator.run()

    *flinks_before, new, _ = operator.expected()
    assert (before, last) == (flinks_before, [])
    # 14500 is 2900 after 11600, whose session closed at 14600: it is not late, so it belongs to it
    assert (new, joined) == ([("key2", 1, 14500, 17500)], [("key2", 2, 11600, 17500)])
    assert len(operator.bench.late()) == operator.case["dropped"]


def test_an_event_is_late_for_sessions_by_itself_where_flink_asks_what_it_would_join(
    server: RunningServer,
) -> None:
    operator = Operator(server, OPERATOR["session_gap_3s_lateness_10ms_accumulating"])

    first, second, third, joined, last = operator.run()

    assert [first, second] == operator.expected()[:2]
    assert operator.expected()[2:] == [[("key2", 2, 10000, 14600)], [("key2", 3, 10000, 17500)], []]
    assert [third, joined, last] == [[], [("key2", 2, 11600, 17500)], []]
    assert [int(row["time"]) for row in operator.bench.late()] == [10000]


def test_a_late_event_merges_two_published_sessions_and_retracts_both(server: RunningServer) -> None:
    operator = Operator(server, OPERATOR["session_gap_3s_lateness_10s_accumulating"])

    assert operator.run() == operator.expected()
    assert operator.bench.late() == []
    gone = operator.bench.rest("answer", state="retracted")
    assert answers(gone) == [(1000, 11500, 5), (1000, 14600, 7), (11600, 14600, 1)]


def test_sessions_never_forget_what_they_published_as_a_purging_flink_does(server: RunningServer) -> None:
    """The vector says of Flink's answer `do not adopt`: ours is that of the accumulating case."""
    operator = Operator(server, OPERATOR["session_gap_3s_lateness_10s_purging"])
    assert "do not adopt" in operator.case["implementation_specific"]

    accumulating = OPERATOR["session_gap_3s_lateness_10s_accumulating"]
    assert operator.run() == expected_of(accumulating)
