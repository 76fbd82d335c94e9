"""The consumer groups of a config: one for each stage that reads a log itself, named by the stage and its version."""

from __future__ import annotations

from pipeline.core.definitions import Config, Stage, Transform
from pipeline.core.versions import version_of


def stage_groups(config: Config) -> dict[str, str]:
    """Consumer group of every stage that reads the log itself: all aggregates, and transforms with `publish: true`."""
    return {
        stage.name: f"{stage.name}@{version_of(config, stage.name)}"
        for stage in config.stages.values()
        if not isinstance(stage, Transform) or stage.publish
    }


def groups_of(config: Config, stream: str) -> tuple[str, ...]:
    """The consumer groups that read a stream's log."""
    return tuple(group for name, group in stage_groups(config).items() if _reads(config, config.stages[name], stream))


def _reads(config: Config, stage: Stage, stream: str) -> bool:
    return config.stream_of(stage).name == stream
