"""Parts of a config.yaml, as pages show them, made whole: loaded as a stage of a config that has what they speak of."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.runtime.config import load_config
from pipeline.runtime.config_shapes import AggregateShape, TransformShape
from pipeline.runtime.config_yaml import read_document

STREAM = """\
streams:
  pageviews:
    schema: {ts: timestamp, user: string, page: string, agent: string?, event: string, status: int,
             load_ms: float}
    time: {field: ts}
    partition_by: user
stages:
  human_views:
    from: pageviews
    derive: {section: "SPLIT_PART(page, '/', 2)"}
"""
TRANSFORM = STREAM + "  shown:\n    from: pageviews\n"
AGGREGATE = STREAM + "  shown:\n    from: human_views\n"
REST = {"window": "    window: {tumbling: 10s}\n", "aggregates": "    aggregates: {n: count}\n"}


def load_part(text: str, folder: Path, place: str) -> None:
    """Load a whole config, a stage, or some settings of one; several `window:` lines are as many stages."""
    windows = [line for line in text.splitlines() if line.startswith("window:")]
    if len(windows) > 1:
        for line in windows:
            load_part(f"group_by: [user]\n{line}\n", folder, place)
        return
    file = folder / "shown.yaml"
    file.write_text(_whole(text, place), "utf-8")
    load_config(file, {})


def _whole(text: str, place: str) -> str:
    root = read_document(text.encode(), place).root
    assert isinstance(root, dict), place
    if "streams" in root:
        return text
    if root.keys() <= _settings(TransformShape):
        return TRANSFORM + _indented(text, 4)
    if root.keys() <= _settings(AggregateShape):
        missing = [part for name, part in REST.items() if name not in root]
        return AGGREGATE + _indented(text, 4) + "".join(missing)
    if all(isinstance(value, dict) and "from" in value for value in root.values()):
        return STREAM + _indented(text, 2)
    pytest.fail(f"{place}: neither a config, nor stages, nor settings of one stage")


def _settings(shape: type[AggregateShape] | type[TransformShape]) -> set[str]:
    return {info.alias or name for name, info in shape.model_fields.items()}


def _indented(text: str, spaces: int) -> str:
    return "".join(f"{' ' * spaces}{line}" for line in text.splitlines(keepends=True))
