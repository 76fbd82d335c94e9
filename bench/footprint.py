"""What the product takes: memory with many groups in open windows, and CPU and memory while nothing happens."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.cases import CROWD, METRIC, Loads
from bench.end_to_end import post_of, recount, started
from bench.product import ROOT, product
from bench.sending import Sender

OPEN_WINDOWS = 3
HELD_OPEN = "10m"  # disorder: no window ends before the memory was read
SETTLE_S = 5.0  # what starts is not idle


@dataclass(frozen=True, slots=True)
class Footprint:
    """Megabytes resident by process (shared pages counted in each), and all that was seen."""

    resident_mb: dict[str, float]
    correct: int
    expected: int
    details: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Idle:
    """CPU in percent of a core, and megabytes with shared pages counted once."""

    cpu_percent: float
    memory_mb: float
    details: dict[str, Any]


def memory_with_open_windows(loads: Loads, connections: int) -> Footprint:
    """Fill OPEN_WINDOWS windows with an event of every group, read the memory while they are open, then close them."""
    case = replace(CROWD, disorder=HELD_OPEN)
    task = loads.task(case)
    with started(case, task.tables) as running:
        Sender(running.port, post_of(case, task, connections)).join()
        running.wait_until_read([METRIC], task.n_events)
        found = running.memory()
        running.end_time(case.source.stream)
        running.wait_until_complete(METRIC, task.end_ms)
        correct = recount(running, case, task)
    details = {"groups": loads.n_users, "windows": OPEN_WINDOWS, "memory": {r: asdict(m) for r, m in found.items()}}
    return Footprint({role: size.resident_mb for role, size in found.items()}, correct, len(task.expected), details)


def idle_cost(seconds: float, settle_s: float = SETTLE_S) -> Idle:
    """Start the shipped config, send nothing, and look."""
    with product(ROOT / "config.yaml", 1) as running:
        time.sleep(settle_s)
        before, began_s = running.cpu_s(), time.monotonic()
        time.sleep(seconds)
        after, took_s = running.cpu_s(), time.monotonic() - began_s
        found = running.memory()
    percent = {role: round((used - before.get(role, 0.0)) / took_s * 100, 2) for role, used in after.items()}
    details = {"seconds": took_s, "cpu_percent": percent, "memory": {role: asdict(m) for role, m in found.items()}}
    return Idle(sum(percent.values()), sum(size.proportional_mb for size in found.values()), details)
