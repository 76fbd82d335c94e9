"""When time has to be moved without events: scenarios on a clock that the test turns."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from pipeline.core.definitions import DAY_MS, HOUR_MS, MINUTE_MS, TimePolicy, Tumbling
from pipeline.core.watermarks import SETTLE_MS, PartitionClock, Tick, idle_ticks
from pipeline.core.windows import Horizon

SECOND = 1_000
NOW = 1_800_000_000_000  # a multiple of ten seconds
POLICY = TimePolicy(field="ts", disorder_ms=5 * SECOND, idle_after_ms=10 * SECOND)
TEN_SECONDS = Tumbling(10 * SECOND)


@dataclass
class World:
    """Partitions of one stream as the scripts keep them, and a scheduler that looks every half second."""

    policy: TimePolicy = POLICY
    partitions: int = 2
    windows: tuple[Tumbling, ...] = (TEN_SECONDS,)
    now_ms: int = NOW
    clocks: list[PartitionClock] = field(default_factory=list)
    ticks: list[tuple[int, Tick]] = field(default_factory=list)
    looks: list[tuple[int, list[int | None]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clocks = [PartitionClock(partition) for partition in range(self.partitions)]

    def event(self, partition: int, *, behind_ms: int = 0) -> None:
        clock = self.clocks[partition]
        time_ms = self.now_ms - behind_ms
        self.clocks[partition] = replace(
            clock,
            last_id=f"{self.now_ms}-0",
            max_seen_ms=max(time_ms, clock.max_seen_ms or time_ms),
            max_ts_ms=max(time_ms, clock.max_ts_ms or time_ms),
            last_arrival_ms=self.now_ms,
        )

    def look(self) -> list[Tick]:
        """One run of the scheduler; its ticks are applied as tick.lua does."""
        self.looks.append((self.now_ms, [clock.max_seen_ms for clock in self.clocks]))
        self.looks = self.looks[-20:]
        old = [seen for at, seen in self.looks if at <= self.now_ms - SETTLE_MS]
        settled = old[-1] if old else [None] * self.partitions
        seen = [replace(clock, settled_ms=ms) for clock, ms in zip(self.clocks, settled, strict=True)]
        ticks = idle_ticks(self.now_ms, self.policy, seen, [Horizon(window) for window in self.windows])
        for tick in ticks:
            clock = self.clocks[tick.partition]
            assert tick.last_id == clock.last_id
            capped_ms = min(tick.time_ms, self.now_ms)
            assert clock.max_seen_ms is None or capped_ms > clock.max_seen_ms, "a tick that moves nothing"
            self.clocks[tick.partition] = replace(
                clock, last_id=f"{self.now_ms}-1", max_seen_ms=capped_ms, last_tick_ms=self.now_ms
            )
        self.ticks += [(self.now_ms - NOW, tick) for tick in ticks]
        return ticks

    def run(self, ms: int, *, flowing: tuple[int, ...] = (), behind_ms: int = 0, every_ms: int = 500) -> World:
        """Let time pass, with an event every half second in the `flowing` partitions."""
        for _ in range(ms // every_ms):
            self.now_ms += every_ms
            for partition in flowing:
                self.event(partition, behind_ms=behind_ms)
            self.look()
        return self

    def watermark_ms(self, partition: int) -> int | None:
        seen = self.clocks[partition].max_seen_ms
        return None if seen is None else seen - self.policy.disorder_ms

    def ticked(self, partition: int) -> list[int]:
        """When a partition was ticked, in ms since the start."""
        return [at for at, tick in self.ticks if tick.partition == partition]


def test_a_stream_that_flows_is_not_ticked() -> None:
    world = World().run(MINUTE_MS, flowing=(0, 1))
    assert world.ticks == []


def test_a_stream_without_an_event_or_without_windows_is_not_ticked() -> None:
    assert World().run(MINUTE_MS).ticks == []
    world = World(windows=())
    world.event(0)
    assert world.run(MINUTE_MS).ticks == []


def test_a_stream_that_stops_is_ticked_after_idle_after_and_then_at_doubling_intervals() -> None:
    world = World(partitions=1, windows=(Tumbling(DAY_MS),))
    world.event(0)
    world.run(5 * MINUTE_MS)
    assert world.ticked(0) == [s * SECOND for s in (10, 20, 40, 80, 140, 200, 260)]


def test_silence_moves_time_as_fast_as_the_clock_and_not_faster() -> None:
    world = World(partitions=1, windows=(Tumbling(DAY_MS),))
    world.event(0, behind_ms=90 * SECOND)
    world.run(5 * MINUTE_MS)
    for at_ms, tick in world.ticks:
        assert tick.time_ms == NOW + at_ms - 90 * SECOND


def test_ticks_stop_when_the_last_window_has_closed() -> None:
    world = World()
    world.event(0)
    world.event(1)
    world.run(HOUR_MS)
    assert all((world.watermark_ms(partition) or 0) >= NOW + 10 * SECOND for partition in (0, 1))
    assert max(world.ticked(0)) <= 20 * SECOND
    assert len(world.ticks) == 4


def test_a_tick_does_not_look_like_the_stream_flowing_again() -> None:
    """Partition 0's tick must not make partition 1 idle beside it, nor start the doubling anew."""
    world = World(windows=(Tumbling(DAY_MS),))
    world.event(0)
    world.now_ms += 3 * SECOND
    world.event(1)
    world.run(10 * MINUTE_MS)
    assert len(world.ticked(0)) == len(world.ticked(1)) <= 14


