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
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cases import KINDS, Case, Loads
from bench.end_to_end import Run, run_once
from bench.window_bytes import measure_bytes, print_bytes

SHARE_OF_BASELINE = 1 / 3  # no kind may be slower than that
QUICK_EVENTS, QUICK_USERS = 60_000, 10_000
ROLES = ("api", "redis", "worker")


def print_table(runs: Sequence[Run]) -> list[str]:
    """Print every case beside its baseline; return the cases that are slower than they may be."""
    by_case: dict[str, list[Run]] = {}
    for run in runs:
        by_case.setdefault(run.case, []).append(run)
    rate = {name: statistics.median(run.events_per_s for run in found) for name, found in by_case.items()}
    used = {name: statistics.median(run.pipeline_us for run in found) for name, found in by_case.items()}
    slow = []
    print(f"\n{'kind':30}{'events/s':>10}{'of base':>9}{'CPU of base':>12}   CPU µs an event: {' '.join(ROLES)}")
    for case in (case for case in KINDS if case.name in by_case):
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
    wanted = {case.name for case in KINDS if any(word in case.name for word in words or [""])}
    wanted |= {case.baseline for case in KINDS if case.name in wanted and case.baseline}
    return [case for case in KINDS if case.name in wanted]


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
