"""Live readers on the real server: how many there may be, that they leave requests alone, and that they end with it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.client import Client
from api.live_policy import LivePolicy
from api.server import DRAIN_S, LIVE, REQUEST_THREADS
from pipeline.rim.connection import reader
from pipeline.runtime.config import load_config
from pipeline.runtime.setup import set_up
from pipeline.runtime.worker import Worker
from tests.compat.programs import free_port
from tests.servers import bundled_binary, start_server, wait_for
from tests.test_layout import ROOT

CONFIG = """
redis: {url: embedded}
default_stream: events
streams:
  events:
    time: {field: ts, disorder: 0s}
    schema: {ts: timestamp, name: string, payload: string?}
    partitions: 1
stages:
  by_name:
    from: events
    window: {tumbling: 1s}
    group_by: [name]
    aggregates: {n: count, newest: last(payload)}
"""
SERVE = """
import sys
from api import server
from api.live_policy import LivePolicy
server.LIVE = LivePolicy(heartbeat_s=0.3)
server.serve(sys.argv[1], "127.0.0.1", int(sys.argv[2]), sys.argv[3])
"""
HEAD = "Host: localhost\r\n\r\n"


@dataclass
class Api:
    process: subprocess.Popen[bytes]
    port: int
    worker: Worker
    now_ms: int = 1_700_000_000_000

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def is_up(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True

    def follow(self, path: str = "/v1/metrics/by_name/live") -> Connection:
        connection = self.connect()
        connection.sendall(f"GET {path} HTTP/1.1\r\n{HEAD}".encode())
        return Connection(connection)

    def answer(self) -> float:
        """How long an ordinary request takes, in seconds."""
        begun = time.monotonic()
        with self.connect() as connection:
            connection.sendall(f"GET /v1/metrics/by_name HTTP/1.1\r\nConnection: close\r\n{HEAD}".encode())
            assert connection.recv(1_000).startswith(b"HTTP/1.1 200")
        return time.monotonic() - begun

    def send(self, rows: list[dict[str, object]]) -> None:
        body = "\n".join(map(json.dumps, rows))
        with self.connect() as connection:
            connection.sendall(
                f"POST /v1/streams/events/events HTTP/1.1\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
                f"{HEAD}{body}".encode()
            )
            assert connection.recv(1_000).startswith(b"HTTP/1.1 202")

    def publish(self, windows: int, groups: int, payload: str = "") -> None:
        """Publish some windows of a second, and one event more that closes the last."""
        for _ in range(windows):
            self.send([{"ts": self.now_ms, "name": f"g{n}", "payload": payload} for n in range(groups)])
            self.now_ms += 1_000
        self.send([{"ts": self.now_ms, "name": "g0"}])
        wait_for(
            lambda: self.worker.poll_once().idle and self.complete_to() == self.now_ms,
            "the worker to have nothing left to do",  # a pass over what is due comes 50 ms after what made it due
        )

    def complete_to(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/metrics") as answer:
            return int(json.load(answer)["metrics"][0]["complete_to"] or 0)


class Connection:
    """A live reader on a socket."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self._file = connection.makefile("rb")

    def status(self) -> tuple[int, dict[str, str]]:
        status = int(self._file.readline().split()[1])
        lines = iter(self._file.readline, b"\r\n")
        pairs = (line.decode().strip().partition(": ") for line in lines)
        return status, {name.lower(): value for name, _, value in pairs}

    def read_until(self, text: bytes) -> None:
        for line in iter(self._file.readline, b""):
            if text in line:
                return
        pytest.fail(f"the stream ended before {text!r}")

    def ends(self) -> bool:
        """Whether the stream comes to its proper end: the last chunk of a chunked body."""
        lines = iter(self._file.readline, b"")
        return b"0\r\n" in lines

    def close(self) -> None:
        self._file.close()
        self.socket.close()


@contextmanager
def running_api(folder: Path) -> Iterator[Api]:
    server = start_server(bundled_binary(), folder / "server")
    path = folder / "config.yaml"
    path.write_text(CONFIG)
    config = load_config(path, {})
    set_up(server.client, config)
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(path), str(port), server.url], cwd=ROOT)
    running = Api(process, port, Worker(config, server.client, reader(server.url, block_ms=1_000), "w1"))
    wait_for(running.is_up, "the API to listen")
    try:
        yield running
    finally:
        process.terminate()
        process.wait(2 * DRAIN_S)
        server.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running_api(tmp_path_factory.mktemp("live")) as running:
        yield running


