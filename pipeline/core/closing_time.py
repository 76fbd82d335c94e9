"""When silence alone would close a window: the scheduler's own decisions, made ahead of time.

Invariant: nothing is guessed: it is what `idle_ticks` would write at each of its moments if no event came from now on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.core.definitions import TimePolicy
from pipeline.core.next_tick import next_tick_ms
from pipeline.core.watermarks import PartitionClock, idle_ticks
from pipeline.core.windows import Horizon

MAX_TICKS = 500  # at most a minute apart: what is further ahead than eight hours is not foretold


def closes_at_ms(
    now_ms: int, policy: TimePolicy, partitions: Sequence[PartitionClock], horizons: Sequence[Horizon], seen_ms: int
) -> int | None:
    """When every partition's running maximum would reach `seen_ms`, by Redis's clock; None: silence does not do it."""
    clocks = {clock.partition: clock for clock in partitions}
    at_ms = now_ms
    for _ in range(MAX_TICKS):
        if all(clock.max_seen_ms is not None and clock.max_seen_ms >= seen_ms for clock in clocks.values()):
            return at_ms
        next_ms = next_tick_ms(at_ms, policy, list(clocks.values()), horizons)
        if next_ms is None:
            return None
        settled = [replace(clock, settled_ms=clock.max_seen_ms) for clock in clocks.values()]
        for tick in idle_ticks(next_ms, policy, settled, horizons):
            clock = clocks[tick.partition]
            reached_ms = max(min(tick.time_ms, next_ms), clock.max_seen_ms or min(tick.time_ms, next_ms))
            clocks[tick.partition] = replace(clock, max_seen_ms=reached_ms, last_tick_ms=next_ms)
        at_ms = next_ms
    return None
