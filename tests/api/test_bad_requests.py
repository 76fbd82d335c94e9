"""Bad requests: the right 4xx each, a sentence that helps, and a door ledger that balances whatever was sent."""

from __future__ import annotations

import gzip
import json
import time
from dataclasses import dataclass
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from pipeline.core.definitions import Config, Field, Stream, TimePolicy
from pipeline.core.validation import MAX_BODY_BYTES, MAX_ROWS
from pipeline.rim import keys
from tests.servers import RunningServer

PARTITIONS = 3
FIELDS = (Field("ts", "timestamp"), Field("name", "string"), Field("n", "int", True), Field("value", "float", True))
EVENTS = Stream("events", FIELDS, TimePolicy("ts"), partitions=PARTITIONS)
STRICT = Stream(
    "strict", FIELDS, TimePolicy("ts", max_age_ms=60_000), partition_by="name", partitions=3, extra="refuse"
)
CONFIG = Config({"events": EVENTS, "strict": STRICT}, {}, default_stream="events")
NOW_MS = int(time.time() * 1000)
URL = "/v1/streams/events/events"


@dataclass(frozen=True)
class Bad:
    """A request that is wrong: what it must be answered with, and how many rows the door counts as rejected."""

    name: str
    body: bytes
    status: int
    code: str
    rejected: int = 0
    url: str = URL
    method: str = "POST"
    headers: tuple[tuple[str, str], ...] = ()


def row(**fields: Any) -> bytes:
    return json.dumps({"ts": NOW_MS, "name": "a"} | fields).encode()


GOOD = row()
PUBLISH = "/publish"
STRICT_URL = "/v1/streams/strict/events"

