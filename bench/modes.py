"""The modes: each measures one or two rows of the table of targets, and nothing else does.

Invariant: a mode that the product cannot do yet says so, with the product's own words, and gives no figure.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bench.cases import CROWD, DISTINCT, HOPPING, SESSIONS, YAHOO, Case, Coding, Loads, write_config
from bench.end_to_end import Run, run_once
from bench.figures import Figure
from bench.footprint import OPEN_WINDOWS, idle_cost, memory_with_open_windows
from bench.latency import measure_latencies
from bench.sending import SendingError
from pipeline.errors import ConfigError
from pipeline.runtime.config import load_config

UNSUPPORTED_MEDIA_TYPE = 415
POST_CONNECTIONS = 16


class NotMeasuredError(Exception):
    """The product refuses what the mode needs; the message is its own."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done: the defaults are those of the table."""

    n_events: int = 2_000_000
    n_users: int = 1_000_000
    batch: int = 5_000
    events_per_ms: float = 10.0
    late: float = 0.01
    skew: float = 0.0
    workers: int = 1
    connections: int = 3
    n_posts: int = 40_000
    latency_s: float = 12.0
    idle_s: float = 30.0
    settle_s: float = 5.0


# Is it right, not how fast: some seconds a mode.
QUICK = Scale(
    n_events=60_000,
    n_users=10_000,
    batch=500,
    events_per_ms=0.25,
    n_posts=500,
    latency_s=1.0,
    idle_s=1.0,
    settle_s=0.0,
)


def _loads(scale: Scale, *, coding: Coding = "ndjson", minutes: int = 1) -> Loads:
    return Loads(
        n_events=scale.n_events,
        n_users=scale.n_users,
        batch=scale.batch,
        events_per_ms=scale.events_per_ms,
        late=scale.late,
        skew=scale.skew,
        minutes=minutes,
        coding=coding,
    )


def _figure(name: str, value: float, run: Run) -> Figure:
    return Figure(name, value, run.correct, run.expected, asdict(run))


def _rate_of(name: str, case: Case) -> Callable[[Scale], Iterator[Figure]]:
    """A mode that sends a case over HTTP and waits until its windows are there."""

    def mode(scale: Scale) -> Iterator[Figure]:
        loads = _loads(scale)
        while True:
            run = run_once(case, loads.task(case), scale.workers, scale.connections)
            yield _figure(name, run.events_per_s, run)

    return mode


def _catch_up(name: str, coding: Coding) -> Callable[[Scale], Iterator[Figure]]:
    def mode(scale: Scale) -> Iterator[Figure]:
        task = _loads(scale, coding=coding).task(YAHOO)
        while True:
            run = _taken(lambda: run_once(YAHOO, task, 1, scale.connections, from_log=True))
            yield _figure(name, run.events_per_s, run)

    return mode


def _arrow(scale: Scale) -> Iterator[Figure]:
    task = _loads(scale, coding="arrow").task(YAHOO)
    while True:
        run = _taken(lambda: run_once(YAHOO, task, scale.workers, scale.connections))
        yield _figure("arrow", run.events_per_s, run)


def _taken(measure: Callable[[], Run]) -> Run:
    try:
        return measure()
    except SendingError as error:
        if error.status != UNSUPPORTED_MEDIA_TYPE:
            raise
        raise NotMeasuredError(str(error)) from None


def _requests(scale: Scale) -> Iterator[Figure]:
    """Single events: the rate is that of answers, and every event is recounted like any other."""
    loads = Loads(scale.n_posts, scale.n_users, batch=1)
    task = replace(loads.task(YAHOO), lead=POST_CONNECTIONS)
    while True:
        run = run_once(YAHOO, task, scale.workers, POST_CONNECTIONS)
        yield _figure("requests", run.n_events / run.sent_s, run)


def _latency(scale: Scale) -> Iterator[Figure]:
    while True:
        found = measure_latencies(scale.latency_s)
        details = {"batches": len(found.ms), "least": found.ms[0], "greatest": found.ms[-1]}
        for q in (50, 99):
            yield Figure(f"latency-p{q}", found.quantile(q / 100), found.correct, found.expected, details)


def _retained(name: str, settings: tuple[str, ...]) -> Callable[[Scale], Iterator[Figure]]:
    """Bytes of Redis memory an event, sent at full speed."""

    def mode(scale: Scale) -> Iterator[Figure]:
        case = replace(YAHOO, settings=settings)
        task = _loads(scale).task(case)
        _require_config(case, task.tables)
        while True:
            run = run_once(case, task, scale.workers, scale.connections)
            yield _figure(name, run.raw_bytes, run)

    return mode


def _require_config(case: Case, tables: Mapping[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-config-") as folder:
        config = write_config(case, tables, Path(folder))
        try:
            load_config(config, {})
        except ConfigError as error:
            raise NotMeasuredError(str(error).replace(str(config), config.name)) from None


def _memory(scale: Scale) -> Iterator[Figure]:
    loads = _loads(scale, minutes=OPEN_WINDOWS)
    while True:
        found = memory_with_open_windows(loads, scale.connections)
        for role in ("worker", "api"):
            yield Figure(f"{role}-memory", found.resident_mb[role], found.correct, found.expected, found.details)


def _workers(scale: Scale) -> Iterator[Figure]:
    """CPU of an event with two workers, over that with one, in runs one after the other."""
    task = _loads(scale).task(YAHOO)
    while True:
        one, two = (run_once(YAHOO, task, workers, scale.connections) for workers in (1, 2))
        details: dict[str, Any] = {"one": asdict(one), "two": asdict(two)}
        correct, expected = one.correct + two.correct, one.expected + two.expected
        yield Figure("two-workers", two.pipeline_us / one.pipeline_us, correct, expected, details)


def _idle(scale: Scale) -> Iterator[Figure]:
    while True:
        found = idle_cost(scale.idle_s, scale.settle_s)
        yield Figure("idle-cpu", found.cpu_percent, 0, 0, found.details)
        yield Figure("idle-memory", found.memory_mb, 0, 0, found.details)


# Each gives its figures run after run, for ever: the caller takes as many as it wants.
MODES: Mapping[str, Callable[[Scale], Iterator[Figure]]] = {
    "yahoo": _rate_of("yahoo", YAHOO),
    "catch-up": _catch_up("catch-up", "ndjson"),
    "catch-up-arrow": _catch_up("catch-up-arrow", "arrow"),
    "sensors": _rate_of("sensors", HOPPING),
    "groups": _rate_of("groups", CROWD),
    "sessions": _rate_of("sessions", SESSIONS),
    "distinct": _rate_of("distinct", DISTINCT),
    "arrow": _arrow,
    "requests": _requests,
    "latency": _latency,
    "retained": _retained("retained", ()),
    "retained-zstd": _retained("retained-zstd", ("compression: zstd",)),
    "memory": _memory,
    "workers": _workers,
    "idle": _idle,
}
