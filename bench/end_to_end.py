"""One case from the first POST until everything is published: how long it took, what it cost, and whether it is right.

Invariant: no figure without its recount. A row that is missing, wrong or too many, or one late event more or less than
the load has, ends the benchmark with an error.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.cases import METRIC, Case, Task, write_config
from bench.product import DRAIN_TIMEOUT_S, POLL_S, Product, product
from bench.sending import Post, Sender
from bench.window_loads import n_correct
from pipeline.rim import keys

LOAD_GENERATOR = "load generator"


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run; CPU in microseconds an event, all but the load generator's being the pipeline's."""

    case: str
    n_events: int
    seconds: float
    sent_s: float
    correct: int
    expected: int
    cpu_us: dict[str, float]  # by process
    stage_us: dict[str, float]  # by thread: the stages of the line
    raw_bytes: float  # of an event in Redis
    peak_mb: dict[str, float]  # by process: the most that was ever resident

    @property
    def events_per_s(self) -> float:
        return self.n_events / self.seconds

    @property
    def pipeline_us(self) -> float:
        return sum(used for role, used in self.cpu_us.items() if role != LOAD_GENERATOR)


@contextmanager
def started(case: Case, tables: Mapping[str, str], workers: int = 1) -> Iterator[Product]:
    """A product of the case's own, with files beside its config."""
    with (
        tempfile.TemporaryDirectory(prefix="streamgauge-bench-config-") as folder,
        product(write_config(case, tables, Path(folder)), workers) as running,
    ):
        yield running


def post_of(case: Case, task: Task, connections: int) -> Post:
    return Post(f"/v1/streams/{case.source.stream}/events", task.bodies, task.content_type, connections, task.lead)


def run_once(case: Case, task: Task, workers: int, connections: int, *, from_log: bool = False) -> Run:
    """Measure one case; `from_log`: the worker stands still until everything is in the log, then the clock starts."""
    with started(case, task.tables, workers) as running:
        if from_log:
            with running.stopped("worker"):
                sent = Sender(running.port, post_of(case, task, connections)).join()
                running.end_time(case.source.stream)
                before, threads_before = running.cpu_s(), running.thread_cpu_s()
            began_s = time.monotonic()
        else:
            before, threads_before = running.cpu_s(), running.thread_cpu_s()
            sent = Sender(running.port, post_of(case, task, connections)).join()
            began_s = sent.began_s
            running.end_time(case.source.stream)
        running.wait_until_complete(METRIC, task.end_ms)
        if case.is_downstream:
            _wait_until_downstream(running, len(task.expected))
        seconds = time.monotonic() - began_s
        cpu_s, thread_s = running.cpu_s(), running.thread_cpu_s()
        peak_mb = {role: round(memory.peak_mb, 1) for role, memory in running.memory().items()}
        correct = recount(running, case, task)
        raw_bytes = retained_bytes(running, case) / task.n_events
    sent_s = max(sent.answered_s) - sent.began_s
    print(f"{case.name}: sent in {sent_s:.2f} s, done after {seconds:.2f} s", file=sys.stderr)
    cpu_us = _each(before, cpu_s, task.n_events)
    if not from_log:
        cpu_us[LOAD_GENERATOR] = round(sent.cpu_s / task.n_events * 1e6, 3)
    return Run(
        case=case.name,
        n_events=task.n_events,
        seconds=seconds,
        sent_s=sent_s,
        correct=correct,
        expected=len(task.expected),
        cpu_us=cpu_us,
        stage_us=_each(threads_before, thread_s, task.n_events),
        raw_bytes=raw_bytes,
        peak_mb=peak_mb,
    )


def recount(running: Product, case: Case, task: Task) -> int:
    """Say how many rows are right.

    Raises:
        SystemExit: not exactly the late events of the load came late.
    """
    late = running.get(f"/v1/stages/{METRIC}")["ledger"]["late"]
    if late != task.n_late:
        raise SystemExit(
            f"{case.name}: {late} events came late, not the {task.n_late} that the load makes late: "
            "a sender stood still for longer than the disorder, or an event was judged wrongly"
        )
    return n_correct(task.read(running), task.expected, task.close)


def retained_bytes(running: Product, case: Case) -> int:
    """Memory of the raw stream in Redis, every partition."""
    client = running.redis()
    logs = [keys.raw(case.source.stream, partition) for partition in range(case.partitions)]
    sizes = [client.execute_command("MEMORY", "USAGE", log, "SAMPLES", 0) or 0 for log in logs]
    client.close()
    return sum(map(int, sizes))


def _each(before: Mapping[str, float], after: Mapping[str, float], n_events: int) -> dict[str, float]:
    """Microseconds an event, of what took any time."""
    used = {name: round((seconds - before.get(name, 0.0)) / n_events * 1e6, 3) for name, seconds in after.items()}
    return {name: micros for name, micros in sorted(used.items()) if micros > 0}


def _wait_until_downstream(running: Product, n_rows: int) -> None:
    client = running.redis()
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while int(client.execute_command("XLEN", keys.rows(METRIC))) < n_rows:
        if time.monotonic() > deadline:
            raise SystemExit(f"not every row is downstream {DRAIN_TIMEOUT_S} s after the last window closed")
        time.sleep(POLL_S)
    client.close()
