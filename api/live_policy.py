"""The bounds of live streams, apart from what keeps them: a process that only starts servers needs the numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """Bounds of live streams. `readers` hold a thread each: decision 23."""

    readers: int = 256
    heartbeat_s: float = 10.0  # also how long a reader that has gone keeps its place; proxies cut at 60 s of silence
    look_ms: int = 200  # how long a read of Redis waits: the first reader of a metric is heard after it
    checks_every_s: float = 1.0
