"""The watermark of a stream as something to look at: how far each partition is, which one holds it back, and why.

Invariant: nothing here moves time; what is said is read from the checkpoints and the door at one moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.completeness import CompleteBy, least_sure, moved_by
from pipeline.core.definitions import SECOND_MS, Stream
from pipeline.core.next_tick import next_tick_ms
from pipeline.core.times import about_duration
from pipeline.core.watermarks import HISTORIC_MS, PartitionClock
from pipeline.core.windows import Horizon
from pipeline.rim.commit import Checkpoint
from pipeline.runtime.status import PartitionStatus, StreamStatus

QUIET_MS = 10 * SECOND_MS  # what counts as idle where `idle_after: none` says nothing of it: the default of the setting


@dataclass(frozen=True, slots=True)
class PartitionTime:
    """How far one partition is. `idle_since_ms`: its last event, where that is long ago; None while it flows.

    `complete_by`: what has brought its time to where it is. `why`: where it holds the stream back, what it waits for.
    """

    status: PartitionStatus
    idle_since_ms: int | None
    complete_by: CompleteBy | None
    why: str | None

    @property
    def holds_back(self) -> bool:
        return self.why is not None


@dataclass(frozen=True, slots=True)
class StreamTime:
    """How far a stream is: its partitions, what brought it there, and when silence would move it next."""

    status: StreamStatus
    now_ms: int
    partitions: tuple[PartitionTime, ...]
    complete_by: CompleteBy | None
    next_tick_ms: int | None

    @property
    def held_back_by(self) -> list[int]:
        """The partitions whose watermark is the least."""
        return [each.status.state.partition for each in self.partitions if each.holds_back]


def stream_time(status: StreamStatus, horizons: Sequence[Horizon], now_ms: int) -> StreamTime:
    """Say how far a stream is; `horizons` are those of the stages that read it."""
    next_ms = next_tick_ms(now_ms, status.stream.time, [clock_of(each) for each in status.partitions], horizons)
    return StreamTime(
        status=status,
        now_ms=now_ms,
        partitions=tuple(_partition(status, each, next_ms, now_ms) for each in status.partitions),
        complete_by=_complete_by(status),
        next_tick_ms=next_ms,
    )


def clock_of(partition: PartitionStatus) -> PartitionClock:
    """The partition's clock as the scheduler will see it: the door, or a checkpoint that is ahead of it."""
    door = partition.state.door
    return PartitionClock(
        partition=partition.state.partition,
        last_id=door.last_id,
        max_seen_ms=partition.max_seen_ms,
        max_ts_ms=partition.max_ts_ms,
        last_arrival_ms=partition.last_arrival_ms,
        last_tick_ms=door.last_tick_ms,
        last_backfill_ms=door.last_backfill_ms,
    )


def _partition(status: StreamStatus, partition: PartitionStatus, next_ms: int | None, now_ms: int) -> PartitionTime:
    idle_after_ms = status.stream.time.idle_after_ms
    arrival_ms = partition.last_arrival_ms
    idle = arrival_ms is not None and now_ms - arrival_ms >= (QUIET_MS if idle_after_ms is None else idle_after_ms)
    slowest = _slowest(partition)
    by = None
    if slowest is not None and slowest.max_seen_ms is not None:
        by = moved_by(slowest.max_seen_ms, slowest.max_event_ms, slowest.max_beat_ms)
    why = _why(status, partition, idle, next_ms, now_ms) if partition.watermark_ms == status.watermark_ms else None
    return PartitionTime(partition, arrival_ms if idle else None, by, why)


def _slowest(partition: PartitionStatus) -> Checkpoint | None:
    """The checkpoint that the partition's watermark is read from; None where no stage reads the stream."""
    checkpoints = [group.checkpoint for group in partition.state.groups.values()]
    return min(checkpoints, key=lambda c: (c.max_seen_ms is not None, c.max_seen_ms or 0), default=None)


def _complete_by(status: StreamStatus) -> CompleteBy | None:
    slowest = [_slowest(partition) for partition in status.partitions]
    if status.watermark_ms is None or None in slowest:
        return None
    time_ms = status.watermark_ms + status.stream.time.disorder_ms
    return least_sure(moved_by(time_ms, each.max_event_ms, each.max_beat_ms) for each in slowest if each is not None)


def _why(status: StreamStatus, partition: PartitionStatus, idle: bool, next_ms: int | None, now_ms: int) -> str:
    """What the partition that is furthest behind waits for, in one sentence."""
    lag = partition.lag
    if lag.events:
        entries = "entries" if lag.entries is None else f"{lag.entries} {'entry' if lag.entries == 1 else 'entries'}"
        return (
            f"worker lag of {entries}, the oldest for {lag.seconds:.1f} s: the log is ahead of the stages that read it"
        )
    if partition.last_arrival_ms is None:
        if all(each.last_arrival_ms is None for each in status.partitions):
            return "no partition has had an event"
        return "never had an event: it follows the others as far as a window waits for it"
    if idle:
        return _why_idle(status.stream, partition, partition.last_arrival_ms, next_ms, now_ms)
    if status.max_watermark_ms is not None and partition.watermark_ms != status.max_watermark_ms:
        return f"flows, {status.max_watermark_ms - (partition.watermark_ms or 0)} ms behind the furthest partition"
    return f"flows, {now_ms - (partition.watermark_ms or 0)} ms behind Redis's clock"


def _why_idle(stream: Stream, partition: PartitionStatus, arrival_ms: int, next_ms: int | None, now_ms: int) -> str:
    silent = f"no event for {about_duration(now_ms - arrival_ms)}"
    if stream.time.idle_after_ms is None:
        return f"waiting for events; idle_after none ({silent}): an event or a heartbeat moves it"
    if partition.max_ts_ms is not None and arrival_ms - partition.max_ts_ms > HISTORIC_MS:
        return f'{silent}, and events of long ago are not moved by silence: send {{"end": true}} when there are no more'
    if next_ms is None:
        return f"{silent}, and no window waits for it"
    return f"{silent}: time goes on by ticks, the next one in {max(0, next_ms - now_ms)} ms if no event comes"
