"""What the fast door answers is what Flask answers: the same request with a parameter that says nothing goes there."""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient

from api.app import create_app
from api.fast_door import FastDoor
from tests.api.test_ingest import CONFIG, EVENTS_URL, KEYED, NOW_MS, SPREAD, USERS_URL, ledger, rows, stored
from tests.servers import RunningServer

TO_FLASK = "?backfill=false"
REQUESTS: dict[str, dict[str, Any]] = {
    "one": {"data": rows(1)},
    "one with space around": {"data": b" \n" + rows(1) + b" \r\n"},
    "one over two lines": {"data": rows(1).replace(b",", b",\n", 1)},
    "one undeclared": {"data": rows(1, more=1)},
    "one too far ahead": {"data": json.dumps({"ts": NOW_MS + 10**6, "user": "u"})},
    "one as text": {"data": rows(1), "headers": {"Content-Type": "text/plain; charset=utf-8"}},
    "one as XML": {"data": rows(1), "headers": {"Content-Type": "text/xml"}},
    "one cut off": {"data": rows(1), "headers": {"Content-Length": str(len(rows(1)) + 1)}},
    "one with more behind it": {"data": rows(1), "headers": {"Content-Length": str(len(rows(1)) - 1)}},
    "no length": {"data": rows(1), "headers": {"Content-Length": "-1"}},
    "some": {"data": rows(20)},
    "many": {"data": rows(500)},
    "gzip": {"data": gzip.compress(rows(3))},
    "some refused": {"data": rows(2) + b'\n{"ts": 1}'},
    "all refused": {"data": b'{"ts": 1}'},
    "broken": {"data": b'{"ts": '},
    "nothing": {"data": b""},
    "undeclared": {"data": rows(2, more=1)},
    "csv": {"data": rows(1), "headers": {"Content-Type": "text/csv"}},
    "coded": {"data": rows(1), "headers": {"Content-Encoding": "br"}},
    "too large": {"data": b"", "headers": {"Content-Length": "33000000"}},
    "foreign": {"data": rows(1), "headers": {"Host": "evil.example"}},
    "a good host": {"data": rows(1), "headers": {"Host": "[::1]:8000"}},
}


def answer_of(http: FlaskClient, url: str, request: dict[str, Any]) -> tuple[int, str | None, Any]:
    answer = http.post(url, **request)
    said = answer.json
    assert isinstance(said, dict)
    if "ids" in said:
        said["ids"] = len(said["ids"])
    if said.get("skew_ms") is not None:
        assert abs(said.pop("skew_ms")) < 10**7
    return answer.status_code, answer.content_type, said


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize("url", [EVENTS_URL, USERS_URL])
def test_both_ways_answer_alike(server: RunningServer, monkeypatch: pytest.MonkeyPatch, url: str, name: str) -> None:
    taken: list[bool] = []
    looked_at = FastDoor._intake

    def look(door: FastDoor, environ: dict[str, Any]) -> Any:
        intake = looked_at(door, environ)
        taken.append(intake is not None)
        return intake

    monkeypatch.setattr(FastDoor, "_intake", look)
    http = create_app(CONFIG, server.url).test_client()

    fast, slow = (answer_of(http, url + query, REQUESTS[name]) for query in ("", TO_FLASK))

    assert taken == [True, False]
    assert fast == slow


def test_a_name_is_checked_once_and_a_foreign_one_every_time(server: RunningServer) -> None:
    http = create_app(CONFIG, server.url).test_client()

    for name, status in 2 * (("localhost", 202), ("evil.example", 403), ("a.localhost:8000", 202)):
        assert http.post(EVENTS_URL, data=rows(1), headers={"Host": name}).status_code == status


def test_what_has_more_to_say_than_its_body_goes_to_flask(server: RunningServer) -> None:
    http = create_app(CONFIG, server.url).test_client()

    assert http.get(EVENTS_URL).status_code == 200
    assert http.put(EVENTS_URL).status_code == 405
    assert http.post("/v1/streams/event/events", data=rows(1)).status_code == 404
    again = [http.post(EVENTS_URL, data=rows(1), headers={"Idempotency-Key": "k"}).json for _ in range(2)]
    assert [each["duplicates"] for each in again if each] == [0, 1]


@pytest.mark.parametrize(("url", "stream"), [(EVENTS_URL, SPREAD), (USERS_URL, KEYED)])
def test_small_requests_of_many_threads_are_stored_once_each(server: RunningServer, url: str, stream: Any) -> None:
    app = create_app(CONFIG, server.url)

    def send(thread: int) -> list[str]:
        http, ids = app.test_client(), []
        for number in range(40):
            answer = http.post(url, data=json.dumps({"ts": NOW_MS, "user": f"{thread}.{number}"}))
            assert answer.status_code == 202, answer.text
            assert answer.json is not None
            assert (answer.json["accepted"], len(answer.json["ids"])) == (1, 1)
            ids += answer.json["ids"]
        return ids

    with ThreadPoolExecutor(8) as pool:
        ids = [each for found in pool.map(send, range(8)) for each in found]

    users = [json.loads(row)["user"] for partition in stored(server, stream) for row in partition]
    assert sorted(users) == sorted(f"{thread}.{number}" for thread in range(8) for number in range(40))
    assert len(ids) == 320
    assert ledger(server, stream) == {"received": 320, "stored": 320, "duplicate": 0, "rejected": 0}
