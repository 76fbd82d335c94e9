"""CSV bodies at the door: told apart, typed by the schema, judged row by row, and counted through the whole line."""

from __future__ import annotations

import gzip
import io
import time
from typing import Any

import pyarrow as pa
import pytest

from pipeline.core.csv_validation import MAX_WRITTEN_OUT
from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Tumbling
from pipeline.core.validation import MAX_BODY_BYTES, MAX_ROWS
from pipeline.rim.streams import QUARANTINED_BYTES
from tests.line import Line
from tests.servers import RunningServer

NOW_MS = int(time.time() * 1_000)
FIELDS = (
    Field("ts", "timestamp"),
    Field("user", "string"),
    Field("n", "int", nullable=True),
    Field("ms", "float", nullable=True),
    Field("tags", "list", nullable=True, item="string"),
)
LONG = "f" * 64
CONFIG = Config(
    {
        "visits": Stream("visits", FIELDS, TimePolicy("ts"), partition_by="user", partitions=2),
        "strict": Stream("strict", FIELDS, TimePolicy("ts"), extra="refuse", partitions=1),
        "wide": Stream("wide", (Field(LONG, "int", nullable=True),), partitions=1),
    },
    {
        "sums": Aggregate(
            "sums",
            "visits",
            Tumbling(10_000),
            ("user",),
            (AggregateSpec("n", "count"), AggregateSpec("total", "sum", "n")),
        )
    },
    default_stream="visits",
)
HEADER = b"ts,user,n,ms,tags\r\n"
CSV = {"Content-Type": "text/csv; charset=utf-8; header=present"}
URL = "/v1/streams/visits/events"
BODY = HEADER + b'%d,"Ada, Countess",7,1.5,"[""x"",""y""]"\r\n%d,bob,,,\r\n' % (NOW_MS, NOW_MS - 1)


@pytest.fixture
def line(server: RunningServer) -> Line:
    return Line(CONFIG, server)


def post(line: Line, body: bytes, url: str = URL, **headers: str) -> Any:
    answer = line.http.post(url, data=body, headers=CSV | headers)
    assert answer.status_code == 202, answer.text
    return answer.get_json()


def door(line: Line, stream: str = "visits") -> dict[str, int]:
    found: dict[str, int] = line.http.get("/v1/streams").get_json()["streams"][list(CONFIG.streams).index(stream)][
        "door"
    ]
    return {name: found[name] for name in ("received", "stored", "duplicate", "rejected")}


def test_rows_of_csv_are_counted_by_the_types_of_the_schema(line: Line) -> None:
    said = post(line, BODY)
    line.settle()

    assert (said["accepted"], said["rejected"], said["errors"]) == (2, 0, [])
    assert {row["user"]: (row["n"], row["total"]) for row in line.rows("sums")} == {
        "Ada, Countess": (1, 7),
        "bob": (1, 0),
    }
    events = line.http.get("/v1/streams/visits/events").get_json()["events"]
    ada = next(each["event"] for each in events if each["event"]["user"] != "bob")
    assert ada == {"ts": NOW_MS, "user": "Ada, Countess", "n": 7, "ms": 1.5, "tags": ["x", "y"]}


@pytest.mark.parametrize("packed", [gzip.compress, pa.Codec("zstd").compress])
def test_it_may_be_packed(line: Line, packed: Any) -> None:
    assert post(line, bytes(packed(BODY)))["accepted"] == 2


@pytest.mark.parametrize(
    "called",
    [
        "text/csv",
        "application/csv",
        "text/plain",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        None,
    ],
)
def test_a_body_is_csv_by_its_type_or_where_that_says_nothing_by_its_first_line(line: Line, called: str | None) -> None:
    answer = line.http.post(URL, data=BODY, headers={"Content-Type": called} if called else {})

    assert (answer.status_code, answer.get_json()["accepted"]) == (202, 2), answer.text


def test_json_that_is_called_csv_is_json_and_csv_that_is_called_json_is_not_csv(line: Line) -> None:
    event = b'{"ts":%d,"user":"ada"}' % NOW_MS
    assert post(line, event)["accepted"] == 1
    assert post(line, b"[" + event + b"]")["accepted"] == 1

    answer = line.http.post(URL, data=BODY, headers={"Content-Type": "application/json"})

    assert (answer.status_code, answer.get_json()["errors"][0]["code"]) == (422, "malformed")


