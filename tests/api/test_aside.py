"""Late rows, dead letters and the quarantine over HTTP: browsed, and replayed once, each where it belongs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from pipeline.core.definitions import (
    DAY_MS,
    HOUR_MS,
    Aggregate,
    AggregateSpec,
    Config,
    Field,
    Stream,
    TimePolicy,
    Transform,
    Tumbling,
)
from pipeline.core.ndjson import encode_rows
from pipeline.rim import keys
from pipeline.rim.expiry import expire_side_streams
from pipeline.rim.rebuild import rebuild_partition
from pipeline.rim.scripts import Scripts
from tests.api.wire import client_on
from tests.arrow_bodies import arrow_body
from tests.line import Line
from tests.servers import RunningServer

START_MS = 1_700_000_040_000
FIELDS = (Field("ts", "timestamp"), Field("who", "string"), Field("n", "string", nullable=True), Field("v", "int"))
SUM = (AggregateSpec("n", "count"), AggregateSpec("v", "sum", "v"))
CONFIG = Config(
    streams={
        "s": Stream("s", FIELDS, TimePolicy("ts", disorder_ms=1_000, max_age_ms=None), "who", partitions=2),
        "young": Stream("young", FIELDS, TimePolicy("ts", max_age_ms=HOUR_MS), partitions=1),
        "timeless": Stream("timeless", (Field("v", "int"),)),
    },
    stages={
        "numbered": Transform("numbered", "s", derive={"number": "CAST(n AS BIGINT)"}),
        "parsed": Aggregate(
            "parsed", "numbered", Tumbling(10_000), (), (*SUM, AggregateSpec("number", "sum", "number"))
        ),
        "plain": Aggregate("plain", "s", Tumbling(10_000), ("who",), SUM),
        "recent": Aggregate("recent", "young", Tumbling(10_000), (), SUM),
        "any": Aggregate("any", "timeless", Tumbling(10_000), (), (AggregateSpec("n", "count"),)),
    },
    default_stream="s",
)


@pytest.fixture
def line(server: RunningServer) -> Line:
    return Line(CONFIG, server)


def event(second: int, who: str = "ada", v: int = 1, **more: Any) -> dict[str, Any]:
    return {"ts": START_MS + second * 1_000, "who": who, "v": v, **more}


def with_late_rows(line: Line) -> None:
    """Two partitions have reached a minute; three events of the first window come after it has closed."""
    line.post("s", [event(0, "ada"), event(60, "ada"), event(0, "zoe"), event(60, "zoe")])
    line.settle()
    line.post("s", [event(1, "ada", 2), event(2, "zoe", 4), event(3, "ada", 8)])
    line.settle()


def get(line: Line, path: str, status: int = 200) -> Any:
    answer = line.http.get(path)
    assert answer.status_code == status, answer.text
    return answer.get_json(force=True)


def post(line: Line, path: str, body: Any, status: int = 202, **headers: str) -> Any:
    answer = line.http.post(path, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})
    assert answer.status_code == status, answer.text
    return answer.get_json(force=True)


def put(line: Line, key: str, fields: Mapping[str, str | bytes]) -> None:
    """Append one row put aside, as a commit or the door does."""
    parts = (part for pair in fields.items() for part in pair)
    line.client.execute_command("XADD", key, "*", *parts)


def total(line: Line, metric: str) -> int:
    return sum(row["v"] for row in line.rows(metric))


def counters(line: Line, stage: str) -> tuple[int, int, int, int, int, int]:
    said = get(line, f"/v1/stages/{stage}")
    ledger = said["ledger"]
    assert ledger["balances"]
    return (ledger["read"], ledger["accepted"], ledger["late"], ledger["dead"], said["backfilled"], said["replayed"])


# --- late rows


def test_late_rows_are_listed_newest_first_with_their_reasons(line: Line) -> None:
    with_late_rows(line)

    said = get(line, "/v1/late?stage=plain")

    assert (said["total"], said["counted"], said["reasons"]) == (3, 3, {"late": 3})
    assert {row["event"]["v"] for row in said["rows"]} == {2, 4, 8}
    ids = [tuple(map(int, row["id"].partition(":")[2].split("-"))) for row in said["rows"]]
    assert ids == sorted(ids, reverse=True)
    first = said["rows"][-1]
    assert (first["window_start"], first["window_end"]) == (START_MS, START_MS + 10_000)
    assert first["late_by_ms"] == START_MS + 59_000 - first["time"]
    assert [row["replayed"] for row in said["rows"]] == [False] * 3
    assert said["next"] is None


def test_without_a_stage_there_is_a_summary_of_all(line: Line) -> None:
    with_late_rows(line)
    line.post("s", [event(60), {"ts": START_MS, "v": "?"}])

    late = {said["stage"]: (said["total"], said["reasons"]) for said in get(line, "/v1/late")["stages"]}
    refused = {said["stream"]: said["total"] for said in get(line, "/v1/quarantine")["streams"]}

    assert late == {"parsed": (3, {"late": 3}), "plain": (3, {"late": 3}), "recent": (0, {}), "any": (0, {})}
    assert refused == {"s": 1, "young": 0, "timeless": 0}


def test_pages_bring_every_row_once_and_nothing_that_came_later(line: Line) -> None:
    with_late_rows(line)
    first = get(line, "/v1/late?stage=plain&limit=2")
    line.post("s", [event(4, "ada", 16), event(4, "zoe", 32)])
    line.settle()

    second = get(line, f"/v1/late?stage=plain&limit=2&cursor={first['next']}")

    assert sorted(row["event"]["v"] for row in first["rows"] + second["rows"]) == [2, 4, 8]
    assert len(first["rows"]) + len(second["rows"]) == 3
    assert (second["next"], second["up_to"]) == (None, first["up_to"])


def test_a_replay_counts_the_shown_rows_once_and_in_their_stage_alone(line: Line) -> None:
    with_late_rows(line)
    shown = get(line, "/v1/late?stage=plain")
    line.post("s", event(5, "zoe", 64))  # late as well, and not shown
    line.settle()
    order = {"stage": "plain", "all": True, "up_to": shown["up_to"]}

    done = post(line, "/v1/late/replay", order)
    line.settle()

    assert (done["replayed"], done["more"], done["errors"]) == (3, False, [])
    assert total(line, "plain") == 4 + 14
    assert total(line, "parsed") == 4  # has late rows of its own
    assert counters(line, "plain") == (11, 7, 4, 0, 3, 3)
    assert counters(line, "parsed") == (8, 4, 4, 0, 0, 0)
    revised = [row["revision"] for row in line.closed("plain") if row["window_start"] == START_MS]
    assert revised == [1, 1]
    assert {row["revision"] for row in line.downstream("plain")} == {"0", "1"}
    assert sorted(row["replayed"] for row in get(line, "/v1/late?stage=plain")["rows"]) == [False, True, True, True]


def test_a_replay_moves_no_time(line: Line) -> None:
    with_late_rows(line)
    before = [get(line, f"/v1/stages/{stage}")["watermark"] for stage in ("plain", "parsed")]

    post(line, "/v1/late/replay", {"stage": "plain", "all": True, "up_to": get(line, "/v1/late?stage=plain")["up_to"]})
    line.settle()

    assert [get(line, f"/v1/stages/{stage}")["watermark"] for stage in ("plain", "parsed")] == before


def test_a_retry_of_a_replay_does_nothing_twice(line: Line) -> None:
    with_late_rows(line)
    order = {"stage": "plain", "all": True, "up_to": get(line, "/v1/late?stage=plain")["up_to"]}

    post(line, "/v1/late/replay", order)
    again = post(line, "/v1/late/replay", order)
    line.settle()

    assert (again["replayed"], again["repeated"], again["ids"]) == (0, 3, [])
    assert total(line, "plain") == 4 + 14


def test_a_row_is_replayed_once_whoever_asks_unless_again_is_said(line: Line) -> None:
    with_late_rows(line)
    shown = get(line, "/v1/late?stage=plain")
    one = next(row["id"] for row in shown["rows"] if row["event"]["v"] == 2)
    post(line, "/v1/late/replay", {"stage": "plain", "ids": [one]})

    every = post(line, "/v1/late/replay", {"stage": "plain", "all": True, "up_to": shown["up_to"]})
    refused = post(line, "/v1/late/replay", {"stage": "plain", "ids": [one, one]}, 202)
    other = post(line, "/v1/late/replay", {"stage": "plain", "ids": [one]}, 409, Idempotency_Key="mine")
    more = {"stage": "plain", "ids": [one], "again": True}
    twice = [post(line, "/v1/late/replay", more, Idempotency_Key="k")["replayed"] for _ in range(2)]
    line.settle()

    assert (every["replayed"], every["already_replayed"]) == (2, 1)
    assert refused["repeated"] == 1
    assert other["code"] == "already_replayed"
    assert twice == [1, 0]
    assert total(line, "plain") == 4 + 14 + 2


def test_a_rebuild_does_not_make_replayed_rows_new(line: Line) -> None:
    """It writes the late rows again, under new ids; what they were is known by their place in the log."""
    with_late_rows(line)
    post(line, "/v1/late/replay", {"stage": "plain", "all": True, "up_to": get(line, "/v1/late?stage=plain")["up_to"]})
    line.settle()
    group = line.programs["plain"].group
    for partition in range(2):
        line.client.hset(keys.checkpoint("s", partition, group), "torn", "1")
        rebuild_partition(line.client, Scripts(line.client), "s", partition, group)
    line.settle()

    assert [row["replayed"] for row in get(line, "/v1/late?stage=plain")["rows"]] == [True] * 3
    assert total(line, "plain") == 4 + 14
    assert counters(line, "plain") == (10, 7, 3, 0, 3, 3)


def test_rows_that_were_entries_of_their_own_are_replayed_by_their_types(line: Line) -> None:
    line.post("s", [event(60, who) for who in ("ada", "zoe")])
    line.settle()
    line.http.post("/publish", json=event(1, "ada", 5, n="7"))
    line.settle()

    post(line, "/v1/late/replay", {"stage": "plain", "all": True, "up_to": get(line, "/v1/late?stage=plain")["up_to"]})
    line.settle()

    assert total(line, "plain") == 2 + 5


# --- dead letters


def test_a_dead_letter_is_replayed_to_its_stage(line: Line) -> None:
    """It stays dead while the reason stands; the account says so, and the other stage counts it once."""
    line.post("s", [event(0, "ada", 1, n="seven"), event(60, "ada"), event(60, "zoe")])
    line.settle()
    shown = get(line, "/v1/dead-letters?stage=parsed")
    assert shown["reasons"] == {"expression_failed": 1}
    assert shown["rows"][0]["event"]["n"] == "seven"

    done = post(line, "/v1/dead-letters/replay", {"stage": "parsed", "ids": [shown["rows"][0]["id"]]})
    line.settle()

    assert done["replayed"] == 1
    assert counters(line, "parsed") == (4, 2, 0, 2, 0, 1)
    assert counters(line, "plain") == (3, 3, 0, 0, 0, 0)
    assert [row["replayed"] for row in get(line, "/v1/dead-letters?stage=parsed")["rows"]] == [False, True]


def test_a_dead_letter_whose_reason_has_gone_counts(line: Line) -> None:
    line.post("s", [event(60, "ada"), event(60, "zoe")])
    line.settle()
    stray = {"ts": str(START_MS), "who": "ada", "v": "3"}
    group = line.programs["plain"].group
    letter = {"entry": "5-0", "row": "0", "n": "1", "code": "killed_worker", "error": "…", "form": "flat"}
    body = b'{"ts":"%s","who":"ada","v":"3"}' % stray["ts"].encode()
    put(line, keys.dead("s", 1, group), {**letter, "body": body})
    shown = get(line, "/v1/dead-letters?stage=plain")

    post(line, "/v1/dead-letters/replay", {"stage": "plain", "all": True, "up_to": shown["up_to"]})
    line.settle()

    assert total(line, "plain") == 2 + 3


def test_a_damaged_batch_and_a_misplaced_row_are_not_replayed(line: Line) -> None:
    group = line.programs["plain"].group
    letter = {"entry": "5-0", "row": "0", "n": "2", "error": "…", "body": "x"}
    put(line, keys.dead("s", 0, group), {**letter, "code": "chunk_unreadable"})
    put(line, keys.dead("s", 0, group), {**letter, "entry": "6-0", "code": "misplaced"})
    put(line, keys.dead("s", 0, group), {**letter, "entry": "7-0", "code": "killed_worker"})
    shown = get(line, "/v1/dead-letters?stage=plain")

    done = post(line, "/v1/dead-letters/replay", {"stage": "plain", "all": True, "up_to": shown["up_to"]})

    assert (done["replayed"], done["refused"]) == (0, 3)
    assert [error["code"] for error in done["errors"]] == ["chunk_unreadable", "misplaced", "malformed"]
    assert "send its events again" in done["errors"][0]["message"]
    assert line.client.xlen(keys.raw("s", 0)) == 0


CODINGS = [b"ndjson", b"ndjson+zstd", b"arrow", b"arrow+lz4"]


@pytest.mark.parametrize("coding", CODINGS, ids=bytes.decode)
def test_a_batch_that_was_one_dead_letter_is_replayed_whole(line: Line, coding: bytes) -> None:
    line.post("s", [event(60, "ada"), event(60, "zoe")])
    line.settle()
    group = line.programs["plain"].group
    rows = [{"ts": START_MS, "who": "ada", "v": 3}, {"ts": START_MS + 1, "who": "ada", "v": 5}]
    codec: Any = coding.partition(b"+")[2].decode() or None
    body = arrow_body(FIELDS, rows, codec) if coding.startswith(b"arrow") else encode_rows(rows)
    if coding == b"ndjson+zstd":
        body = len(body).to_bytes(8, "little") + pa.Codec("zstd").compress(body, asbytes=True)
    letter = {"entry": "5-0", "row": "0", "n": "2", "code": "killed_worker", "error": "…"}
    form: dict[str, str | bytes] = {} if coding == b"ndjson" else {"coding": coding}
    put(line, keys.dead("s", 1, group), {**letter, "body": body, **form})
    up_to = get(line, "/v1/dead-letters?stage=plain")["up_to"]

    post(line, "/v1/dead-letters/replay", {"stage": "plain", "all": True, "up_to": up_to})
    line.settle()

    assert total(line, "plain") == 2 + 8
    assert counters(line, "plain")[-1] == 2


# --- the quarantine


def test_a_quarantined_row_is_judged_again_and_goes_to_every_stage(line: Line) -> None:
    line.post("s", [event(60, "ada"), event(60, "zoe"), {"ts": START_MS, "who": "eve", "v": "wrong"}])
    key = keys.quarantine("s", 0)
    good = b'{"ts":%d,"who":"eve","v":7}' % (START_MS + 60_000)
    put(line, key, {"reason": "…", "code": "wrong_type", "field": "v", "index": "0", "body": good})
    shown = get(line, "/v1/quarantine?stream=s")
    assert shown["reasons"] == {"wrong_type": 2}

    order = {"stream": "s", "all": True, "up_to": shown["up_to"]}
    done = [post(line, "/v1/quarantine/replay", order) for _ in range(2)]
    line.settle()

    assert [(each["replayed"], each["repeated"], each["refused"]) for each in done] == [(1, 0, 1), (0, 1, 1)]
    assert done[0]["errors"][0]["code"] == "wrong_type"
    assert (total(line, "plain"), total(line, "parsed")) == (9, 9)
    assert get(line, "/v1/quarantine?stream=s")["total"] == 2


def test_a_replay_that_was_cut_off_before_its_mark_does_not_count_twice(line: Line) -> None:
    good = b'{"ts":%d,"who":"eve","v":7}' % (START_MS + 60_000)
    put(line, keys.quarantine("s", 1), {"code": "x", "reason": "…", "index": "0", "body": good})
    order = {"stream": "s", "all": True, "up_to": get(line, "/v1/quarantine?stream=s")["up_to"]}
    post(line, "/v1/quarantine/replay", order)
    line.client.delete(keys.quarantine_replayed("s", 1))

    post(line, "/v1/quarantine/replay", order, Idempotency_Key="another")
    line.settle()

    assert total(line, "plain") == 7


def test_what_was_too_old_goes_in_as_backfill(line: Line) -> None:
    answer = line.http.post("/v1/streams/young/events", json=[event(0)])
    assert answer.status_code == 422
    up_to = get(line, "/v1/quarantine?stream=young")["up_to"]
    order = {"stream": "young", "all": True, "up_to": up_to}

    as_it_is = post(line, "/v1/quarantine/replay", order)
    as_old_data = post(line, "/v1/quarantine/replay", {**order, "backfill": True})
    line.settle()

    assert (as_it_is["refused"], as_it_is["errors"][0]["code"]) == (1, "too_old")
    assert as_old_data["replayed"] == 1
    assert total(line, "recent") == 1


# --- what is refused


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v1/late?limit=5", 400, "no_stage"),
        ("/v1/late?stage=plian", 404, "unknown_stage"),
        ("/v1/late?stage=numbered", 404, "fused_stage"),
        ("/v1/late?stage=plain&stream=s", 400, "unknown_parameter"),
        ("/v1/late?stage=plain&limit=0", 400, "bad_limit"),
        ("/v1/late?stage=plain&limit=5000", 400, "bad_limit"),
        ("/v1/late?stage=plain&cursor=0:1-1", 400, "bad_cursor"),
        ("/v1/dead-letters?stage=plain&cursor=x~0-0,0-0", 400, "bad_cursor"),
        ("/v1/quarantine?stage=plain", 400, "unknown_parameter"),
        ("/v1/quarantine?stream=t", 404, "unknown_stream"),
    ],
)
def test_what_cannot_be_listed_is_refused(line: Line, path: str, status: int, code: str) -> None:
    assert get(line, path, status)["code"] == code


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("late", b"{", 400, "not JSON"),
        ("late", b"[]", 422, "not an object"),
        ("late", b'{"stage":"plain","idz":[]}', 422, "Did you mean 'ids'"),
        ("late", b'{"ids":["0:1-1"]}', 400, "'stage' is missing"),
        ("late", b'{"stage":"plian","ids":["0:1-1"]}', 404, "Did you mean 'plain'"),
        ("late", b'{"stage":"plain"}', 422, "name the rows, or ask for all"),
        ("late", b'{"stage":"plain","ids":["0:1-1"],"all":true}', 422, "name the rows, or ask for all"),
        ("late", b'{"stage":"plain","all":true}', 422, "all needs up_to"),
        ("late", b'{"stage":"plain","all":true,"up_to":"1-1"}', 422, "is not the up_to"),
        ("late", b'{"stage":"plain","all":"yes","up_to":"0-0,0-0"}', 422, "neither true nor false"),
        ("late", b'{"stage":"plain","ids":[]}', 422, "ids is not a list"),
        ("late", b'{"stage":"plain","ids":["1-1"]}', 422, "names no row"),
        ("late", b'{"stage":"plain","ids":["0:1-1"],"reason":"late"}', 422, "goes with"),
        ("late", b'{"stage":"plain","ids":["0:1-1"],"again":true}', 422, "needs an Idempotency-Key"),
        ("late", b'{"stage":"plain","ids":["0:1-1","7:2-2"]}', 404, "2 of 2 rows are not there"),
        ("late", b'{"stage":"plain","ids":["0:1-1"],"backfill":true}', 422, "no member 'backfill'"),
        ("quarantine", b'{"stream":"s","ids":["0:1-1"]}', 404, "not there"),
        ("quarantine", b'{"stage":"plain","ids":["0:1-1"]}', 422, "no member 'stage'"),
    ],
)
def test_what_cannot_be_replayed_is_refused(line: Line, path: str, body: bytes, status: int, says: str) -> None:
    answer = line.http.post(f"/v1/{path}/replay", data=body, content_type="application/json")

    assert (answer.status_code, answer.content_type) == (status, "application/problem+json")
    assert says in answer.get_json(force=True)["detail"]


def test_old_data_needs_an_event_time(line: Line) -> None:
    answer = line.http.post("/v1/streams/timeless/events?backfill=true", json=[{"v": 1}])

    assert (answer.status_code, answer.get_json(force=True)["code"]) == (422, "no_event_time")
    assert line.http.post("/v1/streams/s/events?backfill=yes", json=[event(0)]).status_code == 400
    twice = line.http.post("/v1/streams/s/events?backfill=false&backfill=true", json=[event(0)])
    assert (twice.status_code, twice.get_json(force=True)["code"]) == (400, "repeated_parameter")


# --- old data by POST, and what goes with time


def test_old_data_revises_closed_windows_and_makes_none_late(line: Line) -> None:
    line.post("s", [event(0, "ada"), event(60, "ada"), event(60, "zoe")])
    line.settle()

    answer = line.http.post("/v1/streams/s/events?backfill=true", json=[event(1, "ada", 8), event(-500, "zoe", 16)])
    assert answer.status_code == 202
    line.settle()

    rows = {(row["window_start"], row["who"]): (row["v"], row["revision"], row["state"]) for row in line.rows("plain")}
    assert rows[START_MS, "ada"] == (9, 1, "final")
    assert rows[START_MS - 500_000, "zoe"] == (16, 0, "final")
    assert counters(line, "plain") == (5, 5, 0, 0, 2, 0)
    assert get(line, "/v1/stages/plain")["watermark"] == START_MS + 59_000


def test_of_any_age_and_by_the_client(line: Line) -> None:
    client = client_on(line.http)

    result = client.send("young", [event(0)], backfill=True)
    line.settle()

    assert result.accepted == 1
    assert total(line, "recent") == 1


def test_the_same_body_is_another_request_when_it_is_old_data(line: Line) -> None:
    body, key = [event(0)], {"Idempotency-Key": "k"}
    assert line.http.post("/v1/streams/s/events", json=body, headers=key).status_code == 202

    assert line.http.post("/v1/streams/s/events?backfill=true", json=body, headers=key).status_code == 409


def test_the_memory_of_replays_goes_with_what_it_is_about(line: Line) -> None:
    with_late_rows(line)
    post(line, "/v1/late/replay", {"stage": "plain", "all": True, "up_to": get(line, "/v1/late?stage=plain")["up_to"]})
    marks = [keys.replayed("s", partition, line.programs["plain"].group) for partition in range(2)]
    groups = [program.group for program in line.programs.values()]

    expire_side_streams(line.client, CONFIG.streams["s"], groups, 0)
    assert sum(line.client.hlen(key) for key in marks) == 3

    line.client.delete(*(keys.raw("s", p) for p in range(2)))
    expire_side_streams(line.client, CONFIG.streams["s"], groups, 0)
    assert sum(line.client.hlen(key) for key in marks) == 3

    line.client.delete(*(keys.late("s", p, line.programs["plain"].group) for p in range(2)))
    expire_side_streams(line.client, CONFIG.streams["s"], groups, DAY_MS)
    assert sum(line.client.hlen(key) for key in marks) == 0


def test_backfill_and_replays_are_metrics(line: Line) -> None:
    with_late_rows(line)
    post(line, "/v1/late/replay", {"stage": "plain", "all": True, "up_to": get(line, "/v1/late?stage=plain")["up_to"]})
    line.settle()

    text = line.http.get("/metrics").text

    assert 'streamgauge_stage_backfilled_events_total{stage="plain"} 3.0' in text
    assert 'streamgauge_stage_replayed_events_total{stage="parsed"} 0.0' in text