def test_an_event_starts_the_doubling_anew() -> None:
    world = World(partitions=1, windows=(Tumbling(DAY_MS),))
    world.event(0)
    world.run(30 * SECOND)
    world.event(0)
    world.ticks.clear()
    world.run(45 * SECOND)
    assert world.ticked(0) == [40 * SECOND, 50 * SECOND, 70 * SECOND]


def test_one_silent_partition_follows_those_that_flow_when_a_window_waits_only_for_it() -> None:
    world = World(partitions=3)
    world.event(2)
    world.run(2 * MINUTE_MS, flowing=(0, 1))
    assert world.ticked(0) == world.ticked(1) == []
    assert world.ticked(2)[0] >= 10 * SECOND
    behind_ms = (world.watermark_ms(0) or 0) - (world.watermark_ms(2) or 0)
    assert 0 < behind_ms <= 10 * SECOND + SETTLE_MS + 500
    assert len(world.ticked(2)) <= 12, "one a window, not one a second"


def test_a_silent_partition_is_ticked_at_most_once_a_second() -> None:
    world = World(windows=(Tumbling(100),))
    world.event(1)
    world.run(MINUTE_MS, flowing=(0,), every_ms=250)
    gaps = [b - a for a, b in zip(world.ticked(1), world.ticked(1)[1:], strict=False)]
    assert min(gaps) == SECOND


def test_a_silent_partition_follows_to_where_the_others_were_a_moment_ago() -> None:
    """The parts of one batch come one after the other: a tick between them must not make the second part late."""
    flowing = PartitionClock(0, "2-0", NOW, NOW, NOW, settled_ms=NOW - 20 * SECOND)
    idle = PartitionClock(1, "1-0", NOW - MINUTE_MS, NOW - MINUTE_MS, NOW - MINUTE_MS, settled_ms=NOW - MINUTE_MS)
    unused = PartitionClock(2)
    ticks = idle_ticks(NOW, POLICY, [flowing, idle, unused], [Horizon(TEN_SECONDS)])
    assert ticks == [Tick(1, "1-0", NOW - 20 * SECOND, "follow"), Tick(2, "0-0", NOW - MINUTE_MS, "follow")]
    unsettled = replace(flowing, settled_ms=None)
    assert idle_ticks(NOW, POLICY, [unsettled, idle, unused], [Horizon(TEN_SECONDS)]) == []


def test_the_slowest_of_those_that_flow_is_followed() -> None:
    world = World(partitions=3)
    world.event(2, behind_ms=2 * MINUTE_MS)
    for _ in range(60):
        world.now_ms += 500
        world.event(0, behind_ms=40 * SECOND)
        world.event(1)
        world.look()
    assert world.ticked(2)
    assert all(tick.time_ms <= NOW + at - 40 * SECOND for at, tick in world.ticks)


def test_a_never_used_partition_follows_those_that_had_an_event() -> None:
    world = World().run(30 * SECOND, flowing=(0,))
    assert world.ticked(1)
    assert (world.watermark_ms(1) or 0) >= NOW + 10 * SECOND


