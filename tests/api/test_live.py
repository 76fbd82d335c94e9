"""Live streams: what a reader knows from them is what the query API says, wherever it left and came back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.live_followers import Follower
from api.live_snapshots import take_snapshot
from api.live_topics import RING_BYTES, TOO_SLOW, Event, Missed, Topic
from pipeline.core.definitions import (
    Aggregate,
    AggregateSpec,
    Config,
    Field,
    OutputKind,
    Session,
    Stream,
    TimePolicy,
    Tumbling,
)
from pipeline.core.programs import compile_programs
from pipeline.rim import keys, replies
from pipeline.rim.row_streams import BEGINNING
from pipeline.runtime.live_feeds import RowFeed
from pipeline.runtime.live_positions import Position, Shown, parse_positions, positions_text
from pipeline.runtime.live_rows import Line as LiveLine
from pipeline.runtime.query import Metrics
from tests.api.live_reader import POLICY, Reader, live_app
from tests.line import Line, Row
from tests.servers import RunningServer, wait_for

FIELDS = (Field("ts", "timestamp", unit="ms"), Field("k", "string", nullable=True), Field("v", "float", nullable=True))
STREAM = Stream("s", FIELDS, TimePolicy("ts", disorder_ms=0, idle_after_ms=None), partitions=1)
BY_USER = Stream("u", FIELDS, TimePolicy("ts", disorder_ms=0, idle_after_ms=None), partitions=1, partition_by="k")
VALUES = (AggregateSpec("n", "count"), AggregateSpec("total", "sum", "v"), AggregateSpec("top", "topk", "v", 2))


def config(output: OutputKind = "rows", *, values: tuple[AggregateSpec, ...] = VALUES[:2]) -> Config:
    windows = Aggregate("w", "s", Tumbling(10), ("k",), values, allowed_lateness_ms=30, output=output)
    sessions = Aggregate("visits", "u", Session(10), ("k",), values, allowed_lateness_ms=30)
    return Config({"s": STREAM, "u": BY_USER}, {"w": windows, "visits": sessions}, default_stream="s")


def send(line: Line, stream: str, events: Sequence[tuple[int, str | None]]) -> None:
    if events:
        line.chunk(stream, [{"ts": ts, "k": key, "v": ts / 8} for ts, key in events])
    line.settle()


def stateless(row: Row) -> Row:
    """A row without what may change after it was published: `closed` becomes `final` by time alone."""
    return {name: value for name, value in row.items() if name != "state"}


def identity(metric: str, row: Row) -> tuple[Any, ...]:
    return (metric, row["window_start"], row["window_end"], row["k"])


# --- the law

EVENTS = st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["a", "b", None])), max_size=6)
KEYED = st.lists(st.tuples(st.integers(0, 60), st.sampled_from(["a", "b"])), max_size=6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("s"), EVENTS), st.tuples(st.just("u"), KEYED), st.sampled_from(["read", "leave", "later"])
    ),
    min_size=3,
    max_size=12,
)


@pytest.mark.parametrize("output", ["rows", "chunks", "none"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_snapshot_rows_and_resume_at_any_point_are_what_the_query_says(
    server: RunningServer, output: OutputKind, steps: Sequence[Any]
) -> None:
    server.client.flushall()
    line = Line(config(output), server)
    app = live_app(server, line.config)
    reader, base = Reader(app, "/v1/live?metrics=w,visits"), 0
    before: dict[tuple[Any, ...], Row] = {}
    connected = False

    for step in [*steps, "read"]:
        match step:
            case "later":
                base += 40
            case "leave":
                if connected:
                    reader.disconnect()
                connected = False
            case "read":
                if not connected:
                    if reader.last_id is None:
                        before = {identity(m, row): row for m in ("w", "visits") for row in line.closed(m)}
                    reader.connect()
                connected = True
                reader.read_quiet()
            case (stream, events):
                send(line, stream, [(base + ts, key) for ts, key in events])
    reader.disconnect()

    # Then each (window, group, revision) was told once, revisions of one in order
    assert len(set(reader.told)) == len(reader.told)
    revisions: dict[tuple[Any, ...], int] = {}
    for *place, revision in reader.told:
        assert revision > revisions.get(tuple(place), -1)
        revisions[tuple(place)] = revision
    assert not any(event.name == "reset" for event in reader.events)
    # And what it knows is what is stored; of what there was before it came, the newest
    stored = {identity(m, row): row for m in ("w", "visits") for row in line.closed(m)}
    known = {key: row for key, row in reader.known.items() if row["state"] != "retracted"}
    assert {key: stateless(row) for key, row in known.items()} == {
        key: stateless(row)
        for key, row in stored.items()
        if key in reader.known or before.get(key, {}).get("revision") != row["revision"]
    }
    gone = {key for key, row in reader.known.items() if row["state"] == "retracted"}
    assert gone == {key for key in reader.known if key not in stored}


# --- one thing at a time


def test_a_new_reader_gets_the_newest_closed_window_as_latest_answers_it(server: RunningServer) -> None:
    line = Line(config(values=VALUES), server)
    send(line, "s", [(5, "a"), (15, "a"), (16, None), (25, "b")])
    reader = Reader(live_app(server, line.config), "/v1/metrics/w/live")
    reader.connect()
    reader.read_quiet()

    [snapshot] = reader.events
    latest = line.http.get("/v1/metrics/w/latest").get_json()
    assert (snapshot.name, snapshot.data) == (
        "snapshot",
        {"metric": "w", "data": latest["data"], "meta": latest["meta"]},
    )
    assert [(row["k"], row["n"]) for row in snapshot.rows] == [("a", 1), (None, 1)]

    send(line, "s", [(26, "b"), (31, None)])
    reader.read_quiet()
    rows = reader.events[-1]
    [stored] = line.rows("w", start_ms=20, end_ms=30, state="closed")
    assert [stateless(row) for row in rows.rows] == [stateless(stored)]
    assert list(rows.rows[0]) == list(stored)
    assert rows.data["meta"] == {"watermark": 31, "complete_to": 30}


@pytest.mark.parametrize("output", ["rows", "chunks", "none"])
def test_a_late_event_comes_as_a_revision(server: RunningServer, output: OutputKind) -> None:
    line = Line(config(output), server)
    send(line, "s", [(5, "a"), (15, "a")])
    reader = Reader(live_app(server, line.config), "/v1/metrics/w/live")
    reader.connect()
    reader.read_quiet()
    send(line, "s", [(6, "a")])
    reader.read_quiet()

    assert [(e.name, [(r["window_start"], r["n"], r["revision"]) for r in e.rows]) for e in reader.events] == [
        ("snapshot", [(0, 1, 0)]),
        ("rows", [(0, 2, 1)]),
    ]


def test_where_filters_rows_and_counts_where_a_metric_has_the_field(server: RunningServer) -> None:
    line = Line(config(), server)
    send(line, "s", [(5, "a"), (6, "b"), (15, "b")])
    reader = Reader(live_app(server, line.config), "/v1/live?metrics=w,visits&where.k=b&where.k=c")
    reader.connect()
    reader.read_quiet()
    send(line, "s", [(16, "a"), (25, "a"), (26, "c"), (35, "a")])
    reader.read_quiet()

    assert [(row["window_start"], row["k"]) for event in reader.events for row in event.rows] == [
        (0, "b"),
        (10, "b"),
        (20, "c"),
    ]


def test_a_field_value_of_any_content_stays_on_one_line(server: RunningServer) -> None:
    line = Line(config(), server)
    nasty = "</script>\r\n\ndata: x\u2028\x00"
    send(line, "s", [(5, nasty), (15, "a")])
    reader = Reader(live_app(server, line.config), "/v1/metrics/w/live")
    reader.connect()
    reader.read_quiet()
    send(line, "s", [(16, nasty), (25, "a")])
    reader.read_quiet()

    assert [row["k"] for event in reader.events for row in event.rows if row["k"] != "a"] == [nasty, nasty]


def connected_once(line: Line, metric: str = "w") -> Reader:
    """A reader that has seen a snapshot and rows, and has gone."""
    reader = Reader(live_app(line.server, line.config), f"/v1/metrics/{metric}/live")
    send(line, "s", [(5, "a"), (15, "a")])
    reader.connect()
    reader.read_quiet()
    send(line, "s", [(25, "a")])
    reader.read_quiet()
    reader.disconnect()
    return reader


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ("trim", "trimmed"),
        ("delete", "ahead"),
        ("ahead", "ahead"),
        ("version", "new_version"),
        ("garbage", "unknown_position"),
    ],
)
def test_a_position_that_is_not_there_is_a_reset_and_a_snapshot(server: RunningServer, spoil: str, reason: str) -> None:
    line = Line(config(), server)
    reader = connected_once(line)
    send(line, "s", [(35, "a"), (45, "b")])
    assert reader.last_id is not None
    match spoil:
        case "trim":
            server.client.execute_command("XTRIM", keys.rows("w"), "MAXLEN", 1)
        case "delete":
            server.client.execute_command("DEL", keys.rows("w"))
        case "ahead":
            reader.last_id = reader.last_id.replace("-", "9-", 1)
        case "version":
            reader.last_id = reader.last_id.replace("w=", "w=0", 1)
        case "garbage":
            reader.last_id = "17"
    reader.connect()
    reader.read_quiet()

    reset, snapshot = reader.events[-2:]
    assert (reset.name, reset.data["metric"], reset.data["reason"]) == ("reset", "w", reason)
    assert reset.data["detail"]
    assert (snapshot.name, [row["window_start"] for row in snapshot.rows]) == ("snapshot", [30])
    # and goes on from there
    send(line, "s", [(55, "b")])
    reader.read_quiet()
    assert [row["window_start"] for row in reader.events[-1].rows] == [40]


def test_a_trim_up_to_the_position_loses_nothing(server: RunningServer) -> None:
    line = Line(config(), server)
    reader = connected_once(line)
    server.client.execute_command("XTRIM", keys.rows("w"), "MAXLEN", 0)
    reader.connect()
    reader.read_quiet()
    send(line, "s", [(35, "a")])
    reader.read_quiet()

    assert [event.name for event in reader.events] == ["snapshot", "rows", "rows"]


def test_a_lost_stream_is_noticed_while_readers_are_connected(throwaway_server: RunningServer) -> None:
    server = throwaway_server
    line = Line(config(), server)
    reader = Reader(live_app(server, line.config), "/v1/metrics/w/live")
    send(line, "s", [(5, "a"), (15, "a")])
    reader.connect()
    reader.read_quiet()

    # When Redis comes back with less than it had
    server.kill()
    server.restart()
    server.client.execute_command("DEL", keys.rows("w"))
    wait_for(lambda: reader.read().name == "reset", "the reader to be told")
    assert reader.events[-1].data["reason"] == "ahead"
    reader.read_quiet()
    assert reader.events[-1].name == "snapshot"


def test_last_event_id_may_be_a_parameter(server: RunningServer) -> None:
    line = Line(config(), server)
    reader = connected_once(line)
    send(line, "s", [(35, "a")])
    other = Reader(reader.app, f"/v1/metrics/w/live?last_event_id={reader.last_id}")
    other.connect()
    other.read_quiet()

    assert [(event.name, [row["window_start"] for row in event.rows]) for event in other.events] == [("rows", [20])]


def test_a_version_that_begins_to_answer_is_a_reset(server: RunningServer) -> None:
    line = Line(config(), server)
    reader = Reader(live_app(server, line.config), "/v1/metrics/w/live")
    send(line, "s", [(5, "a"), (15, "a")])
    reader.connect()
    reader.read_quiet()

    # When the definition is changed, and rebuilt beside the one that answers
    other = replace(config(), stages={"w": replace(line.programs["w"].stage, max_groups=5)})
    new = Line(replace(other, streams={"s": STREAM}), server)
    new.settle(new.worker())
    version = new.programs["w"].version
    server.client.execute_command("HSET", keys.versions("w"), "active", version)
    wait_for(lambda: reader.read().name == "reset", "the reader to be told")
    reader.read_quiet()

    assert [event.name for event in reader.events] == ["snapshot", "reset", "snapshot"]
    assert reader.events[1].data["reason"] == "new_version"
    assert reader.last_id is not None
    assert version in reader.last_id


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/metrics/nope/live", 404, "unknown_metric"),
        ("/v1/metrics/w/live?start=1", 400, "unknown_parameter"),
        ("/v1/metrics/w/live?metrics=w", 400, "unknown_parameter"),
        ("/v1/metrics/w/live?where.kk=b", 400, "unknown_field"),
        ("/v1/live", 400, "no_metrics"),
        ("/v1/live?metrics=w,nope", 404, "unknown_metric"),
        ("/v1/live?metrics=w,visits&where.page=b", 400, "unknown_field"),
        ("/v1/live?metrics=w&metrics=visits", 400, "repeated_parameter"),
        ("/v1/live?metrics=silent", 422, "no_live_rows"),
    ],
)
def test_a_stream_that_cannot_be_is_refused_before_it_begins(
    server: RunningServer, path: str, status: int, code: str
) -> None:
    sessions = config().stages["visits"]
    assert isinstance(sessions, Aggregate)
    silent = replace(sessions, name="silent", output="none")
    line = Line(replace(config(), stages={**config().stages, "silent": silent}), server)
    answer = live_app(server, line.config).test_client().get(path)

    assert (answer.status_code, answer.get_json(force=True)["code"]) == (status, code), answer.text


def test_readers_above_the_cap_are_refused_until_one_goes(server: RunningServer) -> None:
    line = Line(config(), server)
    app = live_app(server, line.config, replace(POLICY, readers=1))
    reader = Reader(app, "/v1/metrics/w/live")
    reader.connect()

    refused = app.test_client().get("/v1/metrics/w/live")
    assert (refused.status_code, refused.get_json(force=True)["code"]) == (429, "too_many_readers")
    assert int(refused.headers["Retry-After"]) > 0
    reader.disconnect()
    assert app.test_client().head("/v1/metrics/w/live").status_code == 200
    again = Reader(app, "/v1/metrics/w/live")
    again.connect()


def stored_rows(server: RunningServer, metric: str = "w") -> list[replies.Entry]:
    return replies.parse_entries(server.client.execute_command("XRANGE", keys.rows(metric), "-", "+"))


def test_rows_that_come_after_their_window_was_shown_are_not_repeated(server: RunningServer) -> None:
    line = Line(config(), server)
    send(line, "s", [(5, "a"), (6, "b"), (15, "a")])
    sent = stored_rows(server)
    reader = Reader(live_app(server, line.config), "/v1/metrics/w/live")
    reader.connect()
    reader.read_quiet()

    # When the publisher sends downstream what /latest has shown already
    for entry in sent:
        server.client.xadd(keys.rows("w"), entry.fields or {})  # type: ignore[arg-type]
    reader.read_quiet()
    assert [event.name for event in reader.events] == ["snapshot"]


def test_a_position_in_the_middle_of_what_was_read_together_is_gone_on_from(server: RunningServer) -> None:
    line = Line(config(), server)
    app = live_app(server, line.config)
    other = Reader(app, "/v1/metrics/w/live")
    other.connect()
    other.read_quiet()
    send(line, "s", [(5, "a"), (6, "b"), (15, "a"), (25, "a")])
    other.read_quiet()
    first = stored_rows(server)[0].id.decode()
    version = line.programs["w"].version

    # Given a reader that has only the first row of an event that is in the ring
    reader = Reader(app, "/v1/metrics/w/live", last_id=f"w={version}~{first}")
    reader.connect()
    reader.read_quiet()
    assert [(row["window_start"], row["k"]) for event in reader.events for row in event.rows] == [(0, "b"), (10, "a")]


def test_sessions_that_a_snapshot_showed_ahead_of_their_rows_are_not_repeated(server: RunningServer) -> None:
    line = Line(config(), server)
    send(line, "u", [(5, "a"), (6, "b"), (40, "a")])
    program = line.programs["visits"]
    feed = RowFeed(server.client, program)
    # Given a snapshot that was taken while these sessions were published: its position is before them
    topic = Topic(program, feed, BEGINNING, BEGINNING)
    metrics = Metrics(line.config, server.client)
    snapshot = replace(take_snapshot(metrics, topic), position=Position(program.version, BEGINNING))
    topic.snapshot = None
    follower = Follower(metrics, topic, {})
    follower.position = snapshot.position
    follower._remember(snapshot)
    assert not follower.is_resumable

    # Then their rows are not told again, and its place can be resumed from once they have passed
    published = feed.after(BEGINNING, 100)
    for entry_id, lines in published.entries:
        topic.append(Event(lines, entry_id, b"{}"))
    blocks = []
    while (step := follower.step()) is not None:
        blocks += step
    assert blocks == []
    assert follower.is_resumable


def test_another_server_is_noticed_before_anything_it_says_is_told(throwaway_server: RunningServer) -> None:
    server = throwaway_server
    line = Line(config(), server)
    reader = Reader(live_app(server, line.config, replace(POLICY, checks_every_s=1e9)), "/v1/metrics/w/live")
    send(line, "s", [(5, "a"), (15, "a")])
    reader.connect()
    reader.read_quiet()

    # When Redis comes back without the newest rows, and others are written before anybody looks
    server.kill()
    server.restart()
    server.client.execute_command("DEL", keys.rows("w"))
    send(line, "s", [(25, "a")])
    wait_for(lambda: reader.read().name == "reset", "the reader to be told")
    reader.read_quiet()
    assert [event.name for event in reader.events] == ["snapshot", "reset", "snapshot"]


# --- parts


def test_a_cursor_that_the_ring_has_passed_is_told_so(server: RunningServer) -> None:
    program = compile_programs(config())["w"]
    topic = Topic(program, RowFeed(server.client, program), (0, 0), (0, 0))
    cursor = topic.cursor((0, 0))
    assert cursor is not None

    def event(number: int) -> Event:
        return Event([LiveLine((number, 0), (0, 10), 0, ("a",), b"x" * (RING_BYTES // 3))], (number, 0), b"{}")

    for number in (1, 2):
        topic.append(event(number))
    taken = topic.take(cursor)
    assert isinstance(taken, tuple)
    assert taken[0].last == (1, 0)
    for number in (3, 4):
        topic.append(event(number))

    assert topic.take(cursor) == Missed(TOO_SLOW)
    assert topic.cursor((1, 0)) is None
    second = topic.take(topic.cursor((2, 0)))  # type: ignore[arg-type]
    assert isinstance(second, tuple)
    assert second[0].last == (3, 0)


def test_a_position_is_text_and_back() -> None:
    positions = {
        "a": Position("0f", (17, 3)),
        "b_2": Position("a" * 10, (0, 0), Shown((-60_000, -50_000), 2)),
    }
    assert parse_positions(positions_text(positions.items())) == positions
    assert [parse_positions(text) for text in ("", "a=0f~1", "a=0f~1-1,", "A=0f~1-1", "a=0f~1-1~1:2")] == [None] * 5
