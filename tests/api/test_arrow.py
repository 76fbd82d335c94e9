"""Arrow bodies over HTTP: the contract of every other body, and what only they can do wrong."""

from __future__ import annotations

import gzip
import io
import random
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.app import create_app
from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Tumbling
from pipeline.core.entries import Chunk, parse_entry
from pipeline.core.events import Reader
from pipeline.core.ndjson import encode_rows
from pipeline.core.partitioning import partition_of
from pipeline.core.validation import MAX_ROWS
from pipeline.rim import keys
from pipeline.rim.replies import parse_entries
from tests.arrow_bodies import arrow_body, ipc
from tests.servers import RunningServer

FIELDS = (
    Field("ts", "timestamp"),
    Field("user", "string"),
    Field("value", "float", True),
    Field("tags", "list", True, item="int"),
)
SPREAD = Stream("events", FIELDS, TimePolicy("ts", max_age_ms=3_600_000), partitions=3)
KEYED = Stream("users", FIELDS, TimePolicy("ts"), partition_by="user", partitions=3, compression="zstd")
STRICT = Stream("strict", FIELDS, TimePolicy("ts"), partitions=1, extra="refuse")
TIMELESS = Stream("timeless", FIELDS[1:], partitions=1)
CONFIG = Config(
    {stream.name: stream for stream in (SPREAD, KEYED, STRICT, TIMELESS)},
    {"counted": Aggregate("counted", "users", Tumbling(1_000), (), (AggregateSpec("n", "count"),))},
    default_stream="events",
)
TYPE = {"Content-Type": "application/vnd.apache.arrow.stream"}
KEY = {"Idempotency-Key": "batch-1"}
NOW_MS = int(time.time() * 1_000)


@pytest.fixture
def http(server: RunningServer) -> FlaskClient:
    return create_app(CONFIG, server.url).test_client()


def rows(count: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"ts": NOW_MS - count + k, "user": f"u{k % 50}", "value": k / 7, "tags": [k]} | fields for k in range(count)
    ]


def post(http: FlaskClient, body: bytes, stream: str = "events", query: str = "", **headers: str) -> TestResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return http.post(f"/v1/streams/{stream}/events{query}", data=body, headers={**TYPE, **named})


def stored(server: RunningServer, stream: Stream) -> list[list[bytes]]:
    """The events of each partition as JSON, in order."""
    reader = Reader(stream, [])
    found = []
    for partition in range(stream.partitions):
        reply = server.client.execute_command("XRANGE", keys.raw(stream.name, partition), "-", "+")
        entries = [parse_entry(entry_id, fields or {}) for entry_id, fields in parse_entries(reply)]
        chunks = [entry for entry in entries if isinstance(entry, Chunk)]
        found.append([row for each in chunks for row in reader.stored_rows(each.body, each.coding, each.n)])
    return found


def ledger(server: RunningServer, stream: Stream) -> dict[str, int]:
    names = ("received", "stored", "duplicate", "rejected", "undeclared")
    doors = [keys.door(stream.name, partition) for partition in range(stream.partitions)]
    values = [server.client.execute_command("HMGET", door, *names) for door in doors]
    sums = {name: sum(int(value[k] or 0) for value in values) for k, name in enumerate(names)}
    assert sums["received"] == sums["stored"] + sums["duplicate"] + sums["rejected"]
    return sums


def quarantined(server: RunningServer, stream: Stream) -> list[dict[bytes, bytes]]:
    found = []
    for partition in range(stream.partitions):
        reply = server.client.execute_command("XRANGE", keys.quarantine(stream.name, partition), "-", "+")
        found += [fields or {} for _, fields in parse_entries(reply)]
    return found


