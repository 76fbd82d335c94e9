"""What good requests become: entries that readers read, receipts that add up, and exactly one effect of a retry."""

from __future__ import annotations

import gzip
import json
import threading
import time
from itertools import chain
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from api.intake import Intake
from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Tumbling
from pipeline.core.entries import Chunk, Row, parse_entry
from pipeline.core.events import Reader
from pipeline.core.partitioning import partition_of
from pipeline.rim import keys
from pipeline.rim.connection import writer
from pipeline.rim.replies import parse_entries
from pipeline.rim.streams import append
from pipeline.runtime.stage_groups import groups_of
from tests.servers import RunningServer

FIELDS = (
    Field("ts", "timestamp"),
    Field("user", "string"),
    Field("value", "float", True),
    Field("ok", "bool", True),
    Field("tags", "list", True, item="int"),
)
SPREAD = Stream("events", FIELDS, TimePolicy("ts"), partitions=3)
KEYED = Stream("users", FIELDS, TimePolicy("ts"), partition_by="user", partitions=3, retention_bytes=1_000)
COUNTED = Aggregate("counted", "users", Tumbling(1_000), (), (AggregateSpec("n", "count"),))
CONFIG = Config({"events": SPREAD, "users": KEYED}, {"counted": COUNTED}, default_stream="events")
NOW_MS = int(time.time() * 1000)
EVENTS_URL, USERS_URL = "/v1/streams/events/events", "/v1/streams/users/events"
KEY = {"Idempotency-Key": "batch-1"}


@pytest.fixture
def http(server: RunningServer) -> FlaskClient:
    return create_app(CONFIG, server.url).test_client()


def rows(count: int, **fields: Any) -> bytes:
    lines = [json.dumps({"ts": NOW_MS - count + k, "user": f"u{k}"} | fields) for k in range(count)]
    return "\n".join(lines).encode()


def stored(server: RunningServer, stream: Stream) -> list[list[bytes]]:
    """The events of each partition, in order, as their bytes."""
    reader = Reader(stream, ["user"])
    found = []
    for partition in range(stream.partitions):
        reply = server.client.execute_command("XRANGE", keys.raw(stream.name, partition), "-", "+")
        entries = [parse_entry(entry_id, fields or {}) for entry_id, fields in parse_entries(reply)]
        found.append([row for entry in entries if isinstance(entry, Chunk) for row in reader.raw_rows(entry.body)])
    return found


def ledger(server: RunningServer, stream: Stream) -> dict[str, int]:
    names = ("received", "stored", "duplicate", "rejected")
    sums = dict.fromkeys(names, 0)
    for partition in range(stream.partitions):
        values = server.client.execute_command("HMGET", keys.door(stream.name, partition), *names)
        sums = {name: sums[name] + int(value or 0) for name, value in zip(names, values, strict=True)}
    assert sums["received"] == sums["stored"] + sums["duplicate"] + sums["rejected"]
    return sums


def test_publish_answers_the_tutorials_contract_and_writes_a_readable_row(
    http: FlaskClient, server: RunningServer
) -> None:
    sent = {"ts": NOW_MS, "user": "é\0", "value": 2, "ok": True, "tags": [1, 2], "other": "x"}
    answer = http.post("/publish", json=sent)
    assert answer.status_code == 201
    assert answer.get_json() == {"event_id": answer.get_json()["event_id"], "status": "Event published"}
    ((entry_id, fields),) = parse_entries(server.client.execute_command("XRANGE", keys.raw("events", 0), "-", "+"))
    assert entry_id.decode() == answer.get_json()["event_id"]
    entry = parse_entry(entry_id, fields or {})
    assert isinstance(entry, Row)
    row = Reader(SPREAD, [field.name for field in FIELDS]).row(entry.fields)
    assert (row.ts, row.user, row.value, row.ok, row.tags) == (NOW_MS, "é\0", 2.0, True, [1, 2])


def test_a_published_event_goes_to_the_partition_of_its_key(server: RunningServer) -> None:
    http = create_app(Config(CONFIG.streams, {}, default_stream="users"), server.url).test_client()
    for k in range(10):
        http.post("/publish", json={"ts": NOW_MS, "user": f"u{k}"})
    for partition in range(3):
        reply = server.client.execute_command("XRANGE", keys.raw("users", partition), "-", "+")
        users = [(fields or {})[b"user"].decode() for _, fields in parse_entries(reply)]
        assert users == [f"u{k}" for k in range(10) if partition_of(f"u{k}", 3) == partition]