def test_a_bad_row_is_named_by_its_place_and_put_aside_as_it_was_sent(line: Line) -> None:
    ahead = NOW_MS + 3_600_000
    bad = [
        (b"%d,ada,many,,\r\n" % NOW_MS, "n", "wrong_type"),
        (b"%d,,1,,\r\n" % NOW_MS, "user", "missing"),
        (b"noon,ada,1,,\r\n", "ts", "bad_time"),
        (b"%d,ada,1,,\r\n" % ahead, "ts", "too_far_ahead"),
        (b"%d,ada,9999999999999999999,,\r\n" % NOW_MS, "n", "out_of_range"),
        (b"%d,ada,1\r\n" % NOW_MS, None, "malformed"),
        (b'%d,a"d"a,1,,\r\n' % NOW_MS, None, "malformed"),
        (b"%d,\xff,1,,\r\n" % NOW_MS, None, "not_utf8"),
        (b'%d,"a\r\nb",x,,\r\n' % NOW_MS, "n", "wrong_type"),
    ]
    good = b"%d,ada,1,,\r\n" % NOW_MS

    said = post(line, HEADER + b"".join(row + good for row, _, _ in bad))

    assert (said["accepted"], said["rejected"]) == (len(bad), len(bad))
    assert [(each["index"], each["field"], each["code"]) for each in said["errors"]] == [
        (2 * number, field, code) for number, (_, field, code) in enumerate(bad)
    ]
    assert "6 cells" not in said["errors"][5]["message"]
    assert "3 cells, and the header names 5 columns" in said["errors"][5]["message"]
    aside = line.http.get("/v1/quarantine?stream=visits").get_json()["rows"]
    by_index = {row["index"]: row for row in aside}
    for number, (row, _, code) in enumerate(bad):
        kept = by_index[2 * number]
        assert kept["body"] == row.removesuffix(b"\r\n").decode(errors="replace")
        assert (kept["reason"], kept["header"]) == (code, HEADER.decode().rstrip())
    assert door(line) == {"received": 18, "stored": 9, "duplicate": 0, "rejected": 9}


def test_a_row_put_aside_is_judged_again_with_its_header(line: Line, server: RunningServer) -> None:
    """Given a row that a strict schema refused; when the schema has the field, its replay counts it."""
    body = b"ts,user,colour\n%d,ada,red\n" % NOW_MS
    refused = line.http.post("/v1/streams/strict/events", data=body, headers=CSV)
    assert (refused.status_code, refused.get_json()["errors"][0]["code"]) == (422, "undeclared")
    as_it_is = replay(line)
    assert (as_it_is["replayed"], as_it_is["errors"][0]["code"]) == (0, "undeclared")

    wider = Stream(
        "strict", (*FIELDS, Field("colour", "string", nullable=True)), TimePolicy("ts"), extra="refuse", partitions=1
    )
    changed = Line(Config({"strict": wider}, {}), server)

    assert replay(changed)["replayed"] == 1
    [stored] = changed.http.get("/v1/streams/strict/events").get_json()["events"]
    assert {name: value for name, value in stored["event"].items() if value is not None} == {
        "ts": NOW_MS,
        "user": "ada",
        "colour": "red",
    }
    assert replay(changed)["repeated"] == 1


def replay(line: Line) -> Any:
    up_to = line.http.get("/v1/quarantine?stream=strict").get_json()["up_to"]
    answer = line.http.post("/v1/quarantine/replay", json={"stream": "strict", "all": True, "up_to": up_to})
    assert answer.status_code == 202, answer.text
    return answer.get_json()


def test_a_row_of_which_only_the_beginning_was_kept_is_not_replayed(line: Line) -> None:
    long = b"x" * (QUARANTINED_BYTES + 10)
    line.http.post("/v1/streams/strict/events", data=b"ts,user,colour\n%d,%b,red\n" % (NOW_MS, long), headers=CSV)

    said = replay(line)

    assert (said["replayed"], said["errors"][0]["code"]) == (0, "cut_off")


def test_columns_that_the_schema_does_not_have_are_dropped_and_counted_or_refuse_every_row(line: Line) -> None:
    body = b"ts,user,colour\n%d,ada,red\n%d,bob,\n" % (NOW_MS, NOW_MS)
    assert post(line, body)["accepted"] == 2
    assert line.http.get("/v1/streams").get_json()["streams"][0]["door"]["undeclared"] == 2

    answer = line.http.post("/v1/streams/strict/events", data=body, headers=CSV).get_json()

    assert (answer["accepted"], answer["errors"][0]["field"]) == (1, "colour"), "an empty cell is no field"


def test_a_retry_with_its_key_counts_once_and_another_body_is_a_conflict(line: Line) -> None:
    first = post(line, BODY, Idempotency_Key="k1")
    again = post(line, BODY, Idempotency_Key="k1")
    other = line.http.post(URL, data=BODY + b"%d,eve,1,,\n" % NOW_MS, headers=CSV | {"Idempotency-Key": "k1"})

    assert (first["accepted"], again["accepted"], again["duplicates"]) == (2, 0, 2)
    assert other.status_code == 409
    assert door(line) == {"received": 4, "stored": 2, "duplicate": 2, "rejected": 0}


