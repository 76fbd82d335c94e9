"""Watermarks: how far event time has come, as a function of the log alone; a watermark never moves back.

The watermark before an event is the maximum, over the events before it in stream order, of min(event time, arrival
time), minus the disorder bound (DESIGN section 6). The event itself is not in it: no event is late because of itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.core.definitions import HOUR_MS, SECOND_MS, TimePolicy
from pipeline.core.entry_header import TickCause
from pipeline.core.windows import Horizon

NO_TIME_MS = -(2**62)
"""No event yet. Below every real time, and far enough above int64's minimum that subtracting a duration cannot wrap."""

Milliseconds = npt.NDArray[np.int64]


def prefix_watermarks(
    effective_ms: Milliseconds, max_seen_ms: int | None, disorder_ms: int
) -> tuple[Milliseconds, int | None]:
    """Return the watermark before each event, and the running maximum after the last.

    `effective_ms` is min(event time, arrival time) in stream order; `max_seen_ms` the running maximum before the first,
    None when there was no event yet; an event of NO_TIME_MS moves no time. A watermark where nothing was seen is
    `NO_TIME_MS - disorder_ms`, at which no window has closed. Splitting the log anywhere and handing the maximum on
    gives the same watermarks.
    """
    start = NO_TIME_MS if max_seen_ms is None else max_seen_ms
    if len(effective_ms) == 0:
        return np.empty(0, dtype=np.int64), max_seen_ms
    running = np.empty(len(effective_ms) + 1, dtype=np.int64)
    running[0] = start
    running[1:] = effective_ms
    np.maximum.accumulate(running, out=running)
    newest_ms = int(running[-1])
    return running[:-1] - disorder_ms, None if newest_ms == NO_TIME_MS else newest_ms


def watermark_ms(max_seen_ms: int | None, disorder_ms: int) -> int | None:
    """The watermark after everything seen so far; None before the first event."""
    return None if max_seen_ms is None else max_seen_ms - disorder_ms


SETTLE_MS = 1_000
"""A partition follows the others only to where they were this long ago: the parts of one batch are appended one after
the other, and what the second part holds must not be late because a tick ran in between."""
FOLLOW_EVERY_MS = 1_000  # at most one tick a second to a partition that others wait for
MAX_INTERVAL_MS = 60 * SECOND_MS  # of the doubling intervals of a silent stream
HISTORIC_MS = HOUR_MS  # events this far behind their arrival are history being replayed: silence says nothing of them


@dataclass(frozen=True, slots=True)
class PartitionClock:
    """What time it is in one partition, as of its last entry.

    `last_id`: the entry a tick would follow. `max_seen_ms`, `max_ts_ms`, `last_arrival_ms` are of events (`max_seen_ms`
    of ticks too), None before the first. `last_tick_ms`: arrival of the last tick; a tick is no sign of life, so it
    never moves `last_arrival_ms`. `last_backfill_ms`: of old data likewise, which moves only `max_ts_ms` beside it.
    `settled_ms`: `max_seen_ms` as it was at least SETTLE_MS ago, None while unknown.
    """

    partition: int
    last_id: str = "0-0"
    max_seen_ms: int | None = None
    max_ts_ms: int | None = None
    last_arrival_ms: int | None = None
    last_tick_ms: int | None = None
    settled_ms: int | None = None
    last_backfill_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Tick:
    """One tick to append, if `last_id` is still the last entry; its time is an event time, capped by its arrival."""

    partition: int
    last_id: str
    time_ms: int
    by: TickCause = "silence"


def idle_ticks(
    now_ms: int,
    policy: TimePolicy,
    partitions: Sequence[PartitionClock],
    horizons: Sequence[Horizon],
    watched_since_ms: int | None = None,
) -> list[Tick]:
    """Decide which partitions time has to be moved in, and to where, because events no longer do it (DESIGN 6).

    `horizons` are those of the stages that read the stream. A tick is part of the clocks the next one is decided from:
    run late, twice or in two processes, this moves time no further, and a tick never looks like the stream flowing.
    `watched_since_ms`: since when nothing stood in an event's way; a silence before it is an outage, not a source's.
    """
    if all(clock.last_arrival_ms is None for clock in partitions):
        partitions = [_as_if_live(clock) for clock in partitions]
    arrivals = [clock.last_arrival_ms for clock in partitions if clock.last_arrival_ms is not None]
    newest_ms = max((c.max_ts_ms for c in partitions if c.max_ts_ms is not None), default=None)
    if not arrivals or newest_ms is None or not horizons:
        return []
    last_ms = max(arrivals)
    historic = last_ms - newest_ms > HISTORIC_MS
    ticks: list[Tick] = []
    if _is_silent(now_ms, policy, _latest(last_ms, watched_since_ms), historic):
        end_ms = end_tick_time(newest_ms, horizons, policy.disorder_ms)
        ticks = _silence_ticks(now_ms, policy.idle_after_ms or 0, last_ms, partitions, end_ms, historic)
    elif not historic:
        ticks = _idle_ticks(now_ms, policy, partitions, horizons, newest_ms, watched_since_ms)
    taken = {tick.partition for tick in ticks}
    return ticks + [
        tick for tick in _unused_ticks(now_ms, policy, partitions, horizons, newest_ms) if tick.partition not in taken
    ]


def _as_if_live(clock: PartitionClock) -> PartitionClock:
    """A stream that has only been backfilled has no other events to tell the time by; its last windows close too."""
    if clock.last_backfill_ms is None or clock.max_ts_ms is None:
        return clock
    reached_ms = min(clock.max_ts_ms, clock.last_backfill_ms) if clock.max_seen_ms is None else clock.max_seen_ms
    return replace(clock, last_arrival_ms=clock.last_backfill_ms, max_seen_ms=reached_ms)


