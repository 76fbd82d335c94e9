"""A whole `streamgauge up` of a benchmark's own: started on an empty folder, asked over HTTP, measured by process.

What a figure is made of is here once: the processes and their roles, CPU time by process and by thread, memory, waiting
until a metric is complete.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

from pipeline.rim import connection
from pipeline.rim.lifeline import die_with_parent
from pipeline.runtime.redis_url import find_redis_url

ROOT = Path(__file__).resolve().parent.parent
UP_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 300.0
POLL_S = 0.01
POLL_SHARE = 0.02  # of the time waited so far, between two looks: each costs the measured cores a millisecond
REQUEST_TIMEOUT_S = 120
SCHEDULER_STARTED = "scheduler started"  # in the log of `up`; else its start would be measured with the work
ROLES = ("worker", "scheduler", "api", "up")
THREAD_NUMBER = re.compile(r"[-_ ]?\d+$")


@dataclass(frozen=True, slots=True)
class Memory:
    """Megabytes of a role's processes: resident, the same with shared pages shared out, and the most there ever was."""

    resident_mb: float
    proportional_mb: float
    peak_mb: float


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
        """CPU seconds so far of every process of the tree, and of those it has ended, by what it is."""
        seconds: dict[str, float] = defaultdict(float)
        for role, process in self._processes():
            times = process.cpu_times()
            seconds[role] += times.user + times.system + times.children_user + times.children_system
        return dict(seconds)

    def thread_cpu_s(self) -> dict[str, float]:
        """The same of every thread that still runs, by `role: name of the thread`; threads of a pool together."""
        seconds: dict[str, float] = defaultdict(float)
        for role, process in self._processes():
            for thread in process.threads():
                name = Path(f"/proc/{process.pid}/task/{thread.id}/comm").read_text().strip()
                is_first = thread.id == process.pid
                seconds[f"{role}: {'main' if is_first else THREAD_NUMBER.sub('', name)}"] += (
                    thread.user_time + thread.system_time
                )
        return dict(seconds)

    def memory(self) -> dict[str, Memory]:
        """Memory of every role."""
        found: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
        for role, process in self._processes():
            now = process.memory_full_info()
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak_kb = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
            found[role].append((now.rss / 1e6, now.pss / 1e6, peak_kb * 1024 / 1e6))
        return {role: Memory(*(sum(column) for column in zip(*sizes, strict=True))) for role, sizes in found.items()}

    @contextmanager
    def stopped(self, role: str) -> Iterator[None]:
        """Keep the processes of a role from running (SIGSTOP): what they have loaded stays warm."""
        stopped = [process for found, process in self._processes() if found == role]
        if not stopped:
            raise SystemExit(f"no process is a {role}")
        for process in stopped:
            process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                process.resume()

    def _processes(self) -> list[tuple[str, psutil.Process]]:
        """The processes of the tree by what they are; a child that has just read the config is none of them."""
        parent = psutil.Process(self.process.pid)
        found = [(_role(process), process) for process in [parent, *parent.children(recursive=True)]]
        return [(role, process) for role, process in found if role is not None]

    def end_time(self, stream: str) -> None:
        """Say that nothing more comes, so that the last window closes."""
        self.request("POST", f"/v1/streams/{stream}/time", b'{"end": true}')

    def wait_until_complete(self, metric: str, end_ms: int) -> None:
        """Wait until every window of `metric` that ends by `end_ms` is published."""
        began = time.monotonic()
        while self.complete_to(metric) < end_ms:
            waited_s = time.monotonic() - began
            if waited_s > DRAIN_TIMEOUT_S:
                raise SystemExit(f"{metric} is not closed {DRAIN_TIMEOUT_S} s after the last event")
            time.sleep(max(POLL_S, POLL_SHARE * waited_s))

    def wait_until_read(self, stages: Sequence[str], n_events: int) -> None:
        """Wait until every one of the stages has committed so many events."""
        began = time.monotonic()
        while any(self.get(f"/v1/stages/{stage}")["ledger"]["read"] < n_events for stage in stages):
            waited_s = time.monotonic() - began
            if waited_s > DRAIN_TIMEOUT_S:
                raise SystemExit(f"{stages} have not read {n_events} events after {DRAIN_TIMEOUT_S} s")
            time.sleep(max(POLL_S, POLL_SHARE * waited_s))

    def complete_to(self, metric: str) -> int:
        found = next(each for each in self.get("/v1/metrics")["metrics"] if each["metric"] == metric)
        return found["complete_to"] or 0


def _role(process: psutil.Process) -> str | None:
    try:
        words, name = process.cmdline(), process.name()
    except psutil.NoSuchProcess:  # a zombie too: its time is its parent's
        return None
    return next((role for role in ROLES if role in words), "redis" if "server" in name else name)


@contextmanager
def product(config: Path, workers: int) -> Iterator[Product]:
    """Start the whole product on an empty folder, and end it."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-") as folder:
        command = ["up", "--config", str(config), "--data-dir", folder, "--port", str(port)]
        log = Path(folder) / "up.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "api.main", *command, "--workers", str(workers)],
                stdout=output,
                stderr=output,
                cwd=ROOT,
                preexec_fn=die_with_parent(),  # a benchmark that is killed leaves no product behind
            )
            try:
                _wait_until_ready(process, port, log)
                yield Product(process, port, Path(folder), config)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(timeout=60)


def free_port() -> int:
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
            if connection.getresponse().status == 200 and SCHEDULER_STARTED in log.read_text():
                return
        except OSError:
            pass  # not listening yet: the deadline bounds this
        finally:
            connection.close()
        time.sleep(POLL_S)
    raise SystemExit(f"`up` was not ready in {UP_TIMEOUT_S} s:\n{log.read_text()}")
