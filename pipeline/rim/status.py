"""What Redis knows of partitions, consumer groups and the installation, as plain values; ids and counts, never bodies.

Invariant: nothing here writes, and what is not there yet (a stream without an entry, a group before set-up) is an empty
value and not an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis

from pipeline.core.entry_header import split_id
from pipeline.rim import keys, replies
from pipeline.rim.commit import Checkpoint
from pipeline.rim.scripts import Scripts
from pipeline.rim.store import redis_time_ms


@dataclass(frozen=True, slots=True)
class Door:
    """What the append script has counted and seen in one partition."""

    max_seen_ms: int | None = None
    max_ts_ms: int | None = None
    last_arrival_ms: int | None = None
    last_tick_ms: int | None = None
    last_id: str = "0-0"
    last_backfill_ms: int | None = None
    received: int = 0
    stored: int = 0
    duplicate: int = 0
    rejected: int = 0
    undeclared: int = 0

    @classmethod
    def parse(cls, stored: Mapping[bytes, bytes]) -> Door:
        return cls(
            _optional(stored.get(b"max_seen_ms")),
            _optional(stored.get(b"max_ts_ms")),
            _optional(stored.get(b"last_arrival_ms")),
            _optional(stored.get(b"last_tick_ms")),
            stored.get(b"last_id", b"0-0").decode(),
            _optional(stored.get(b"last_backfill_ms")),
            *(int(stored.get(name.encode(), b"0")) for name in DOOR_COUNTERS),
        )


ABSENT = ("no such key", "NOGROUP", "No such key")  # XINFO and XPENDING before the stream or its group exists
DOOR_COUNTERS = ("received", "stored", "duplicate", "rejected", "undeclared")


@dataclass(frozen=True, slots=True)
class GroupState:
    """One consumer group on one partition.

    `entries_behind`: entries not yet committed, None where the server does not know. `next_id`: the first of them.
    """

    checkpoint: Checkpoint
    pending: int
    oldest_pending_ms: int | None
    entries_behind: int | None
    next_id: bytes | None
    late_entries: int
    dead_entries: int
    gone: tuple[str, ...] = ()  # keys that must be there by what the checkpoint has counted


@dataclass(frozen=True, slots=True)
class PartitionState:
    """One partition of a stream: its log, its door, its lease and its groups."""

    partition: int
    length: int
    last_id: bytes | None
    door: Door
    quarantined: int
    holder: str | None
    groups: Mapping[str, GroupState]


def read_partitions(
    client: redis.Redis, scripts: Scripts, stream: str, partitions: int, groups: Sequence[str]
) -> list[PartitionState]:
    """Read every partition of a stream and what `groups` have done there; one round trip and one more a partition."""
    pipe = client.pipeline(transaction=False)
    for partition in range(partitions):
        raw = keys.raw(stream, partition)
        pipe.execute_command("XLEN", raw)
        pipe.execute_command("HGETALL", keys.door(stream, partition))
        pipe.execute_command("XLEN", keys.quarantine(stream, partition))
        pipe.execute_command("GET", keys.lease(stream, partition))
        pipe.execute_command("XINFO", "GROUPS", raw)
        for group in groups:
            pipe.execute_command("HGETALL", keys.checkpoint(stream, partition, group))
            pipe.execute_command("XLEN", keys.late(stream, partition, group))
            pipe.execute_command("XLEN", keys.dead(stream, partition, group))
            pipe.execute_command("XPENDING", raw, group)
            pipe.execute_command("EXISTS", keys.late(stream, partition, group))
            pipe.execute_command("EXISTS", keys.dead(stream, partition, group))
    answers = iter(pipe.execute(raise_on_error=False))
    return [_partition(scripts, stream, partition, groups, answers) for partition in range(partitions)]


def _partition(scripts: Scripts, stream: str, partition: int, groups: Sequence[str], answers: Any) -> PartitionState:
    length, door, quarantined, holder, known = (_present(next(answers)) for _ in range(5))
    found = [tuple(_present(next(answers)) for _ in range(6)) for _ in groups]
    checkpoints = [Checkpoint.parse(replies.parse_hash(stored)) for stored, *_ in found]
    on_server = {each.name: each for each in replies.parse_groups(known)}
    cursors = [checkpoint.cursor for checkpoint in checkpoints]
    last_id, *next_ids = scripts.run("peek", keys=[keys.raw(stream, partition)], args=cursors)
    states = {
        group: replace(
            _group(checkpoint, on_server.get(group.encode()), next_id, int(late), int(dead), pending),
            gone=_gone(stream, partition, group, checkpoint, has_late=bool(has_late), has_dead=bool(has_dead)),
        )
        for group, checkpoint, next_id, (_, late, dead, pending, has_late, has_dead) in zip(
            groups, checkpoints, next_ids, found, strict=True
        )
    }
    return PartitionState(
        partition=partition,
        length=int(length),
        last_id=last_id or None,
        door=Door.parse(replies.parse_hash(door)),
        quarantined=int(quarantined),
        holder=None if holder is None else holder.decode(),
        groups=states,
    )


def _group(
    checkpoint: Checkpoint, known: replies.Group | None, next_id: bytes, late: int, dead: int, pending: Any
) -> GroupState:
    waiting = replies.Pending(0, None, None, {}) if pending is None else replies.parse_pending(pending)
    oldest_ms = None if waiting.first_id is None else split_id(waiting.first_id)[0]
    behind = None if known is None or known.lag is None else known.lag + waiting.total
    # The log itself, read after the counters, has the last word on whether anything waits.
    if not next_id:
        behind = 0
    elif behind == 0:
        behind = 1
    return GroupState(checkpoint, waiting.total, oldest_ms, behind, next_id or None, late, dead)


def _gone(
    stream: str, partition: int, group: str, checkpoint: Checkpoint, *, has_late: bool, has_dead: bool
) -> tuple[str, ...]:
    """A stream of rows put aside is trimmed, but stays: where the key is missing, somebody has deleted it."""
    gone = [keys.late(stream, partition, group)] if checkpoint.late and not has_late else []
    return (*gone, *([keys.dead(stream, partition, group)] if checkpoint.dead and not has_dead else []))


def _present(reply: Any) -> Any:
    """A reply, or None for what does not exist yet; any other error is raised."""
    if isinstance(reply, Exception):
        if isinstance(reply, redis.exceptions.ResponseError) and any(text in str(reply) for text in ABSENT):
            return None
        raise reply
    return reply


def workers_alive(client: redis.Redis, heard_within_ms: int) -> set[str]:
    """Workers whose last beat is younger than `heard_within_ms`, by Redis's clock."""
    since_ms = redis_time_ms(client) - heard_within_ms
    found = client.execute_command("ZRANGEBYSCORE", keys.workers(), f"({since_ms}", "+inf")
    return {name.decode() for name in found}


def memory_bytes(client: redis.Redis) -> int:
    """What the server has allocated."""
    info: Mapping[str, Any] = client.info("memory")
    return int(info["used_memory"])


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions of a metric: the one that answers, and those still catching up."""

    active: str | None
    rebuilding: tuple[str, ...]


def metric_versions(client: redis.Redis, metric: str, running: str) -> Versions:
    """Which version answers; `running`, the version of the config, is rebuilding until it is that one."""
    active = client.execute_command("HGET", keys.versions(metric), "active")
    if active is None:
        return Versions(None, ())
    return Versions(active.decode(), () if active.decode() == running else (running,))


def _optional(text: bytes | None) -> int | None:
    return int(text) if text else None