def test_a_never_used_partition_follows_an_idle_one_through_silence() -> None:
    world = World(partitions=4)
    world.event(0)
    world.run(MINUTE_MS)
    assert all((world.watermark_ms(partition) or 0) >= NOW + 10 * SECOND for partition in range(4))
    assert all(len(world.ticked(partition)) <= 4 for partition in range(4))


def test_with_idle_after_none_silence_holds_and_only_never_used_partitions_follow() -> None:
    world = World(policy=replace(POLICY, idle_after_ms=None), partitions=3)
    world.event(1)
    world.run(HOUR_MS, flowing=(0,), every_ms=SECOND)
    assert world.ticked(0) == world.ticked(1) == []
    assert world.clocks[2].max_seen_ms == world.clocks[1].max_seen_ms
    world.run(2 * DAY_MS, every_ms=MINUTE_MS)
    assert world.ticked(0) == world.ticked(1) == []


def test_a_historic_stream_is_not_moved_by_silence_but_ended_after_an_hour() -> None:
    world = World()
    world.event(0, behind_ms=365 * DAY_MS)
    world.event(1, behind_ms=365 * DAY_MS - MINUTE_MS)
    world.run(HOUR_MS - MINUTE_MS, every_ms=SECOND)
    assert world.ticks == []
    world.run(2 * HOUR_MS, every_ms=SECOND)
    end_ms = NOW - 365 * DAY_MS + MINUTE_MS + 10 * SECOND
    assert [(at, t.partition, t.time_ms) for at, t in world.ticks] == [
        (HOUR_MS, partition, end_ms + POLICY.disorder_ms) for partition in (0, 1)
    ]
    assert world.watermark_ms(0) == world.watermark_ms(1) == end_ms


def test_a_historic_stream_ends_after_idle_after_when_that_is_longer_than_an_hour() -> None:
    world = World(policy=replace(POLICY, idle_after_ms=3 * HOUR_MS), partitions=1)
    world.event(0, behind_ms=DAY_MS)
    world.run(4 * HOUR_MS, every_ms=SECOND)
    assert world.ticked(0) == [3 * HOUR_MS]


def test_an_idle_partition_of_a_historic_stream_holds_while_the_others_are_replayed() -> None:
    world = World()
    world.event(1, behind_ms=DAY_MS)
    world.run(MINUTE_MS, flowing=(0,), behind_ms=DAY_MS - MINUTE_MS)
    assert world.ticked(1) == []


def test_a_never_used_partition_of_a_historic_stream_follows_and_is_ended_too() -> None:
    world = World(partitions=2)
    world.run(MINUTE_MS, flowing=(0,), behind_ms=DAY_MS)
    assert world.ticked(1)
    world.run(2 * HOUR_MS, every_ms=SECOND)
    assert world.watermark_ms(0) == world.watermark_ms(1) == NOW + MINUTE_MS - DAY_MS + 10 * SECOND


def test_an_end_that_lies_ahead_of_the_clock_is_approached_without_a_flood_of_ticks() -> None:
    """A day's window of events two hours old cannot close before the day is over."""
    world = World(partitions=1, windows=(Tumbling(DAY_MS),))
    world.event(0, behind_ms=2 * HOUR_MS)
    world.run(20 * HOUR_MS, every_ms=10 * SECOND)
    assert len(world.ticks) <= 20 * 60
    assert (world.watermark_ms(0) or 0) <= world.now_ms


def test_a_silence_begins_when_nothing_stands_in_the_way_of_an_event() -> None:
    """An outage of a minute until NOW; then time goes on as if it had been seen from the last event on."""
    clock = PartitionClock(0, "1-0", NOW - MINUTE_MS, NOW - MINUTE_MS, NOW - MINUTE_MS)
    horizons = [Horizon(TEN_SECONDS)]
    assert idle_ticks(NOW, POLICY, [clock], horizons, NOW - 9_999) == []
    assert idle_ticks(NOW, POLICY, [clock], horizons, NOW - 10_000) == [Tick(0, "1-0", NOW)]
    assert idle_ticks(NOW, POLICY, [clock], horizons) == [Tick(0, "1-0", NOW)]


