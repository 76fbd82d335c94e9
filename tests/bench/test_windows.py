"""The benchmark of every window kind: it runs, its recount is right, and it would see a wrong row."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.window_loads import n_correct, same, same_readings, sensor_load

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_quick_mode_measures_hopping_windows_beside_plain_ones_and_finds_them_right(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, "bench/windows.py", "--quick", "--no-bytes", "--only", "hopping", "--json", str(figures)]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)

    assert run.returncode == 0, run.stdout + run.stderr
    runs = json.loads(figures.read_text())["runs"]
    assert [(each["case"], each["correct"]) for each in runs] == [
        ("tumbling, 1,000 groups", 1_000),
        ("hopping 60 s / 10 s", 6_000),
    ]
    assert run.stdout.count("CORRECT") == 2


@pytest.mark.parametrize(
    ("found", "right"),
    [
        ({"a": {"n": 1}, "b": {"n": 2}}, 2),
        ({"a": {"n": 1}}, 1),
        ({"a": {"n": 1}, "b": {"n": 3}}, 1),
        ({"a": {"n": 1}, "b": {"n": 2}, "c": {"n": 1}}, 1),
    ],
)
def test_a_row_that_is_missing_wrong_or_too_many_is_not_correct(found: dict[str, dict[str, int]], right: int) -> None:
    assert n_correct(found, {"a": {"n": 1}, "b": {"n": 2}}, same) == right


def test_a_quantile_further_off_than_promised_is_not_correct() -> None:
    load = sensor_load(5_000, 1_700_000_000_000)
    [expected, *_] = load.hops(60_000, 10_000).values()

    assert same_readings(expected, expected)
    assert same_readings({**expected, "p95": expected["p95"] * 1.009}, expected)
    assert not same_readings({**expected, "p95": expected["p95"] * 1.02}, expected)
    assert not same_readings({**expected, "high": expected["high"] + 0.01}, expected)
