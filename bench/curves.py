"""Scaling curves: events/s and memory against one thing at a time, everything else as in the table of targets.

    python bench/curves.py [CURVE …] [--events 1000000] [--runs 1] [--quick] [--json FILE]

Every point is a run of its own product, recounted; bench/report.py draws them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cases import KEYS, YAHOO, Case, Loads
from bench.end_to_end import Run, run_once
from bench.figures import positive, write_json
from bench.machine import described, load_average

WINDOW_S = 10  # of the Yahoo benchmark
BATCH = 5_000
OPEN_SPAN_MS = 1_000_000  # of event time: longer than the most windows that are held open at once
QUICK_EVENTS = 20_000


@dataclass(frozen=True, slots=True)
class Point:
    """One run of a curve at `x`."""

    curve: str
    x: int
    events_per_s: float
    worker_peak_mb: float
    api_peak_mb: float
    redis_peak_mb: float
    cpu_us: float
    correct: int
    expected: int
    load_average: float


@dataclass(frozen=True, slots=True)
class Setting:
    """What one point is measured with."""

    case: Case
    loads: Loads
    workers: int = 1


@dataclass(frozen=True, slots=True)
class Curve:
    """What changes, where it is looked at, and how a point is set up for so many events."""

    what: str
    places: Sequence[int]
    setting: Callable[[int, int], Setting]
    quick_places: Sequence[int]


def _yahoo(n_events: int, batch: int = BATCH, events_per_ms: float = 10.0) -> Loads:
    return Loads(n_events, n_users=1, batch=batch, events_per_ms=events_per_ms)


def _of_batch(n_events: int, batch: int) -> Setting:
    return Setting(YAHOO, _yahoo(n_events, batch))


def _of_groups(n_events: int, groups: int) -> Setting:
    return Setting(KEYS, Loads(n_events, n_users=groups, batch=BATCH))


def _of_partitions(n_events: int, partitions: int) -> Setting:
    return Setting(replace(YAHOO, partitions=partitions), _yahoo(n_events))


def _of_workers(n_events: int, workers: int) -> Setting:
    return Setting(YAHOO, _yahoo(n_events), workers)


def _of_windows(n_events: int, windows: int) -> Setting:
    disorder_s = (windows - 1) * WINDOW_S
    loads = _yahoo(n_events, batch=1_000, events_per_ms=n_events / OPEN_SPAN_MS)
    loads.older_ms = disorder_s * 1_000
    return Setting(replace(YAHOO, disorder=f"{disorder_s}s"), loads)


CURVES: Mapping[str, Curve] = {
    "batch": Curve("events in a request", (100, 500, 1_000, 5_000, 10_000, 30_000), _of_batch, (100, 1_000)),
    "groups": Curve("groups in one window", (100, 1_000, 10_000, 100_000, 1_000_000), _of_groups, (100, 1_000)),
    "partitions": Curve("partitions", (1, 2, 4, 8, 16), _of_partitions, (1, 4)),
    "workers": Curve("workers", (1, 2, 4), _of_workers, (1, 2)),
    "windows": Curve("windows open at once", (2, 6, 11, 51), _of_windows, (2, 6)),
}


def measure(name: str, places: Sequence[int], n_events: int, connections: int) -> Iterator[Point]:
    """The points of a curve.

    Raises:
        SystemExit: a row of one is wrong.
    """
    curve = CURVES[name]
    for x in places:
        load = load_average()
        setting = curve.setting(n_events, x)
        run = run_once(setting.case, setting.loads.task(setting.case), setting.workers, connections)
        if run.correct != run.expected:
            raise SystemExit(f"{name} at {x}: CORRECT {run.correct}/{run.expected}: the recount differs, no result")
        yield _point(name, x, run, load)


def _point(curve: str, x: int, run: Run, load: float) -> Point:
    worker, api, redis = (run.peak_mb[role] for role in ("worker", "api", "redis"))
    return Point(curve, x, run.events_per_s, worker, api, redis, run.pipeline_us, run.correct, run.expected, load)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curves", nargs="*", metavar="CURVE", help=f"all without any: {', '.join(CURVES)}")
    parser.add_argument("--events", type=positive, default=1_000_000)
    parser.add_argument("--connections", type=positive, default=3)
    parser.add_argument("--runs", type=positive, default=1, help="of each point; the drawing shows medians")
    parser.add_argument("--quick", action="store_true", help="small numbers: is it right, not how fast")
    parser.add_argument("--json", type=Path, help="write the points to this file")
    asked = parser.parse_args()
    unknown = [name for name in asked.curves if name not in CURVES]
    if unknown:
        parser.error(f"no curve is called {unknown[0]!r}. There are {', '.join(CURVES)}")
    n_events = QUICK_EVENTS if asked.quick else asked.events
    machine = described()
    points: list[Point] = []
    for _ in range(asked.runs):
        for name in asked.curves or CURVES:
            curve = CURVES[name]
            for point in measure(
                name, curve.quick_places if asked.quick else curve.places, n_events, asked.connections
            ):
                rate, megabytes = f"{point.events_per_s:,.0f} events/s", f"worker {point.worker_peak_mb:.0f} MB"
                recount = f"CORRECT {point.correct}/{point.expected}"
                print(f"{curve.what:24}{point.x:>10,}{rate:>22}  {megabytes:18}{recount}", flush=True)
                points.append(point)
                if asked.json:  # after each: what is interrupted keeps what it has
                    write_json(asked.json, "curves", machine, {"n_events": n_events}, points)


if __name__ == "__main__":
    main()
