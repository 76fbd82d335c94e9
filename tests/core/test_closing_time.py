"""When silence alone would close a window is when the scheduler, run at every moment, would have closed it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.closing_time import closes_at_ms
from pipeline.core.definitions import TimePolicy, Tumbling
from pipeline.core.watermarks import PartitionClock, idle_ticks
from pipeline.core.windows import Horizon

NOW_MS = 1_700_000_000_000
IDLE_MS = 10_000
POLICY = TimePolicy("ts", disorder_ms=2_000, idle_after_ms=IDLE_MS)
HORIZONS = [Horizon(Tumbling(10_000))]
LOOK_MS = 250  # the scheduler of this test looks four times a second

clocks = st.lists(
    st.tuples(st.integers(0, 20_000), st.integers(0, 5_000)).map(
        lambda ago: PartitionClock(0, "1-1", NOW_MS - ago[0] - ago[1], NOW_MS - ago[0] - ago[1], NOW_MS - ago[0])
    ),
    min_size=1,
    max_size=3,
).map(lambda found: [replace(clock, partition=number) for number, clock in enumerate(found)])


@example(found=[PartitionClock(0, "1-1", NOW_MS - 8_001, NOW_MS - 8_001, NOW_MS - 8_001)])  # missed by 1 ms
@given(found=clocks)
def test_it_is_when_a_scheduler_that_looks_all_the_time_gets_there(found: list[PartitionClock]) -> None:
    newest_ms = max(clock.max_seen_ms or 0 for clock in found)
    needed_ms = newest_ms - newest_ms % 10_000 + 10_000 + POLICY.disorder_ms

    # One that looks a little later sees a longer silence: where a moment is just missed, that is a tick less.
    policies = [replace(POLICY, idle_after_ms=IDLE_MS + later) for later in (0, LOOK_MS)]
    foretold = [closes_at_ms(NOW_MS, policy, found, HORIZONS, needed_ms) for policy in policies]

    reached_ms = scheduled(found, needed_ms)
    assert any(each is not None and abs(reached_ms - each) <= 4 * LOOK_MS for each in foretold)


def scheduled(found: Sequence[PartitionClock], needed_ms: int) -> int:
    """When a scheduler that looks every LOOK_MS has brought every partition there."""
    current = list(found)
    for at_ms in range(NOW_MS, NOW_MS + 600_000, LOOK_MS):
        settled = [replace(clock, settled_ms=clock.max_seen_ms) for clock in current]
        for tick in idle_ticks(at_ms, POLICY, settled, HORIZONS):
            seen_ms = max(min(tick.time_ms, at_ms), current[tick.partition].max_seen_ms or 0)
            current[tick.partition] = replace(current[tick.partition], max_seen_ms=seen_ms, last_tick_ms=at_ms)
        if all((clock.max_seen_ms or 0) >= needed_ms for clock in current):
            return at_ms
    raise AssertionError("the scheduler never got there")


def test_silence_does_not_move_a_stream_whose_policy_says_none_nor_one_without_events() -> None:
    clock = PartitionClock(0, "1-1", NOW_MS, NOW_MS, NOW_MS)
    never = replace(POLICY, idle_after_ms=None)

    assert closes_at_ms(NOW_MS, never, [clock], HORIZONS, NOW_MS + 1) is None
    assert closes_at_ms(NOW_MS, POLICY, [PartitionClock(0)], HORIZONS, NOW_MS + 1) is None
    assert closes_at_ms(NOW_MS, POLICY, [clock], HORIZONS, NOW_MS) == NOW_MS
