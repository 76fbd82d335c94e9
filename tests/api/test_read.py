"""The reading side over HTTP: numbers worked out by hand, from rows in Redis to the answer."""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.csv_text import FORMULA_STARTS, csv_text
from pipeline.core.definitions import Config
from pipeline.rim import keys, store
from pipeline.runtime import query_plan
from tests.api.line import BASE, BY_PAGE, CONFIG, Line, make_line
from tests.servers import RunningServer

S = 1_000


def fill(line: Line) -> None:
    """Three windows of ten seconds; time stands at 25 s, so two are closed."""
    line.add(0, "/a", 10.0)
    line.add(1, "/b", 99.0, bot=True)  # filtered
    line.add(2, "/a", 20.0, status=200)
    line.add(3, "/b", 30.0)
    line.add(12, "/a", 40.0)
    line.add(25, "/b", 60.0)
    line.work()


def brief(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """(seconds after BASE, page, views, mean, state) of each row."""
    return [((r["window_start"] - BASE) // S, r["page"], r["views"], r["mean_ms"], r["state"]) for r in rows]


CLOSED = [(0, "/a", 2, 15.0, "final"), (0, "/b", 1, 30.0, "final"), (10, "/a", 1, 40.0, "final")]
OPEN = [(20, "/b", 1, 60.0, "open")]


def test_a_metric_is_answered_in_the_shape_of_the_contract(line: Line) -> None:
    fill(line)

    answer = line.get(f"/v1/metrics/by_page?start={BASE}&end={BASE + 30 * S}")

    assert list(answer) == ["data", "meta", "next"]
    assert answer["data"][0] == {
        "window_start": BASE,
        "window_end": BASE + 10 * S,
        "state": "final",
        "revision": 0,
        "page": "/a",
        "views": 2,
        "mean_ms": 15.0,
        "last_ms": 20.0,
    }
    assert answer["meta"] == {
        "start": BASE,
        "end": BASE + 30 * S,
        "step": 10 * S,
        "window": {"tumbling_ms": 10 * S, "offset_ms": 0},
        "watermark": BASE + 25 * S,
        "complete_from": None,
        "complete_to": BASE + 20 * S,
        "complete_by": "events",
        "unit": {"views": None, "mean_ms": "ms", "last_ms": "ms"},
        "truncated": False,
        "tier": None,
        "capped": [],
        "failed": [],
    }
    assert answer["next"] is None


def test_closed_windows_come_from_results_and_open_ones_from_panes(line: Line) -> None:
    fill(line)

    assert brief(line.get("/v1/metrics/by_page")["data"]) == CLOSED + OPEN
    assert brief(line.get("/v1/metrics/by_page?state=closed")["data"]) == CLOSED


def test_a_range_takes_the_windows_it_overlaps(line: Line) -> None:
    fill(line)

    data = line.get(f"/v1/metrics/by_page?start={BASE + 19 * S + 999}&end={BASE + 20 * S + 1}")["data"]
    assert brief(data) == [CLOSED[2], *OPEN]
    assert line.get(f"/v1/metrics/by_page?start={BASE + 20 * S}&end={BASE + 20 * S}")["data"] == []


def test_a_step_of_three_windows_merges_their_partials(line: Line) -> None:
    fill(line)
    line.add(31, "/a", 1.0)
    line.work()

    answer = line.get("/v1/metrics/by_page?step=30s")

    # /a: (10 + 20 + 40) / 3, not the mean of the windows' means; the last step has begun and is open
    assert brief(answer["data"]) == [
        (0, "/a", 3, pytest.approx(70 / 3), "final"),
        (0, "/b", 2, 45.0, "final"),
        (30, "/a", 1, 1.0, "open"),
    ]
    assert [row["last_ms"] for row in answer["data"]] == [40.0, 60.0, 1.0]
    assert answer["meta"]["step"] == 30 * S


def test_a_step_that_is_not_whole_yet_is_open(line: Line) -> None:
    fill(line)

    assert {row["state"] for row in line.get("/v1/metrics/by_page?step=30s")["data"]} == {"open"}
    assert line.get("/v1/metrics/by_page?step=30s&state=closed")["data"] == []


def test_a_step_that_is_no_multiple_is_a_422_that_names_the_nearest(line: Line) -> None:
    problem = line.get("/v1/metrics/by_page?step=25s", 422)

    assert problem["code"] == "step_not_exact"
    assert "nearest that answers exactly is 20s" in problem["detail"]
    assert line.get("/v1/metrics/by_page?step=0s", 422)["code"] == "step_not_exact"


def test_where_keeps_the_groups_asked_for(line: Line) -> None:
    fill(line)

    assert brief(line.get("/v1/metrics/by_page?where.page=/b")["data"]) == [CLOSED[1], *OPEN]
    both = line.get("/v1/metrics/by_page?where.page=/b&where.page=/a&where.page=/none")["data"]
    assert brief(both) == CLOSED + OPEN
    assert line.get("/v1/metrics/by_page?where.page=/none")["data"] == []


def test_where_compares_by_type_and_several_fields_must_all_match(line: Line) -> None:
    fill(line)

    found = line.get("/v1/metrics/by_kind?where.bot=true")["data"]
    assert [row["ts"] for row in found] == [BASE + S]
    assert [row["status"] for row in line.get("/v1/metrics/by_kind?where.status=200")["data"]] == [200]
    assert line.get("/v1/metrics/by_kind?where.status=200&where.bot=true")["data"] == []
    assert len(line.get(f"/v1/metrics/by_kind?where.ts={BASE + 12 * S}")["data"]) == 1


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("window", CLOSED + OPEN),
        ("-window", [*OPEN, CLOSED[2], *CLOSED[:2]]),
        ("mean_ms", [CLOSED[0], CLOSED[1], CLOSED[2], *OPEN]),
        ("-mean_ms", [*OPEN, CLOSED[2], CLOSED[1], CLOSED[0]]),
        ("-views", [CLOSED[0], CLOSED[1], CLOSED[2], *OPEN]),
    ],
)
@pytest.mark.parametrize("batch", [1, 2, 200])
def test_order_and_limit_give_the_first_rows_of_the_whole_answer(
    line: Line, order: str, expected: list[Any], batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_plan, "BATCH_WINDOWS", batch)
    fill(line)

    for limit in range(1, 6):
        answer = line.get(f"/v1/metrics/by_page?order={order}&limit={limit}")
        assert brief(answer["data"]) == expected[:limit]
        assert answer["meta"]["truncated"] is (limit < len(expected))


def test_nulls_come_last_in_either_direction(line: Line) -> None:
    line.add(0, "/none")
    line.add(1, "/a", 5.0)
    line.work()

    for order in ("mean_ms", "-mean_ms"):
        data = line.get(f"/v1/metrics/by_page?order={order}")["data"]
        assert [row["page"] for row in data] == ["/a", "/none"]


def test_without_a_start_the_newest_windows_answer_and_a_cut_step_is_left_out(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_plan, "NEWEST_WINDOWS", 4)
    for second in range(0, 61, 10):
        line.add(second, "/a", 1.0)
    line.work()

    # published: 0 … 50 s; the newest four begin at 20 s, so the step [0, 30) is not whole
    assert [row[0] for row in brief(line.get("/v1/metrics/by_page")["data"])] == [20, 30, 40, 50, 60]
    answer = line.get("/v1/metrics/by_page?step=30s")
    assert brief(answer["data"]) == [(30, "/a", 3, 1.0, "final"), (60, "/a", 1, 1.0, "open")]
    assert answer["meta"]["start"] == BASE + 30 * S


def test_a_range_of_more_windows_than_an_answer_looks_at_is_refused(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(query_plan, "MAX_WINDOWS", 1)
    fill(line)

    assert line.get("/v1/metrics/by_page?start=0", 400)["code"] == "range_too_long"


def test_csv_has_a_header_quotes_and_no_formulas(line: Line) -> None:
    line.add(0, '=cmd|"x",1', -5.0)
    line.add(1, "a\r\nb", 1.5)
    line.add(2)
    line.work()

    answer = line.http.get("/v1/metrics/by_page?format=csv")

    assert answer.content_type == "text/csv; charset=utf-8; header=present"
    header, *rows = csv.reader(io.StringIO(answer.text, newline=""))
    assert header == ["window_start", "window_end", "state", "revision", "page", "views", "mean_ms", "last_ms"]
    assert sorted(row[4:] for row in rows) == [
        ["", "1", "", ""],
        ['\'=cmd|"x",1', "1", "-5.0", "-5.0"],
        ["a\r\nb", "1", "1.5", "1.5"],
    ]
    assert answer.text.startswith(",".join(header) + "\r\n")
    assert answer.headers["Streamgauge-Watermark"] == str(BASE + 2 * S)
    assert answer.headers["Streamgauge-Truncated"] == "false"


@pytest.mark.parametrize("text", ["=1", "+1", "-1", "@x", "\tx", "\rx", "\nx"])
def test_a_text_that_a_spreadsheet_would_run_is_defused(line: Line, text: str) -> None:
    line.add(0, text)
    line.work()

    [_, row] = csv.reader(io.StringIO(line.http.get("/v1/metrics/by_page?format=csv").text, newline=""))
    assert row[4] == "'" + text
    assert line.get("/v1/metrics/by_page")["data"][0]["page"] == text


def test_the_empty_text_and_null_are_two_cells() -> None:
    assert csv_text([("a", "b", "c"), ("", None, 1)]) == 'a,b,c\r\n"",,1\r\n'


def test_control_characters_are_shown_and_not_sent() -> None:
    row = ("a\0b", "\x1b[31m", "\x7f", "\x00=1", "\x85", "a\tb", "é\u2028")
    assert csv_text([(), row]) == "\r\na␀b,␛[31m,␡,␀=1,\ufffd,a\tb,é\u2028\r\n"


@given(texts=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]) | st.sampled_from("\r\n\t"))))
def test_a_csv_reader_reads_every_text_back(texts: list[str]) -> None:
    table = csv_text([("text", "n"), *((text, n) for n, text in enumerate(texts))])

    _, *read = csv.reader(io.StringIO(table, newline=""))

    defused = [f"'{text}" if text.startswith(FORMULA_STARTS) else text for text in texts]
    assert read == [[text, str(n)] for n, text in enumerate(defused)]


