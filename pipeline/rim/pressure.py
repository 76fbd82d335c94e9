"""Refusing at the door before it hurts: too much memory in use, or too much that no stage has processed.

Invariant: ingest stops well before `maxmemory`, so that commits, which free memory, always find room (FACTS 5).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from redis.client import Pipeline

from pipeline.core.definitions import Stream
from pipeline.errors import BackpressureError
from pipeline.rim import keys

SAMPLE_EVERY_S = 1.0  # what one process can append in a second is small beside the margins below
MEMORY_LIMIT = 0.9  # of maxmemory; the rest is for commits, results and trims
RETRY_AFTER_S = 5  # a worker clears some millions of events in it, a trim its step


class MemoryFullError(BackpressureError):
    """The server's memory is nearly used up: whatever the stream, nothing is taken until some is free."""


@dataclass(slots=True)
class Pressure:
    """Watches one stream for one process; `groups` are the consumer groups that read it."""

    client: redis.Redis
    stream: Stream
    groups: Sequence[str]
    _sampled_s: float = field(default=float("-inf"))
    _refusal: BackpressureError | None = None
    _clock_ms: float = 0.0  # Redis's clock less this process's monotonic one
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def now_ms(self) -> int:
        """Redis's clock, as last sampled and carried on by our own."""
        return int(self._clock_ms + time.monotonic() * 1000)

    def check(self) -> None:
        """Sample, at most once a second, and refuse while the last sample was over a limit.

        Raises:
            MemoryFullError: over 90 % of `maxmemory` is in use.
            BackpressureError: more than the stream's `retention.bytes` waits for the slowest group.
            redis.exceptions.RedisError: the server cannot be asked.
        """
        with self._lock:
            if time.monotonic() - self._sampled_s >= SAMPLE_EVERY_S:
                self._sample()
                self._sampled_s = time.monotonic()
            refusal = self._refusal
        if refusal is not None:
            raise type(refusal)(str(refusal), retry_after_s=refusal.retry_after_s)

    def _sample(self) -> None:
        pipe = self.client.pipeline(transaction=False)
        pipe.execute_command("TIME")
        pipe.execute_command("INFO", "memory")
        _ask_for_backlog(pipe, self.stream, self.groups)
        clock, memory, *rest = pipe.execute()
        self._clock_ms = _milliseconds(clock) - time.monotonic() * 1000
        self._refusal = _memory_refusal(memory) or self._backlog_refusal(rest)

    def _backlog_refusal(self, answers: Sequence[Any]) -> BackpressureError | None:
        waiting = _waiting_bytes(answers, len(self.groups))
        if waiting <= self.stream.retention_bytes:
            return None
        return BackpressureError(
            f"{waiting:,.0f} bytes of {self.stream.name} wait to be processed, more than its retention.bytes of "
            f"{self.stream.retention_bytes:,}. Start more workers or send more slowly.",
            retry_after_s=RETRY_AFTER_S,
        )


def backlog_bytes(client: redis.Redis, stream: Stream, groups: Sequence[str]) -> float:
    """Return about how many bytes of a stream its slowest groups have still to process, over all partitions."""
    pipe = client.pipeline(transaction=False)
    _ask_for_backlog(pipe, stream, groups)
    return _waiting_bytes(pipe.execute(), len(groups))


def _ask_for_backlog(pipe: Pipeline, stream: Stream, groups: Sequence[str]) -> None:
    for partition in range(stream.partitions):
        pipe.execute_command("HMGET", keys.door(stream.name, partition), "stored", "bytes")
        for group in groups:
            pipe.execute_command("HGET", keys.checkpoint(stream.name, partition, group), "position")


def _waiting_bytes(answers: Sequence[Any], groups: int) -> float:
    """What `_ask_for_backlog` was answered, added up."""
    width, waiting = 1 + groups, 0.0
    for first in range(0, len(answers), width):
        (stored, size), positions = answers[first], answers[first + 1 : first + width]
        waiting += _backlog_bytes(int(stored or 0), int(size or 0), positions)
    return waiting


def _backlog_bytes(stored: int, size: int, positions: Sequence[bytes | None]) -> float:
    """Average bytes an event times the events the slowest group has not committed; a group not begun is left out."""
    begun = [int(position) for position in positions if position is not None]
    if not begun or not stored:
        return 0.0
    return size / stored * max(0, stored - min(begun))


def _memory_refusal(memory: Any) -> MemoryFullError | None:
    used, limit = int(memory["used_memory"]), int(memory.get("maxmemory", 0))
    if limit == 0 or used <= MEMORY_LIMIT * limit:
        return None
    return MemoryFullError(
        f"Redis uses {used:,} of its {limit:,} bytes of memory, above {MEMORY_LIMIT:.0%}: nothing is taken until "
        "retention has freed some, or maxmemory is raised.",
        retry_after_s=RETRY_AFTER_S,
    )


def _milliseconds(clock: Sequence[Any]) -> int:
    seconds, microseconds = clock
    return int(seconds) * 1000 + int(microseconds) // 1000
