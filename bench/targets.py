"""Every row of the table of targets, each by one named mode.

    python bench/targets.py [MODE …] [--runs 5] [--quick] [--json FILE]

The clock runs from the first POST until every window is closed and readable, the load generator on the same cores. No
figure without its recount: CORRECT n/n compares every row with what numpy says of the same events.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.figures import TARGETS, Figure, line, positive, require_correct, shown, summary, write_json
from bench.machine import described, load_average
from bench.modes import MODES, QUICK, NotMeasuredError, Scale
from bench.yahoo_load import TooShortError


def measure(mode: str, scale: Scale, runs: int) -> list[Figure]:
    """The figures of so many runs of a mode, each printed and recounted as it comes."""
    n_figures = sum(target.mode == mode for target in TARGETS)
    figures = MODES[mode](scale)
    found: list[Figure] = []
    load = load_average()
    for number in range(runs * n_figures):
        load = load if number % n_figures else load_average()
        figure = replace(require_correct(next(figures)), load_average=load)
        found.append(figure)
        print(line(figure), flush=True)
        cpu = figure.details.get("cpu_us")
        if cpu:
            print(f"{'':16}CPU µs an event: {cpu}", flush=True)
    return found


def print_table(figures: Sequence[Figure]) -> None:
    print(f"\n{'figure':16}{'median':>12} {'range':>22} runs  aim")
    for target in TARGETS:
        values = [figure.value for figure in figures if figure.figure == target.figure]
        if values:
            found = summary(values)
            span = f"{shown(found.least)} to {shown(found.greatest)}"
            print(f"{target.figure:16}{shown(found.median):>12} {span:>22} {found.n_runs:4}  {target.aim}")


def scale_of(asked: argparse.Namespace) -> Scale:
    """The scale that was asked for: the table's, or the quick one, with what was given changed."""
    given = {name.name: getattr(asked, name.name) for name in fields(Scale) if getattr(asked, name.name) is not None}
    return replace(QUICK if asked.quick else Scale(), **given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"all without any: {', '.join(MODES)}")
    parser.add_argument("--runs", type=positive, default=1, help="of each mode; the table shows medians and ranges")
    parser.add_argument("--quick", action="store_true", help="small numbers: is it right, not how fast")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    for each in fields(Scale):
        kind = positive if isinstance(each.default, int) else float
        parser.add_argument(f"--{each.name.removeprefix('n_').replace('_', '-')}", dest=each.name, type=kind)
    asked = parser.parse_args()
    unknown = [mode for mode in asked.modes if mode not in MODES]
    if unknown:
        parser.error(f"no mode is called {unknown[0]!r}. There are {', '.join(MODES)}")
    machine, scale = described(), scale_of(asked)
    figures: list[Figure] = []
    not_measured: dict[str, str] = {}
    for mode in asked.modes or MODES:
        try:
            figures += measure(mode, scale, asked.runs)
        except TooShortError as error:
            parser.error(str(error))
        except NotMeasuredError as error:
            not_measured[mode] = str(error)
            print(f"{mode:16}not measured: {error}", flush=True)
        if asked.json:  # after each: what is interrupted keeps what it has
            write_json(asked.json, "targets", machine, asdict(scale), figures, not_measured)
    print_table(figures)


if __name__ == "__main__":
    main()