CASES = [
    Bad("nothing", b"", 400, "empty"),
    Bad("only blanks", b" \r\n\n ", 400, "empty"),
    Bad("an empty array", b"[]", 400, "empty"),
    Bad("an empty gzip", gzip.compress(b""), 400, "empty"),
    Bad("prose", b"hello", 422, "malformed", 1),
    Bad("cut-off object", GOOD[:-1], 422, "malformed", 1),
    Bad("trailing comma", GOOD[:-1] + b",}", 422, "malformed", 1),
    Bad("single quotes", b"{'ts':1}", 422, "malformed", 1),
    Bad("two objects on a line", GOOD + GOOD, 422, "malformed", 1),
    Bad("cut-off array", b"[" + GOOD, 400, "malformed", 1),
    Bad("array and more", b"[" + GOOD + b"] x", 400, "malformed", 1),
    Bad("array of numbers", b"[1,2,3]", 422, "wrong_type", 3),
    Bad("a number", b"17", 422, "wrong_type", 1),
    Bad("null", b"null", 422, "wrong_type", 1),
    Bad("NaN", row(value=float("nan")), 422, "malformed", 1),
    Bad("infinity", row(value=float("-inf")), 422, "malformed", 1),
    Bad("a float too large", GOOD[:-1] + b',"value":1e999}', 422, "out_of_range", 1),
    Bad("2^63", row(n=2**63), 422, "out_of_range", 1),
    Bad("-2^63-1", row(n=-(2**63) - 1), 422, "out_of_range", 1),
    Bad("2^64", row(n=2**64), 422, "out_of_range", 1),
    Bad("a float for an int", row(n=1.5), 422, "wrong_type", 1),
    Bad("text for an int", row(n="1"), 422, "wrong_type", 1),
    Bad("a bool for an int", row(n=True), 422, "wrong_type", 1),
    Bad("a list for a string", row(name=["a"]), 422, "wrong_type", 1),
    Bad("no name", b'{"ts":1}', 422, "missing", 1),
    Bad("no time", b'{"name":"a"}', 422, "missing", 1),
    Bad("null for a required field", row(name=None), 422, "wrong_type", 1),
    Bad("time in words", row(ts="yesterday"), 422, "bad_time", 1),
    Bad("the 30th of February", row(ts="2026-02-30T00:00:00Z"), 422, "bad_time", 1),
    Bad("a time beyond the calendar", row(ts=2**62), 422, "too_far_ahead", 1),
    Bad("a time that int64 cannot hold", row(ts=2**70), 422, "bad_time", 1),
    Bad("an hour ahead", row(ts=NOW_MS + 3_600_000), 422, "too_far_ahead", 1),
    Bad("too old", row(ts=NOW_MS - 3_600_000), 422, "too_old", 1, STRICT_URL),
    Bad("an undeclared field", row(x=1), 422, "undeclared", 1, STRICT_URL),
    Bad("an undeclared field called {}:*", row(**{"{}:*": 1}), 422, "undeclared", 1, STRICT_URL),
    Bad("bad UTF-8", b'{"ts":1,"name":"\xff\xfe"}', 422, "not_utf8", 1),
    Bad("bad UTF-8 in a name", b'{"ts":1,"name":"a","\xff":1}', 422, "not_utf8", 1),
    Bad("half a surrogate pair", b'{"ts":1,"name":"\\ud800"}', 422, "not_utf8", 1),
    Bad("a raw NUL", b'{"ts":1,"name":"\0"}', 422, "malformed", 1),
    Bad("UTF-16", GOOD.decode().encode("utf-16"), 422, "not_utf8", 1),
    Bad("a deep event", GOOD[:-1] + b',"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 422, "too_deep", 1),
    Bad("a deep array", b"[" * 100_000 + b"]" * 100_000, 400, "too_deep", 1),
    Bad("a deep object", b'{"a":' * 100_000, 422, "too_deep", 1),
    Bad("a row of over a megabyte", row(name="x" * 1_000_001), 422, "too_large", 1),
    Bad("a body over the limit", b" " * (MAX_BODY_BYTES + 1), 413, "too_large"),
    Bad("too many rows", b"1\n" * (MAX_ROWS + 1), 413, "too_large"),
    Bad("too many elements", b"[" + b"1," * MAX_ROWS + b"1]", 413, "too_large"),
    Bad("a gzip bomb", gzip.compress(b"\0" * 100_000_000), 413, "too_large"),
    Bad("a cut-off gzip", gzip.compress(GOOD)[:-9], 400, "bad_gzip"),
    Bad("a damaged gzip", gzip.compress(GOOD * 50)[:20] + b"\xff" * 50, 400, "bad_gzip"),
    Bad("gzip and more", gzip.compress(GOOD) + b"more", 400, "bad_gzip"),
    Bad("gzip in gzip", gzip.compress(gzip.compress(GOOD)), 400, "bad_gzip"),
    Bad("CSV without a field", b"a,b\n1,2", 400, "malformed", 1, headers=(("Content-Type", "text/csv"),)),
    Bad("CSV with a cell too few", b"ts,name\n1", 422, "malformed", 1, headers=(("Content-Type", "text/csv"),)),
    Bad("Parquet", b"PAR1", 415, "unsupported_media_type"),
    Bad("an Arrow file", b"ARROW1\0\0", 415, "unsupported_media_type"),
    Bad("a damaged Arrow stream", b"\xff\xff\xff\xff\0", 400, "malformed", 1),
    Bad("brotli", b"\x0b\x02\x80{}\x03", 415, "unsupported_media_type", headers=(("Content-Encoding", "br"),)),
    Bad("two codings", GOOD, 415, "unsupported_media_type", headers=(("Content-Encoding", "gzip, deflate"),)),
    Bad("a damaged zstd", b"\x28\xb5\x2f\xfd..", 400, "bad_zstd"),
    Bad("unknown stream", GOOD, 404, "unknown_stream", url="/v1/streams/event/events"),
    Bad("a stream called {}:*", GOOD, 404, "unknown_stream", url="/v1/streams/%7Bevents.0%7D:*/events"),
    Bad("a stream called ../events", GOOD, 404, "not_found", url="/v1/streams/..%2Fevents/events"),
    Bad("unknown path", GOOD, 404, "not_found", url="/v1/stream/events"),
    Bad("GET where POST belongs", b"", 405, "method_not_allowed", method="GET", url=PUBLISH),
    Bad("DELETE of events", b"", 405, "method_not_allowed", method="DELETE"),
    Bad("unknown parameter", GOOD, 400, "unknown_parameter", url=URL + "?wiat=applied"),
    Bad("unknown parameter of publish", GOOD, 400, "unknown_parameter", url=PUBLISH + "?wait=applied"),
    Bad("another wait", GOOD, 400, "bad_parameter", url=URL + "?wait=forever"),
    Bad("an empty key", GOOD, 400, "bad_idempotency_key", headers=(("Idempotency-Key", ""),)),
    Bad("a key with a space", GOOD, 400, "bad_idempotency_key", headers=(("Idempotency-Key", "a b"),)),
    Bad("a long key", GOOD, 400, "bad_idempotency_key", headers=(("Idempotency-Key", "k" * 256),)),
    Bad("a key that is no ASCII", GOOD, 400, "bad_idempotency_key", headers=(("Idempotency-Key", "\xe9"),)),
    Bad("a foreign host", GOOD, 403, "foreign_host", headers=(("Host", "evil.example"),)),
    Bad("an array to publish", b"[" + GOOD + b"," + GOOD + b"]", 422, "not_one_event", url=PUBLISH),
    Bad("NDJSON to publish", GOOD + b"\n" + GOOD, 422, "not_one_event", url=PUBLISH),
    Bad("a nested event to publish", row(x={"a": 1}), 422, "nested", 1, url=PUBLISH),
    Bad("a nested declared field", row(name={"a": 1}), 422, "wrong_type", 1, url=PUBLISH),
    Bad("nothing to publish", b"", 400, "empty", url=PUBLISH),
    Bad("a bad event to publish", row(n="x"), 422, "wrong_type", 1, url=PUBLISH),
    Bad("CSV to publish", b"a,b", 415, "unsupported_media_type", url=PUBLISH, headers=(("Content-Type", "text/csv"),)),
]


@pytest.fixture
def http(server: RunningServer) -> FlaskClient:
    return create_app(CONFIG, server.url).test_client()


@pytest.mark.parametrize("bad", CASES, ids=lambda bad: bad.name)
def test_a_bad_request_is_named_and_counted_rightly(bad: Bad, http: FlaskClient, server: RunningServer) -> None:
    answer = http.open(bad.url, method=bad.method, data=bad.body, headers=list(bad.headers))
    said = answer.get_json(force=True)
    assert (answer.status_code, said["code"]) == (bad.status, bad.code), said
    assert ".." not in said["detail"]
    assert answer.content_type == "application/problem+json"
    assert said["status"] == bad.status
    assert len(said["detail"]) > 15
    assert len(answer.data) < 4_000, "an answer must not echo a body"
    counts = ledger(server)
    assert counts == {"received": bad.rejected, "stored": 0, "duplicate": 0, "rejected": bad.rejected}
    if bad.rejected:
        assert (said["accepted"], said["rejected"]) == (0, bad.rejected)
        assert len(said["errors"]) == bad.rejected
    assert quarantined(server) == bad.rejected
    assert not server.client.keys("*:raw")


def test_one_bad_row_does_not_take_the_good_ones_with_it(http: FlaskClient, server: RunningServer) -> None:
    bodies = [bad.body for bad in CASES if bad.url == URL and bad.rejected == 1 and b"\n" not in bad.body]
    rows = [body for body in bodies if len(body) < 1_000 and not body.startswith((b"[", b"\x1f\x8b", b"\xff"))]
    answer = http.post(URL, data=b"\n".join(part for body in rows for part in (GOOD, body)))
    said = answer.get_json()
    assert answer.status_code == 202
    assert (said["accepted"], said["rejected"]) == (len(rows), len(rows))
    assert [error["index"] for error in said["errors"]] == list(range(1, 2 * len(rows), 2))
    assert ledger(server) == {"received": 2 * len(rows), "stored": len(rows), "duplicate": 0, "rejected": len(rows)}
    assert quarantined(server) == len(rows)


def test_a_body_that_is_too_large_is_told_its_size_and_the_limit(http: FlaskClient) -> None:
    answer = http.post(URL, data=b" " * (MAX_BODY_BYTES + 1))
    assert answer.get_json()["detail"] == (
        f"The body is too large: it has {MAX_BODY_BYTES + 1:,} bytes. At most {MAX_BODY_BYTES:,} bytes are taken, "
        "also once they are inflated. Send smaller batches."
    )


@pytest.mark.parametrize("coding", ["gzip", "X-GZIP", "identity", "zstd", ""])
def test_a_coding_that_is_read_may_be_named_whether_it_is_there_or_not(http: FlaskClient, coding: str) -> None:
    assert http.post(URL, data=GOOD, headers={"Content-Encoding": coding}).status_code == 202


def test_an_array_before_lines_is_said_to_be_read_as_the_whole_body(http: FlaskClient) -> None:
    answer = http.post(URL, data=b"[]\n" + GOOD)
    assert (answer.status_code, answer.get_json()["code"]) == (400, "malformed")
    assert answer.get_json()["detail"] == (
        "No event was taken. Row 0: the body is not JSON: it begins with an array, so all of it is read as one, and "
        "more comes behind its end: trailing characters (byte 4). Put all rows into the array; or send NDJSON, where "
        "the first line is an object too."
    )


def test_a_path_or_method_that_is_not_there_is_told_what_is(http: FlaskClient) -> None:
    assert http.get("/v1/metric").get_json()["detail"] == (
        "Nothing is at this path. What there is, is listed at /docs and in /openapi.json."
    )
    refused = http.put(URL, data=GOOD)
    assert refused.get_json()["detail"] == "PUT is not allowed at this path; allowed are GET, HEAD, OPTIONS, POST."


def test_errors_are_capped_and_counts_are_not(http: FlaskClient, server: RunningServer) -> None:
    answer = http.post(URL, data=b"x\n" * 2_500)
    assert answer.status_code == 422
    assert len(answer.get_json()["errors"]) == 100
    assert answer.get_json()["rejected"] == 2_500
    assert ledger(server)["rejected"] == quarantined(server) == 2_500


def ledger(server: RunningServer) -> dict[str, int]:
    """The doors of all partitions of both streams, summed."""
    names = ("received", "stored", "duplicate", "rejected")
    doors = [keys.door(stream.name, p) for stream in (EVENTS, STRICT) for p in range(PARTITIONS)]
    values = [server.client.execute_command("HMGET", door, *names) for door in doors]
    sums = {name: sum(int(value[k] or 0) for value in values) for k, name in enumerate(names)}
    assert sums["received"] == sums["stored"] + sums["duplicate"] + sums["rejected"]
    return sums


def quarantined(server: RunningServer) -> int:
    streams = [keys.quarantine(stream.name, p) for stream in (EVENTS, STRICT) for p in range(PARTITIONS)]
    return sum(int(server.client.execute_command("XLEN", stream)) for stream in streams)
