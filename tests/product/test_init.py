"""A project that `init` wrote, from nothing to an answer."""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.runtime.project_commands import METRIC_OF, STREAM_OF, Template
from tests.product.product import Product, command, wait_for

PAIRS = {
    Template.sensors: ["sensor=s1", "temperature=21.5"],
    Template.clickstream: ["user=ada", "page=/docs/install"],
}
GROUPS = {Template.sensors: {"sensor": "s1", "readings": 1}, Template.clickstream: {"section": "docs", "views": 1}}


@pytest.mark.parametrize("template", [Template.clickstream, pytest.param(Template.sensors, marks=pytest.mark.slow)])
def test_a_new_project_goes_from_nothing_to_an_answer(tmp_path: Path, template: Template) -> None:
    folder = tmp_path / "project"
    made = subprocess.run(command("init", folder, "--template", template), capture_output=True, text=True, check=True)
    assert len(made.stdout.splitlines()) == 3

    with Product(folder, config=folder / "config.yaml") as product:
        checked = product.run("check", "--config", folder / "config.yaml")
        assert (checked.returncode, checked.stderr) == (0, "")
        product.wait_until_ready()

        now_ms = time.time_ns() // 1_000_000
        sent = product.run("send", STREAM_OF[template], f"ts={now_ms}", *PAIRS[template], "--url", product.url)
        assert json.loads(sent.stdout) == {"accepted": 1, "rejected": 0, "duplicates": 0}

        query = ("query", METRIC_OF[template], "--start", "-5m", "-o", "json", "--url", product.url)
        wait_for(lambda: bool(json.loads(product.run(*query).stdout)["data"]), "the event to be counted")
        (row,) = json.loads(product.run(*query).stdout)["data"]
        assert GROUPS[template].items() <= row.items()
        assert product.press_ctrl_c() == 0


def test_a_file_of_one_s_own_goes_from_nothing_to_an_answer(tmp_path: Path) -> None:
    (tmp_path / "Rooms 2026.csv").write_text(
        "Date Time,Room ID,temp (°C)\n"
        + "".join(f"2026-03-01 08:0{n // 6}:{n % 6}0,{'ab'[n % 2]},{n}.5\n" for n in range(30)),
        "utf-8",
    )
    folder = tmp_path / "project"
    source = tmp_path / "Rooms 2026.csv"
    made = subprocess.run(command("init", folder, "--from", source), capture_output=True, text=True, check=True)
    _, replay, query = (shlex.split(line)[1:] for line in made.stdout.splitlines())

    with Product(folder, config=folder / "config.yaml") as product:
        product.wait_until_ready()
        sent = product.run(*replay, "--url", product.url)
        assert sent.returncode == 0, sent.stderr
        asked = (*(word for word in query if word != "--spark"), "-o", "json", "--url", product.url)
        answer = json.loads(product.run(*asked).stdout)
        assert sum(row["rows"] for row in answer["data"]) == 30
        assert {(row["room_id"], row["max_temp_c"]) for row in answer["data"]} >= {("a", 28.5), ("b", 29.5)}
        assert product.press_ctrl_c() == 0
