"""Leases of stream partitions: which worker works on which, shared out evenly among the living.

A lease only saves wasted work. When it fails, and two workers think they own a partition, the fence keeps the numbers
right.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import redis

from pipeline.rim import keys
from pipeline.rim.scripts import Scripts
from pipeline.rim.store import redis_time_ms

LEASE_MS = 5_000  # a dead worker's partitions are taken over after this; a commit takes at most some 10 ms
BEAT_S = 1.0  # several chances to renew before a lease runs out

Partition = tuple[str, int]


@dataclass(slots=True)
class Leases:
    """The partitions one worker holds."""

    worker: str
    partitions: Sequence[Partition]
    client: redis.Redis
    scripts: Scripts
    held: set[Partition] = field(default_factory=set)
    _next_beat_s: float = 0.0

    def beat(self) -> bool:
        """Once a second say that we live, renew what we hold, take our share and give back what is over it.

        Returns whether what we hold may have changed.
        """
        now_s = time.monotonic()
        if now_s < self._next_beat_s:
            return False
        self._next_beat_s = now_s + BEAT_S
        share = self._fair_share()
        for partition in [p for p in self.partitions if p in self.held]:
            over = len(self.held) > share
            if not self._hold(partition, 0 if over else LEASE_MS):
                self.held.discard(partition)
        for partition in self.partitions:
            if len(self.held) >= share:
                break
            if partition not in self.held and self._hold(partition, LEASE_MS):
                self.held.add(partition)
        return True

    def release(self) -> None:
        """Give everything back: others need not wait for the leases to run out."""
        self.client.execute_command("ZREM", keys.workers(), self.worker)
        for partition in sorted(self.held):
            self._hold(partition, 0)
        self.held.clear()

    def forget(self) -> None:
        """After a lost connection: hold nothing until the next beat says so."""
        self.held.clear()
        self._next_beat_s = 0.0

    def _fair_share(self) -> int:
        """Our part of all partitions, rounded up, by the number of workers heard of lately."""
        now_ms = redis_time_ms(self.client)
        pipe = self.client.pipeline(transaction=False)
        pipe.execute_command("ZADD", keys.workers(), now_ms, self.worker)
        pipe.execute_command("ZREMRANGEBYSCORE", keys.workers(), "-inf", now_ms - LEASE_MS)
        pipe.execute_command("ZCARD", keys.workers())
        living = max(1, int(pipe.execute()[-1]))
        return -(-len(self.partitions) // living)

    def _hold(self, partition: Partition, milliseconds: int) -> bool:
        answer = self.scripts.run("lease", keys=[keys.lease(*partition)], args=[self.worker, milliseconds])
        return bool(int(answer))
