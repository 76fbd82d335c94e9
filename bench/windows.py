"""Every kind of window, end to end: HTTP NDJSON in, through Redis, to published windows, all on the same cores.

    python bench/windows.py [--quick] [--only hopping sessions] [--events 2000000] [--users 1000000] [--json FILE]

Each kind is measured beside its baseline, plain tumbling counts over the same events and groups. The clock runs from
the first POST until everything is published (and downstream, where it goes there). No figure without its recount:
CORRECT n/n compares every row with what numpy says of the same events.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import redis

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.load import start_sending
from bench.product import DRAIN_TIMEOUT_S, POLL_S, Product, ended_children_cpu_s, product
from bench.window_bytes import measure_bytes, print_bytes
from bench.window_loads import (
    EVENTS_PER_MS,
    Answer,
    Close,
    PageLoad,
    SensorLoad,
    VisitLoad,
    n_correct,
    page_load,
    same,
    same_readings,
    same_visitors,
    sensor_load,
    visit_load,
)
from pipeline.rim import keys

SHARE_OF_BASELINE = 1 / 3  # no kind may be slower than that
QUICK_EVENTS, QUICK_USERS = 60_000, 10_000
HOP_MS, HOP_EVERY_MS = 60_000, 10_000
PAGE_WINDOW_MS = 60_000
TOP = 10
GAP_MS = 30_000
WHOLE_MS = 3_600_000  # one window with every visit in it
ROLES = ("api", "redis", "worker")
METRIC = "measured"

STREAM = """
redis: {{url: embedded}}
streams:
  {name}:
    schema: {{ts: {{type: timestamp, unit: ms}}, {fields}}}
    time: {{field: ts, disorder: 10s}}   # several senders at once: a batch may overtake another
    partition_by: {partition_by}
    partitions: 4
    retention: {{time: 24h, bytes: 20GB}}
stages:
  measured:
    from: {name}
    group_by: [{group}]
    {stage}
"""
SENSORS = ("sensors", "sensor: string, value: float, unit: string, site: string", None, "sensor")
PAGES = ("pages", "page: string, user: string, agent: string", "user", "page")
VISITS = ("visits", "user: string, page: string, agent: string", "user", "user")
COUNT = "aggregates: {n: count}"


@dataclass(frozen=True, slots=True)
class Case:
    """One kind: its stream (name, fields, partition_by, group), its stage, and the case it is compared with."""

    name: str
    baseline: str | None
    stream: tuple[str, str, str | None, str]
    stage: Sequence[str]

    @property
    def config(self) -> str:
        name, fields, partition_by, group = self.stream
        text = STREAM.format(
            name=name, fields=fields, partition_by=partition_by, group=group, stage="\n    ".join(self.stage)
        )
        return text.replace("    partition_by: None\n", "")


READINGS = 'aggregates: {n: count, mean: mean(value), low: min(value), high: max(value), p95: "quantile(value, 0.95)"}'
VISITORS = f'aggregates: {{users: distinct(user), top: "topk(user, {TOP})"}}'
WHOLE = ("window: {tumbling: 1h}", COUNT, "max_groups: 2000000")
CASES = (
    Case("tumbling, 1,000 groups", None, SENSORS, ("window: {tumbling: 10s}", COUNT)),
    Case("hopping 60 s / 10 s", "tumbling, 1,000 groups", SENSORS, ("window: {hopping: 60s, every: 10s}", READINGS)),
    Case("tumbling, 100 groups", None, PAGES, ("window: {tumbling: 1m}", COUNT)),
    Case("distinct and topk", "tumbling, 100 groups", PAGES, ("window: {tumbling: 1m}", VISITORS)),
    Case("tumbling, 1 M groups", None, VISITS, (*WHOLE, "output: none")),
    Case("tumbling, 1 M groups, rows", "tumbling, 1 M groups", VISITS, (*WHOLE, "output: rows")),
    Case("sessions, 1 M keys", "tumbling, 1 M groups", VISITS, ("window: {session: 30s}", COUNT, "output: none")),
    Case(
        "sessions, 1 M keys, rows",
        "tumbling, 1 M groups, rows",
        VISITS,
        ("window: {session: 30s}", COUNT, "output: rows"),
    ),
)


@dataclass(frozen=True, slots=True)
class Task:
    """What a case has to do: the bodies, and when it is done, what its rows must be."""

    bodies: Sequence[bytes]
    n_events: int
    end_ms: int
    expected: Mapping[Any, Answer]
    close: Close
    read: Callable[[Product], Mapping[Any, Answer]]


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run; `cpu_us` of an event by process, all but the load generator being the pipeline's."""

    case: str
    n_events: int
    seconds: float
    correct: int
    expected: int
    cpu_us: dict[str, float]

    @property
    def events_per_s(self) -> float:
        return self.n_events / self.seconds

    @property
    def pipeline_us(self) -> float:
        return sum(used for role, used in self.cpu_us.items() if role != "load generator")


