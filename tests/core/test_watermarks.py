"""The prefix watermark, as laws over any log and examples at its edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.definitions import HOUR_MS, Tumbling
from pipeline.core.watermarks import NO_TIME_MS, end_tick_time, prefix_watermarks
from pipeline.core.windows import Horizon

times = st.integers(min_value=-(2**52), max_value=2**52)
logs = st.lists(times, max_size=40)
starts = st.none() | times
disorders = st.integers(min_value=0, max_value=10 * HOUR_MS)


def column(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def one_by_one(log: list[int], max_seen_ms: int | None, disorder_ms: int) -> tuple[list[int], int | None]:
    """The definition, as a loop."""
    found = []
    for effective in log:
        found.append((NO_TIME_MS if max_seen_ms is None else max_seen_ms) - disorder_ms)
        max_seen_ms = effective if max_seen_ms is None else max(max_seen_ms, effective)
    return found, max_seen_ms


@given(logs, starts, disorders)
def test_the_watermark_before_an_event_is_the_maximum_of_those_before_it(
    log: list[int], start: int | None, disorder_ms: int
) -> None:
    watermarks, newest = prefix_watermarks(column(log), start, disorder_ms)
    assert (watermarks.tolist(), newest) == one_by_one(log, start, disorder_ms)


@given(logs, st.integers(min_value=0, max_value=40), starts, disorders)
def test_any_split_of_a_log_gives_the_same_watermarks(
    log: list[int], at: int, start: int | None, disorder_ms: int
) -> None:
    whole, newest = prefix_watermarks(column(log), start, disorder_ms)
    first, between = prefix_watermarks(column(log[:at]), start, disorder_ms)
    second, last = prefix_watermarks(column(log[at:]), between, disorder_ms)
    assert [*first, *second] == whole.tolist()
    assert last == newest


@given(logs, starts, disorders)
def test_a_watermark_never_moves_back(log: list[int], start: int | None, disorder_ms: int) -> None:
    watermarks, newest = prefix_watermarks(column(log), start, disorder_ms)
    assert (np.diff(watermarks) >= 0).all()
    assert start is None or newest is not None
    assert start is None or (newest or 0) >= start


def test_an_event_does_not_move_its_own_watermark() -> None:
    watermarks, newest = prefix_watermarks(column([1_000, 9_000, 2_000]), None, 100)
    assert watermarks.tolist() == [NO_TIME_MS - 100, 900, 8_900]
    assert newest == 9_000


def test_before_the_first_event_no_window_of_any_time_has_closed() -> None:
    disorder_ms = 2**40
    watermarks, _ = prefix_watermarks(column([0]), None, disorder_ms)
    assert watermarks[0] < -(2**53)
    assert watermarks[0] - disorder_ms < 0, "subtracting once more must not wrap round"


def test_an_empty_batch_hands_the_maximum_on() -> None:
    for start in (None, 5):
        watermarks, newest = prefix_watermarks(column([]), start, 10)
        assert len(watermarks) == 0
        assert newest == start


@pytest.mark.parametrize(
    ("newest_ms", "sizes", "expected"),
    [
        (0, [10], 10 + 3),
        (9, [10], 10 + 3),
        (10, [10], 20 + 3),
        (-1, [10], 0 + 3),
        (-10, [10], 0 + 3),
        (25, [10, 100], 100 + 3),
        (25, [], 25 + 3),
    ],
)
def test_an_end_tick_closes_the_window_of_the_newest_event(newest_ms: int, sizes: list[int], expected: int) -> None:
    disorder_ms = 3
    tick_ms = end_tick_time(newest_ms, [Horizon(Tumbling(size)) for size in sizes], disorder_ms)
    assert tick_ms == expected
    assert all(tick_ms - disorder_ms >= newest_ms - (newest_ms % size) + size for size in sizes)
