"""The end-to-end benchmark: HTTP NDJSON in, through Redis, to closed windows counted per group, all on the same cores.

    python bench/e2e.py [--events 2000000] [--batch 5000] [--workers 1] [--runs 1] [--json FILE]

The clock runs from the first POST until every window is closed and readable. No figure is printed without its recount:
`CORRECT n/n` compares every (window, campaign) with what the generator counted by itself.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load import EVENTS_PER_MS, WINDOW_MS, Load, make_load, start_sending
from pipeline.rim import connection, keys
from pipeline.runtime.redis_url import find_redis_url

HERE = Path(__file__).resolve().parent
STREAM, METRIC = "ads", "views_by_campaign"
UP_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 300.0
POLL_S = 0.01
LATENCY_EVENTS_PER_S = 1_000
LATENCY_BATCH = 20
LATENCY_BATCHES = 150


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run; seconds of CPU by process."""

    events_per_s: float
    seconds: float
    correct: int
    expected: int
    cpu_s: dict[str, float]
    bytes_per_event: float
    latency_ms_p50: float
    latency_ms_p99: float


class Product:
    """A running `streamgauge up` of our own, by its port."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
        self.process = process
        self.port = port
        self.folder = folder

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def request(self, method: str, path: str, body: bytes | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            text = response.read()
        finally:
            connection.close()
        if response.status >= 400:
            raise SystemExit(f"{method} {path}: {response.status} {text[:500]!r}")
        return json.loads(text)

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds so far of every process of the tree, by what it is."""
        seconds: dict[str, float] = defaultdict(float)
        parent = psutil.Process(self.process.pid)
        for process in [parent, *parent.children(recursive=True)]:
            times = process.cpu_times()
            seconds[_role(process)] += times.user + times.system
        return dict(seconds)


def _role(process: psutil.Process) -> str:
    words = process.cmdline()
    roles = ("worker", "scheduler", "api", "up")
    return next((role for role in roles if role in words), "redis" if "server" in process.name() else process.name())


@contextmanager
def product(workers: int) -> Iterator[Product]:
    """Start the whole product on an empty folder, and end it."""
    port = _free_port()
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-") as folder:
        command = ["up", "--config", str(HERE / "e2e.yaml"), "--data-dir", folder, "--port", str(port)]
        log = Path(folder) / "up.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "api.main", *command, "--workers", str(workers)],
                stdout=output,
                stderr=output,
                cwd=HERE.parent,
            )
            try:
                _wait_until_ready(process, port, log)
                yield Product(process, port, Path(folder))
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


def run_once(load: Load, workers: int, connections: int) -> Run:
    with product(workers) as running:
        before_cpu = running.cpu_s()
        sender_before = _ended_children_cpu_s()
        began = time.monotonic()
        sender = start_sending(running.port, STREAM, load.bodies, connections)
        sender.join()
        if sender.exitcode != 0:
            raise SystemExit("the sender failed")
        sent_s = time.monotonic() - began
        running.request("POST", f"/v1/streams/{STREAM}/time", b'{"end": true}')
        counted = _closed_counts(running, load)
        seconds = time.monotonic() - began
        cpu_s = {role: used - before_cpu.get(role, 0.0) for role, used in running.cpu_s().items()}
        cpu_s["load generator"] = _ended_children_cpu_s() - sender_before
        correct = sum(counted.get(key) == views for key, views in load.expected.items())
        correct -= len(counted.keys() - load.expected.keys())
        raw_bytes = _raw_bytes(running)
        latencies_ms = sorted(_latencies_ms(running))
        print(f"sent in {sent_s:.2f} s, closed after {seconds:.2f} s", file=sys.stderr)
    return Run(
        events_per_s=load.n_events / seconds,
        seconds=seconds,
        correct=correct,
        expected=len(load.expected),
        cpu_s={role: round(used, 2) for role, used in cpu_s.items()},
        bytes_per_event=raw_bytes / load.n_events,
        latency_ms_p50=statistics.median(latencies_ms),
        latency_ms_p99=latencies_ms[int(len(latencies_ms) * 0.99)],
    )