@pytest.mark.parametrize("count", [1, 700])
@pytest.mark.parametrize("called", ["application/vnd.apache.arrow.stream", "application/json", "text/plain", None])
def test_a_body_is_arrow_by_what_it_is(
    http: FlaskClient, server: RunningServer, count: int, called: str | None
) -> None:
    body = arrow_body(FIELDS, rows(count))
    answer = http.post("/v1/streams/events/events", data=body, headers={"Content-Type": called} if called else {})

    said = answer.get_json()
    assert (answer.status_code, said["accepted"], said["rejected"], said["errors"]) == (202, count, 0, [])
    assert len(said["ids"]) == 1
    since_ms = int(time.time() * 1_000) - NOW_MS  # of the newest event, but for a millisecond
    assert -since_ms - 1_000 <= said["skew_ms"] <= 0
    assert [len(part) for part in stored(server, SPREAD)] == [count, 0, 0]


@pytest.mark.parametrize("packed", ["gzip", "zstd", "gzip of zstd buffers"])
def test_it_may_be_packed_whole_and_within(http: FlaskClient, packed: str) -> None:
    body = arrow_body(FIELDS, rows(700), "zstd" if "buffers" in packed else None)
    body = pa.Codec("zstd").compress(body, asbytes=True) if packed == "zstd" else gzip.compress(body)

    assert post(http, body).get_json()["accepted"] == 700


def test_a_stream_written_by_polars_is_taken_as_it_is(http: FlaskClient, server: RunningServer) -> None:
    frame = pl.DataFrame(rows(700)).with_columns(
        pl.col("ts").cast(pl.Datetime("ms")), pl.col("user").cast(pl.Categorical)
    )
    out = io.BytesIO()
    frame.write_ipc_stream(out)

    assert post(http, out.getvalue(), "users").get_json()["accepted"] == 700
    for partition, events in enumerate(stored(server, KEYED)):
        users = {partition_of(pl.read_ndjson(event)["user"][0], 3) for event in events[:20]}
        assert users == {partition}


def test_keyed_rows_go_where_the_same_rows_as_ndjson_go_and_keep_their_order(
    http: FlaskClient, server: RunningServer
) -> None:
    sent = rows(2_000)
    post(http, arrow_body(FIELDS, sent), "users")
    as_arrow = stored(server, KEYED)
    server.client.flushall()
    post(http, encode_rows(sent), "users")

    as_rows = stored(server, KEYED)
    assert [list(map(parsed, part)) for part in as_arrow] == [list(map(parsed, part)) for part in as_rows]
    assert sum(map(len, as_rows)) == 2_000


def parsed(event: bytes) -> dict[str, Any]:
    found: dict[str, Any] = pl.read_json(event).to_dicts()[0]
    return found


@pytest.mark.parametrize("stream", ["events", "users"])
@pytest.mark.parametrize("count", [40, 25_000])
def test_a_retry_with_its_key_counts_once_and_another_body_is_a_conflict(
    http: FlaskClient, server: RunningServer, stream: str, count: int
) -> None:
    body = arrow_body(FIELDS, rows(count))
    first, again = (post(http, body, stream, **KEY).get_json() for _ in range(2))

    assert (first["accepted"], first["duplicates"]) == (count, 0)
    assert (again["accepted"], again["duplicates"], again["ids"]) == (0, count, first["ids"])
    assert ledger(server, CONFIG.streams[stream])["stored"] == count
    other = post(http, arrow_body(FIELDS, rows(count + 1)), stream, **KEY)
    assert (other.status_code, other.get_json(force=True)["code"]) == (409, "idempotency_conflict")
    assert sum(map(len, stored(server, CONFIG.streams[stream]))) == count


