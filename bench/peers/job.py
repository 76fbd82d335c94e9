"""One job of a peer in a process of its own: what it is given, the clock round its work, and the answer it writes.

Only the standard library is imported here, since a peer runs in whatever environment has its package. What is outside
the clock is a present to the peer: starting up, importing, compiling, and a first run where a compiler warms up.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# The two works, as bench/cases.py has them. A row is (start of the window, group, values).
WINDOW_MS = 10_000
HOP_MS, HOP_EVERY_MS = 60_000, 10_000
DISORDER_MS = 10_000
Row = tuple[int, str, dict[str, Any]]
Rows = Iterable[Row]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Job:
    """A folder with `events.ndjson` (and `ads.csv`), read by the peer as it reads files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events = folder / "events.ndjson"
        self.ads = folder / "ads.csv"
        self.seconds = 0.0
        self.cpu_s = 0.0

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Round what is measured; the last one counts, so that a warm-up may be one too."""
        before_s, began_s = tree_cpu_s(os.getpid()), time.monotonic()
        yield
        self.seconds = time.monotonic() - began_s
        self.cpu_s = tree_cpu_s(os.getpid()) - before_s

    def campaigns(self) -> dict[str, str]:
        """The table: ad → campaign."""
        found: dict[str, str] = {}
        for line in self.ads.read_text().splitlines()[1:]:
            ad, campaign = line.split(",")
            found[ad] = campaign
        return found


def tree_cpu_s(pid: int) -> float:
    """CPU seconds of a process, of those it started, and of those they have waited for."""
    ticks = {}
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it has ended meanwhile; whoever waited for it has its time
            parents[int(folder.name)] = int(fields[1])
            ticks[int(folder.name)] = sum(map(int, fields[11:15]))
    return sum(used for each, used in ticks.items() if pid in _line_of(each, parents)) / TICKS_PER_S


def _line_of(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid in parents:
        yield pid
        pid = parents[pid]


def hops_of(panes: dict[tuple[int, str], list[float]]) -> Iterator[Row]:
    """The hopping windows out of the values of each (pane, sensor), for peers that merge by themselves."""
    windows: dict[tuple[int, str], list[float]] = {}
    for (pane, sensor), values in panes.items():
        for start in range(pane - HOP_MS + HOP_EVERY_MS, pane + 1, HOP_EVERY_MS):
            windows.setdefault((start, sensor), []).extend(values)
    for (start, sensor), values in windows.items():
        yield start, sensor, readings_of(values)


def readings_of(values: list[float]) -> dict[str, float]:
    """The answers of one sensor's window."""
    values.sort()
    n = len(values)
    p95 = values[95 * (n - 1) // 100]
    return {"n": n, "mean": sum(values) / n, "low": values[0], "high": values[-1], "p95": p95}


def run(**works: Callable[[Job], Rows]) -> None:
    """Do the work that the command line names in the folder it names, and write `answer.json` there."""
    work, folder = sys.argv[1:]
    if work not in works:
        raise SystemExit(f"it has no work called {work!r}. There are {', '.join(works)}")
    job = Job(Path(folder))
    rows = list(works[work](job))
    answer = {"seconds": job.seconds, "cpu_s": job.cpu_s, "rows": rows}
    (job.folder / "answer.json").write_text(json.dumps(answer))
