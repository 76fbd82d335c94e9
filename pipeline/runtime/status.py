"""How streams and stages are doing: time, lag and the books, from one reading of Redis.

The API's `/v1/streams`, `/v1/stages`, `/readyz` and `/metrics` show these values and compute none of their own, so they
cannot disagree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import redis

from pipeline.core.definitions import Config, Stage, Stream, Transform
from pipeline.core.entry_header import split_id
from pipeline.core.versions import version_of
from pipeline.core.watermarks import watermark_ms
from pipeline.rim import status as state
from pipeline.rim.scripts import Scripts
from pipeline.rim.status import GroupState, PartitionState, Versions
from pipeline.rim.store import redis_time_ms
from pipeline.runtime.stage_groups import groups_of, stage_groups

LEDGER = ("read", "accepted", "filtered", "late", "dead")
OUTCOMES = ("accepted", "filtered", "late", "dead")


@dataclass(frozen=True, slots=True)
class Lag:
    """What is stored and not yet committed.

    `entries` is None where the server does not know; `events` counts what passed the door, and is at least `entries`;
    `seconds` is how long ago the oldest of them arrived.
    """

    entries: int | None
    events: int
    seconds: float


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition of a stream, as its slowest group sees it."""

    state: PartitionState
    watermark_ms: int | None
    lag: Lag

    @property
    def max_ts_ms(self) -> int | None:
        """The largest event time, of what passed the door and of what a group has read."""
        read = [group.checkpoint.max_ts_ms for group in self.state.groups.values()]
        return max((ms for ms in (*read, self.state.door.max_ts_ms) if ms is not None), default=None)

    @property
    def max_seen_ms(self) -> int | None:
        """The running maximum of the log, as far as the door or any group has come."""
        read = [group.checkpoint.max_seen_ms for group in self.state.groups.values()]
        return max((ms for ms in (*read, self.state.door.max_seen_ms) if ms is not None), default=None)

    @property
    def last_arrival_ms(self) -> int | None:
        """When the newest event arrived; of rows by plain XADD, the newest that a group has read."""
        read = [group.checkpoint.arrival_ms for group in self.state.groups.values()]
        return max((ms for ms in (*read, self.state.door.last_arrival_ms) if ms), default=None)


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """A stream: `watermark_ms` is the least of its partitions', None while one has seen nothing."""

    stream: Stream
    partitions: tuple[PartitionStatus, ...]
    watermark_ms: int | None
    max_watermark_ms: int | None
    lag: Lag

    @property
    def door(self) -> dict[str, int]:
        """The counters of the door, over all partitions."""
        return {name: sum(getattr(p.state.door, name) for p in self.partitions) for name in state.DOOR_COUNTERS}

    @property
    def balances(self) -> bool:
        door = self.door
        return door["received"] == door["stored"] + door["duplicate"] + door["rejected"]


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """A stage on one partition."""

    partition: int
    state: GroupState
    watermark_ms: int | None
    lag: Lag
    holder: str | None  # the worker that holds the partition's lease

    @property
    def ledger(self) -> dict[str, int]:
        return {name: getattr(self.state.checkpoint, name) for name in LEDGER}


@dataclass(frozen=True, slots=True)
class StageStatus:
    """A stage; one without a group of its own (a fused transform) has no partitions."""

    stage: Stage
    stream: Stream
    version: str
    group: str | None
    partitions: tuple[GroupStatus, ...]
    watermark_ms: int | None
    lag: Lag | None
    versions: Versions | None  # of a metric

    @property
    def ledger(self) -> dict[str, int]:
        return {name: sum(p.ledger[name] for p in self.partitions) for name in LEDGER}

    @property
    def backfilled(self) -> int:
        """Events of old data that were accepted."""
        return sum(partition.state.checkpoint.backfilled for partition in self.partitions)

    @property
    def replayed(self) -> int:
        """Events that were read once more, out of what the stage had put aside."""
        return sum(partition.state.checkpoint.replayed for partition in self.partitions)

    @property
    def balances(self) -> bool:
        ledger = self.ledger
        return ledger["read"] == sum(ledger[name] for name in OUTCOMES)


@dataclass(frozen=True, slots=True)
class Status:
    """Everything at one moment, by Redis's clock."""

    now_ms: int
    streams: Mapping[str, StreamStatus]
    stages: Mapping[str, StageStatus]


