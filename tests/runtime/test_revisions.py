"""What a metric publishes over time: revisions of late events, open windows on update, chunks; what expires when."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Hopping, Stream, TimePolicy, Tumbling
from pipeline.rim import keys
from pipeline.rim.scripts import Scripts
from pipeline.runtime.closer import Closer
from pipeline.runtime.scheduler import Housekeeping
from tests.line import Line, Row
from tests.servers import RunningServer

SECOND, HOUR = 1_000, 3_600_000
FIELDS = (Field("ts", "timestamp", unit="ms"), Field("page", "string"))
STAGE = Aggregate(
    "views",
    "hits",
    Tumbling(10 * SECOND),
    ("page",),
    (AggregateSpec("n", "count"),),
    retention_ms=HOUR,
    allowed_lateness_ms=20 * SECOND,
)
HOPPING = replace(STAGE, window=Hopping(30 * SECOND, 10 * SECOND))


def line_of(server: RunningServer, stage: Aggregate, partitions: int = 1) -> Line:
    stream = Stream("hits", FIELDS, TimePolicy("ts", disorder_ms=0), partitions=partitions)
    return Line(Config({"hits": stream}, {"views": stage}), server)


def hit(line: Line, ts: int, page: str = "a") -> None:
    line.chunk("hits", [{"ts": ts, "page": page}], times_ms=[ts])
    line.settle()


def brief(rows: list[Row]) -> list[tuple[int, int, str, int, str, int]]:
    return [(r["window_start"], r["window_end"], r["state"], r["revision"], r["page"], r["n"]) for r in rows]


def sent(line: Line) -> list[tuple[str, str, str, str]]:
    return [(r["window_end"], r["state"], r["revision"], r["n"]) for r in line.downstream("views")]


def test_a_late_event_within_the_lateness_revises_its_window_and_a_later_one_is_late(server: RunningServer) -> None:
    line = line_of(server, STAGE)
    hit(line, 5 * SECOND)
    hit(line, 12 * SECOND)
    assert brief(line.rows("views"))[0] == (0, 10 * SECOND, "closed", 0, "a", 1)

    hit(line, 6 * SECOND)
    assert brief(line.rows("views"))[0] == (0, 10 * SECOND, "closed", 1, "a", 2)

    hit(line, 30 * SECOND)
    assert brief(line.rows("views"))[0] == (0, 10 * SECOND, "final", 1, "a", 2)

    hit(line, 7 * SECOND)
    assert brief(line.rows("views"))[0] == (0, 10 * SECOND, "final", 1, "a", 2)
    assert [(row["time"], row["reason"]) for row in line.late("views")] == [("7000", "late")]
    assert sent(line)[:2] == [("10000", "closed", "0", "1"), ("10000", "closed", "1", "2")]


def test_a_revision_never_makes_a_metric_less_complete(server: RunningServer) -> None:
    line = line_of(server, STAGE)
    hit(line, 5 * SECOND)
    hit(line, 15 * SECOND)
    line.chunk("hits", [{"ts": 6 * SECOND, "page": "a"}], times_ms=[6 * SECOND])
    worker = line.worker()
    while not all(line.committed()):
        worker.poll_once()
        worker._next_close_s = 2**60  # commits, and publishes nothing

    meta = line.get("views")["meta"]

    assert server.client.hlen(keys.due("hits", 0, line.programs["views"].group)) > 0
    assert meta["complete_to"] == 10 * SECOND


def test_an_event_late_for_some_of_its_windows_counts_in_the_others_and_touches_no_other_window(
    server: RunningServer,
) -> None:
    line = line_of(server, replace(HOPPING, allowed_lateness_ms=0))
    hit(line, 5 * SECOND)
    hit(line, 25 * SECOND)  # closes [-20, 10) and [-10, 20)
    before = [(row["window_end"], row["revision"], row["n"]) for row in line.closed("views")]
    assert before == [(10 * SECOND, 0, 1), (20 * SECOND, 0, 1)]

    hit(line, 8 * SECOND)  # late for those two, and in time for [0, 30)

    assert [(row["window_end"], row["revision"], row["n"]) for row in line.closed("views")] == before
    hit(line, 60 * SECOND)
    assert (30 * SECOND, 0, 3) in [(row["window_end"], row["revision"], row["n"]) for row in line.closed("views")]
    checkpoint = server.client.hgetall(keys.checkpoint("hits", 0, line.programs["views"].group))
    assert (checkpoint[b"partial"], checkpoint[b"late"], checkpoint[b"accepted"]) == (b"1", b"0", b"4")


def test_every_closed_window_of_a_pane_is_published_once(server: RunningServer) -> None:
    line = line_of(server, HOPPING)
    for second in range(0, 100, 3):
        hit(line, second * SECOND)
    line.end("hits", 99 * SECOND)
    line.settle()

    ends = [int(row["window_end"]) for row in line.downstream("views")]
    assert ends == [10_000 * number for number in range(1, 13)]
    assert server.client.hlen(keys.due("hits", 0, line.programs["views"].group)) == 0


def test_open_windows_go_downstream_as_they_change_where_it_is_asked_for(server: RunningServer) -> None:
    line = line_of(server, replace(STAGE, emit="on_update"))
    closer = Closer(line.programs["views"], server.client, Scripts(server.client))
    hit(line, 1 * SECOND)
    closer.update_once()  # unless the worker has done it
    assert closer.update_once() == 0, "nothing has changed"
    hit(line, 2 * SECOND)
    closer.update_once()
    assert [row["state"] for row in line.rows("views")] == ["open"]

    hit(line, 10 * SECOND)

    of_window = [row for row in sent(line) if row[0] == "10000"]
    assert of_window == [("10000", "open", "0", "1"), ("10000", "open", "1", "2"), ("10000", "closed", "2", "2")]
    assert brief(line.rows("views"))[0] == (0, 10 * SECOND, "closed", 2, "a", 2)


@pytest.mark.parametrize("output", ["chunks", "none"])
def test_rows_go_downstream_in_chunks_or_not_at_all(server: RunningServer, output: str) -> None:
    line = line_of(server, replace(STAGE, output=output))  # type: ignore[arg-type]
    rows = [{"ts": 1, "page": f"p{number}"} for number in range(1_200)]
    line.chunk("hits", rows, times_ms=[1])
    hit(line, 11 * SECOND)

    entries = line.downstream("views")

    assert [entry["n"] for entry in entries] == (["500", "500", "200"] if output == "chunks" else [])
    lines = [msgspec.json.decode(text) for entry in entries for text in entry["rows"].split("\n")]
    assert len(lines) == (1_200 if output == "chunks" else 0)
    assert all(row["n"] == 1 for row in lines)


def test_groups_above_the_cap_of_a_pane_are_counted_together(server: RunningServer) -> None:
    line = line_of(server, replace(STAGE, max_groups=2))
    line.chunk("hits", [{"ts": 1, "page": page} for page in "abcbdda"], times_ms=[1])
    hit(line, 2, "c")

    answer = line.get("views")

    assert [(row["page"], row["n"]) for row in answer["data"]] == [("__other__", 4), ("a", 2), ("b", 2)]
    assert answer["meta"]["capped"] == ["__other__"]
    checkpoint = server.client.hgetall(keys.checkpoint("hits", 0, line.programs["views"].group))
    assert checkpoint[b"others"] == b"4"


def test_a_pane_stays_as_long_as_a_window_uses_it_and_no_window_goes_that_may_change(server: RunningServer) -> None:
    line = line_of(server, HOPPING)
    group = line.programs["views"].group
    hit(line, 5 * SECOND)
    hit(line, 25 * SECOND)
    later_ms = int(server.client.time()[0]) * 1_000 + 2 * HOUR

    assert Housekeeping(line.config, server.client).expire_once(later_ms).results == 0, "late events may still come"
    hit(line, 47 * SECOND)
    assert Housekeeping(line.config, server.client).expire_once(later_ms).results == 2
    panes = sorted(int(start) for start in server.client.hkeys(keys.panes("hits", 0, group)))
    assert panes == [0, 20 * SECOND, 40 * SECOND], "[0, 30) is not final"
    line.end("hits", 47 * SECOND)
    line.settle()
    Housekeeping(line.config, server.client).expire_once(later_ms)
    assert server.client.keys("*:pane:*") == []
    assert server.client.hlen(keys.panes("hits", 0, group)) == 0


def test_a_trailing_window_falls_to_empty(server: RunningServer) -> None:
    line = line_of(server, STAGE)
    now_ms = int(server.client.time()[0]) * 1_000
    line.post("hits", [{"ts": now_ms - 15 * SECOND, "page": "a"}, {"ts": now_ms, "page": "b"}])
    line.settle()

    def rolling(window: str, at: int) -> dict[str, int]:
        answer = line.http.get("/v1/metrics/views/rolling", query_string={"window": window, "at": at + 1})
        assert answer.status_code == 200, answer.text
        return {row["page"]: row["n"] for row in answer.get_json()["data"]}

    assert rolling("1m", now_ms) == {"a": 1, "b": 1}
    assert rolling("10s", now_ms) == {"b": 1}
    assert rolling("1m", now_ms + 50 * SECOND) == {"b": 1} or now_ms % 10_000 < 5_000
    assert rolling("1m", now_ms + 80 * SECOND) == {}
    refused = line.http.get("/v1/metrics/views/rolling?window=15s")
    assert (refused.status_code, refused.get_json()["code"]) == (422, "window_not_exact")
    too_long = line.http.get("/v1/metrics/views/rolling?window=200005s").get_json()["detail"]
    assert too_long.startswith("window 2d7h33m25s is not a multiple")
    assert line.http.get("/v1/metrics/views/rolling").get_json()["code"] == "no_window"


@pytest.mark.parametrize("cap", [1, 2, 100])
def test_a_group_that_is_called_as_those_above_the_cap_is_counted_with_them(server: RunningServer, cap: int) -> None:
    line = line_of(server, replace(STAGE, max_groups=cap))
    for pages in (["__other__"], ["a", "b", "c"], ["c", "__other__", "a"]):
        line.chunk("hits", [{"ts": 1, "page": page} for page in pages], times_ms=[1])
        line.settle()
    hit(line, 15 * SECOND)

    told = line.get("views")

    own = {"a": 2, "b": 1, "c": 2}
    kept = dict(list(own.items())[:cap])
    above = 2 + sum(own.values()) - sum(kept.values())
    rows = [(row["page"], row["n"]) for row in told["data"] if row["window_start"] == 0]
    assert rows == [("__other__", above), *kept.items()]
    assert told["meta"]["capped"] == ["__other__"]
    checkpoint = server.client.hgetall(keys.checkpoint("hits", 0, line.programs["views"].group))
    assert checkpoint[b"others"] == str(above).encode()
