"""The benchmarks run and are right; their checker sees what is wrong; their report says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from bench.figures import TARGETS, Figure, line, require_correct
from bench.modes import MODES, QUICK, Scale
from bench.peers.__main__ import PEERS, Peer, interpreter_of
from bench.peers.__main__ import NotInstalledError as PeerNotInstalledError
from bench.plot import Chart, Line, svg
from bench.report import markdown

ROOT = Path(__file__).resolve().parents[2]
MACHINE = json.loads(
    '{"cores": 2, "processor": "a processor", "memory_gb": 8.0, "system": "Linux 6", "python": "3.11", '
    '"commit": "abc", "began": "2026-01-01T00:00:00+00:00", "load_average": 0.1}'
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)


def test_the_yahoo_benchmark_is_right_end_to_end_and_from_the_log(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"

    done = run("bench/targets.py", "yahoo", "catch-up", "--quick", "--json", str(figures))

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text())["figures"]
    assert [each["figure"] for each in found] == ["yahoo", "catch-up"]
    assert all(each["correct"] == each["expected"] >= 2_000 for each in found)
    assert {"api", "redis", "worker"} <= found[0]["details"]["cpu_us"].keys()
    assert "worker: main" in found[0]["details"]["stage_us"]
    assert "| yahoo | api " in markdown(json.loads(figures.read_text()))


@pytest.mark.slow
def test_a_curve_is_measured_recounted_and_drawn(tmp_path: Path) -> None:
    points, drawing = tmp_path / "points.json", tmp_path / "scaling.svg"

    done = run("bench/curves.py", "workers", "--quick", "--json", str(points))
    reported = run("bench/report.py", str(points), "--svg", str(drawing))

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("CORRECT 100/100") == 2
    assert "| workers | 2 |" in reported.stdout
    assert ElementTree.parse(drawing).getroot().tag.endswith("svg")


def test_peers_do_the_same_work_on_the_same_events_and_are_recounted_alike(tmp_path: Path) -> None:
    results = tmp_path / "peers.json"

    done = run("-m", "bench.peers", "duckdb", "loop", "--quick", "--json", str(results))

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("CORRECT 800/800") == 2
    assert done.stdout.count("CORRECT 6000/6000") == 2
    assert "| DuckDB, batch over the file: the ceiling | sensors |" in markdown(json.loads(results.read_text()))


def test_a_peer_that_nobody_has_is_named_with_how_to_get_it() -> None:
    peer = Peer("none", "a package that is not there", "no_such_package", "pip install no-such-package")

    with pytest.raises(PeerNotInstalledError, match=r"^not installed: pip install no-such-package$"):
        interpreter_of(peer, [sys.executable])


def test_every_peer_has_its_file_and_every_file_is_a_peer() -> None:
    files = {path.stem for path in (ROOT / "bench" / "peers").glob("*.py")} - {"__main__", "job"}

    assert {peer.name for peer in PEERS} == files


def test_every_row_of_the_table_of_targets_has_a_mode_and_every_mode_a_row() -> None:
    assert {target.mode for target in TARGETS} == set(MODES)


def test_a_figure_with_a_wrong_row_ends_the_benchmark() -> None:
    right, wrong = Figure("yahoo", 1e6, 10, 10, {}), Figure("yahoo", 1e6, 9, 10, {})

    assert require_correct(right) is right
    with pytest.raises(SystemExit, match="CORRECT 9/10: the recount differs, no result"):
        require_correct(wrong)


def test_a_mode_there_is_not_is_refused_by_name() -> None:
    done = run("bench/targets.py", "yaho")

    assert done.returncode == 2
    assert "no mode is called 'yaho'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--events", "0"), "'0' is not a whole number of at least 1"),
        (("--events", "1000", "--late", "0.1"), "late events need 180 s. Make more events"),
    ],
)
def test_a_scale_that_cannot_be_is_refused_with_the_way_out(arguments: tuple[str, ...], said: str) -> None:
    done = run("bench/targets.py", "yahoo", *arguments)

    assert done.returncode == 2
    assert said in done.stderr


def test_a_report_of_a_file_that_is_not_there_or_not_ours_says_so(tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text('{"kind": "something"}')

    assert "there is no such file" in run("bench/report.py", str(tmp_path / "none.json")).stderr
    assert "no results of ours: its kind is 'something'" in run("bench/report.py", str(other)).stderr


def test_a_line_says_the_value_the_recount_and_the_aim() -> None:
    assert " ".join(line(Figure("yahoo", 812_345.6, 7, 7, {})).split()) == (
        "yahoo 812,346 events/s CORRECT 7/7 aim ≥ 1,000,000 events/s"
    )


def document(kind: str, figures: list[dict[str, Any]], **not_measured: str) -> dict[str, Any]:
    scale = asdict(Scale())
    return {"kind": kind, "machine": MACHINE, "scale": scale, "figures": figures, "not_measured": not_measured}


def test_the_report_has_medians_ranges_the_load_and_the_reason_of_what_was_not_measured() -> None:
    figures = [
        {"figure": "yahoo", "value": value, "correct": 5, "expected": 5, "load_average": 0.2, "details": {}}
        for value in (900_000.0, 1_100_000.0, 1_050_000.0)
    ]

    text = markdown(document("targets", figures, arrow="answered with 415\nmore"))

    row = "| ≥ 1,000,000 events/s | 1,050,000 | 900,000 to 1,100,000 of 3 | yes | 5 of 5 | 0.2 |"
    assert row in text
    assert "not measured" in text
    assert "- `arrow`: answered with 415\n" in text
    assert "load average before it began: 0.1" in text


def test_a_latency_above_its_target_is_not_met() -> None:
    figure = {"figure": "latency-p50", "value": 61.0, "correct": 5, "expected": 5, "load_average": 0.2, "details": {}}

    assert "| ≤ 60 ms | 61 | one run | no |" in markdown(document("targets", [figure]))


def test_a_small_run_meets_no_target() -> None:
    figure = {"figure": "yahoo", "value": 2e6, "correct": 5, "expected": 5, "load_average": 0.2, "details": {}}

    text = markdown(document("targets", [figure]) | {"scale": asdict(QUICK)})

    assert "| one run | not this load |" in text
    assert "| yes |" not in text


def test_a_plot_is_svg_with_a_point_for_each_value() -> None:
    chart = Chart(
        "Speed & size", "groups", "events/s", [Line("a", [(1, 10), (100, 20)]), Line("b", [(1, 5), (100, 0)])]
    )

    drawn = ElementTree.fromstring(svg([chart, chart]))

    space = "{http://www.w3.org/2000/svg}"
    assert len(drawn.findall(f".//{space}circle")) == 8
    assert len(drawn.findall(f".//{space}polyline")) == 4
    assert "Speed & size" in [each.text for each in drawn.iter(f"{space}text")]
