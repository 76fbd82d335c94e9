"""topk counts exactly what it has room for; increase, rate and time-weighted mean read samples in order of time."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.accumulators import Values
from pipeline.core.sketch_items import ITEMS_CAP, Items, top
from pipeline.core.sketch_quantiles import Quantiles
from pipeline.core.sketch_samples import SAMPLES_CAP, Samples, increase, rate, time_weighted_mean
from pipeline.core.sketches import Sketch
from tests.laws.logs import law
from tests.laws.sketch_cases import column_of, finite_floats, ints, texts


def batch(values: list[Any], times_ms: list[int] | None = None, at: int = 0) -> Values:
    where = np.zeros(len(values), dtype=np.int64)
    times = where if times_ms is None else np.array(times_ms, dtype=np.int64)
    return Values(where.astype(np.intp), column_of(values), times, where, np.arange(at, at + len(values)))


def partial(sketch: Sketch, values: list[Any], times_ms: list[int] | None = None) -> Any:
    _, (found,) = sketch.lift(batch(values, times_ms))
    whole, _ = sketch.fold(sketch.empty(), found)
    return whole


@law
@given(data=st.data(), kind=st.sampled_from([ints, texts]), k=st.integers(1, 8))
def test_the_most_frequent_come_by_count_and_then_by_value(data: st.DataObject, kind: Any, k: int) -> None:
    values = data.draw(st.lists(kind, min_size=1, max_size=40))

    found = top(partial(Items("f"), values), k)

    assert found == sorted(Counter(values).items(), key=lambda pair: (-pair[1], pair[0]))[:k]


def test_items_after_the_cap_are_not_counted_and_known_ones_still_are() -> None:
    sketch = Items("f", cap=2)
    cell, _ = sketch.fold(sketch.empty(), partial(sketch, ["b", "a"]))
    assert not cell.truncated

    _, (fresh,) = sketch.lift(batch(["c", "a", "d", "c", "a"]))
    cell, admitted = sketch.fold(cell, fresh)

    assert top(cell, 9) == [("a", 3), ("b", 1)]
    assert cell.truncated
    assert admitted.counts == {"a": 2}


def test_the_cap_holds_within_one_batch_and_in_stream_order() -> None:
    cell = partial(Items("f"), [*range(ITEMS_CAP, 0, -1), 0, 5])

    assert len(cell.counts) == ITEMS_CAP
    assert 0 not in cell.counts
    assert cell.counts[5] == 2
    assert cell.truncated


def test_samples_after_the_cap_are_left_out_and_said_so() -> None:
    sketch = Samples("f")
    cell = partial(sketch, [float(n) for n in range(SAMPLES_CAP)], list(range(SAMPLES_CAP)))
    assert (cell.count, cell.truncated) == (SAMPLES_CAP, False)

    _, (more,) = sketch.lift(batch([5.0], [-1]))
    cell, admitted = sketch.fold(cell, more)

    assert (cell.count, cell.truncated) == (SAMPLES_CAP, True)
    assert (admitted.count, admitted.truncated) == (0, True)
    assert sketch.restore(sketch.dump(admitted)).truncated


@law
@given(data=st.data())
def test_samples_are_read_in_order_of_time_then_position(data: st.DataObject) -> None:
    pairs = data.draw(st.lists(st.tuples(st.integers(-5, 5), ints), min_size=1, max_size=20))
    sketch = Samples("f", dtype="<i8")

    times_ms, values = sketch.series(partial(sketch, [value for _, value in pairs], [time for time, _ in pairs]))

    expected = sorted(((time, at, value) for at, (time, value) in enumerate(pairs)), key=lambda row: row[:2])
    assert list(zip(times_ms.tolist(), values.tolist(), strict=True)) == [(time, value) for time, _, value in expected]


def grown(values: list[Any]) -> Any:
    """The increase, one step at a time."""
    total = 0
    for before, after in pairwise(values):
        total += after - before if after >= before else after
    return total


@law
@given(values=st.lists(ints, min_size=2, max_size=30))
def test_the_increase_of_integers_is_exact_at_any_size(values: list[int]) -> None:
    assert increase(np.array(values, dtype=np.int64)) == grown(values)


@law
@given(values=st.lists(finite_floats, min_size=2, max_size=30))
def test_the_increase_of_floats_is_the_left_fold_of_its_steps(values: list[float]) -> None:
    assert increase(np.array(values)) == grown(values)


def test_a_fall_of_a_counter_is_a_restart_from_zero() -> None:
    values = np.array([100, 150, 150, 20, 50])

    assert increase(values) == 50 + 0 + 20 + 30
    assert rate(np.array([0, 1_000, 2_000, 3_000, 5_000]), values) == 20.0


@pytest.mark.parametrize("values", [[], [7]])
def test_one_sample_says_nothing_of_an_increase(values: list[int]) -> None:
    numbers = np.array(values, dtype=np.int64)

    assert increase(numbers) is None
    assert rate(numbers, numbers) is None


def test_there_is_no_rate_where_no_time_passes() -> None:
    assert rate(np.array([5, 5]), np.array([1, 2])) is None


def test_a_value_holds_until_the_next_sample_and_the_last_one_until_the_end_of_the_window() -> None:
    times_ms, values = np.array([2_000, 3_000, 6_000]), np.array([10.0, 20.0, 40.0])

    assert time_weighted_mean(times_ms, values, 10_000) == (10 * 1 + 20 * 3 + 40 * 4) / 8
    assert time_weighted_mean(times_ms, values, None) == (10 * 1 + 20 * 3) / 4


@pytest.mark.parametrize("end_ms", [None, 10_000])
def test_a_single_sample_is_the_time_weighted_mean(end_ms: int | None) -> None:
    assert time_weighted_mean(np.array([2_000]), np.array([0.1]), end_ms) == 0.1


def test_without_an_end_samples_of_one_instant_answer_the_last_of_them() -> None:
    assert time_weighted_mean(np.array([5, 5]), np.array([1.0, 3.0]), None) == 3.0


@law
@given(
    samples=st.lists(st.tuples(st.integers(0, 10**6), finite_floats), min_size=1, max_size=20),
    rest_ms=st.integers(1, 10**6),
)
def test_the_time_weighted_mean_is_the_integral_over_the_time(samples: list[tuple[int, float]], rest_ms: int) -> None:
    samples.sort(key=lambda pair: pair[0])
    times_ms, values = zip(*samples, strict=True)
    end_ms = times_ms[-1] + rest_ms

    found = time_weighted_mean(np.array(times_ms), np.array(values), end_ms)

    weights = [after - before for before, after in pairwise([*times_ms, end_ms])]
    integral = sum((Fraction(value) * weight for value, weight in zip(values, weights, strict=True)), Fraction(0))
    assert found is not None
    assert math.isclose(found, integral / sum(weights), rel_tol=1e-9, abs_tol=1e-9 * max(map(abs, values)))


@pytest.mark.parametrize("value", [0.1, 1e300, -7.3])
def test_the_time_weighted_mean_of_a_constant_is_that_constant(value: float) -> None:
    assert time_weighted_mean(np.array([0, 3, 10]), np.full(3, value), 17) == value


@pytest.mark.parametrize(
    ("sketch", "content"),
    [
        (Quantiles("f"), ([40_000, 0], [1, 1])),  # a bucket twice
        (Quantiles("f"), ([40_000], [0])),  # an empty bucket
        (Quantiles("f"), ([40_000], [1, 2])),
        (Quantiles("f"), ([17], [1])),  # between zero and the smallest number
        (Quantiles("f"), ([2**63], [1])),
        (Items("f"), (False, [2, 1], [1, 1])),
        (Items("f"), (False, [1, "a"], [1, 1])),
        (Items("f"), (False, [1], [-1])),
        (Items("f"), (0, [1], [1])),
        (Samples("f"), (False, [1], [1], [1], [])),
        (Samples("f"), (False, [1], [1], [1], [2**64 - 1])),
        (Samples("f"), (False, [1], [1], [1], [1.5])),
    ],
)
def test_a_dump_that_cannot_be_is_refused(sketch: Sketch, content: Any) -> None:
    with pytest.raises(ValueError, match="dump of"):
        sketch.restore(msgspec.msgpack.encode(content))
