"""The real HTTP server: chunked bodies, bodies cut off, draining, and no process left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from api.server import DRAIN_S, serve
from pipeline.core.validation import MAX_BODY_BYTES
from pipeline.errors import ConfigError
from pipeline.rim import keys
from tests.servers import RunningServer, wait_for

CONFIG = """
redis: {url: embedded}
default_stream: events
streams:
  events:
    time: {field: ts}
    schema: {ts: timestamp, name: string}
    partitions: 1
stages: {}
"""
PATH = "/v1/streams/events/events"


@dataclass
class Api:
    process: subprocess.Popen[bytes]
    port: int

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def is_up(self) -> bool:
        try:
            self.connect().close()
        except OSError:
            return False
        return True


CHECKS_FOR_EVER = """
import signal, sys
from pathlib import Path
from api import loading, server
def load(*args):
    Path(sys.argv[3]).touch()
    while True:
        signal.pause()
loading.load_config = load
server.serve(sys.argv[1], "127.0.0.1", 0, sys.argv[2])
"""
LOADS_FOR_EVER = """
import signal, sys
from pathlib import Path
from api import loading, server
def load(*args, **options):
    Path(sys.argv[3]).touch()
    while True:
        signal.pause()
loading.create_app = load
server.serve(sys.argv[1], "127.0.0.1", 0, sys.argv[2])
"""


@pytest.fixture
def api(server: RunningServer, tmp_path: Path) -> Iterator[Api]:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys; from api.server import serve; serve(sys.argv[1], '127.0.0.1', int(sys.argv[2]), sys.argv[3])"
    process = subprocess.Popen([sys.executable, "-c", code, str(config), str(port), server.url], cwd=Path.cwd())
    running = Api(process, port)
    wait_for(running.is_up, "the API to listen")
    yield running
    process.terminate()
    process.wait(20)


def row() -> bytes:
    return json.dumps({"ts": int(time.time() * 1000), "name": "a"}).encode()


def head(*lines: str) -> bytes:
    return "\r\n".join([f"POST {PATH} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def answer(connection: socket.socket) -> tuple[int, bytes]:
    with connection.makefile("rb") as file:
        status = int(file.readline().split()[1])
        length = 0
        while (line := file.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return status, file.read(length)


def test_a_chunked_body_is_read_whole(api: Api, server: RunningServer) -> None:
    body = b"\n".join([row()] * 2_000)
    with api.connect() as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        for start in range(0, len(body), 7_001):
            connection.sendall(chunk(body[start : start + 7_001]))
        connection.sendall(chunk(b""))
        status, said = answer(connection)
    assert (status, json.loads(said)["accepted"]) == (202, 2_000)
    assert server.client.hget(keys.door("events", 0), "stored") == b"2000"


def test_a_chunked_body_over_the_limit_is_refused_and_nothing_of_it_counted(api: Api, server: RunningServer) -> None:
    block = chunk(b" " * 1_000_000 + row() + b"\n")  # few rows: the limit of rows must not answer instead
    with api.connect() as connection:
        connection.sendall(head("Transfer-Encoding: chunked"))
        try:
            for _ in range(MAX_BODY_BYTES // len(block) + 2):
                connection.sendall(block)
            connection.sendall(chunk(b""))
        except ConnectionError:
            pass  # the server has said no and hung up
        status, said = answer(connection)
    assert (status, json.loads(said)["code"]) == (413, "too_large")
    assert server.client.keys() == []


def test_an_announced_length_over_the_limit_is_refused_before_the_body_is_sent(api: Api) -> None:
    with api.connect() as connection:
        connection.sendall(head(f"Content-Length: {MAX_BODY_BYTES + 1}"))
        assert answer(connection)[0] == 413


@pytest.mark.parametrize(
    "sent",
    [
        head("Content-Length: 1000") + row(),
        head("Transfer-Encoding: chunked") + chunk(row() + b"\n" + row()[:-5]),
        head("Transfer-Encoding: chunked") + chunk(b"[" + row()),
    ],
    ids=["by length", "chunked NDJSON", "chunked array"],
)
def test_a_body_that_breaks_off_is_not_stored(api: Api, server: RunningServer, sent: bytes) -> None:
    with api.connect() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(5)
        connection.recv(1)  # an answer or the end
    with api.connect() as connection:
        good = row()
        connection.sendall(head(f"Content-Length: {len(good)}") + good)
        assert answer(connection)[0] == 202
    assert server.client.hget(keys.door("events", 0), "received") == b"1"


def test_it_ends_in_order_when_told_to(api: Api) -> None:
    children = psutil.Process(api.process.pid).children(recursive=True)
    api.process.send_signal(signal.SIGTERM)
    assert api.process.wait(20) == 0
    assert not [child for child in children if child.is_running()]
    assert not api.is_up()


def test_it_ends_at_once_when_told_to_while_its_worker_still_loads(server: RunningServer, tmp_path: Path) -> None:
    config, loading = tmp_path / "config.yaml", tmp_path / "loading"
    config.write_text(CONFIG)
    process = subprocess.Popen([sys.executable, "-c", LOADS_FOR_EVER, str(config), server.url, str(loading)])
    try:
        wait_for(loading.exists, "the worker to load the app")
        process.terminate()
        assert process.wait(DRAIN_S / 2) == 0
    finally:
        process.kill()
        process.wait()


def test_nothing_is_left_when_it_is_killed_while_it_checks_its_config(server: RunningServer, tmp_path: Path) -> None:
    checking = tmp_path / "checking"
    process = subprocess.Popen([sys.executable, "-c", CHECKS_FOR_EVER, "config.yaml", server.url, str(checking)])
    try:
        wait_for(checking.exists, "another process to check the config")
        children = psutil.Process(process.pid).children()
        assert children
    finally:
        process.kill()
        process.wait()
    _, left = psutil.wait_procs(children, 5)
    assert not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]


def test_nothing_is_left_when_it_is_killed(api: Api) -> None:
    children = psutil.Process(api.process.pid).children(recursive=True)
    assert children
    os.kill(api.process.pid, signal.SIGKILL)
    api.process.wait(20)
    psutil.wait_procs(children, 20)
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not api.is_up()


def test_it_does_not_listen_beyond_loopback_unless_told_to(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        serve(tmp_path / "config.yaml", "0.0.0.0", 1, "redis://localhost")