def test_bad_rows_are_named_and_put_aside_and_the_others_stored(http: FlaskClient, server: RunningServer) -> None:
    sent = rows(600)
    sent[3]["user"] = None
    sent[5]["ts"] = NOW_MS + 10**9
    sent[7]["value"] = float("inf")
    sent[9]["ts"] = NOW_MS - 10**9

    answer = post(http, arrow_body(FIELDS, sent))

    said = answer.get_json()
    assert (answer.status_code, said["accepted"], said["rejected"]) == (202, 596, 4)
    assert [(e["index"], e["field"], e["code"]) for e in said["errors"]] == [
        (3, "user", "wrong_type"),
        (5, "ts", "too_far_ahead"),
        (7, "value", "out_of_range"),
        (9, "ts", "too_old"),
    ]
    assert ledger(server, SPREAD) == {
        "received": 600, "stored": 596, "duplicate": 0, "rejected": 4, "undeclared": 0
    }  # fmt: skip
    aside = quarantined(server, SPREAD)
    assert [each[b"code"] for each in aside] == [b"wrong_type", b"too_far_ahead", b"out_of_range", b"too_old"]
    assert parsed(aside[3][b"body"])["user"] == "u9"


def test_what_was_put_aside_is_replayed_like_any_other_row(http: FlaskClient, server: RunningServer) -> None:
    sent = rows(2)
    sent[0]["ts"] = NOW_MS - 10**9
    post(http, arrow_body(FIELDS, sent))
    listed = http.get("/v1/quarantine?stream=events").get_json()["rows"]

    answer = http.post("/v1/quarantine/replay", json={"stream": "events", "ids": [listed[0]["id"]], "backfill": True})

    assert (answer.status_code, answer.get_json()["replayed"]) == (202, 1), answer.text
    assert sorted(parsed(event)["user"] for part in stored(server, SPREAD) for event in part) == ["u0", "u1"]


def test_old_data_is_taken_as_backfill(http: FlaskClient) -> None:
    old = arrow_body(FIELDS, rows(400, ts=NOW_MS - 10**10))

    assert post(http, old).status_code == 422
    assert post(http, old, query="?backfill=true").get_json()["accepted"] == 400


def test_a_stream_without_a_time_field_and_one_that_refuses_other_columns(
    http: FlaskClient, server: RunningServer
) -> None:
    body = arrow_body(FIELDS, rows(400))

    assert post(http, body, "timeless").get_json()["accepted"] == 400
    assert ledger(server, TIMELESS)["undeclared"] == 400
    more = pa.table({"ts": [NOW_MS], "user": ["u"], "more": [1]})
    refused = post(http, ipc(more), "strict")
    assert (refused.status_code, refused.get_json(force=True)["errors"][0]["code"]) == (422, "undeclared")


def test_small_bodies_are_stored_as_rows_and_large_ones_as_columns(http: FlaskClient, server: RunningServer) -> None:
    for count in (20, 2_000):
        post(http, arrow_body(FIELDS, rows(count)), "timeless")

    reply = server.client.execute_command("XRANGE", keys.raw("timeless", 0), "-", "+")
    assert [(fields or {})[b"coding"] for _, fields in parse_entries(reply)] == [b"ndjson", b"arrow"]


BODY = arrow_body(FIELDS, rows(300))
MALFORMED = {
    "an empty one": b"",
    "cut in a batch": BODY[: len(BODY) // 2],
    "two of them": BODY * 2,
    "text under its name": b"hello",
    "a mark alone": b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_arrow_is_refused_whole(http: FlaskClient, server: RunningServer, name: str) -> None:
    answer = post(http, MALFORMED[name])

    said = answer.get_json(force=True)
    assert answer.status_code == 400
    assert answer.content_type == "application/problem+json"
    assert said["code"] == ("empty" if not MALFORMED[name] else "malformed"), said
    assert len(answer.data) < 2_000
    assert ledger(server, SPREAD)["stored"] == 0
    assert len(quarantined(server, SPREAD)) == ledger(server, SPREAD)["rejected"] <= 1


def test_a_chunked_body_without_its_end_may_have_been_cut_and_is_not_taken(
    http: FlaskClient, server: RunningServer
) -> None:
    whole = BODY.removesuffix(b"\xff\xff\xff\xff\0\0\0\0")
    chunked = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""}

    for body, status in ((whole, 400), (whole[:-100], 400), (BODY, 202)):
        answer = http.post(
            "/v1/streams/events/events",
            input_stream=io.BytesIO(body),
            headers={**TYPE, **KEY, "Transfer-Encoding": "chunked"},
            environ_overrides=chunked,
        )
        assert answer.status_code == status, answer.text
        assert status == 202 or answer.get_json(force=True)["code"] == "cut_off"
    assert ledger(server, SPREAD) == {
        "received": 300, "stored": 300, "duplicate": 0, "rejected": 0, "undeclared": 0
    }  # fmt: skip


def bomb() -> bytes:
    shared = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000, dtype=np.int8)), pa.array(["x" * 100_000]))
    return ipc(pa.table({"ts": [NOW_MS] * 1_000, "user": shared}))


