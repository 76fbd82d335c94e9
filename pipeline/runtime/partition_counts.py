"""Refuses another number of partitions than a stream's data has: its events are spread over them already."""

from __future__ import annotations

import redis

from pipeline.core.definitions import Config
from pipeline.errors import ConfigError
from pipeline.rim import keys


def require_partitions(client: redis.Redis, config: Config) -> None:
    """Refuse another number of partitions than a stream's data has.

    Raises:
        ConfigError: at the place in the file.
    """
    problems = []
    for stream in config.streams.values():
        stored = client.execute_command("HGET", keys.record(stream.name), "partitions")
        if stored is not None and int(stored) != stream.partitions:
            sentence = (
                f"this data has {int(stored)} partitions, the file says {stream.partitions}. Events are already spread "
                f"over {int(stored)}; set it back to {int(stored)}, or give the stream another name."
            )
            place = ("streams", stream.name, "partitions")
            found = f"config.yaml: {'.'.join(place)}: {sentence}"
            problems.append(found if config.path is None else _at(config.path, place, sentence))
    if problems:
        raise ConfigError(problems)


def _at(path: str, place: tuple[str, ...], sentence: str) -> str:
    from pipeline.runtime.config_yaml import message_at  # only where something is wrong: `up` runs without a parser

    return message_at(path, place, sentence)