def test_a_query_that_is_not_utf8_is_a_400_of_the_app(line: Line) -> None:
    assert line.get("/v1/metrics/by_page?where.page=%ff", 400)["code"] == "not_utf8"
    assert line.get("/v1/metrics/by_page?where.page=%EF%BF%BD")["data"] == []


def test_an_empty_metric_says_that_nothing_is_known(line: Line) -> None:
    answer = line.get("/v1/metrics/by_page")

    assert answer["data"] == []
    assert [answer["meta"][name] for name in ("watermark", "complete_to", "complete_by")] == [None, None, None]
    assert line.get("/v1/metrics/by_page/latest")["data"] == []
    assert line.http.get("/v1/metrics/by_page?format=csv").text.count("\r\n") == 1


def test_latest_is_the_newest_closed_window(line: Line) -> None:
    fill(line)

    answer = line.get("/v1/metrics/by_page/latest")

    assert brief(answer["data"]) == [CLOSED[2]]
    assert (answer["meta"]["start"], answer["meta"]["end"]) == (BASE + 10 * S, BASE + 20 * S)
    assert line.http.get("/v1/metrics/by_page/latest?format=csv").text.splitlines()[1].startswith(str(BASE + 10 * S))


def test_a_tick_closes_windows_and_the_answer_says_that_no_event_did(line: Line) -> None:
    fill(line)
    line.tick(40)
    line.work()

    answer = line.get("/v1/metrics/by_page")

    assert {row["state"] for row in answer["data"]} == {"final"}
    assert answer["meta"]["complete_to"] == BASE + 40 * S
    assert answer["meta"]["complete_by"] == "silence"


