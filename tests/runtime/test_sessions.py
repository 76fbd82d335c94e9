"""Sessions on the whole line: from events to rows, retractions, downstream entries and totals."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from pipeline.core.definitions import (
    DAY_MS,
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
from pipeline.core.partitioning import partition_of
from pipeline.errors import BadRequestError
from pipeline.rim import keys, session_store, store
from pipeline.runtime import session_closer, session_query
from pipeline.runtime.scheduler import Housekeeping
from tests.faults.line import OneByOne
from tests.line import Event, Line, Row
from tests.servers import RunningServer

STREAM, METRIC = "clicks", "visits"
FIELDS = (Field("ts", "timestamp", unit="ms"), Field("user", "string"), Field("v", "float", nullable=True))


def config(
    window: Session | None = None, *, lateness_ms: int = 0, partitions: int = 1, output: OutputKind = "rows"
) -> Config:
    aggregates = (AggregateSpec("n", "count"), AggregateSpec("total", "sum", "v"), AggregateSpec("end", "last", "v"))
    stage = Aggregate(
        METRIC,
        STREAM,
        window or Session(10),
        ("user",),
        aggregates,
        allowed_lateness_ms=lateness_ms,
        output=output,
    )
    time = TimePolicy("ts", disorder_ms=0)
    stream = Stream(STREAM, FIELDS, time, partition_by="user", partitions=partitions)
    return Config({STREAM: stream}, {METRIC: stage})


def click(ts: int, user: str = "ada", v: float = 1.0) -> Event:
    return {"ts": ts, "user": user, "v": v}


def send(line: Line, *events: Event, partition: int = 0) -> None:
    line.chunk(STREAM, list(events), partition=partition)
    line.settle()


def spans(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [(row["user"], row["window_start"], row["last"], row["n"], row["state"]) for row in rows]


def sent(line: Line) -> list[tuple[Any, ...]]:
    return [
        (row["user"], int(row["window_start"]), int(row["last"]), row["state"], int(row["revision"]))
        for row in line.downstream(METRIC)
    ]


def live(line: Line, partition: int = 0) -> dict[bytes, bytes]:
    return session_store.live_sessions(line.client, STREAM, partition, line.programs[METRIC].group)


def test_a_session_is_open_then_closed_then_final(server: RunningServer) -> None:
    line = Line(config(), server)

    send(line, click(100), click(105, v=2.0), click(110, "bob"))
    assert spans(line.rows(METRIC)) == [("ada", 100, 105, 2, "open"), ("bob", 110, 110, 1, "open")]

    send(line, click(115, "eve"))  # exactly at the end of ada's: no event before it is in time any more
    assert spans(line.rows(METRIC)) == [
        ("ada", 100, 105, 2, "closed"),
        ("bob", 110, 110, 1, "open"),
        ("eve", 115, 115, 1, "open"),
    ]
    assert spans(line.rows(METRIC, state="open")) == [("bob", 110, 110, 1, "open"), ("eve", 115, 115, 1, "open")]

    line.end(STREAM, 115)
    line.settle()
    assert [row["state"] for row in line.rows(METRIC)] == ["final", "final", "final"]
    [ada, *_] = line.rows(METRIC, state="final")
    assert ada == {
        "window_start": 100,
        "window_end": 115,
        "first": 100,
        "last": 105,
        "closes_at": 115,
        "state": "final",
        "revision": 0,
        "user": "ada",
        "n": 2,
        "total": 3.0,
        "end": 2.0,
    }
    assert not live(line)


def test_an_event_exactly_a_gap_away_joins_and_one_further_does_not(server: RunningServer) -> None:
    line = Line(config(), server)

    send(line, click(100), click(110), click(121))

    assert spans(line.rows(METRIC)) == [("ada", 100, 110, 2, "closed"), ("ada", 121, 121, 1, "open")]


def test_max_cuts_sessions_at_its_multiples(server: RunningServer) -> None:
    line = Line(config(Session(10, 50)), server)

    send(line, click(90), click(99), click(100), click(105))
    line.end(STREAM, 105)
    line.settle()

    assert spans(line.rows(METRIC)) == [("ada", 90, 99, 2, "final"), ("ada", 100, 105, 2, "final")]


def test_a_late_event_extends_a_published_session_which_is_retracted(server: RunningServer) -> None:
    line = Line(config(lateness_ms=100), server)
    send(line, click(100), click(150, "bob"))

    send(line, click(105, v=4.0))

    assert spans(line.closed(METRIC)) == [("ada", 100, 105, 2, "closed")]
    assert spans(line.rows(METRIC, state="retracted")) == [("ada", 100, 100, 1, "retracted")]
    assert sent(line) == [
        ("ada", 100, 100, "closed", 0),
        ("ada", 100, 100, "retracted", 1),
        ("ada", 100, 105, "closed", 0),
    ]


def test_a_late_event_inside_a_published_session_is_its_next_revision(server: RunningServer) -> None:
    line = Line(config(lateness_ms=100), server)
    send(line, click(100), click(108), click(150, "bob"))

    send(line, click(104, v=4.0))

    [row] = line.closed(METRIC)
    assert (row["n"], row["total"], row["revision"]) == (3, 6.0, 1)
    assert sent(line) == [("ada", 100, 108, "closed", 0), ("ada", 100, 108, "closed", 1)]


def test_a_late_event_merges_two_published_sessions(server: RunningServer) -> None:
    line = Line(config(lateness_ms=100), server)
    send(line, click(100), click(120, v=2.0), click(150, "bob"))
    assert len(line.closed(METRIC)) == 2

    send(line, click(110, v=4.0))

    assert spans(line.closed(METRIC)) == [("ada", 100, 120, 3, "closed")]
    assert sorted(sent(line)[2:]) == [
        ("ada", 100, 100, "retracted", 1),
        ("ada", 100, 120, "closed", 0),
        ("ada", 120, 120, "retracted", 1),
    ]
    newest = line.get(f"{METRIC}/latest")["data"]
    assert [(row["user"], row["window_start"], row["total"]) for row in newest] == [("ada", 100, 7.0)]


def test_a_closed_session_that_grows_beyond_the_watermark_is_open_again(server: RunningServer) -> None:
    line = Line(config(lateness_ms=100), server)
    send(line, click(100), click(110, "bob"))
    assert spans(line.closed(METRIC)) == [("ada", 100, 100, 1, "closed")]

    send(line, click(105))

    assert spans(line.rows(METRIC)) == [("ada", 100, 105, 2, "open"), ("bob", 110, 110, 1, "open")]
    send(line, click(116, "bob"))
    assert spans(line.rows(METRIC)) == [("ada", 100, 105, 2, "closed"), ("bob", 110, 116, 2, "open")]
    assert spans(line.rows(METRIC, state="retracted")) == [("ada", 100, 100, 1, "retracted")]


def test_an_event_too_late_for_a_session_of_its_own_is_late(server: RunningServer) -> None:
    line = Line(config(lateness_ms=5), server)
    send(line, click(100), click(130, "bob"))

    send(line, click(114))  # 114 + 10 + 5 <= 130: late, though ada's session at 100 is not a gap away
    send(line, click(116))

    [late] = line.late(METRIC)
    assert (late["time"], late["window_start"], late["window_end"], late["reason"]) == ("114", "114", "124", "late")
    assert spans(line.closed(METRIC)) == [("ada", 100, 100, 1, "final"), ("ada", 116, 116, 1, "closed")]


def test_a_session_waits_for_the_slowest_partition(server: RunningServer) -> None:
    line = Line(config(partitions=2), server)
    ada, bob = (next(u for u in names if partition(u) == p) for p, names in ((0, NAMES), (1, NAMES)))
    send(line, click(100, ada), click(500, ada))
    assert line.closed(METRIC) == []
    assert line.get(METRIC)["meta"]["complete_to"] is None

    send(line, click(105, bob), partition=1)
    assert line.closed(METRIC) == []
    send(line, click(110, bob), partition=1)

    assert spans(line.closed(METRIC)) == [(ada, 100, 100, 1, "final")]
    assert line.get(METRIC)["meta"]["complete_to"] == 110


NAMES = [f"user{number}" for number in range(20)]


def partition(user: str) -> int:
    return partition_of(user.encode(), 2)


def test_an_answer_holds_the_sessions_that_overlap_its_range(server: RunningServer) -> None:
    line = Line(config(), server)
    send(line, click(100), click(108), click(130), click(200, "bob"))

    def asked(start_ms: int, end_ms: int) -> list[int]:
        return [row["window_start"] for row in line.get(METRIC, start=str(start_ms), end=str(end_ms))["data"]]

    assert asked(0, 1_000) == [100, 130, 200]
    assert [row["window_start"] for row in line.rows(METRIC, end_ms=130)] == [100]
    assert [row["window_start"] for row in line.rows(METRIC, end_ms=131, where={"user": ["ada"]})] == [100, 130]
    assert [row["window_start"] for row in line.rows(METRIC, where={"user": ["bob"]})] == [200]
    assert [row["window_start"] for row in line.rows(METRIC, order="-n")] == [100, 130, 200]


def test_a_late_session_that_ends_earlier_does_not_hide_the_others_of_its_bucket(server: RunningServer) -> None:
    line = Line(config(lateness_ms=1_000), server)
    send(line, click(100), click(300, "bob"))

    send(line, click(50, "eve"))

    assert [row["user"] for row in line.rows(METRIC, state="closed", start_ms=105)] == ["ada"]


def test_totals_are_of_final_sessions_by_their_first_event(server: RunningServer) -> None:
    line = Line(config(), server)
    send(line, click(100, v=1.0), click(999, v=2.0), click(1_005, v=4.0), click(1_500, v=8.0))

    assert [(r["window_start"], r["sessions"], r["total"]) for r in line.rows(METRIC, step_ms=1_000)] == [
        (0, 2, 7.0)  # the one at 1,500 is open
    ]
    line.end(STREAM, 3_000)
    line.settle()
    rows = line.rows(METRIC, step_ms=1_000)

    assert [(r["window_start"], r["window_end"], r["sessions"], r["n"], r["total"], r["state"]) for r in rows] == [
        (0, 1_000, 2, 3, 7.0, "final"),
        (1_000, 2_000, 1, 1, 8.0, "final"),
    ]


def test_a_step_is_open_while_a_session_that_began_in_it_may_change(server: RunningServer) -> None:
    line = Line(config(), server)
    send(line, click(100), click(990, "bob"))
    for time_ms in range(995, 1_100, 5):  # bob goes on and on
        send(line, click(time_ms, "bob"))

    [row] = line.rows(METRIC, step_ms=1_000)
    assert (row["user"], row["sessions"], row["state"]) == ("ada", 1, "open")


@pytest.mark.parametrize("output", ["chunks", "none"])
def test_what_goes_downstream_is_as_asked_for(server: RunningServer, output: OutputKind) -> None:
    line = Line(config(lateness_ms=100, output=output), server)
    send(line, click(100), click(150, "bob"))
    send(line, click(105))

    rows = [line for entry in line.downstream(METRIC) for line in entry["rows"].splitlines()]
    assert rows == (
        []
        if output == "none"
        else [
            '{"window_start":100,"window_end":110,"state":"closed","revision":0,"first":100,"last":100,"closes_at":110,"user":"ada","n":1,'
            '"total":1.0,"end":1.0}',
            '{"window_start":100,"window_end":110,"state":"retracted","revision":1,"first":100,"last":100,"closes_at":110,"user":"ada"}',
            '{"window_start":100,"window_end":115,"state":"closed","revision":0,"first":100,"last":105,"closes_at":115,"user":"ada","n":2,'
            '"total":2.0,"end":1.0}',
        ]
    )


class CutOff(OneByOne):
    """Scripts whose n-th publication gets through, and its reply does not."""

    def __init__(self, client: redis.Redis, nth: int) -> None:
        super().__init__(client)
        self._left = nth

    def run(self, name: str, **arguments: Any) -> Any:
        reply = super().run(name, **arguments)
        self._left -= name == "publish_sessions"
        if not self._left:
            raise InterruptedError
        return reply


@pytest.mark.parametrize("crash_at", [0, 1, 2])
def test_sessions_that_go_nowhere_are_stored_as_those_that_go_downstream(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    monkeypatch.setattr(session_closer, "PLAIN_A_STEP", 2)
    found = []
    outputs: tuple[OutputKind, ...] = ("rows", "none")
    for output in outputs:
        line = Line(config(lateness_ms=60_000, output=output), server)
        for events in (
            [click(100), click(101, "b,b"), click(102, '"c'), click(50_000, v=2.5), click(50_003, "b,b")],
            [click(108), click(50_009, v=0.5), click(49_995, '"c'), click(90_000, "last")],  # late ones change forms
        ):
            line.chunk(STREAM, events)
            if output == "none" and crash_at:
                worker = line.worker()
                worker.scripts = CutOff(server.client, crash_at)
                with pytest.raises(InterruptedError):
                    line.settle(worker)
            line.settle()
        program = line.programs[METRIC]
        buckets = session_store.buckets(server.client, METRIC, program.version)
        rows = session_store.published_sessions(server.client, METRIC, program.version, buckets)
        stored = {(r.group, r.first, r.last, r.state, r.revision, r.partition) for r in rows}
        latest = server.client.hgetall(keys.latest(METRIC))
        found.append((len(buckets), stored, latest, line.rows(METRIC)))
        server.client.flushall()

    assert found[0] == found[1]
    assert len(found[0][1]) > 6


def test_sessions_expire_by_when_they_were_published(server: RunningServer) -> None:
    line = Line(config(), server)
    send(line, click(100), click(150, "bob"))
    program = line.programs[METRIC]
    housekeeping = Housekeeping(line.config, server.client, allow_volatile=True)

    housekeeping.expire_once(store.redis_time_ms(server.client) + DAY_MS - 60_000)
    [gone] = [row["first"] for row in line.closed(METRIC)]
    assert line.get(METRIC)["meta"]["complete_from"] is None
    housekeeping.expire_once(store.redis_time_ms(server.client) + DAY_MS + 60_000)

    assert line.closed(METRIC) == []
    assert spans(line.rows(METRIC)) == [("bob", 150, 150, 1, "open")]  # open ones never expire
    assert line.get(METRIC)["meta"]["complete_from"] == gone + 1
    assert server.client.hgetall(keys.latest(METRIC)) == {}
    assert session_store.buckets(server.client, METRIC, program.version) == []


def test_a_session_that_may_still_change_does_not_expire(server: RunningServer) -> None:
    line = Line(config(lateness_ms=100), server)
    housekeeping = Housekeeping(line.config, server.client, allow_volatile=True)
    send(line, click(100), click(219, "bob"))  # final at 100 + 2 gaps + 100

    housekeeping.expire_once(store.redis_time_ms(server.client) + DAY_MS + 60_000)
    assert spans(line.closed(METRIC)) == [("ada", 100, 100, 1, "closed")]
    line.settle()  # a worker that has just loaded offers again what is closed and not final
    assert sent(line) == []  # the rows of a day ago have gone, and none was sent again

    send(line, click(220, "bob"))
    housekeeping.expire_once(store.redis_time_ms(server.client) + DAY_MS + 60_000)
    assert line.closed(METRIC) == []


def test_live_sessions_of_a_retired_version_go_when_it_has_rested(server: RunningServer) -> None:
    old = Line(config(), server)
    send(old, click(100))
    new = Line(config(Session(20)), server)
    housekeeping = Housekeeping(new.config, server.client, allow_volatile=True)

    housekeeping.expire_once(store.redis_time_ms(server.client))
    assert len(live(old)) == 1
    housekeeping.expire_once(store.redis_time_ms(server.client) + DAY_MS + 60_000)
    assert len(live(old)) == 0

    new.settle()
    housekeeping.expire_once(store.redis_time_ms(server.client) + DAY_MS + 60_000)
    assert len(live(new)) == 1  # the running version's never go


def test_sessions_that_may_have_lost_their_beginning_are_not_shown(server: RunningServer) -> None:
    # Given a version whose log begins after events up to 50 were trimmed
    line = Line(config(), server)
    group = line.programs[METRIC].group
    server.client.hset(keys.checkpoint(STREAM, 0, group), mapping={"max_seen_ms": 50, "max_ts_ms": 50, "floor_ms": 50})

    # When events come on either side of what they may have joined
    send(line, click(50), click(60, "bob"), click(61, "eve"), click(69, "bob"))
    assert [row["user"] for row in line.rows(METRIC)] == ["eve"]
    line.end(STREAM, 69)
    line.settle()

    # Then what may be part of a longer session is followed, never shown, and forgotten when it is final
    assert [(row["time"], row["reason"]) for row in line.late(METRIC)] == [("50", "before_log")]
    assert spans(line.rows(METRIC)) == [("eve", 61, 61, 1, "final")]
    assert [row["user"] for row in line.downstream(METRIC)] == ["eve"]
    assert not live(line)
    assert line.get(METRIC)["meta"]["complete_from"] == 61


def test_max_cuts_the_doubt_about_a_beginning(server: RunningServer) -> None:
    line = Line(config(Session(10, 55)), server)
    group = line.programs[METRIC].group
    server.client.hset(keys.checkpoint(STREAM, 0, group), mapping={"max_seen_ms": 50, "max_ts_ms": 50, "floor_ms": 50})

    send(line, click(54), click(55))

    assert spans(line.rows(METRIC)) == [("ada", 55, 55, 1, "open")]


def test_one_group_is_found_among_more_than_an_answer_looks_at(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Line(config(), server)
    send(line, click(100), click(100, "b*b?["), click(100, "bob"))
    monkeypatch.setattr(session_query, "MAX_SESSIONS", 2)

    with pytest.raises(BadRequestError, match="3 live sessions; an answer looks at no more than 2"):
        line.rows(METRIC)
    assert spans(line.rows(METRIC, where={"user": ["b*b?["]})) == [("b*b?[", 100, 100, 1, "open")]
    assert line.rows(METRIC, state="closed") == []


def test_state_retracted_is_for_sessions(server: RunningServer) -> None:
    stage = Aggregate("n", STREAM, Tumbling(10), (), (AggregateSpec("n", "count"),))
    line = Line(Config(config().streams, {"n": stage}), server)

    answer = line.http.get("/v1/metrics/n?state=retracted")

    assert (answer.status_code, "only they are retracted" in answer.text) == (400, True)


@pytest.mark.parametrize(
    "path",
    ["metrics", "stages", f"stages/{METRIC}", "streams", f"streams/{STREAM}/watermark", f"metrics/{METRIC}?format=csv"],
)
def test_every_account_knows_sessions(server: RunningServer, path: str) -> None:
    line = Line(config(), server)
    send(line, click(100), click(150, "bob"))

    answer = line.http.get(f"/v1/{path}")

    assert answer.status_code == 200, answer.text
    assert METRIC in answer.text or STREAM in answer.text or "ada,1" in answer.text
