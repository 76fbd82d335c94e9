"""Who moves time in each stream of a config: silence (the scheduler) and `POST …/time` go the same way, the log."""

from __future__ import annotations

import redis

from pipeline.core.definitions import Config, Stream
from pipeline.core.windows import Horizon
from pipeline.rim.scripts import Scripts
from pipeline.rim.ticks import TimeKeeper
from pipeline.runtime.stage_groups import groups_of


def time_keepers(client: redis.Redis, config: Config, scripts: Scripts | None = None) -> dict[str, TimeKeeper]:
    """One writer of ticks for each stream: what the scheduler and `POST …/time` move time with."""
    known = scripts or Scripts(client)
    return {stream.name: _time_keeper(client, known, config, stream) for stream in config.streams.values()}


def horizons_of(config: Config, stream: str) -> list[Horizon]:
    """What waits for a stream's time: the windows of the stages that read it."""
    stages = [stage for stage in config.aggregates() if config.stream_of(stage).name == stream]
    return sorted({Horizon(stage.window, stage.allowed_lateness_ms) for stage in stages}, key=repr)


def _time_keeper(client: redis.Redis, scripts: Scripts, config: Config, stream: Stream) -> TimeKeeper:
    return TimeKeeper(
        client=client,
        scripts=scripts,
        stream=stream,
        horizons=horizons_of(config, stream.name),
        groups=groups_of(config, stream.name),
    )
