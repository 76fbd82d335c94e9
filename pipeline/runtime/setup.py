"""What must exist before a worker starts: each stream's record, the consumer groups, and each metric's versions.

Groups are created here and nowhere else (FACTS 6). A version that is new starts at the head of the retained log; the
old version answers until the new one has caught up with where the log was when it was set up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import redis
import structlog

from pipeline.core.definitions import Aggregate, Config, Rollup, Tumbling
from pipeline.core.table_names import TableError
from pipeline.core.versions import encode_definition, version_of
from pipeline.errors import ConfigError
from pipeline.rim import groups, keys, replies
from pipeline.rim.connection import is_away
from pipeline.rim.scripts import Scripts
from pipeline.rim.soundness import Found, set_up_group
from pipeline.rim.store import load_checkpoints, published_windows
from pipeline.runtime.partition_counts import require_partitions
from pipeline.runtime.stage_groups import stage_groups
from pipeline.runtime.table_announcing import announce_tables

log = structlog.get_logger(__name__)


def set_up(client: redis.Redis, config: Config) -> None:
    """Create what is missing; safe to run by every process at its start.

    Raises:
        ConfigError: the number of partitions of a stream with data was changed, or a lookup table cannot be used.
    """
    scripts = Scripts(client)
    for stream in config.streams.values():
        client.execute_command("HSETNX", keys.record(stream.name), "partitions", stream.partitions)
    require_partitions(client, config)
    _announce_tables(client, scripts, config)
    for name, group in stage_groups(config).items():
        stream = config.stream_of(config.stages[name])
        for partition in range(stream.partitions):
            with _alone(name, keys.raw(stream.name, partition), keys.checkpoint(stream.name, partition, group)):
                look_after_group(scripts, stream.name, partition, group)
    for aggregate in config.aggregates():
        with _alone(aggregate.name, keys.versions(aggregate.name)):
            _announce(client, config, aggregate.name)


def look_after_group(scripts: Scripts, stream: str, partition: int, group: str) -> Found:
    """Set up a stage on one partition, and say what it had lost; what has to be counted again is marked torn."""
    found = set_up_group(scripts, stream, partition, group)
    about = {"stage": group.partition("@")[0], "group": group, "stream": stream, "partition": partition}
    if found is Found.REGROUPED:
        log.error(
            "a consumer group was gone; it is made again at the checkpoint: nothing is lost, nothing counted twice",
            **about,
            key=keys.raw(stream, partition),
            next="find out who ran XGROUP DESTROY, or deleted the stream",
        )
    elif found is Found.LOST:
        log.error(
            "a checkpoint was gone; the partition is counted again from its log",
            **about,
            key=keys.checkpoint(stream, partition, group),
            next="find out who deleted it",
        )
    return found


@contextmanager
def _alone(stage: str, *touched: str) -> Iterator[None]:
    """What is wrong with the keys of one stage is said, and does not stop the others."""
    try:
        yield
    except redis.ResponseError as error:
        if is_away(error):
            raise
        log.error(
            "a stage cannot be set up; the others go on",
            stage=stage,
            keys=touched,
            why=str(error),
            next="something else writes to these keys: delete the one that is wrong, its partition is rebuilt",
        )


def _announce_tables(client: redis.Redis, scripts: Scripts, config: Config) -> None:
    """Tables come before groups: the first row a group reads finds the content it is joined with."""
    try:
        announce_tables(client, scripts, config)
    except TableError as error:
        raise ConfigError([f"{config.path or 'config.yaml'}: {error}"]) from error
    except redis.exceptions.OutOfMemoryError as error:  # a full server must not keep workers from draining it
        log.error("a changed table could not be stored; the one before stays", why=str(error))


def _announce(client: redis.Redis, config: Config, metric: str) -> None:
    """Record a metric's version; a first one is active at once, a later one when it has caught up."""
    version = version_of(config, metric)
    key = keys.versions(metric)
    stage = config.stages[metric]
    assert isinstance(stage, Aggregate)
    client.execute_command("HSET", key, f"definition:{version}", encode_definition(config, stage))
    for tier in stage.rollups:
        _begin_tier(client, stage, version, tier)
    if client.execute_command("HSETNX", key, "active", version):
        return
    if client.execute_command("HGET", key, "active").decode() == version:
        return
    stream = config.stream_of(config.stages[metric])
    targets = [_last_id(client, stream.name, partition) for partition in range(stream.partitions)]
    client.execute_command("HSET", key, f"targets:{version}", msgspec.json.encode(targets))


def _begin_tier(client: redis.Redis, stage: Aggregate, version: str, tier: Rollup) -> None:
    """Make a new tier of a metric that has results already due for all of them."""
    if not client.execute_command("HSETNX", keys.versions(stage.name), f"tier:{version}:{tier.size_ms}", "1"):
        return
    assert isinstance(stage.window, Tumbling), f"{stage.name} has tiers and is not tumbling"
    spans = published_windows(client, stage.name, version)
    pipe = client.pipeline(transaction=False)
    for span in spans:
        pipe.execute_command("HGET", keys.result(stage.name, version, *span), "seq")
    newest: dict[int, int] = {}
    for (start_ms, _), seq in zip(spans, pipe.execute() if spans else [], strict=True):
        first_ms = start_ms - (start_ms - stage.window.offset_ms) % tier.size_ms
        newest[first_ms] = max(newest.get(first_ms, 0), int(seq or 0))
    for first_ms, last in newest.items():
        due = keys.tier_due(stage.name, version, tier.size_ms)
        client.execute_command("HSETNX", due, first_ms, f"0-{last} -")


def _last_id(client: redis.Redis, stream: str, partition: int) -> str:
    info = client.execute_command("XINFO", "STREAM", keys.raw(stream, partition))
    return replies.parse_stream_info(info).last_id.decode()


def activate_when_caught_up(client: redis.Redis, config: Config, metric: str, group: str) -> bool:
    """Make a rebuilt version answer once every partition has reached where the log was at its set-up.

    Returns whether it began to answer now.
    """
    version = group.partition("@")[2]
    stored = replies.parse_hash(client.execute_command("HGETALL", keys.versions(metric)))
    if stored.get(b"active") == version.encode():
        return False
    targets = stored.get(f"targets:{version}".encode())
    if targets is None:
        return False
    stream = config.stream_of(config.stages[metric])
    checkpoints = load_checkpoints(client, stream.name, stream.partitions, group)
    reached = zip(checkpoints, msgspec.json.decode(targets, type=list[str]), strict=True)
    if any(groups.id_order(checkpoint.cursor) < groups.id_order(target.encode()) for checkpoint, target in reached):
        return False
    client.execute_command("HSET", keys.versions(metric), "active", version)
    return True
