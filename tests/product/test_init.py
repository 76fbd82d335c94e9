"""A project that `init` wrote, from nothing to an answer."""

from __future__ import annotations

import json
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
