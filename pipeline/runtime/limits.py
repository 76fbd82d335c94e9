"""How far every resource is used up that an installation can run out of, and so which is the next limit.

Invariant: a share is of what is refused or fails at 1: ingest at a full memory or backlog, Redis at a full disk.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from pipeline.core.definitions import Config
from pipeline.rim.pressure import MEMORY_LIMIT, backlog_bytes
from pipeline.runtime.stage_groups import groups_of


@dataclass(frozen=True, slots=True)
class Limit:
    """One resource in bytes: `used` of `most`, and the way out when they meet."""

    name: str
    used: float
    most: float
    advice: str

    @property
    def share(self) -> float:
        return self.used / self.most if self.most else 1.0

    def __str__(self) -> str:
        return f"{self.name} {self.share:.1%} ({_size(self.used)} of {_size(self.most)})"


def limits(client: redis.Redis, config: Config, data_dir: Path | None) -> list[Limit]:
    """Return every limit, the nearest one first; `data_dir` where the embedded server has its log on this disk."""
    found = [*_memory(client), *_backlogs(client, config), *_disk(client, data_dir)]
    return sorted(found, key=lambda limit: limit.share, reverse=True)


def _memory(client: redis.Redis) -> Iterator[Limit]:
    info = client.info("memory")
    used, most, machine = (int(info.get(key, 0)) for key in ("used_memory", "maxmemory", "total_system_memory"))
    if most:
        way_out = "raise maxmemory of Redis, or keep less: retention of streams and stages, compression: zstd"
        yield Limit("Redis memory", used, MEMORY_LIMIT * most, way_out)
    elif machine:
        way_out = "keep less (retention, compression: zstd), and set maxmemory, so that Redis refuses in time"
        yield Limit("Redis memory, of the machine's", used, machine, way_out)


def _backlogs(client: redis.Redis, config: Config) -> Iterator[Limit]:
    """The door answers 429 when a stream's unprocessed events take more than its `retention.bytes`."""
    for stream in config.streams.values():
        if groups := groups_of(config, stream.name):
            way_out = f"start another worker: streamgauge worker; or raise streams.{stream.name}.retention.bytes"
            waiting = backlog_bytes(client, stream, groups)
            yield Limit(f"backlog of {stream.name}", waiting, stream.retention_bytes, way_out)


def _disk(client: redis.Redis, data_dir: Path | None) -> Iterator[Limit]:
    """A rewrite of the log writes a second one beside it, so twice its size has to find room."""
    if data_dir is None or not data_dir.exists():
        return
    size = int(client.info("persistence").get("aof_current_size", 0))
    room = size + shutil.disk_usage(data_dir).free
    yield Limit("disk of the data folder", 2 * size, room, "free some of the disk, or move --data-dir to a larger one")


def _size(count: float) -> str:
    for unit, base in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= base:
            return f"{count / base:,.1f} {unit}"
    return f"{count:,.0f} B"
