"""A config read in a process of its own: the same config, the same errors, and nothing of it left here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.core.registry import registered_sources
from pipeline.errors import ConfigError
from pipeline.runtime.config import ENV_REDIS_URL, load_config
from pipeline.runtime.config_reader import ConfigReader, ConfigReaderError
from pipeline.runtime.stage_groups import stage_groups

ROOT = Path(__file__).resolve().parents[2]
OWN_AGGREGATE = """
from pipeline import aggregate


@aggregate("only_read_elsewhere")
class Sum:
    def lift(self, value): return value
    def merge(self, a, b): return a + b
    def finish(self, partial): return partial
"""


def test_it_reads_what_load_config_reads_and_as_often_as_it_is_asked() -> None:
    path, other = ROOT / "config.yaml", {ENV_REDIS_URL: "redis://elsewhere:1"}
    with ConfigReader(path) as reader:
        assert reader.read({}) == load_config(path, {})
        assert reader.read(other) == load_config(path, other)


def test_it_raises_what_load_config_raises(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("streams: {clicks: {schema: {a: strng}, windw: 1}}\n")
    with pytest.raises(ConfigError) as here:
        load_config(path, {"STREAMGAUGE_REDIS__URI": ""})

    with ConfigReader(path) as reader, pytest.raises(ConfigError) as there:
        reader.read({"STREAMGAUGE_REDIS__URI": ""})

    assert len(here.value.problems) == 3
    assert there.value.problems == here.value.problems


def test_one_that_ends_without_an_answer_is_an_error_that_says_so() -> None:
    with ConfigReader(ROOT / "config.yaml") as reader:
        reader._process.send_signal(signal.SIGKILL)

        with pytest.raises(ConfigReaderError, match=r"config\.yaml: the process that reads it ended .*status -9"):
            reader.read({})


def test_what_reading_brings_does_not_come_here() -> None:
    code = (
        "import os, sys; from pathlib import Path; import api.main, pipeline.runtime.supervisor as up\n"
        "with up.ConfigReader(Path('config.yaml')) as reader: reader.read(os.environ)\n"
        "print(sorted({'polars', 'pyarrow', 'numpy', 'pandas', 'ruamel', 'valkey', 'structlog'} & set(sys.modules)))\n"
        "import pipeline.runtime.scheduler\n"
        "print(sorted({'polars', 'pyarrow', 'pandas', 'ruamel'} & set(sys.modules)))"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMGAUGE_")}

    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=kept, capture_output=True, text=True, check=True)

    assert said.stdout.split() == ["[]", "[]"]


def test_a_stage_with_an_aggregate_of_ones_own_has_the_same_group_where_it_is_not_registered(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN_AGGREGATE)
    path = tmp_path / "config.yaml"
    path.write_text(
        "functions: [own.py]\n"
        "streams: {visits: {schema: {price: float}}}\n"
        "stages: {sums: {from: visits, window: {tumbling: 1m}, aggregates: {own: only_read_elsewhere(price)}}}\n"
    )
    with ConfigReader(path) as reader:
        there = reader.read({})
    assert "only_read_elsewhere" not in registered_sources()

    group = stage_groups(there)["sums"]

    assert group == stage_groups(load_config(path, {}))["sums"]
    assert group != stage_groups(replace(there, sources={"only_read_elsewhere": "another"}))["sums"]
