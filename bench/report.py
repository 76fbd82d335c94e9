"""JSON results as Markdown tables and as a plot.

    python bench/report.py FILE … [--svg FILE]

The files are those of `--json` of targets, peers and curves. What is printed goes into docs/performance.md as it is:
the machine, medians with the least and the greatest value, the load they were measured under, and the recount.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.curves import CURVES
from bench.figures import TARGETS, shown, summary
from bench.modes import Scale
from bench.peers.__main__ import PEERS
from bench.plot import Chart, Line, svg

Document = Mapping[str, Any]
Found = Mapping[str, Any]
NOT_THE_LOAD = "not this load"
MEMORY = {"worker": "worker_peak_mb", "API": "api_peak_mb", "Redis": "redis_peak_mb"}


def machine(document: Document) -> str:
    """What the figures were measured on, and with how much."""
    of = document["machine"]
    return (
        f"{of['cores']} cores ({of['processor']}), {of['memory_gb']} GB, {of['system']}, Python {of['python']}, "
        f"commit {of['commit']}, {of['began']}; load average before it began: {of['load_average']}.\n"
        + ", ".join(f"{name} {value:,g}" for name, value in document["scale"].items())
    )


def targets_table(document: Document) -> list[str]:
    """A row for each target; one without a figure says why."""
    rows = []
    # A small run says nothing about a target.
    is_full = document["scale"] == asdict(Scale())
    for target in TARGETS:
        figures = [each for each in document["figures"] if each["figure"] == target.figure]
        if figures:
            found = [each["value"] for each in figures]
            better = max if target.better == "more" else min
            median = summary(found).median
            is_met = better(median, target.value) == median
            rows.append(
                [
                    target.what,
                    target.aim,
                    f"{shown(median)}",
                    _range(found),
                    _met(is_met) if is_full else NOT_THE_LOAD,
                    *_recount(figures),
                ]
            )
        elif target.mode in document["not_measured"]:
            rows.append([target.what, target.aim, "not measured", "", "", "", ""])
    head = ["Work", "Target", "Median", "Range of runs", "Met", "Rows correct", "Load average"]
    return [*_table(head, rows), *_reasons(document)]


def cpu_table(document: Document) -> list[str]:
    """What an event costs: by process, and by thread, which are the stages of the line."""
    rows = []
    for figure in dict.fromkeys(each["figure"] for each in document["figures"]):
        runs = [each["details"] for each in document["figures"] if each["figure"] == figure]
        if "cpu_us" in runs[0]:
            rows.append([figure, _costs(run["cpu_us"] for run in runs), _costs(run["stage_us"] for run in runs)])
    return _table(["Mode", "CPU µs an event, by process", "By thread"], rows) if rows else []


def peers_table(document: Document) -> list[str]:
    """A row for each peer and work, as they were run."""
    titles = {peer.name: peer.title for peer in PEERS}
    rows = []
    for peer, work in dict.fromkeys((each["peer"], each["work"]) for each in document["figures"]):
        runs = [each for each in document["figures"] if (each["peer"], each["work"]) == (peer, work)]
        rates = [each["n_events"] / each["seconds"] for each in runs]
        cpu = statistics.median(each["cpu_us"] for each in runs)
        rows.append(
            [titles.get(peer, peer), work, shown(summary(rates).median), _range(rates), f"{cpu:.2f}", *_recount(runs)]
        )
    head = ["What", "Work", "Events/s", "Range of runs", "CPU µs an event", "Rows correct", "Load average"]
    return [*_table(head, rows), *_reasons(document)]


def curves_table(document: Document) -> list[str]:
    rows = []
    for curve, x, runs in _points(document):
        rates = [each["events_per_s"] for each in runs]
        memory = [f"{statistics.median(each[name] for each in runs):.0f}" for name in MEMORY.values()]
        rows.append(
            [CURVES[curve].what, f"{x:,}", shown(summary(rates).median), _range(rates), *memory, *_recount(runs)]
        )
    peaks = [f"{role} MB" for role in MEMORY]
    return _table(["What changes", "", "Events/s", "Range of runs", *peaks, "Rows correct", "Load average"], rows)


def charts(document: Document) -> list[Chart]:
    """Of every curve its rate; of groups and windows the memory too."""
    found = []
    points = list(_points(document))
    for name in dict.fromkeys(curve for curve, _, _ in points):
        mine = [(x, runs) for curve, x, runs in points if curve == name]
        rates = [(float(x), statistics.median(each["events_per_s"] for each in runs)) for x, runs in mine]
        found.append(Chart(f"Speed by {CURVES[name].what}", CURVES[name].what, "events/s", [Line("all", rates)]))
        if name in ("groups", "windows"):
            lines = [
                Line(role, [(float(x), statistics.median(each[size] for each in runs)) for x, runs in mine])
                for role, size in MEMORY.items()
            ]
            found.append(Chart(f"Peak memory by {CURVES[name].what}", CURVES[name].what, "MB", lines))
    return found


def _points(document: Document) -> Iterable[tuple[str, int, list[Found]]]:
    figures = document["figures"]
    for curve, x in dict.fromkeys((each["curve"], each["x"]) for each in figures):
        yield curve, x, [each for each in figures if (each["curve"], each["x"]) == (curve, x)]


def _range(values: Sequence[float]) -> str:
    found = summary(values)
    return "one run" if found.n_runs == 1 else f"{shown(found.least)} to {shown(found.greatest)} of {found.n_runs}"


def _met(is_met: bool) -> str:
    return "yes" if is_met else "no"


def _recount(runs: Sequence[Found]) -> list[str]:
    """Rows correct of the first run (all are, or there was no file), and the load before each."""
    loads = [each["load_average"] for each in runs]
    correct = f"{runs[0]['correct']:,} of {runs[0]['expected']:,}" if runs[0]["expected"] else ""
    least, most = f"{min(loads):.1f}", f"{max(loads):.1f}"
    return [correct, least if least == most else f"{least} to {most}"]


def _costs(runs: Iterable[Mapping[str, float]]) -> str:
    """Medians of what takes at least a hundredth of a microsecond."""
    found = list(runs)
    names = dict.fromkeys(name for run in found for name in run)
    medians = {name: statistics.median(run.get(name, 0.0) for run in found) for name in names}
    return ", ".join(f"{name} {micros:.2f}" for name, micros in medians.items() if micros >= 0.01)


def _reasons(document: Document) -> list[str]:
    lines = [f"- `{name}`: {reason.splitlines()[0]}" for name, reason in document["not_measured"].items()]
    return ["", "Not measured:", "", *lines] if lines else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


TABLES = {"targets": (targets_table, cpu_table), "peers": (peers_table,), "curves": (curves_table,)}


def markdown(document: Document) -> str:
    parts = [[machine(document)], *(table(document) for table in TABLES[document["kind"]])]
    return "\n\n".join("\n".join(lines) for lines in parts if lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--svg", type=Path, help="draw the curves to this file")
    asked = parser.parse_args()
    drawn: list[Chart] = []
    for file in asked.files:
        if not file.is_file():
            raise SystemExit(f"{file}: there is no such file. Benchmarks write one with --json")
        document = json.loads(file.read_text())
        if document.get("kind") not in TABLES:
            raise SystemExit(
                f"{file}: no results of ours: its kind is {document.get('kind')!r}, not {', '.join(TABLES)}"
            )
        print(markdown(document))
        drawn += charts(document) if document["kind"] == "curves" else []
    if asked.svg:
        if not drawn:
            raise SystemExit("nothing to draw: no file has curves. Make one with bench/curves.py --json")
        asked.svg.write_text(svg(drawn))


if __name__ == "__main__":
    main()
