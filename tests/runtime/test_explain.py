"""`explain`: every event is accounted for, by stage and from every window's side, against DuckDB; one event's path."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from api.main import app
from pipeline.core.definitions import (
    MINUTE_MS,
    SECOND_MS,
    Aggregate,
    AggregateSpec,
    Config,
    Hopping,
    Session,
    Stream,
    Transform,
    Tumbling,
)
from pipeline.core.ndjson import iso_time
from pipeline.core.watermarks import PartitionClock, idle_ticks
from pipeline.rim import store
from pipeline.rim.scripts import Scripts
from pipeline.rim.trim import trim_stream
from pipeline.runtime import cli
from pipeline.runtime.explain_event import event_named
from pipeline.runtime.explain_subject import window_named
from pipeline.runtime.explain_window import explain_window
from pipeline.runtime.query import Metrics
from pipeline.runtime.stage_groups import groups_of
from tests.line import CHUNK_ROWS, Line, chunk_fields
from tests.oracle import duck
from tests.oracle.real_files import WEB_LOG, shipped, web_log_events
from tests.servers import RunningServer
from tests.visits import BASE_MS, CONFIG, FIELDS, METRICS, STREAM, filled, visits

BOTS = "agent NOT ILIKE '%bot%'"
CODE = "CAST(CASE WHEN status IN (403, 416, 500) THEN page ELSE '1' END AS BIGINT)"  # fails on a few
FATE = duck.Fate(dead=f"{BOTS} AND status IN (403, 416, 500)", kept=BOTS)
VALUES = (AggregateSpec("requests", "count"), AggregateSpec("ones", "sum", "code"))
LEDGER = ("read", "accepted", "filtered", "late", "dead")


def web_log(disorder_ms: int) -> Config:
    """The web log without bots, in windows that do and do not overlap; partitions: 2."""
    config, stage = shipped("weblog_by_status", disorder_ms=disorder_ms)
    [stream] = config.streams.values()
    people = Transform("people", stream.name, filter=BOTS)
    coded = Transform("coded", "people", derive={"code": CODE})
    tumbling = replace(stage, source="coded", window=Tumbling(20 * SECOND_MS), group_by=("status",), aggregates=VALUES)
    hopping = replace(
        tumbling, name="hopping", window=Hopping(120 * MINUTE_MS, 60 * MINUTE_MS), allowed_lateness_ms=5 * SECOND_MS
    )
    return Config(
        streams={stream.name: replace(stream, partitions=2)},
        stages={"people": people, "coded": coded, stage.name: tumbling, "hopping": hopping},
    )


@pytest.mark.parametrize("lines", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])  # the last of the file
@pytest.mark.parametrize("disorder_ms", [0, 5 * SECOND_MS, 30 * SECOND_MS, 60 * SECOND_MS])
def test_every_event_of_the_web_log_is_accounted_for_by_the_stage_and_from_every_windows_side(
    server: RunningServer, disorder_ms: int, lines: int
) -> None:
    config = web_log(disorder_ms)
    line, events = Line(config, server), web_log_events()[-lines:]
    for number, at in enumerate(range(0, len(events), CHUNK_ROWS)):
        part = events[at : at + CHUNK_ROWS]
        line.chunk("weblog", part, partition=number % 2, times_ms=[event["ts"] for event in part])
    line.settle()
    logged = duck.web_log(WEB_LOG, part=f"(line // {CHUNK_ROWS}) % 2").filter(f"line >= {10_000 - lines}")

    late = 0
    for stage in config.aggregates():
        program = line.programs[stage.name]
        time = config.streams["weblog"].time
        books = duck.account(logged, stage, time, FATE)
        ledger = line.http.get(f"/v1/stages/{stage.name}").get_json()["ledger"]
        assert {name: ledger[name] for name in LEDGER} == {name: getattr(books, name) for name in LEDGER}
        assert books.dead > 0
        assert books.read == books.accepted + books.filtered + books.late + books.dead == len(events)

        total: Counter[str] = Counter()
        wanted = duck.window_accounts(logged, replace(stage, group_by=()), time, FATE)
        assert len(wanted) > lines // 125
        for row in wanted:
            span = (row["window_start"], row["window_end"])
            account = explain_window(line.client, config, window_named(program, *span, None)).account
            found = {name: getattr(account, name) for name in ("accepted", "late", "filtered", "dead")}
            assert found == {name: row[name] for name in found}, span
            assert account.read == sum(found.values())
            total += Counter(found)
        if isinstance(stage.window, Tumbling):
            assert {name: total[name] for name in LEDGER[1:]} == {name: getattr(books, name) for name in LEDGER[1:]}
            late = books.late
    assert (late > 0) == (disorder_ms < 60 * SECOND_MS)


def test_one_group_of_a_window_is_accounted_for_by_its_fields(server: RunningServer) -> None:
    line = Line(web_log(0), server)
    events = web_log_events()[:4_000]
    line.chunk("weblog", events, times_ms=[event["ts"] for event in events])
    line.settle()
    stage = line.config.stages["weblog_by_status"]
    assert isinstance(stage, Aggregate)
    logged = duck.web_log(WEB_LOG).filter("line < 4000")
    wanted = duck.window_accounts(logged, stage, line.config.streams["weblog"].time, FATE)
    checked = 0
    for row in [row for row in wanted if row["accepted"]][:60]:
        query = {"start": row["window_start"], "end": row["window_end"], "status": row["status"]}
        found = line.http.get("/v1/metrics/weblog_by_status/explain", query_string=query).get_json()
        accounts = found["accounts"]
        assert (accounts["accepted"], accounts["late"]) == (row["accepted"], row["late"])
        assert (accounts["filtered"], accounts["dead"], accounts["duplicate"]) == (None, None, None)
        assert found["group"] == {"status": row["status"]}
        assert found["values"] == {"requests": row["accepted"], "ones": row["accepted"]}
        checked += row["late"]
    assert checked > 0


@pytest.mark.parametrize("metric", METRICS)
def test_a_window_of_every_kind_is_what_its_events_say_one_by_one(server: RunningServer, metric: str) -> None:
    line = filled(server)
    stage = CONFIG.stages[metric]
    assert isinstance(stage, Aggregate)
    judged = recounted(line, stage)
    accepted = 0
    for row in {(row["window_start"], row["window_end"]) for row in line.rows(metric)}:
        found = line.http.get(f"/v1/metrics/{metric}/explain?start={row[0]}&end={row[1]}").get_json()
        mine = [
            (fate, place)
            for (fate, time_ms, watermark_ms, place) in judged
            if row[0] <= time_ms < row[1]
            for fate in [fate_in(stage, fate, row[1], watermark_ms)]
        ]
        counts = Counter(fate for fate, _ in mine)
        assert {name: found["accounts"][name] for name in LEDGER} == {
            "read": len(mine),
            "dead": 0,
            **{name: counts[name] for name in ("accepted", "filtered", "late")},
        }
        first, last = found["first_entry"], found["last_entry"]
        counted = sorted(place for fate, place in mine if fate == "accepted")
        assert [(e["partition"], e["id"], e["row"]) for e in (first, last)] == [counted[0], counted[-1]]
        assert found["window"]["state"] in ("final", "open")
        assert found["log"] == {"complete": True, "from": None, "truncated": False}
        assert found["recomputed"] == found["values"]
        accepted += counts["accepted"]
    assert accepted > 300


def recounted(line: Line, stage: Aggregate) -> list[tuple[str, int, int, tuple[int, str, int]]]:
    """(kept or filtered, time, watermark before it, place) of every readable event, by plain Python."""
    found = []
    for partition in (0, 1):
        newest_ms = -(2**60)
        rows = line.http.get(f"/v1/streams/visits/raw?partition={partition}&limit=20000").get_json()["rows"]
        for row in rows:
            if "error" in row or row["kind"] == "control":
                continue
            time_ms = row["tick"] if row["kind"] == "tick" else row["time"]
            if row["kind"] != "tick":
                entry, _, number = row["position"].partition("/")
                fate = "filtered" if stage.source == "people" and row["event"].get("bot") else "kept"
                found.append((fate, time_ms, newest_ms - 2_000, (partition, entry, int(number))))
            newest_ms = max(newest_ms, min(time_ms, row["arrival"]))
    return found


def fate_in(stage: Aggregate, fate: str, end_ms: int, watermark_ms: int) -> str:
    if fate == "filtered":
        return fate
    return "late" if end_ms + stage.allowed_lateness_ms <= watermark_ms else "accepted"


# --- what a window waits for


def waiting(server: RunningServer) -> Line:
    """Two partitions: 0 is at 12 s, 1 at 2 s; disorder 2 s."""
    line = Line(CONFIG, server)
    line.chunk(
        "visits",
        [{"ts": BASE_MS, "page": "/a"}, {"ts": BASE_MS + 12_000, "page": "/b"}],
        times_ms=(BASE_MS, BASE_MS + 12_000),
    )
    line.chunk("visits", [{"ts": BASE_MS + 2_000, "page": "/a"}], partition=1, times_ms=(BASE_MS + 2_000,))
    line.settle()
    return line


def explained(line: Line, metric: str, status: int = 200, **query: Any) -> Any:
    answer = line.http.get(f"/v1/metrics/{metric}/explain", query_string=query)
    assert answer.status_code == status, answer.text
    return answer.get_json(force=True)


def test_an_open_window_says_who_holds_it_back_and_what_would_close_it(server: RunningServer) -> None:
    line = waiting(server)

    found = explained(line, "by_page", start=BASE_MS)

    assert found["window"] == {"start": BASE_MS, "end": BASE_MS + 10_000, "state": "open", "revision": None}
    assert (found["values"]["views"], found["groups"], found["group"]) == (2, 1, None)
    assert [(p["partition"], p["watermark"], p["holds_back"], p["lag"]) for p in found["partitions"]] == [
        (0, BASE_MS + 10_000, False, 0),
        (1, BASE_MS, True, 0),
    ]
    assert found["partitions"][0]["cursor"] == line.entry_ids("by_page")[-1]
    assert found["closes_when"] == (
        "It closes when the watermark of partition 1 reaches 2023-11-14T22:14:10.000+00:00: an event (or a tick) of "
        "2023-11-14T22:14:12.000+00:00 or later there."
    )


def test_a_closed_window_waits_for_the_lateness_that_is_allowed_and_a_final_one_for_nothing(
    server: RunningServer,
) -> None:
    line = waiting(server)
    for partition in (0, 1):
        line.tick("visits", BASE_MS + 34_000, partition=partition)
    line.settle()

    closed = explained(line, "hops", start=BASE_MS, end=BASE_MS + 30_000)
    assert (closed["window"]["state"], closed["window"]["revision"]) == ("closed", 0)
    assert closed["closes_when"].startswith(
        "It is closed, late events may still revise it, and it becomes final when the watermark of every partition "
        "reaches 2023-11-14T22:14:35.000+00:00"
    )
    assert closed["would_close_at"] is None

    line.chunk("visits", [{"ts": BASE_MS + 9_000, "page": "/a"}], times_ms=(BASE_MS + 9_000,))
    for partition in (0, 1):
        line.tick("visits", BASE_MS + 60_000, partition=partition)
    line.settle()
    final = explained(line, "hops", start=BASE_MS)
    assert final["window"]["state"] == "final"
    assert final["closes_when"] == "It is final: every partition's watermark has passed 2023-11-14T22:14:35.000+00:00."
    assert (final["accounts"]["accepted"], final["accounts"]["revised"]) == (4, 1)
    assert [share["holds_back"] for share in final["partitions"]] == [False, False]


def test_when_silence_alone_would_close_it_is_when_the_scheduler_says_so(server: RunningServer) -> None:
    stage = CONFIG.stages["by_page"]
    assert isinstance(stage, Aggregate)
    now_config = Config(streams=CONFIG.streams, stages=CONFIG.stages)
    line = Line(now_config, server)
    seconds, _ = line.client.execute_command("TIME")
    now_ms = int(seconds) * 1_000
    start_ms = now_ms - (now_ms - 0) % 10_000
    for partition in (0, 1):
        line.chunk("visits", [{"ts": now_ms, "page": "/a"}], partition=partition, times_ms=(now_ms,))
    line.settle()

    found = explained(line, "by_page", start=start_ms)

    assert found["window"]["state"] == "open"
    at_ms = found["would_close_at"]
    clocks = [PartitionClock(p, "1-1", now_ms, now_ms, now_ms) for p in (0, 1)]
    assert at_ms >= start_ms + 10_000 + STREAM.time.disorder_ms
    assert at_ms - now_ms <= 60_000
    horizons = [program.horizon for program in line.programs.values()]
    assert idle_ticks(at_ms, STREAM.time, clocks, horizons), "there is a tick at that moment or before it"


def test_nothing_would_close_a_window_of_a_stream_that_silence_does_not_move(server: RunningServer) -> None:
    stream = replace(STREAM, time=replace(STREAM.time, idle_after_ms=None))
    line = Line(replace(CONFIG, streams={"visits": stream}), server)
    for partition in (0, 1):
        line.chunk("visits", [{"ts": BASE_MS, "page": "/a"}], partition=partition, times_ms=(BASE_MS,))
    line.settle()

    assert explained(line, "by_page", start=BASE_MS)["would_close_at"] is None


def test_after_a_trim_the_account_says_that_it_is_not_whole(server: RunningServer) -> None:
    line = filled(server)
    stream: Stream = replace(STREAM, retention_ms=1)
    trim_stream(server.client, Scripts(server.client), stream, groups_of(CONFIG, "visits"), 2**61)

    found = explained(line, "by_page", start=BASE_MS)

    assert found["accounts"]["read"] == 0
    assert found["values"]["views"] > 10, "the result is still there"
    assert found["recomputed"] is None
    assert found["log"]["complete"] is False
    assert found["log"]["from"] > BASE_MS


def test_an_account_that_takes_too_long_stops_and_says_so(server: RunningServer) -> None:
    line = filled(server)
    program = Metrics(CONFIG, line.client).program("by_page")
    times = iter([0.0, *[100.0] * 100])

    subject = window_named(program, BASE_MS, BASE_MS + 10_000, None)
    found = explain_window(line.client, CONFIG, subject, lambda: next(times))

    assert found.truncated
    assert not found.log_complete


NEAREST = f"the nearest is from {BASE_MS} ({iso_time(BASE_MS)}) to {BASE_MS + 10_000} ({iso_time(BASE_MS + 10_000)})"


@pytest.mark.parametrize(
    ("metric", "query", "status", "said"),
    [
        ("by_page", {}, 400, "'start' is missing"),
        ("by_page", {"start": "soon"}, 400, "start: 'soon' is not a time"),
        ("by_page", {"start": BASE_MS + 1}, 422, NEAREST),
        ("by_page", {"start": BASE_MS, "end": BASE_MS + 1}, 422, f"end at {BASE_MS + 10_000}"),
        ("grown", {"start": BASE_MS - BASE_MS % 60_000}, 422, "windows that start at"),
        ("by_page", {"start": BASE_MS, "pag": "/a"}, 400, "Did you mean 'page'?"),
        ("by_pag", {"start": BASE_MS}, 404, "Did you mean 'by_page'?"),
        ("sessions", {"start": BASE_MS}, 422, "no session of sessions that stands begins at"),
    ],
)
def test_a_window_is_named_exactly(
    server: RunningServer, metric: str, query: dict[str, Any], status: int, said: str
) -> None:
    sessions = Aggregate("sessions", "visits", Session(1_000), ("page",), (AggregateSpec("n", "count"),))
    line = Line(replace(CONFIG, stages={**CONFIG.stages, "sessions": sessions}), server)

    assert said in explained(line, metric, status, **query)["detail"]


# --- one event

PATHS = Config(
    streams={"visits": replace(STREAM, fields=FIELDS)},
    stages={
        "people": CONFIG.stages["people"],
        "loud": Transform(
            "loud", "people", filter="page <> '/4'", derive={"code": "CAST(page AS BIGINT)"}, publish=True
        ),
        "by_page": CONFIG.stages["by_page"],
        "hops": CONFIG.stages["hops"],
        "codes": Aggregate("codes", "loud", Tumbling(10_000), ("page",), (AggregateSpec("sum", "sum", "code"),)),
        "sessions": Aggregate("sessions", "people", Session(1_000), ("page",), (AggregateSpec("n", "count"),)),
    },
)


def event_path(line: Line, entry: str, status: int = 200, **query: Any) -> Any:
    answer = line.http.get(f"/v1/streams/visits/events/{entry}/explain", query_string=query)
    assert answer.status_code == status, answer.text
    return answer.get_json(force=True)


def test_the_paths_of_all_events_add_up_to_the_ledger_of_every_stage(server: RunningServer) -> None:
    line, events = Line(PATHS, server), visits(90)
    for event in events[::9]:
        event["page"] = "7"
    for number, at in enumerate(range(0, len(events), 30)):
        part = events[at : at + 30]
        line.chunk("visits", part, partition=number % 2, times_ms=[row["ts"] for row in part])
    line.row("visits", {"ts": str(BASE_MS), "n": "x"})
    line.settle()

    outcomes: dict[str, Counter[str]] = {}
    for partition in (0, 1):
        for entry in line.entry_ids("by_page", partition):
            rows = 1 if entry == line.entry_ids("by_page", 0)[-1] and partition == 0 else 30
            for row in range(rows):
                path = event_path(line, entry, row=row, partition=partition)
                for stage in path["stages"]:
                    assert stage["processed"]
                    outcomes.setdefault(stage["stage"], Counter())[stage["outcome"]] += 1

    assert set(outcomes) == {"loud", "by_page", "hops", "codes", "sessions"}
    for name, counts in outcomes.items():
        ledger = line.http.get(f"/v1/stages/{name}").get_json()["ledger"]
        assert counts["accepted"] + counts["published"] == ledger["accepted"]
        assert {n: counts[n] for n in ("filtered", "late", "dead")} == {
            n: ledger[n] for n in ("filtered", "late", "dead")
        }
    assert min(outcomes["by_page"][name] for name in ("accepted", "filtered", "late", "dead")) > 0
    assert outcomes["codes"]["dead"] > outcomes["by_page"]["dead"]


def test_a_counted_event_has_its_group_its_pane_and_its_windows_with_their_states(server: RunningServer) -> None:
    line = Line(PATHS, server)
    rows = [
        {"ts": BASE_MS, "page": "/4"},
        {"ts": BASE_MS + 38_000, "page": "/a"},
        {"ts": BASE_MS + 5_000, "page": "/4"},
    ]
    line.chunk("visits", rows, times_ms=(BASE_MS, BASE_MS + 38_000))
    line.tick("visits", BASE_MS + 42_000, partition=1)
    line.settle()
    [entry] = line.entry_ids("by_page")

    found = event_path(line, entry, row=2, partition=0)

    assert (found["partition"], found["row"], found["kind"], found["time"]) == (0, 2, "chunk", BASE_MS + 5_000)
    assert found["watermark"] == BASE_MS + 36_000
    assert json.loads(found["event"]) == rows[2]
    stages = {stage["stage"]: stage for stage in found["stages"]}
    assert (stages["by_page"]["outcome"], stages["by_page"]["late_by"]) == ("late", 31_000)
    assert stages["by_page"]["missed"] == {"start": BASE_MS, "end": BASE_MS + 10_000, "state": "final"}
    assert stages["hops"]["outcome"] == "late"
    assert (stages["loud"]["outcome"], stages["loud"]["filtered_by"]) == ("filtered", "loud")
    assert (stages["codes"]["outcome"], stages["codes"]["filtered_by"]) == ("filtered", "loud")

    first = {stage["stage"]: stage for stage in event_path(line, entry, row=0, partition=0)["stages"]}
    assert first["by_page"]["counted"] == [
        {
            "group": {"page": "/4"},
            "pane": BASE_MS,
            "from_end": None,
            "windows": [{"start": BASE_MS, "end": BASE_MS + 10_000, "state": "final"}],
        }
    ]
    [hops] = first["hops"]["counted"]
    assert [(w["end"] - BASE_MS, w["state"]) for w in hops["windows"]] == [
        (10_000, "final"),
        (20_000, "final"),
        (30_000, "final"),
    ]


def test_an_event_that_is_late_for_some_windows_counts_from_the_first_that_is_open(server: RunningServer) -> None:
    line = Line(PATHS, server)
    rows = [{"ts": BASE_MS + 20_000, "page": "/a"}, {"ts": BASE_MS, "page": "/b"}]
    line.chunk("visits", rows, times_ms=(BASE_MS, BASE_MS + 20_000))
    line.settle()
    [entry] = line.entry_ids("hops")

    [hops] = [stage for stage in event_path(line, entry, row=1)["stages"] if stage["stage"] == "hops"]

    assert hops["counted"][0]["from_end"] == BASE_MS + 20_000
    assert [window["end"] - BASE_MS for window in hops["counted"][0]["windows"]] == [20_000, 30_000]


def test_an_event_that_is_not_processed_yet_an_unreadable_one_and_one_above_the_cap_say_so(
    server: RunningServer,
) -> None:
    stage = CONFIG.stages["by_page"]
    assert isinstance(stage, Aggregate)
    line = Line(replace(CONFIG, stages={**CONFIG.stages, "by_page": replace(stage, max_groups=1)}), server)
    line.row("visits", {"ts": str(BASE_MS), "page": "/a"})
    line.row("visits", {"ts": str(BASE_MS), "page": "/b"})
    line.settle()
    line.row("visits", {"ts": str(BASE_MS + 1), "page": "/a"})
    line.row("visits", {"ts": "never", "page": "/a"})
    _, capped, new, broken = line.entry_ids("by_page")

    def by_page(entry: str) -> Any:
        return next(stage for stage in event_path(line, entry)["stages"] if stage["stage"] == "by_page")

    assert by_page(capped)["counted"][0]["group"] == {"page": "__other__"}
    assert (by_page(new)["processed"], by_page(new)["outcome"]) == (False, "accepted")
    assert by_page(broken)["outcome"] == "dead"
    assert by_page(broken)["error"].startswith("bad_time: ts")
    assert event_path(line, broken)["error"].startswith("bad_time")
    assert event_path(line, broken)["time"] is None


def test_the_path_begins_at_the_last_known_place_after_a_trim(server: RunningServer) -> None:
    line = filled(server)
    trim_stream(
        server.client, Scripts(server.client), replace(STREAM, retention_ms=1), groups_of(CONFIG, "visits"), 2**61
    )
    before = store.load_checkpoint(line.client, "visits", 0, line.programs["by_page"].group)
    line.row("visits", {"ts": str(BASE_MS), "page": "/a"})
    line.settle()
    entry = line.entry_ids("by_page")[-1]

    found = event_path(line, entry)

    assert before.max_seen_ms is not None
    assert found["watermark"] == before.max_seen_ms - STREAM.time.disorder_ms > BASE_MS
    assert {stage["outcome"] for stage in found["stages"]} == {"late"}
    gone = event_path(line, "1-1", 404)
    assert "may have been trimmed" in gone["detail"]


@pytest.mark.parametrize(
    ("entry", "query", "status", "said"),
    [
        ("7-0", {}, 422, "holds 2 events; say which with row, from 0 to 1"),
        ("7-0", {"row": 2}, 422, "has no row 2"),
        ("7-0", {"row": "x"}, 400, "row: 'x'"),
        ("8-0", {}, 422, "stands in the partitions 0, 1 of visits"),
        ("9-0", {}, 422, "is a tick or a control entry"),
        ("5-0", {}, 404, "there is no entry 5-0 in visits"),
        ("x", {}, 400, "is not the id of an entry"),
        ("7-0", {"partition": 2}, 400, "partition: '2'"),
        ("7-0", {"part": 1}, 400, "Did you mean 'partition'?"),
    ],
)
def test_an_event_is_named_exactly(
    server: RunningServer, entry: str, query: dict[str, Any], status: int, said: str
) -> None:
    line = Line(CONFIG, server)
    for fields in (entry_of(2, 7), entry_of(1, 8)):
        line.entry("visits", fields, entry_id=f"{fields['at']}-0")
    line.entry("visits", entry_of(1, 8), partition=1, entry_id="8-0")
    line.entry("visits", {"_k": "tick", "t": 9}, entry_id="9-0")

    assert said in event_path(line, entry, status, **query)["detail"]
    assert event_path(line, "8-0", partition=1)["partition"] == 1
    assert event_named(line.client, CONFIG, "visits:1:8-0/0").partition == 1


def entry_of(count: int, at_ms: int) -> dict[str, Any]:
    return chunk_fields([{"ts": 1}] * count, [1], position=0, at_ms=at_ms)


SHIPPED = """\
streams:
  visits:
    time: {field: ts, disorder: 2s}
    schema: {ts: timestamp, page: string}
    partitions: 1