@pytest.mark.parametrize(
    ("body", "status", "code", "said"),
    [
        (b"", 400, "empty", "NDJSON, CSV or Arrow"),
        (HEADER, 400, "empty", "no events"),
        (HEADER + b"\r\n\r\n", 400, "empty", "no events"),
        (b"a,b\n1,2\n", 400, "malformed", "no column is a field of the stream. Columns: a, b. Fields: ts, user"),
        (b"ts;user;n\n1;ada;2\n", 400, "malformed", "its columns are separated by ';'; separate them by commas"),
        (b"ts,user,ts\n1,2,3\n", 400, "malformed", "its header names a column twice: 'ts'"),
        (BODY.decode().encode("utf-16"), 400, "malformed", "its header, the first line, cannot be read"),
        (b"PK\x03\x04" + HEADER, 415, "unsupported_media_type", "ZIP bodies are not read"),
        (b"ts\n" + b"1\n" * (MAX_ROWS + 2), 413, "too_large", "more than 200,000 rows"),
        (b"ts\n" + b"1" * MAX_BODY_BYTES, 413, "too_large", "The body is too large"),
    ],
)
def test_a_body_that_is_no_csv_is_refused_whole(line: Line, body: bytes, status: int, code: str, said: str) -> None:
    answer = line.http.post(URL, data=body, headers=CSV)

    problem = answer.get_json()
    assert (answer.status_code, problem["code"]) == (status, code), problem
    assert said in problem["detail"]


def test_rows_that_grow_too_large_as_json_are_refused(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_WRITTEN_OUT > MAX_BODY_BYTES
    monkeypatch.setattr("pipeline.core.csv_validation.MAX_WRITTEN_OUT", 100_000)

    answer = line.http.post("/v1/streams/wide/events", data=f"{LONG}\n".encode() + b"1\n" * 2_000, headers=CSV)

    assert (answer.status_code, answer.get_json()["code"]) == (413, "too_large")
    assert door(line, "wide")["received"] == 0


@pytest.mark.parametrize(("end", "status"), [(b"\n", 202), (b"", 400)])
def test_a_body_sent_in_chunks_needs_its_last_line_end(line: Line, end: bytes, status: int) -> None:
    body = HEADER + b"%d,ada,12,," % NOW_MS + end
    chunked = {"wsgi.input_terminated": True, "CONTENT_LENGTH": ""}
    answer = line.http.post(
        URL, input_stream=io.BytesIO(body), headers=CSV | {"Transfer-Encoding": "chunked"}, environ_overrides=chunked
    )

    assert answer.status_code == status, answer.text
    assert status == 202 or answer.get_json()["code"] == "cut_off"


def test_publish_takes_no_csv(line: Line) -> None:
    answer = line.http.post("/publish", data=BODY, headers=CSV)

    assert (answer.status_code, answer.get_json()["code"]) == (415, "unsupported_media_type")
    assert "/v1/streams/{stream}/events" in answer.get_json()["detail"]


def test_many_rows_are_stored_as_columns_like_any_others(line: Line) -> None:
    rows = b"".join(b"%d,u%d,%d,0.5,\n" % (NOW_MS - n, n % 50, n) for n in range(3_000))

    assert post(line, HEADER + rows)["accepted"] == 3_000
    line.settle()

    assert sum(row["total"] for row in line.rows("sums")) == sum(range(3_000))


def test_columns_are_read_as_the_fields_they_look_like(line: Line) -> None:
    said = post(line, b"TS,User,N (items),other\n%d,ada,x,y\n%d,bob,,\n" % (NOW_MS, NOW_MS))
    assert (said["accepted"], said["rejected"]) == (2, 0)  # `N (items)` is n_items, which is no field
    said = post(line, b"ts,User,n,N\n%d,ada,1,x\n" % NOW_MS)
    assert (said["accepted"], said["rejected"]) == (1, 0)  # n is n, so N is none
    answer = line.http.post(URL, data=b'"T.S.",User\n%d,ada\n' % NOW_MS, headers=CSV)
    assert answer.get_json()["errors"][0]["field"] == "ts"  # `T.S.` is t_s


def test_two_columns_that_could_be_one_field_are_refused_by_name(line: Line) -> None:
    answer = line.http.post(URL, data=b"ts,User,USER\n%d,ada,bob\n" % NOW_MS, headers=CSV)
    assert answer.status_code == 400
    assert "both 'User' and 'USER' could be the field 'user'" in answer.text
