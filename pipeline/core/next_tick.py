"""When the next tick is due if nothing comes before it: asked of the same decision that writes it.

The moments at which `idle_ticks` can change its mind are few; the first of them at which it would write is the answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pipeline.core.definitions import TimePolicy
from pipeline.core.watermarks import FOLLOW_EVERY_MS, HISTORIC_MS, MAX_INTERVAL_MS, PartitionClock, idle_ticks
from pipeline.core.windows import Horizon


def next_tick_ms(
    now_ms: int, policy: TimePolicy, partitions: Sequence[PartitionClock], horizons: Sequence[Horizon]
) -> int | None:
    """When the scheduler next writes a tick, at or after `now_ms`; None: events have to move time, or nothing waits.

    The clocks are taken as settled: where they are now is where they were a moment ago, if nothing comes.
    """
    settled = [replace(clock, settled_ms=clock.max_seen_ms) for clock in partitions]
    moments = sorted({now_ms, *(ms for ms in _moments(policy, partitions) if ms > now_ms)})
    return next((ms for ms in moments if idle_ticks(ms, policy, settled, horizons)), None)


def _moments(policy: TimePolicy, partitions: Sequence[PartitionClock]) -> Iterator[int]:
    """When a silence becomes one, and when a tick has rested long enough for the next."""
    arrivals = [clock.last_arrival_ms for clock in partitions if clock.last_arrival_ms is not None]
    if policy.idle_after_ms is not None:
        for arrival_ms in arrivals:
            yield arrival_ms + policy.idle_after_ms
            yield arrival_ms + max(policy.idle_after_ms, HISTORIC_MS)
    for clock in partitions:
        if clock.last_tick_ms is None:
            continue
        yield clock.last_tick_ms + FOLLOW_EVERY_MS
        if arrivals and policy.idle_after_ms is not None:
            shortest_ms = min(policy.idle_after_ms, MAX_INTERVAL_MS)
            silent_ms = min(clock.last_tick_ms - max(arrivals), MAX_INTERVAL_MS)
            yield clock.last_tick_ms + max(shortest_ms, silent_ms)
