"""The end-to-end benchmark: HTTP NDJSON in, through Redis, to closed windows counted per group, all on the same cores.

    python bench/e2e.py [--events 2000000] [--batch 5000] [--workers 1] [--runs 1] [--json FILE]

The clock runs from the first POST until every window is closed and readable. No figure is printed without its recount:
`CORRECT n/n` compares every (window, campaign) with what the generator counted by itself.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load import EVENTS_PER_MS, WINDOW_MS, Load, make_load, start_sending
from bench.product import DRAIN_TIMEOUT_S, Product, ended_children_cpu_s, product
from pipeline.rim import keys

CONFIG = Path(__file__).resolve().parent / "e2e.yaml"
STREAM, METRIC = "ads", "views_by_campaign"
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


def run_once(load: Load, workers: int, connections: int) -> Run:
    with product(CONFIG, workers) as running:
        before_cpu = running.cpu_s()
        sender_before = ended_children_cpu_s()
        began = time.monotonic()
        sender = start_sending(running.port, STREAM, load.bodies, connections)
        sender.join()
        if sender.exitcode != 0:
            raise SystemExit("the sender failed")
        sent_s = time.monotonic() - began
        running.end_time(STREAM)
        counted = _closed_counts(running, load)
        seconds = time.monotonic() - began
        cpu_s = {role: used - before_cpu.get(role, 0.0) for role, used in running.cpu_s().items()}
        cpu_s["load generator"] = ended_children_cpu_s() - sender_before
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


def _closed_counts(running: Product, load: Load) -> dict[tuple[int, str], int]:
    """Wait until the last window of the load is closed, and read every count."""
    first, last = min(start for start, _ in load.expected), max(start for start, _ in load.expected)
    running.wait_until_complete(METRIC, last + WINDOW_MS)
    path = f"/v1/metrics/{METRIC}?start={first}&end={last + WINDOW_MS}&state=closed&limit=100000"
    rows = running.get(path)["data"]
    return {(row["window_start"], row["campaign"]): row["views"] for row in rows}


def _raw_bytes(running: Product) -> int:
    """Memory of the raw streams in Redis."""
    client = running.redis()
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