@pytest.mark.parametrize("stream", [SPREAD, KEYED])
def test_a_published_event_with_a_key_counts_once_however_often_it_is_sent(
    server: RunningServer, stream: Stream
) -> None:
    http = create_app(Config(CONFIG.streams, {}, default_stream=stream.name), server.url).test_client()
    event = {"ts": NOW_MS, "user": "u1"}
    answers = [http.post("/publish", json=event, headers=KEY) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [201] * 3
    assert len({answer.get_json()["event_id"] for answer in answers}) == 1
    lengths = [server.client.xlen(keys.raw(stream.name, partition)) for partition in range(stream.partitions)]
    assert sum(lengths) == 1
    assert ledger(server, stream) == {"received": 3, "stored": 1, "duplicate": 2, "rejected": 0}

    for user in ("u1", "u2", "u3", "u4"):  # whichever partition the other event belongs to
        other = http.post("/publish", json={"ts": NOW_MS + 1, "user": user}, headers=KEY)
        assert (other.status_code, other.get_json()["code"]) == (409, "idempotency_conflict")
    assert http.post("/publish", json=event, headers={"Idempotency-Key": "not valid"}).status_code == 400


@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson", "text/plain", None])
@pytest.mark.parametrize("packed", [False, True])
def test_bodies_are_told_apart_by_what_they_are(
    http: FlaskClient, server: RunningServer, content_type: str | None, packed: bool
) -> None:
    body = rows(3)
    for form in (body, b"[" + body.replace(b"\n", b",") + b"]"):
        sent = gzip.compress(form[:50]) + gzip.compress(form[50:]) if packed else form
        answer = http.post(EVENTS_URL, data=sent, content_type=content_type)
        assert answer.status_code == 202, answer.get_json()
    assert sorted(chain(*stored(server, SPREAD))) == sorted(body.split(b"\n") * 2)


def test_a_receipt_says_what_became_of_every_row(http: FlaskClient) -> None:
    said = http.post(EVENTS_URL, data=rows(2) + b"\noops").get_json()
    (entry_id,) = said.pop("ids")
    assert entry_id.count("-") == 1
    assert said.pop("skew_ms") <= 0
    (error,) = said.pop("errors")
    assert (error["index"], error["field"], error["code"]) == (2, None, "malformed")
    assert said == {"accepted": 2, "rejected": 1, "duplicates": 0}


def test_the_receipt_shows_how_far_the_senders_clock_is_ahead(http: FlaskClient) -> None:
    now_ms = int(time.time() * 1000)  # not NOW_MS: the module may have been imported minutes ago
    ahead = http.post(EVENTS_URL, data=rows(1, ts=now_ms + 3_600_000)).get_json()
    assert 3_500_000 < ahead["skew_ms"] <= 3_600_000


def test_batches_without_a_key_take_turns_over_the_partitions(http: FlaskClient, server: RunningServer) -> None:
    for _ in range(6):
        http.post(EVENTS_URL, data=rows(1))
    assert [len(part) for part in stored(server, SPREAD)] == [2, 2, 2]


def test_keyed_rows_keep_their_order_in_their_partition(http: FlaskClient, server: RunningServer) -> None:
    body = rows(50)
    http.post(USERS_URL, data=body)
    expected = [[row for row in body.split(b"\n") if partition_of(json.loads(row)["user"], 3) == p] for p in range(3)]
    assert stored(server, KEYED) == expected


@pytest.mark.parametrize("url", [EVENTS_URL, USERS_URL])
def test_a_retry_with_its_key_counts_once(http: FlaskClient, server: RunningServer, url: str) -> None:
    body = rows(20) + b"\noops"
    first = http.post(url, data=body, headers=KEY).get_json()
    again = http.post(url, data=body, headers=KEY).get_json()
    assert (first["accepted"], first["duplicates"], first["rejected"]) == (20, 0, 1)
    assert (again["accepted"], again["duplicates"], again["rejected"]) == (0, 20, 1)
    assert (again["ids"], again["errors"], again["skew_ms"]) == (first["ids"], first["errors"], first["skew_ms"])
    stream = SPREAD if url == EVENTS_URL else KEYED
    assert ledger(server, stream) == {"received": 42, "stored": 20, "duplicate": 20, "rejected": 2}
    assert sum(map(len, stored(server, stream))) == 20


@pytest.mark.parametrize("url", [EVENTS_URL, USERS_URL])
def test_another_body_under_a_used_key_writes_nothing(http: FlaskClient, server: RunningServer, url: str) -> None:
    http.post(url, data=rows(1), headers=KEY)
    before = server.client.dbsize()
    answer = http.post(url, data=rows(30), headers=KEY)
    assert (answer.status_code, answer.get_json()["code"]) == (409, "idempotency_conflict")
    assert server.client.dbsize() == before


@pytest.mark.parametrize("steps_done", [1, 2])
def test_a_retry_after_a_crash_between_partitions_completes_the_batch(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, steps_done: int
) -> None:
    """Given a batch over three partitions whose API dies after some; when it is sent again later; then it is whole."""
    real, calls = append, 0

    def dying(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > steps_done:
            raise ConnectionResetError
        return real(*args)

    # One row is refused now and would be good for a later clock: the retry has to judge as the first attempt did.
    body = rows(30) + b"\n" + rows(1, ts=int(time.time() * 1000) + 300_700)
    intake = Intake(writer(server.url), KEYED, ())
    monkeypatch.setattr("api.intake.append", dying)
    with pytest.raises(ConnectionResetError):
        intake.take(body, "ndjson", "batch-1")
    monkeypatch.setattr("api.intake.append", real)
    later = Intake(writer(server.url), KEYED, ())
    now_ms = later.pressure.now_ms
    monkeypatch.setattr(type(later.pressure), "now_ms", lambda self: now_ms() + 60_000)
    receipt = later.take(body, "ndjson", "batch-1")
    assert (receipt.accepted + receipt.duplicates, len(receipt.refusals)) == (30, 1)
    assert sorted(chain(*stored(server, KEYED))) == sorted(rows(30).split(b"\n"))
    assert sum(server.client.xlen(keys.quarantine("users", p)) for p in range(3)) == 1
    assert ledger(server, KEYED)["stored"] == 30


def test_many_rows_are_several_chunks_and_steps_with_one_key(http: FlaskClient, server: RunningServer) -> None:
    body = rows(25_000) + b"\n" + b"\n".join([b"oops"] * 1_500)
    for _ in range(2):
        said = http.post(EVENTS_URL, data=body, headers=KEY).get_json()
        assert len(said["ids"]) == 3
    assert (said["accepted"], said["duplicates"], said["rejected"]) == (0, 25_000, 1_500)
    assert ledger(server, SPREAD) == {"received": 53_000, "stored": 25_000, "duplicate": 25_000, "rejected": 3_000}
    assert sum(server.client.xlen(keys.quarantine("events", p)) for p in range(3)) == 1_500


def test_wait_applied_answers_when_every_group_has_committed(http: FlaskClient, server: RunningServer) -> None:
    (group,) = groups_of(CONFIG, "users")
    answers: list[dict[str, Any]] = []
    sender = threading.Thread(
        target=lambda: answers.append(http.post(USERS_URL + "?wait=applied", data=rows(9)).get_json())
    )
    sender.start()
    for partition in range(3):
        while not (door := server.client.hget(keys.door("users", partition), "last_id")):
            sender.join(0.01)
        assert not answers
        server.client.hset(keys.checkpoint("users", partition, group), "cursor", door)
    sender.join(10)
    assert answers[0]["applied"] is True


def test_wait_applied_gives_up_and_says_so(http: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.ingest.WAIT_APPLIED_S", 0.02)
    answer = http.post(USERS_URL + "?wait=applied", data=rows(1))
    assert (answer.status_code, answer.get_json()["applied"]) == (202, False)


def test_unprocessed_backlog_is_refused_with_a_time_to_come_back(http: FlaskClient, server: RunningServer) -> None:
    http.post(USERS_URL, data=rows(100))
    (group,) = groups_of(CONFIG, "users")
    fresh = create_app(CONFIG, server.url).test_client()
    assert fresh.post(USERS_URL, data=rows(1)).status_code == 202, "a group that has not begun holds nothing up"
    for partition in range(3):
        server.client.hset(keys.checkpoint("users", partition, group), "position", 0)
    fresh = create_app(CONFIG, server.url).test_client()
    answer = fresh.post(USERS_URL, data=rows(1))
    assert (answer.status_code, answer.get_json()["code"]) == (429, "backlog")
    assert int(answer.headers["Retry-After"]) > 0
    assert ledger(server, KEYED)["received"] == 101


def test_a_server_short_of_memory_is_not_filled_up(throwaway_server: RunningServer) -> None:
    used = int(throwaway_server.client.info("memory")["used_memory"])
    throwaway_server.client.config_set("maxmemory", int(used * 1.05))
    http = create_app(CONFIG, throwaway_server.url).test_client()
    answer = http.post(EVENTS_URL, data=rows(1))
    assert (answer.status_code, answer.get_json()["code"]) == (503, "memory_full")
    assert "Retry-After" in answer.headers
    assert throwaway_server.client.dbsize() == 0


def test_a_server_that_is_away_is_a_503(throwaway_server: RunningServer) -> None:
    http = create_app(CONFIG, throwaway_server.url).test_client()
    assert http.post(EVENTS_URL, data=rows(1)).status_code == 202
    throwaway_server.kill()
    for path in (EVENTS_URL, "/publish"):
        answer = http.post(path, data=rows(1))
        assert (answer.status_code, answer.get_json()["code"]) == (503, "redis_away")
        assert "Retry-After" in answer.headers
    throwaway_server.restart()
    assert http.post(EVENTS_URL, data=rows(1)).status_code == 202