@pytest.mark.parametrize("after", [1, 2])
def test_no_window_before_complete_to_is_missing_whatever_is_committed_while_it_is_read(
    line: Line, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a commit between two reads of one answer, which moves time past a new window that is not published yet."""
    fill(line)
    line.tick(30)
    line.work()
    line.worker._next_close_s = float("inf")
    calls = 0

    def hooked(original: Callable[..., Any]) -> Callable[..., Any]:
        def read(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            answer = original(*args, **kwargs)
            calls += 1
            if calls == after:
                line.add(35, "/new", 1.0)
                line.tick(60)
                while not line.worker.poll_once().idle:
                    pass
            return answer

        return read

    for name in ("load_progress", "published_windows"):
        monkeypatch.setattr(store, name, hooked(getattr(store, name)))

    answer = line.get("/v1/metrics/by_page")

    there = {row["window_start"] for row in answer["data"]}
    assert calls >= 2
    assert BASE + 30 * S in there or answer["meta"]["complete_to"] <= BASE + 30 * S


def test_a_changed_stage_answers_with_its_old_version_until_it_has_caught_up(server: RunningServer) -> None:
    line = make_line(server)
    fill(line)
    changed = replace(BY_PAGE, aggregates=BY_PAGE.aggregates[:1])
    new = make_line(server, replace(CONFIG, stages={**CONFIG.stages, "by_page": changed}))

    stage = new.get("/v1/stages/by_page")
    assert stage["rebuilding"] is True
    assert stage["active_version"] == line.get("/v1/stages/by_page")["version"] != stage["version"]
    assert brief(new.get("/v1/metrics/by_page")["data"]) == CLOSED + OPEN
    [said] = [m for m in new.get("/v1/metrics")["metrics"] if m["metric"] == "by_page"]
    assert said["version"] == stage["active_version"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/metrics/by_pge",
        "/v1/metrics/people",
        "/v1/metrics/%7Bvisits.0%7D:raw",
        "/v1/metrics/*/latest",
        "/v1/metrics/nope/rolling",
        "/v1/streams/nope/events",
        "/v1/streams/visits.0/events",
        "/v1/stages/nope",
        "/v1/stages/by_page@x",
        "/v1/metrics/%FF%00",
        "/v1/nothing",
        "/v1/metrics/by_page/nothing",
    ],
)
def test_an_unknown_name_is_a_404_problem(line: Line, path: str) -> None:
    answer = line.http.get(path)

    assert answer.status_code == 404
    assert answer.content_type == "application/problem+json"
    assert answer.get_json(force=True)["detail"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/metrics?x=1",
        "/v1/metrics/by_page?%ED%A0%80=%FF",
        "/v1/metrics/by_page?start=%ED%A0%80",
        "/v1/metrics/by_page?strat=1",
        "/v1/metrics/by_page?start=%00",
        "/v1/metrics/by_page?start=2&end=1",
        "/v1/metrics/by_page?where.=1",
        "/v1/metrics/by_page?where.page%00=1",
        "/v1/metrics/by_page?limit=%F0%9F%98%80",
        "/v1/metrics/by_page/latest?start=1",
        "/v1/streams?limit=3",
        "/v1/streams/visits/events?limit=0",
        "/v1/streams/visits/events?limit=1001",
        "/v1/stages?x",
        "/livez?x=1",
        "/metrics?name[]=x",
    ],
)
def test_a_bad_request_is_a_400_problem(line: Line, path: str) -> None:
    answer = line.http.get(path)

    assert answer.status_code == 400, answer.text
    assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize("text", ["99999999999999999999", "-99999999999999999999", "0001-01-01", "9999-12-31"])
def test_the_furthest_times_are_answered(line: Line, text: str) -> None:
    fill(line)

    for name in ("start", "end"):
        answer = line.get(f"/v1/metrics/by_page?{name}={text}")
        is_all = (name == "start") == (text.startswith(("-", "0")))
        assert len(answer["data"]) == (4 if is_all else 0)


def test_metrics_are_listed_with_everything_needed_to_read_them(line: Line) -> None:
    fill(line)

    listed = {metric["metric"]: metric for metric in line.get("/v1/metrics")["metrics"]}

    assert list(listed) == ["by_page", "by_kind"]
    metric = listed["by_page"]
    assert metric["stage"] == "by_page"
    assert metric["stream"] == "visits"
    assert metric["window"] == {"tumbling_ms": 10 * S, "offset_ms": 0}
    assert metric["group"] == [{"name": "page", "type": "string"}]
    assert metric["values"][1] == {
        "name": "mean_ms",
        "type": "float",
        "function": "mean",
        "field": "ms",
        "unit": "ms",
        "description": "time to load",
    }
    assert (metric["watermark"], metric["complete_to"]) == (BASE + 25 * S, BASE + 20 * S)
    assert metric["retention_ms"] == 86_400_000
    assert metric["version"] == line.worker.programs["by_page"].version
    assert listed["by_kind"]["group"][1:] == [{"name": "status", "type": "int"}, {"name": "ts", "type": "timestamp"}]


def test_streams_say_their_schema_time_lag_and_partitions(line: Line) -> None:
    line.add(0, "/a", 1.0)
    last_id = line.add(7, "/a", 1.0)

    before = line.get("/v1/streams")["streams"][0]
    assert (before["length"], before["lag"], before["watermark"]) == (2, 2, None)

    line.work()
    visits, quiet = line.get("/v1/streams")["streams"]

    assert visits["schema"] == {"ts": "timestamp", "page": "string?", "ms": "float?", "bot": "bool?", "status": "int?"}
    assert visits["time"] == {
        "field": "ts",
        "disorder_ms": 0,
        "max_future_ms": 300_000,
        "max_age_ms": None,
        "idle_after_ms": None,
    }
    assert (visits["watermark"], visits["max_watermark"], visits["lag"]) == (BASE + 7 * S, BASE + 7 * S, 0)
    assert visits["partitions"] == [
        {
            "partition": 0,
            "length": 2,
            "last_id": last_id.decode(),
            "watermark": BASE + 7 * S,
            "max_ts": BASE + 7 * S,
            "last_arrival": int(last_id.split(b"-")[0]),
            "lag": 0,
            "idle_since": None,
            "complete_by": "events",
            "holds_back": True,
            "why": visits["partitions"][0]["why"],
        }
    ]
    assert quiet["stream"] == "quiet"
    assert quiet["door"] == {"received": 0, "stored": 0, "duplicate": 0, "rejected": 0, "undeclared": 0}
    assert [p["last_id"] for p in quiet["partitions"]] == [None, None]


def test_a_stream_that_no_stage_reads_takes_its_watermark_from_the_door(line: Line) -> None:
    for partition, seen_ms in enumerate((9_000, 7_000)):
        line.server.client.hset(keys.door("quiet", partition), "max_seen_ms", str(seen_ms))

    quiet = line.get("/v1/streams")["streams"][1]

    assert (quiet["watermark"], quiet["max_watermark"]) == (2_000, 4_000)


def test_lag_counts_the_events_of_chunks_by_the_door(line: Line) -> None:
    line.server.client.hset(keys.door("visits", 0), mapping={"received": "7000", "stored": "7000"})
    add_chunk(line, [{"ts": BASE}])

    stage = line.get("/v1/stages/by_page")
    assert stage["lag"]["events"] == 7_000
    assert stage["lag"]["entries"] == 1
    assert 0 <= stage["lag"]["seconds"] < 60
    assert line.get("/v1/streams")["streams"][0]["lag"] == 7_000


def add_chunk(line: Line, rows: list[dict[str, Any]], crc: int | None = None) -> bytes:
    body = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    times = [row["ts"] for row in rows]
    fields = {
        "_k": "chunk",
        "v": 1,
        "n": len(rows),
        "seq": 0,
        "crc": zlib.crc32(body) if crc is None else crc,
        "at": BASE,
        "lo": min(times),
        "hi": max(times),
        "coding": "ndjson",
        "body": body,
    }
    return line.server.client.xadd(keys.raw("visits", 0), fields)  # type: ignore[arg-type,return-value]


def test_lag_in_entries_is_right_on_every_server(any_server: RunningServer) -> None:
    line = make_line(any_server)

    def entries() -> Any:
        return line.get("/v1/stages/by_page")["lag"]["entries"]

    seen = [entries()]
    line.add(0, "/a")
    line.add(1, "/a")
    seen.append(entries())
    line.work()
    seen.append(entries())
    line.add(2, "/a")
    line.tick(3)
    seen.append(entries())
    line.work()
    line.server.client.xtrim(keys.raw("visits", 0), maxlen=0, approximate=False)
    seen.append(entries())
    line.add(4, "/a")
    seen.append(entries())

    assert seen == [0, 2, 0, 2, 0, 1]


def test_newest_events_are_decoded_from_rows_and_chunks(line: Line) -> None:
    first = line.add(0, "/row", 1.5, bot=True)
    chunk = add_chunk(line, [{"ts": BASE + n, "page": f"/{n}", "extra": 1} for n in range(3)])
    line.tick(5)

    events = line.get("/v1/streams/visits/events")["events"]

    assert [(e["id"], e["row"], e["kind"], e["event"]["page"]) for e in events] == [
        (chunk.decode(), 2, "chunk", "/2"),
        (chunk.decode(), 1, "chunk", "/1"),
        (chunk.decode(), 0, "chunk", "/0"),
        (first.decode(), 0, "row", "/row"),
    ]
    assert events[0]["time"] == BASE + 2
    assert events[0]["arrival"] == BASE
    assert events[3]["event"] == {"ts": BASE, "page": "/row", "ms": 1.5, "bot": True, "status": None}
    assert len(line.get("/v1/streams/visits/events?limit=2")["events"]) == 2
    assert line.get("/v1/streams/quiet/events") == {"events": []}


def test_what_cannot_be_decoded_is_shown_with_the_reason(line: Line) -> None:
    line.server.client.xadd(keys.raw("visits", 0), {"ts": "soon", "page": "/x"})
    add_chunk(line, [{"ts": BASE}], crc=1)

    damaged, row = line.get("/v1/streams/visits/events")["events"]

    assert "crc32" in damaged["error"]
    assert (row["event"], row["time"]) == ({"ts": "soon", "page": "/x"}, None)
    assert "soon" in row["error"]


def test_many_rows_between_ticks_are_found_in_steps(line: Line) -> None:
    for second in range(300):
        line.add(second / 100, str(second))
        line.tick(1)

    events = line.get("/v1/streams/visits/events?limit=250")["events"]

    assert [e["event"]["page"] for e in events] == [str(n) for n in range(299, 49, -1)]


def test_stages_show_their_books_and_what_holds_them(line: Line) -> None:
    fill(line)
    line.add(3, "/late", 1.0)
    line.server.client.xadd(keys.raw("visits", 0), {"ts": "soon"})
    line.work()

    people, by_page, by_kind = line.get("/v1/stages")["stages"]

    assert (people["kind"], people["group"], people["lag"], people["ledger"]) == ("transform", None, None, None)
    assert by_page["kind"] == "aggregate"
    assert by_page["ledger"] == {"read": 8, "accepted": 5, "filtered": 1, "late": 1, "dead": 1, "balances": True}
    assert by_page["lag"] == {"entries": 0, "events": 0, "seconds": 0.0}
    assert (by_page["pending"], by_page["oldest_pending"], by_page["rebuilding"]) == (0, None, False)
    assert (by_page["late_entries"], by_page["dead_entries"]) == (1, 1)
    assert by_page["watermark"] == BASE + 25 * S
    assert by_page["version"] == by_page["active_version"]
    assert by_page["partitions"][0]["worker"] == "w1"
    assert by_page["partitions"][0]["torn"] is False
    assert line.get("/v1/stages/by_kind") == by_kind


def test_pending_entries_are_those_delivered_and_not_committed(line: Line) -> None:
    entry_id = line.add(0, "/a")
    line.add(1, "/a")
    group = line.worker.programs["by_page"].group
    line.server.client.xreadgroup(group, "dead", {keys.raw("visits", 0): ">"}, count=1)

    stage = line.get("/v1/stages/by_page")

    assert (stage["pending"], stage["oldest_pending"]) == (1, int(entry_id.split(b"-")[0]))
    assert stage["lag"]["entries"] == 2


def test_before_set_up_everything_is_empty_and_nothing_fails(server: RunningServer) -> None:
    line = make_line(server)
    server.client.flushall()

    assert line.get("/v1/streams")["streams"][0]["watermark"] is None
    assert line.get("/v1/stages")["stages"][1]["ledger"]["read"] == 0
    assert line.get("/v1/metrics")["metrics"][0]["watermark"] is None
    assert line.get("/v1/metrics/by_page")["data"] == []
    server.client.xadd(keys.raw("visits", 0), {"ts": str(BASE)})
    assert line.get("/v1/stages/by_page")["lag"]["events"] == 1


def test_redis_away_is_a_503_that_says_when_to_try_again(throwaway_server: RunningServer) -> None:
    line = make_line(throwaway_server)
    fill(line)
    throwaway_server.kill()

    for path in ("/v1/metrics/by_page", "/v1/metrics", "/v1/streams", "/v1/stages", "/v1/streams/visits/events"):
        answer = line.http.get(path)
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.content_type == "application/problem+json"

    throwaway_server.restart()
    assert brief(line.get("/v1/metrics/by_page")["data"]) == CLOSED + OPEN


def keys_of(value: Any) -> Any:
    """The members of an answer, at every depth; user data and lists are known by their first element."""
    if isinstance(value, list):
        return [keys_of(value[0])] if value else []
    if isinstance(value, dict):
        return {name: None if name in USER_DATA else keys_of(member) for name, member in value.items()}
    return None


USER_DATA = {"data", "unit", "schema", "event", "late"}


@pytest.mark.parametrize(
    "path",
    [
        "/v1/metrics",
        "/v1/metrics/{metric}",
        "/v1/streams",
        "/v1/streams/{stream}/events",
        "/v1/streams/{stream}/watermark",
        "/v1/streams/{stream}/skew",
        "/v1/stages",
    ],
)
def test_the_example_in_the_docs_has_the_members_of_the_answer(line: Line, path: str) -> None:
    fill(line)
    page = (Path(__file__).resolve().parents[2] / "docs/http.md").read_text("utf-8")
    section = page.split(f"### `GET {path}`\n")[1]
    example = json.loads(section.split("```json\n")[1].split("```")[0])

    answer = line.get(path.format(metric="by_page", stream="visits"))
    if path == "/v1/stages":
        del answer["stages"][0]  # a fused transform, which has no partitions
    if path == "/v1/metrics":
        del answer["metrics"][0]["values"][0]

    assert keys_of(example) == keys_of(answer)


def test_a_config_without_stages_is_read(server: RunningServer) -> None:
    line = make_line(server, Config(streams=CONFIG.streams, stages={}))

    assert line.get("/v1/metrics") == {"metrics": []}
    assert line.get("/v1/stages") == {"stages": []}
    assert "There are none." in line.get("/v1/metrics/x", 404)["detail"]