TOO_LARGE: dict[str, Callable[[], bytes]] = {
    "rows": lambda: ipc(pa.table({"ts": pa.nulls(MAX_ROWS + 1)})),
    "texts once they are expanded": bomb,
    "bytes once they are inflated": lambda: arrow_body(FIELDS, rows(1, user="x" * 40_000_000), "zstd"),
    "bytes of a zstd frame": lambda: pa.Codec("zstd").compress(b"\0" * 100_000_000, asbytes=True),
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_too_many(http: FlaskClient, server: RunningServer, what: str) -> None:
    answer = post(http, TOO_LARGE[what]())

    assert (answer.status_code, answer.get_json(force=True)["code"]) == (413, "too_large")
    assert ledger(server, SPREAD)["received"] == 0


def test_the_file_format_is_told_apart_and_named(http: FlaskClient) -> None:
    out = io.BytesIO()
    pl.DataFrame({"ts": [1]}).write_ipc(out)
    answer = post(http, out.getvalue())

    assert answer.status_code == 415
    assert "Arrow IPC stream" in answer.get_json(force=True)["detail"]


def test_the_events_of_a_stream_are_shown_alike(http: FlaskClient) -> None:
    post(http, arrow_body(FIELDS, rows(600)), "users")
    shown = http.get("/v1/streams/users/events?limit=3").get_json()["events"]

    assert [set(each["event"]) for each in shown] == [{"ts", "user", "value", "tags"}] * 3
    assert all(each["event"]["ts"] == each["time"] for each in shown)


@pytest.mark.parametrize("form", ["ndjson", "arrow"])
def test_with_zstd_a_retained_event_of_240_bytes_takes_at_most_80_in_redis(server: RunningServer, form: str) -> None:
    names = ("user_id", "page_id", "ad_id", "ad_type", "event_type", "campaign")
    fields = (*(Field(name, "string") for name in names), Field("event_time", "timestamp"))
    stream = Stream("ads", fields, TimePolicy("event_time"), partitions=1, compression="zstd")
    http = create_app(Config({"ads": stream}, {}), server.url).test_client()
    chance = random.Random(1)
    ids = [str(uuid.UUID(int=chance.getrandbits(128))) for _ in range(2_000)]
    kinds, types = ("view", "click", "purchase"), ("banner", "modal", "sponsored-search", "mail", "mobile")
    sent = [
        {"user_id": chance.choice(ids), "page_id": chance.choice(ids), "ad_id": chance.choice(ids)}
        | {"ad_type": chance.choice(types), "event_type": chance.choice(kinds), "event_time": NOW_MS - 60_000 + k // 10}
        | {"campaign": chance.choice(ids)[:13]}
        for k in range(20_000)
    ]
    assert 235 < len(encode_rows(sent)) / len(sent) < 250

    for first in (0, 10_000):
        part = sent[first : first + 10_000]
        body = encode_rows(part) if form == "ndjson" else arrow_body(fields, part)
        assert post(http, body, "ads").status_code == 202

    used = server.client.execute_command("MEMORY", "USAGE", keys.raw("ads", 0), "SAMPLES", 0)
    assert used / 20_000 <= 80
