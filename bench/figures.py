"""The targets, what was measured for each, and both as JSON and as lines to read.

Invariant: a figure whose recount differs is in no table: `require_correct` ends the benchmark first.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Better = Literal["more", "less"]


@dataclass(frozen=True, slots=True)
class Target:
    """One row of the table: what is aimed at, and the mode that measures it."""

    figure: str
    mode: str
    what: str
    unit: str
    better: Better
    value: float

    @property
    def aim(self) -> str:
        return f"{'≥' if self.better == 'more' else '≤'} {self.value:,.10g} {self.unit}"


TARGETS = (
    Target("yahoo", "yahoo", "Yahoo benchmark, HTTP NDJSON to windows", "events/s", "more", 1_000_000),
    Target("catch-up", "catch-up", "the same from the log, one worker only, NDJSON", "events/s", "more", 2_000_000),
    Target("catch-up-arrow", "catch-up-arrow", "the same on Arrow bodies", "events/s", "more", 6_000_000),
    Target("sensors", "sensors", "sensors, hopping 60 s / 10 s with p95", "events/s", "more", 700_000),
    Target("groups", "groups", "1 M groups in one window of 60 s", "events/s", "more", 400_000),
    Target("sessions", "sessions", "sessions of 1 M users", "events/s", "more", 400_000),
    Target("distinct", "distinct", "distinct users per page", "events/s", "more", 400_000),
    Target("arrow", "arrow", "Yahoo benchmark, Arrow batches over HTTP", "events/s", "more", 2_500_000),
    Target("requests", "requests", "single-event POSTs", "requests/s", "more", 8_000),
    Target("latency-p50", "latency", "202 to queryable at 10,000 events/s, median", "ms", "less", 60),
    Target("latency-p99", "latency", "202 to queryable at 10,000 events/s, 99th percentile", "ms", "less", 250),
    Target("retained", "retained", "Redis memory of a retained raw event", "bytes", "less", 250),
    Target("retained-zstd", "retained-zstd", "the same with compression: zstd", "bytes", "less", 80),
    Target("worker-memory", "memory", "worker at 1 M groups, 3 open windows", "MB", "less", 400),
    Target("api-memory", "memory", "API at 1 M groups, 3 open windows", "MB", "less", 250),
    Target("two-workers", "workers", "CPU of an event, two workers to one", "times", "less", 1.1),
    Target("idle-cpu", "idle", "idle, CPU of the whole product", "% of a core", "less", 3),
    Target("idle-memory", "idle", "idle, memory of the whole product", "MB", "less", 350),
)
TARGET_OF = {target.figure: target for target in TARGETS}


@dataclass(frozen=True, slots=True)
class Figure:
    """One value of one run; `expected` is 0 where there is nothing to recount (an idle product)."""

    figure: str
    value: float
    correct: int
    expected: int
    details: Mapping[str, Any]
    load_average: float | None = None  # before the run: whoever takes the figures knows when one begins


@dataclass(frozen=True, slots=True)
class Summary:
    """The runs of one figure: the median, and the least and the greatest value."""

    median: float
    least: float
    greatest: float
    n_runs: int


def require_correct(figure: Figure) -> Figure:
    """Return the figure.

    Raises:
        SystemExit: a row is missing, wrong or too many.
    """
    if figure.correct != figure.expected:
        raise SystemExit(f"{figure.figure}: CORRECT {figure.correct}/{figure.expected}: the recount differs, no result")
    return figure


def summary(values: Sequence[float]) -> Summary:
    return Summary(statistics.median(values), min(values), max(values), len(values))


def line(figure: Figure) -> str:
    """One figure with its recount and its aim."""
    target = TARGET_OF[figure.figure]
    recount = f"CORRECT {figure.correct}/{figure.expected}" if figure.expected else "nothing to recount"
    return f"{figure.figure:16}{shown(figure.value):>12} {target.unit:12} {recount:28} aim {target.aim}"


def shown(value: float) -> str:
    """Whole numbers where they are large, else three digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def positive(text: str) -> int:
    """A number from the command line that must be at least 1.

    Raises:
        ArgumentTypeError: it is not.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def write_json(
    path: Path,
    kind: str,
    machine: Mapping[str, Any],
    scale: Mapping[str, Any],
    figures: Sequence[Any],
    not_measured: Mapping[str, str] | None = None,
) -> None:
    """Write `figures` (dataclasses) of one `kind` of benchmark, with the machine as it was before, and the scale."""
    document = {
        "kind": kind,
        "machine": machine,
        "scale": scale,
        "figures": [asdict(figure) for figure in figures],
        "not_measured": dict(not_measured or {}),
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