def test_a_partition_does_not_follow_the_first_that_speaks_after_an_outage() -> None:
    flowing = PartitionClock(0, "2-0", NOW, NOW, NOW, settled_ms=NOW)
    silent = PartitionClock(1, "1-0", NOW - MINUTE_MS, NOW - MINUTE_MS, NOW - MINUTE_MS)
    horizons = [Horizon(TEN_SECONDS)]
    assert idle_ticks(NOW, POLICY, [flowing, silent], horizons, NOW - 9_999) == []
    assert idle_ticks(NOW, POLICY, [flowing, silent], horizons, NOW - 10_000) == [Tick(1, "1-0", NOW, "follow")]


@pytest.mark.parametrize("back_ms", [500, MINUTE_MS, DAY_MS])
def test_a_clock_that_goes_back_moves_nothing(back_ms: int) -> None:
    world = World()
    world.event(0)
    world.event(1)
    world.now_ms -= back_ms
    assert world.look() == []


def test_a_clock_that_went_back_behind_the_running_maximum_is_waited_for() -> None:
    """An entry's arrival caps its tick: until the clock is there again a tick would move nothing."""
    clock = PartitionClock(0, "1-0", NOW + 20 * SECOND, NOW, NOW - 20 * SECOND, last_tick_ms=NOW - 15 * SECOND)
    assert idle_ticks(NOW, POLICY, [clock], [Horizon(Tumbling(HOUR_MS))]) == []


def test_a_partition_past_the_newest_window_does_not_follow_a_heartbeat() -> None:
    """The others were moved by hand to far behind the last event; no window waits there."""
    used = PartitionClock(0, "2-0", NOW, NOW - MINUTE_MS, NOW, last_tick_ms=NOW, settled_ms=NOW)
    unused = PartitionClock(1, "1-0", max_seen_ms=NOW - 45 * SECOND, last_tick_ms=NOW - 45 * SECOND)
    assert idle_ticks(NOW, POLICY, [used, unused], [Horizon(TEN_SECONDS)]) == []
    behind = replace(unused, max_seen_ms=NOW - 46 * SECOND)
    assert idle_ticks(NOW, POLICY, [used, behind], [Horizon(TEN_SECONDS)]) == [Tick(1, "1-0", NOW, "follow")]


def test_an_event_ahead_of_its_arrival_does_not_take_time_past_the_clock() -> None:
    clock = PartitionClock(0, "1-0", max_seen_ms=NOW, max_ts_ms=NOW + 5 * MINUTE_MS, last_arrival_ms=NOW)
    for silence_ms in (10 * SECOND, MINUTE_MS, 4 * MINUTE_MS):
        (tick,) = idle_ticks(NOW + silence_ms, POLICY, [clock], [Horizon(TEN_SECONDS)])
        assert tick.time_ms == NOW + silence_ms


def backfilled(world: World, partition: int, *, behind_ms: int) -> None:
    """Old data came, as append.lua keeps it."""
    clock, time_ms = world.clocks[partition], world.now_ms - behind_ms
    world.clocks[partition] = replace(
        clock,
        last_id=f"{world.now_ms}-0",
        max_ts_ms=max(time_ms, clock.max_ts_ms or time_ms),
        last_backfill_ms=world.now_ms,
    )


def run(world: World, seconds: float) -> None:
    for _ in range(int(seconds * 2)):
        world.now_ms += SECOND // 2
        world.look()


def test_old_data_does_not_make_a_silent_partition_flow() -> None:
    world = World()
    for second in range(40):
        world.event(0)
        if second == 0:
            world.event(1)
        backfilled(world, 1, behind_ms=DAY_MS)
        run(world, 1)

    assert (world.clocks[1].max_seen_ms or 0) > NOW + 20 * SECOND, "partition 1 follows the one that flows"


@pytest.mark.parametrize("behind_ms", [30 * SECOND, 3 * HOUR_MS])
def test_the_windows_of_a_stream_that_has_only_been_backfilled_close(behind_ms: int) -> None:
    world = World()
    backfilled(world, 0, behind_ms=behind_ms)
    end_ms = (NOW - behind_ms) // (10 * SECOND) * 10 * SECOND + 10 * SECOND

    run(world, 8)
    assert world.ticks == []
    run(world, HOUR_MS // SECOND + 60 if behind_ms > HOUR_MS else 60)

    watermarks = [(clock.max_seen_ms or 0) - POLICY.disorder_ms for clock in world.clocks]
    assert all(mark >= end_ms for mark in watermarks)
    settled = len(world.ticks)
    run(world, 300)
    assert len(world.ticks) == settled
