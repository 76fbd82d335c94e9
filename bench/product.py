"""A whole `streamgauge up` of a benchmark's own: started on an empty folder, asked over HTTP, measured by process.

What a figure is made of is here once: the processes and their roles, CPU time, waiting until a metric is complete.
"""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import redis

from pipeline.rim import connection
from pipeline.runtime.redis_url import find_redis_url

ROOT = Path(__file__).resolve().parent.parent
UP_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 300.0
POLL_S = 0.01
POLL_SHARE = 0.02  # of the time waited so far, between two looks: each costs the measured cores a millisecond
REQUEST_TIMEOUT_S = 120
ROLES = ("worker", "scheduler", "api", "up")


class Product:
    """A running `streamgauge up` of our own, by its port."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path, config: Path) -> None:
        self.process = process
        self.port = port
        self.folder = folder
        self.config = config

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def request(self, method: str, path: str, body: bytes | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=REQUEST_TIMEOUT_S)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise SystemExit(f"{method} {path}: {response.status} {text[:500]!r}")
        return json.loads(text)

    def redis(self) -> redis.Redis:
        """A connection to its Redis, for what only Redis knows: memory."""
        return connection.reader(find_redis_url(self.config, None, self.folder, os.environ))

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far of every process of the tree, by what it is."""
        seconds: dict[str, float] = defaultdict(float)
        parent = psutil.Process(self.process.pid)
        for process in [parent, *parent.children(recursive=True)]:
            times = process.cpu_times()
            seconds[_role(process)] += times.user + times.system
        return dict(seconds)

    def end_time(self, stream: str) -> None:
        """Say that nothing more comes, so that the last window closes."""
        self.request("POST", f"/v1/streams/{stream}/time", b'{"end": true}')

    def wait_until_complete(self, metric: str, end_ms: int) -> None:
        """Wait until every window of `metric` that ends by `end_ms` is published."""
        began = time.monotonic()
        while self._complete_to(metric) < end_ms:
            waited_s = time.monotonic() - began
            if waited_s > DRAIN_TIMEOUT_S:
                raise SystemExit(f"{metric} is not closed {DRAIN_TIMEOUT_S} s after the last event")
            time.sleep(max(POLL_S, POLL_SHARE * waited_s))

    def _complete_to(self, metric: str) -> int:
        found = next(each for each in self.get("/v1/metrics")["metrics"] if each["metric"] == metric)
        return found["complete_to"] or 0


def _role(process: psutil.Process) -> str:
    words = process.cmdline()
    return next((role for role in ROLES if role in words), "redis" if "server" in process.name() else process.name())


@contextmanager
def product(config: Path, workers: int) -> Iterator[Product]:
    """Start the whole product on an empty folder, and end it."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-") as folder:
        command = ["up", "--config", str(config), "--data-dir", folder, "--port", str(port)]
        log = Path(folder) / "up.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "api.main", *command, "--workers", str(workers)],
                stdout=output,
                stderr=output,
                cwd=ROOT,
            )
            try:
                _wait_until_ready(process, port, log)
                yield Product(process, port, Path(folder), config)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=60)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + UP_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"`up` ended with {process.returncode}:\n{log.read_text()}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass  # not listening yet: the deadline bounds this
        finally:
            connection.close()
        time.sleep(POLL_S)
    raise SystemExit(f"`up` was not ready in {UP_TIMEOUT_S} s:\n{log.read_text()}")


def ended_children_cpu_s() -> float:
    """CPU seconds of the processes this one started and has waited for: the senders."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