stages:
  people: {from: visits, filter: "page <> '/bot'"}
  by_page: {from: people, window: {tumbling: 10s}, group_by: [page], aggregates: {views: count}}
"""


def test_the_command_tells_the_path_of_an_event(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.runtime.config import load_config

    path = tmp_path / "config.yaml"
    path.write_text(SHIPPED)
    line = Line(load_config(path, {}), server)
    line.post(
        "visits",
        [
            {"ts": BASE_MS, "page": "/a"},
            {"ts": BASE_MS, "page": "/bot"},
            {"ts": BASE_MS + 30_000, "page": "/"},
            {"ts": BASE_MS, "page": "/late"},
        ],
    )
    line.settle()
    [entry] = line.entry_ids("by_page")

    def told(event: str, *more: str, code: int = 0) -> str:
        arguments = ["explain", event, "--config", str(path), "--redis-url", server.url, *more]
        assert cli.run(app, arguments) == code
        said = capsys.readouterr()
        return said.out if code == 0 else said.err

    lines = told(f"{entry}/0").splitlines()
    assert lines[0] == f"visits, partition 0, entry {entry}, row 0 (a chunk)"
    assert lines[4] == "  watermark none yet before it"
    assert lines[5:] == [
        "by_page: counted",
        "  group {'page': '/a'}, pane 2023-11-14T22:14:00.000+00:00",
        "    2023-11-14T22:14:00.000+00:00 to 2023-11-14T22:14:10.000+00:00: final",
    ]
    assert "by_page: filtered by people" in told(f"{entry}/1")
    assert "by_page: late by 28s: its last window, 2023-11-14T22:14:00.000+00:00" in told(f"visits:0:{entry}/3")
    assert json.loads(told(f"{entry}/3", "--json"))["stages"][0]["late_by"] == 28_000
    assert "names no event" in told("soon", code=1)
    assert "no stream 'visit'. Did you mean 'visits'?" in told(f"visit:0:{entry}", code=1)
    assert "partitions 0 to 0" in told(f"visits:1:{entry}", code=1)
    assert "in any stream" in told("1-1", code=1)