def read_status(client: redis.Redis, config: Config, names: Iterable[str] | None = None) -> Status:
    """Read the streams of `names` (default: all) and the stages that read them."""
    scripts = Scripts(client)
    wanted = [config.streams[name] for name in (config.streams if names is None else names)]
    states = {
        stream.name: state.read_partitions(
            client, scripts, stream.name, stream.partitions, groups_of(config, stream.name)
        )
        for stream in wanted
    }
    now_ms = redis_time_ms(client)  # after what was read: an age cannot come out negative
    streams = {stream.name: _stream(stream, states[stream.name], now_ms) for stream in wanted}
    groups = stage_groups(config)
    stages = {
        name: _stage(client, config, stage, groups.get(name), states[config.stream_of(stage).name], now_ms)
        for name, stage in config.stages.items()
        if config.stream_of(stage).name in states
    }
    return Status(now_ms, streams, stages)


def _stream(stream: Stream, states: Sequence[PartitionState], now_ms: int) -> StreamStatus:
    partitions = tuple(_partition(stream, each, now_ms) for each in states)
    marks = [partition.watermark_ms for partition in partitions]
    return StreamStatus(
        stream=stream,
        partitions=partitions,
        watermark_ms=_least(marks),
        max_watermark_ms=max((mark for mark in marks if mark is not None), default=None),
        lag=_total([partition.lag for partition in partitions]),
    )


def _partition(stream: Stream, found: PartitionState, now_ms: int) -> PartitionStatus:
    disorder_ms = stream.time.disorder_ms
    if not found.groups:
        return PartitionStatus(found, watermark_ms(found.door.max_seen_ms, disorder_ms), Lag(0, 0, 0.0))
    marks = [watermark_ms(group.checkpoint.max_seen_ms, disorder_ms) for group in found.groups.values()]
    return PartitionStatus(found, _least(marks), _slowest([_lag(found, g, now_ms) for g in found.groups.values()]))


def _stage(
    client: redis.Redis, config: Config, stage: Stage, group: str | None, states: Sequence[PartitionState], now_ms: int
) -> StageStatus:
    stream, version = config.stream_of(stage), version_of(config, stage.name)
    if group is None:
        return StageStatus(stage, stream, version, None, (), None, None, None)
    partitions = tuple(_group(stream, found, found.groups[group], now_ms) for found in states)
    is_metric = not isinstance(stage, Transform)
    return StageStatus(
        stage=stage,
        stream=stream,
        version=version,
        group=group,
        partitions=partitions,
        watermark_ms=_least([partition.watermark_ms for partition in partitions]),
        lag=_total([partition.lag for partition in partitions]),
        versions=state.metric_versions(client, stage.name, version) if is_metric else None,
    )


def _group(stream: Stream, found: PartitionState, group: GroupState, now_ms: int) -> GroupStatus:
    mark = watermark_ms(group.checkpoint.max_seen_ms, stream.time.disorder_ms)
    return GroupStatus(found.partition, group, mark, _lag(found, group, now_ms), found.holder)


def _lag(found: PartitionState, group: GroupState, now_ms: int) -> Lag:
    if group.next_id is None:
        return Lag(0, 0, 0.0)
    # Rows by plain XADD do not pass the door: each is an event, and only the entries tell of it.
    events = max(found.door.stored - group.checkpoint.position, group.entries_behind or 1)
    arrived_ms, _ = split_id(group.next_id)
    return Lag(group.entries_behind, events, max(0, now_ms - arrived_ms) / 1_000)


def _total(lags: Sequence[Lag]) -> Lag:
    entries = [lag.entries for lag in lags]
    known = [count for count in entries if count is not None]
    return Lag(
        entries=sum(known) if len(known) == len(entries) else None,
        events=sum(lag.events for lag in lags),
        seconds=max((lag.seconds for lag in lags), default=0.0),
    )


def _slowest(lags: Sequence[Lag]) -> Lag:
    return max(lags, key=lambda lag: (lag.events, lag.seconds))


def _least(marks: Sequence[int | None]) -> int | None:
    known = [mark for mark in marks if mark is not None]
    return min(known) if known and len(known) == len(marks) else None