@dataclass(slots=True)
class Loads:
    """The loads, made once and only when a case asks for them."""

    n_events: int
    n_users: int
    batch: int
    _made: dict[str, Any] = field(default_factory=dict)

    def task(self, case: Case) -> Task:
        load, bodies = self._load(case.stream[0])
        n_events = len(load.times_ms)
        end_ms = int(load.times_ms[-1])
        if isinstance(load, VisitLoad):
            is_session = case.name.startswith("sessions")
            wanted = load.sessions() if is_session else load.counts()
            end_ms = end_ms + GAP_MS if is_session else -(-(end_ms + 1) // WHOLE_MS) * WHOLE_MS
            return Task(bodies, n_events, end_ms, wanted, same, latest_rows)
        expected, close = self._expected(case, load)
        size_ms = (
            HOP_MS if case.name.startswith("hopping") else PAGE_WINDOW_MS if case.stream is PAGES else HOP_EVERY_MS
        )
        last_ms = max(start for start, _ in expected) + size_ms
        group = case.stream[3]

        def read(running: Product) -> dict[tuple[int, str], Answer]:
            rows = running.get(f"/v1/metrics/{METRIC}?start={min(expected)[0]}&state=closed&limit=100000")["data"]
            return {(row["window_start"], row[group]): row for row in rows}

        return Task(bodies, n_events, last_ms, expected, close, read)

    def _expected(self, case: Case, load: SensorLoad | PageLoad) -> tuple[Mapping[tuple[int, str], Answer], Close]:
        is_baseline = case.baseline is None
        if isinstance(load, SensorLoad):
            return (
                (load.counts(HOP_EVERY_MS), same) if is_baseline else (load.hops(HOP_MS, HOP_EVERY_MS), same_readings)
            )
        if is_baseline:
            return load.counts(PAGE_WINDOW_MS), same
        return load.visitors(PAGE_WINDOW_MS, TOP), same_visitors

    def _load(self, stream: str) -> tuple[Any, list[bytes]]:
        if stream not in self._made:
            self._made.clear()  # one at a time: a load of 2 M events takes some 300 MB
            load: SensorLoad | PageLoad | VisitLoad
            if stream == "visits":
                load = visit_load(self.n_users, whole_hour_ago())
            elif stream == "pages":
                load = page_load(self.n_events, started_ago(self.n_events), self.n_users)
            else:
                load = sensor_load(self.n_events, started_ago(self.n_events))
            self._made[stream] = (load, load.bodies(self.batch))
        return cast("tuple[Any, list[bytes]]", self._made[stream])


def started_ago(n_events: int) -> int:
    """A start on a whole minute, so that every window ends in the past: no tick closes one that lies ahead."""
    span_ms = n_events // EVENTS_PER_MS + max(HOP_MS, PAGE_WINDOW_MS)
    return (int(time.time() * 1000) - span_ms) // PAGE_WINDOW_MS * PAGE_WINDOW_MS


def whole_hour_ago() -> int:
    """The beginning of the last hour that is over."""
    return (int(time.time() * 1000) // WHOLE_MS - 1) * WHOLE_MS


def latest_rows(running: Product) -> dict[str, Answer]:
    """The newest row of every group: of a million, the API would take ten answers that each read all."""
    client = running.redis()
    found: dict[str, Answer] = {}
    cursor = 0
    while True:
        cursor, page = client.execute_command("HSCAN", keys.latest(METRIC), cursor, "COUNT", 10_000)
        pairs = page.items() if isinstance(page, dict) else zip(page[::2], page[1::2], strict=True)
        found.update((json.loads(group)[0], json.loads(row)) for group, row in pairs)
        cursor = int(cursor)
        if not cursor:
            client.close()
            return found


def run_once(case: Case, task: Task, workers: int, connections: int) -> Run:
    """Measure one case on a product of its own."""
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-config-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(case.config)
        with product(config, workers) as running:
            before, sender_before = running.cpu_s(), ended_children_cpu_s()
            began = time.monotonic()
            sender = start_sending(running.port, case.stream[0], task.bodies, connections)
            sender.join()
            if sender.exitcode != 0:
                raise SystemExit("the sender failed")
            sent_s = time.monotonic() - began
            running.end_time(case.stream[0])
            running.wait_until_complete(METRIC, task.end_ms)
            if "output: none" not in case.stage:
                _wait_until_downstream(running, len(task.expected))
            seconds = time.monotonic() - began
            cpu_s = {role: used - before.get(role, 0.0) for role, used in running.cpu_s().items()}
            cpu_s["load generator"] = ended_children_cpu_s() - sender_before
            found = task.read(running)
            late = running.get(f"/v1/stages/{METRIC}")["ledger"]["late"]
    if late:
        raise SystemExit(f"{case.name}: {late} events came late: a sender stood still for longer than the disorder")
    print(f"{case.name}: sent in {sent_s:.2f} s, done after {seconds:.2f} s", file=sys.stderr)
    cpu_us = {role: round(used / task.n_events * 1e6, 3) for role, used in cpu_s.items()}
    correct = n_correct(found, task.expected, task.close)
    return Run(case.name, task.n_events, seconds, correct, len(task.expected), cpu_us)


def _wait_until_downstream(running: Product, n_rows: int) -> None:
    client: redis.Redis = running.redis()
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while int(client.execute_command("XLEN", keys.rows(METRIC))) < n_rows:
        if time.monotonic() > deadline:
            raise SystemExit(f"not every row is downstream {DRAIN_TIMEOUT_S} s after the last window closed")
        time.sleep(POLL_S)
    client.close()


def print_table(runs: Sequence[Run]) -> list[str]:
    """Print every case beside its baseline; return the cases that are slower than they may be."""
    by_case: dict[str, list[Run]] = {}
    for run in runs:
        by_case.setdefault(run.case, []).append(run)
    rate = {name: statistics.median(run.events_per_s for run in found) for name, found in by_case.items()}
    used = {name: statistics.median(run.pipeline_us for run in found) for name, found in by_case.items()}
    slow = []
    print(f"\n{'kind':30}{'events/s':>10}{'of base':>9}{'CPU of base':>12}   CPU µs an event: {' '.join(ROLES)}")
    for case in (case for case in CASES if case.name in by_case):
        base = case.baseline if case.baseline in by_case else None
        share = rate[case.name] / rate[base] if base else None
        more = used[case.name] / used[base] if base else None
        cpu = (statistics.median(run.cpu_us.get(role, 0.0) for run in by_case[case.name]) for role in ROLES)
        print(
            f"{case.name:30}{rate[case.name]:>10,.0f}{_shown(share, '.2f'):>9}{_shown(more, '.1f', ' x'):>12}   "
            + "  ".join(f"{each:.2f}" for each in cpu)
        )
        if share is not None and share < SHARE_OF_BASELINE:
            slow.append(case.name)
    return slow


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "" if value is None else f"{value:{form}}{unit}"


def chosen(words: Sequence[str]) -> list[Case]:
    """The cases whose name has one of the words, all without any; and their baselines."""
    wanted = {case.name for case in CASES if any(word in case.name for word in words or [""])}
    wanted |= {case.baseline for case in CASES if case.name in wanted and case.baseline}
    return [case for case in CASES if case.name in wanted]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2_000_000, help="of the cases over sensors and pages")
    parser.add_argument("--users", type=int, default=1_000_000, help="groups of the large cases, two events each")
    parser.add_argument("--batch", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--connections", type=int, default=3)
    parser.add_argument("--runs", type=int, default=1, help="of each case; the table shows medians")
    parser.add_argument(
        "--only", nargs="*", default=[], help="cases whose name has one of these words; with their baselines"
    )
    parser.add_argument("--bytes", action=argparse.BooleanOptionalAction, default=True, help="bytes per group as well")
    parser.add_argument("--quick", action="store_true", help="small numbers: is it right, not how fast")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    if asked.quick:
        asked.events, asked.users = QUICK_EVENTS, QUICK_USERS
    loads = Loads(asked.events, asked.users, asked.batch)
    runs: list[Run] = []
    for _ in range(asked.runs):
        for case in chosen(asked.only):
            run = run_once(case, loads.task(case), asked.workers, asked.connections)
            print(f"{case.name}: {run.events_per_s:,.0f} events/s  CORRECT {run.correct}/{run.expected}", flush=True)
            runs.append(run)
    slow = print_table(runs)
    sizes = measure_bytes(quick=asked.quick) if asked.bytes else []
    print_bytes(sizes)
    if asked.json:
        figures = {"runs": [asdict(run) for run in runs], "bytes": [asdict(size) for size in sizes]}
        asked.json.write_text(json.dumps(figures, indent=1))
    if any(run.correct != run.expected for run in runs):
        raise SystemExit("the recount differs: no figure above counts")
    if slow and not asked.quick:
        raise SystemExit(f"slower than a third of plain tumbling counts: {', '.join(slow)}")


if __name__ == "__main__":
    main()
