"""`POST /v1/streams/{stream}/time` on a real server."""

from __future__ import annotations

import pytest
from flask import Flask
from flask.testing import FlaskClient

from api import problems, timecontrol
from pipeline.core.definitions import HOUR_MS, Config, Field, Stream, TimePolicy
from pipeline.rim import keys
from pipeline.rim.replies import parse_entries
from pipeline.rim.store import redis_time_ms
from pipeline.runtime.time_keepers import time_keepers
from tests.servers import RunningServer

STREAM = Stream(
    "readings", (Field("ts", "timestamp", unit="ms"),), TimePolicy(field="ts", disorder_ms=1_000), partitions=2
)
CONFIG = Config(streams={"readings": STREAM}, stages={})
PATH = "/v1/streams/readings/time"


@pytest.fixture
def http(server: RunningServer) -> FlaskClient:
    app = Flask(__name__)
    problems.register(app)
    app.register_blueprint(timecontrol.blueprint(server.client, time_keepers(server.client, CONFIG)))
    return app.test_client()


def ticks(server: RunningServer, partition: int) -> list[tuple[bytes, bytes]]:
    found = parse_entries(server.client.execute_command("XRANGE", keys.raw("readings", partition), "-", "+"))
    return [(entry.id, entry.fields[b"t"]) for entry in found if entry.fields and b"t" in entry.fields]


def test_the_end_is_a_tick_in_every_partition(server: RunningServer, http: FlaskClient) -> None:
    server.client.execute_command("XADD", keys.raw("readings", 1), "*", "ts", 12_345)
    answer = http.post(PATH, json={"end": True})
    assert answer.status_code == 202
    said = answer.get_json()
    assert (said["time"], said["reached"]) == (13_345, 13_345)
    assert [ticks(server, partition) for partition in (0, 1)] == [
        [(entry_id.encode(), b"13345")] for entry_id in said["ticks"]
    ]


def test_an_end_later_than_now_says_how_far_time_has_come(server: RunningServer, http: FlaskClient) -> None:
    ahead_ms = redis_time_ms(server.client) + 60_000
    for partition in (0, 1):
        server.client.execute_command("XADD", keys.raw("readings", partition), "*", "ts", ahead_ms)
    said = http.post(PATH, json={"end": True}).get_json()
    arrivals = [int(entry_id.partition("-")[0]) for entry_id in said["ticks"]]
    assert said["time"] > ahead_ms
    assert said["reached"] == min(arrivals) < ahead_ms


def test_the_end_of_a_stream_without_events_writes_nothing(http: FlaskClient) -> None:
    answer = http.post(PATH, json={"end": True})
    assert (answer.status_code, answer.get_json()) == (202, {"ticks": [], "time": None, "reached": None})


def test_a_heartbeat_may_be_written_as_any_time(server: RunningServer, http: FlaskClient) -> None:
    now_ms = redis_time_ms(server.client)
    for value in (now_ms, str(now_ms), now_ms // 1_000, "2024-01-01T00:00:00Z", "-1h"):
        answer = http.post(PATH, json={"heartbeat": value})
        assert answer.status_code == 202, answer.text
    assert len(ticks(server, 0)) == len(ticks(server, 1)) == 5


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"\xff\xfe", 400),
        (b"[" * 5_000, 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"end": false}', 422),
        (b'{"end": 1}', 422),
        (b'{"end": true, "heartbeat": 1}', 422),
        (b'{"finish": true}', 422),
        (b'{"heartbeat": null}', 422),
        (b'{"heartbeat": true}', 422),
        (b'{"heartbeat": 1e400}', 422),
        (b'{"heartbeat": "soon"}', 422),
        (b'{"heartbeat": 99999999999999999999999999}', 422),
    ],
)
def test_a_body_that_says_nothing_we_know_is_refused_with_a_sentence(
    server: RunningServer, http: FlaskClient, body: bytes, status: int
) -> None:
    answer = http.post(PATH, data=body)
    assert answer.status_code in ((400, 422) if b"1e400" in body else (status,)), answer.text
    assert answer.content_type == "application/problem+json"
    assert len(answer.get_json()["detail"]) > 20
    assert server.client.keys("*") == []


def test_a_heartbeat_ahead_of_the_clock_is_refused(server: RunningServer, http: FlaskClient) -> None:
    answer = http.post(PATH, json={"heartbeat": redis_time_ms(server.client) + HOUR_MS})
    assert answer.status_code == 422
    assert "minutes ahead of the server's clock" in answer.get_json()["detail"]
    assert "takes at most 5m (max_future)" in answer.get_json()["detail"]


def test_the_time_of_an_unknown_stream_is_not_found(http: FlaskClient) -> None:
    assert http.post("/v1/streams/reading/time", json={"end": True}).status_code == 404
    assert http.post(PATH + "?end=true", json={"end": True}).status_code == 400