def _latest(arrival_ms: int, watched_since_ms: int | None) -> int:
    """When the silence began that may be taken for the source's own."""
    return arrival_ms if watched_since_ms is None else max(arrival_ms, watched_since_ms)


def _is_silent(now_ms: int, policy: TimePolicy, last_ms: int, historic: bool) -> bool:
    """Whether no partition has had an event for long enough; with `idle_after: none` a stream is never silent."""
    if policy.idle_after_ms is None:
        return False
    return now_ms - last_ms >= (max(policy.idle_after_ms, HISTORIC_MS) if historic else policy.idle_after_ms)


def end_tick_time(newest_ms: int, horizons: Sequence[Horizon], disorder_ms: int) -> int:
    """The tick time that makes every window that has an event final; `newest_ms`: largest event time in the log."""
    return max((horizon.final_after(newest_ms) for horizon in horizons), default=newest_ms) + disorder_ms


def _silence_ticks(
    now_ms: int,
    idle_after_ms: int,
    last_ms: int,
    partitions: Sequence[PartitionClock],
    end_ms: int,
    historic: bool,
) -> list[Tick]:
    """The whole stream is silent: time goes on in every partition as the clock does; a historic one goes to its end."""
    ticks = []
    for clock in partitions:
        if clock.max_seen_ms is not None and clock.max_seen_ms >= end_ms:
            continue  # no window is open here
        if not _interval_is_over(now_ms, idle_after_ms, last_ms, clock.last_tick_ms):
            continue
        if historic:
            time_ms = end_ms
        elif clock.last_arrival_ms is not None and clock.max_seen_ms is not None:
            time_ms = clock.max_seen_ms + max(0, now_ms - max(clock.last_arrival_ms, clock.last_tick_ms or 0))
        else:
            continue
        ticks += _tick(clock, time_ms, now_ms)
    return ticks


def _interval_is_over(now_ms: int, idle_after_ms: int, last_ms: int, last_tick_ms: int | None) -> bool:
    """Whether a silence since `last_ms` is due its next tick: one at once, then when it has doubled, up to 60 s.

    The interval is derived from when the last tick came, so nothing has to remember how many there were.
    """
    if last_tick_ms is None or last_tick_ms <= last_ms:
        return True
    shortest = min(idle_after_ms, MAX_INTERVAL_MS)
    return now_ms - last_tick_ms >= max(shortest, min(last_tick_ms - last_ms, MAX_INTERVAL_MS))


def _idle_ticks(
    now_ms: int,
    policy: TimePolicy,
    partitions: Sequence[PartitionClock],
    horizons: Sequence[Horizon],
    newest_ms: int,
    watched_since_ms: int | None,
) -> list[Tick]:
    """Used partitions that are silent beside flowing ones follow the slowest of those that flow."""
    if policy.idle_after_ms is None:
        return []
    used = [clock for clock in partitions if clock.last_arrival_ms is not None]
    idle = [c for c in used if now_ms - _latest(c.last_arrival_ms or 0, watched_since_ms) >= policy.idle_after_ms]
    target_ms = _slowest([clock for clock in used if clock not in idle])
    return _follow(now_ms, policy, idle, target_ms, horizons, newest_ms)


def _unused_ticks(
    now_ms: int,
    policy: TimePolicy,
    partitions: Sequence[PartitionClock],
    horizons: Sequence[Horizon],
    newest_ms: int,
) -> list[Tick]:
    """Partitions that never had an event follow the slowest of those that had one, idle or not, whatever the policy."""
    used = [clock for clock in partitions if clock.last_arrival_ms is not None]
    unused = [clock for clock in partitions if clock.last_arrival_ms is None]
    return _follow(now_ms, policy, unused, _slowest(used), horizons, newest_ms)


def _slowest(clocks: Sequence[PartitionClock]) -> int | None:
    """Where all of them were a moment ago; None while that is not known of one of them."""
    times = [clock.settled_ms for clock in clocks]
    known = [time for time in times if time is not None]
    return min(known) if known and len(known) == len(times) else None


def _follow(
    now_ms: int,
    policy: TimePolicy,
    behind: Sequence[PartitionClock],
    target_ms: int | None,
    horizons: Sequence[Horizon],
    newest_ms: int,
) -> list[Tick]:
    """Lift those `behind` to the running maximum `target_ms`, where a window waits for it."""
    if target_ms is None:
        return []
    ticks = []
    for clock in behind:
        rested = clock.last_tick_ms is None or now_ms - clock.last_tick_ms >= FOLLOW_EVERY_MS
        if rested and _a_window_waits(clock, target_ms - policy.disorder_ms, policy.disorder_ms, horizons, newest_ms):
            ticks += _tick(clock, target_ms, now_ms, "follow")
    return ticks


def _a_window_waits(
    clock: PartitionClock, others_ms: int, disorder_ms: int, horizons: Sequence[Horizon], newest_ms: int
) -> bool:
    """Whether a window that may have events has ended, or is final, for the others' watermark, not for this one's."""
    own_ms = watermark_ms(clock.max_seen_ms, disorder_ms)
    if own_ms is None:
        return True
    return any(
        min(horizon.turn_at_or_before(others_ms), horizon.final_after(newest_ms)) > own_ms for horizon in horizons
    )


def _tick(clock: PartitionClock, time_ms: int, now_ms: int, by: TickCause = "silence") -> list[Tick]:
    """A tick, unless it would move nothing: its time is capped by its arrival."""
    if clock.max_seen_ms is not None and min(time_ms, now_ms) <= clock.max_seen_ms:
        return []
    return [Tick(clock.partition, clock.last_id, time_ms, by)]
