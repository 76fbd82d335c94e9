"""Who moves time in each stream of a config: silence (the scheduler) and `POST …/time` go the same way, the log."""

from __future__ import annotations

import redis

from pipeline.core.definitions import Config, Stream, Tumbling
from pipeline.core.events import Reader
from pipeline.rim.scripts import Scripts
from pipeline.rim.ticks import TimeKeeper
from pipeline.runtime.setup import groups_of


def time_keepers(client: redis.Redis, config: Config) -> dict[str, TimeKeeper]:
    """One writer of ticks for each stream: what the scheduler and `POST …/time` move time with."""
    scripts = Scripts(client)
    return {stream.name: _time_keeper(client, scripts, config, stream) for stream in config.streams.values()}


def windows_of(config: Config, stream: str) -> list[Tumbling]:
    """The windows that wait for a stream's time, by size."""
    windows = {stage.window for stage in config.aggregates() if config.stream_of(stage).name == stream}
    return sorted(windows, key=lambda window: (window.size_ms, window.offset_ms))


def _time_keeper(client: redis.Redis, scripts: Scripts, config: Config, stream: Stream) -> TimeKeeper:
    return TimeKeeper(
        client=client,
        scripts=scripts,
        stream=stream,
        windows=windows_of(config, stream.name),
        groups=groups_of(config, stream.name),
        reader=Reader(stream, ()),
    )