def test_of_500_readers_those_above_the_cap_are_told_when_to_come_again_and_requests_go_on(api: Api) -> None:
    readers = [api.follow() for _ in range(500)]
    answers = [each.status() for each in readers]

    accepted = [headers for status, headers in answers if status == 200]
    refused = [headers for status, headers in answers if status != 200]
    assert len(accepted) == LivePolicy().readers
    assert accepted[0]["content-type"] == "text/event-stream"
    assert {status for status, _ in answers} == {200, 429}
    assert all(int(headers["retry-after"]) > 0 for headers in refused)
    assert all(headers["content-type"] == "application/problem+json" for headers in refused)
    # requests have threads of their own, all of them at once
    assert max(api.answer() for _ in range(2 * REQUEST_THREADS)) < 5

    # Every reader gets what is published now
    followers = [each for each, (status, _) in zip(readers, answers, strict=True) if status == 200]
    for each in followers:
        each.read_until(b"event: snapshot")
    api.publish(windows=1, groups=1)
    for each in followers:
        each.read_until(b"event: rows")

    # When readers go, others can come
    for connection in readers:
        connection.close()

    def is_free() -> bool:
        connection = api.follow()
        try:
            return connection.status()[0] == 200
        finally:
            connection.close()

    wait_for(is_free, "places of readers that went to be free")


def test_a_reader_that_does_not_read_gets_a_reset_and_a_snapshot_and_holds_no_memory(api: Api) -> None:
    connection = api.follow()
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)  # else the kernel may take 16 MB of it
    connection.read_until(b"event: snapshot")

    # Given a reader that stops reading while far more is published than sockets and the ring hold
    payload = "x" * 20_000
    api.publish(windows=12, groups=200, payload=payload)

    # Then it is told, and goes on with what there is
    connection.read_until(b"event: reset")
    connection.read_until(b'"reason":"too_slow"')
    connection.read_until(b"event: snapshot")

    # And then with what is published after it: what was far behind has caught up
    api.publish(windows=1, groups=1, payload="after the snapshot")
    connection.read_until(b"after the snapshot")
    connection.close()


def test_the_client_follows_what_is_published(api: Api) -> None:
    api.publish(windows=1, groups=2)
    with Client(f"http://127.0.0.1:{api.port}") as client:
        frames = client.live(["by_name"], duration="60s")
        first = next(frames)
        api.publish(windows=1, groups=3)
        told = next(frames)
        while told["name"].nunique() < 3:  # what closed the window before it comes first
            told = next(frames)
        frames.close()  # type: ignore[attr-defined]  # a generator

    assert first.attrs["event"] == "snapshot"
    assert (told.attrs["metric"], told.attrs["event"], told.attrs["reset"]) == ("by_name", "rows", None)
    assert dict(zip(told["name"], told["n"], strict=True)) == {"g0": 2, "g1": 1, "g2": 1}


def test_live_readers_do_not_delay_the_end(tmp_path: Path) -> None:
    with running_api(tmp_path) as api:
        ended_with_readers(api)


def ended_with_readers(api: Api) -> None:
    readers, stuck = [api.follow() for _ in range(10)], [api.follow() for _ in range(5)]
    for each in (*readers, *stuck):
        each.read_until(b"event: snapshot")
    api.publish(windows=1, groups=200, payload="x" * 20_000)  # more than a socket takes
    for each in readers:
        each.read_until(b"event: rows")

    begun = time.monotonic()
    api.process.terminate()
    assert all(each.ends() for each in readers)
    assert api.process.wait(2 * DRAIN_S) == 0
    assert time.monotonic() - begun < DRAIN_S / 2
    for each in (*readers, *stuck):
        each.close()


def test_the_server_keeps_threads_for_requests_beside_those_of_live_readers() -> None:
    from api.server import BLOCKING_THREADS

    assert BLOCKING_THREADS - LIVE.readers >= REQUEST_THREADS