def _ended_children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _closed_counts(running: Product, load: Load) -> dict[tuple[int, str], int]:
    """Wait until the last window of the load is closed, and read every count."""
    first, last = min(start for start, _ in load.expected), max(start for start, _ in load.expected)
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while not _complete_to(running) >= last + WINDOW_MS:
        if time.monotonic() > deadline:
            raise SystemExit(f"not closed {DRAIN_TIMEOUT_S} s after the last event")
        time.sleep(POLL_S)
    path = f"/v1/metrics/{METRIC}?start={first}&end={last + WINDOW_MS}&state=closed&limit=100000"
    rows = running.get(path)["data"]
    return {(row["window_start"], row["campaign"]): row["views"] for row in rows}


def _complete_to(running: Product) -> int:
    metric = next(each for each in running.get("/v1/metrics")["metrics"] if each["metric"] == METRIC)
    return metric["complete_to"] or 0


def _raw_bytes(running: Product) -> int:
    """Memory of the raw streams in Redis."""
    client = connection.reader(find_redis_url(HERE / "e2e.yaml", None, running.folder, os.environ))
    sizes = [client.execute_command("MEMORY", "USAGE", keys.raw(STREAM, p), "SAMPLES", 0) or 0 for p in range(4)]
    client.close()
    return sum(map(int, sizes))


def _latencies_ms(running: Product) -> list[float]:
    """From each 202 to the first answer that counts the batch, while a reader asks all the time."""
    accepted: list[float] = []
    start_ms = int(time.time() * 1000) // WINDOW_MS * WINDOW_MS
    names = b'"user_id":"u","page_id":"p","ad_id":"a","ad_type":"mail","event_type":"view","campaign":"latency"'
    views = b'{"event_time":%d,' + names + b"}"

    def send() -> None:
        began = time.monotonic()
        for number in range(LATENCY_BATCHES):
            due = began + number * LATENCY_BATCH / LATENCY_EVENTS_PER_S
            time.sleep(max(0.0, due - time.monotonic()))
            body = b"\n".join([views % int(time.time() * 1000)] * LATENCY_BATCH)
            running.request("POST", f"/v1/streams/{STREAM}/events", body)
            accepted.append(time.monotonic())

    sender = threading.Thread(target=send)
    sender.start()
    seen: list[tuple[float, int]] = []
    path = f"/v1/metrics/{METRIC}?start={start_ms}&where.campaign=latency"
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while not seen or seen[-1][1] < LATENCY_BATCHES * LATENCY_BATCH:
        if time.monotonic() > deadline:
            raise SystemExit(f"only {seen[-1][1]} events of the latency run were counted")
        counted = sum(row["views"] for row in running.get(path)["data"])
        seen.append((time.monotonic(), counted))
    sender.join()
    queryable = (
        next(at for at, counted in seen if counted >= (number + 1) * LATENCY_BATCH) for number in range(LATENCY_BATCHES)
    )
    return [max(0.0, at - done) * 1000 for at, done in zip(queryable, accepted, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--batch", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=3)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    span_ms = asked.events // EVENTS_PER_MS + 3 * WINDOW_MS
    start_ms = (int(time.time() * 1000) - span_ms) // WINDOW_MS * WINDOW_MS
    load = make_load(asked.events, asked.batch, start_ms)
    size = sum(map(len, load.bodies)) / load.n_events
    print(f"{load.n_events} events of {size:.0f} bytes in batches of {asked.batch}", file=sys.stderr)
    runs = [run_once(load, asked.workers, asked.connections) for _ in range(asked.runs)]
    for run in runs:
        print(f"{run.events_per_s:,.0f} events/s  CORRECT {run.correct}/{run.expected}")
        print("  CPU µs per event:", {role: round(s / load.n_events * 1e6, 2) for role, s in run.cpu_s.items()})
        print(f"  {run.bytes_per_event:.0f} bytes an event in Redis")
        print(f"  202 to queryable at 1,000 events/s: p50 {run.latency_ms_p50:.0f} ms, p99 {run.latency_ms_p99:.0f} ms")
    if asked.json:
        asked.json.write_text(json.dumps([asdict(run) for run in runs], indent=1))
    if any(run.correct != run.expected for run in runs):
        raise SystemExit("the recount differs: no figure above counts")


if __name__ == "__main__":
    main()
