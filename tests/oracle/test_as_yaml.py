"""What a test hands to the product as config.yaml is read as the definitions that were meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.core.definitions import Config
from pipeline.runtime.config import load_config
from tests.oracle.as_yaml import as_yaml
from tests.oracle.every_kind import AGGREGATES, CASES, KINDS, config_of
from tests.oracle.real_kinds import FILES

CONFIGS = [config_of(CASES[kind][0], of, is_late_allowed=True) for kind in KINDS for of in AGGREGATES]
CONFIGS += [file.config() for file in FILES]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: next(reversed(config.stages)))
def test_what_is_written_is_what_is_read(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(as_yaml(config), encoding="utf-8")

    read = load_config(path, {})

    assert read.streams == config.streams
    assert read.stages == config.stages
