"""Quantiles are within 1 % of the order statistic they name, on whatever data; histograms count every value."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.accumulators import Values
from pipeline.core.sketch_quantiles import (
    NAN,
    RELATIVE_ERROR,
    SHIFT,
    SMALLEST,
    Buckets,
    Quantiles,
    as_buckets,
    bucket_keys,
    histogram,
    quantile,
)
from pipeline.core.sketches import as_column, as_slots
from tests.examples import examples

Floats = npt.NDArray[np.float64]
QS = [0, 0.001, 0.01, 0.05, 0.25, 0.29, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1]
COUNT = 20_000

DATA: dict[str, Callable[[np.random.Generator], Floats]] = {
    "log-normal": lambda rng: rng.lognormal(3, 2.5, COUNT),
    "Zipf": lambda rng: rng.zipf(1.2, COUNT).astype(np.float64),
    "negative": lambda rng: -rng.exponential(40, COUNT),
    "mixed signs": lambda rng: rng.normal(0, 1e3, COUNT).round(1),
    "the whole range of floats": lambda rng: rng.choice([-1.0, 1.0], COUNT) * 10 ** rng.uniform(-307, 308, COUNT),
    "mostly zero": lambda rng: np.where(rng.random(COUNT) < 0.9, 0.0, rng.pareto(1, COUNT)),
    "one value": lambda rng: np.full(COUNT, 42.0),
    "powers of the width of a bucket": lambda rng: 1.02 ** rng.integers(-900, 900, COUNT).astype(np.float64),
}


def buckets_of(values: Floats | list[float]) -> Buckets:
    column = np.asarray(values)
    where = np.zeros(len(column), dtype=np.int64)
    slots, partials = Quantiles("f").lift(Values(where.astype(np.intp), column, where, where, where))
    assert slots.tolist() == ([0] if len(column) else [])
    return as_buckets(partials[0]) if partials else {}


def exact(values: list[float], q: float) -> float:
    return sorted(values)[int(Fraction(repr(q)) * (len(values) - 1))]


@pytest.mark.parametrize("name", DATA)
def test_every_quantile_is_within_the_stated_error_of_the_value_at_its_rank(name: str) -> None:
    values = DATA[name](np.random.default_rng(11))
    buckets = buckets_of(values)

    for q in QS:
        found, expected = quantile(buckets, Fraction(repr(q))), exact(values.tolist(), q)
        assert found is not None
        assert abs(found - expected) <= RELATIVE_ERROR * abs(expected), (q, found, expected)


@settings(max_examples=examples(25, whole=200), deadline=None)
@given(
    values=st.lists(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False), min_size=1, max_size=30),
    q=st.floats(0, 1),
)
def test_the_stated_error_holds_for_any_values(values: list[float], q: float) -> None:
    found, expected = quantile(buckets_of(values), Fraction(repr(q))), exact(values, q)

    assert found is not None
    assert abs(found - expected) <= RELATIVE_ERROR * abs(expected)


@settings(max_examples=examples(25, whole=200), deadline=None)
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30), q=st.floats(0, 1))
def test_the_stated_error_holds_for_any_integers(values: list[int], q: float) -> None:
    where = np.zeros(len(values), dtype=np.int64)
    _, (buckets,) = Quantiles("f").lift(Values(where.astype(np.intp), np.array(values), where, where, where))
    found, expected = (
        quantile(as_buckets(buckets), Fraction(repr(q))),
        sorted(values)[int(Fraction(repr(q)) * (len(values) - 1))],
    )

    assert found is not None
    assert abs(Fraction(found) - expected) <= Fraction(1, 100) * abs(expected)


def test_the_rank_is_the_one_of_the_decimal_as_it_is_written() -> None:
    values = [1.1**n for n in range(101)]  # 0.29 * 100 is 28.999999999999996 in floats

    found = quantile(buckets_of(values), Fraction("0.29"))

    assert found == pytest.approx(values[29], rel=RELATIVE_ERROR)


def test_buckets_stand_in_the_order_of_the_values() -> None:
    values = np.array([-np.inf, -1e300, -2.0, -1.0, -1e-300, 0.0, 1e-300, 1.0, 2.0, 1e300, np.inf, np.nan])

    keys = bucket_keys(values).tolist()

    assert keys == sorted(set(keys))


def test_the_bucket_of_a_value_is_the_same_on_every_machine() -> None:
    """Fixed numbers: they are stored, so another rule needs another PROGRAM_FORMAT."""
    values = np.array([1.0, 1.02, 1.0200000000000002, 2.0, 1e-9, 250.0, -250.0, sys.float_info.max, SMALLEST])

    assert bucket_keys(values).tolist() == [40000, 40001, 40002, 40036, 38954, 40279, -40279, 75843, 4228]


def test_values_nearer_to_zero_than_the_smallest_normal_float_count_as_zero() -> None:
    assert bucket_keys(np.array([0.0, -0.0, 5e-324, -SMALLEST / 2])).tolist() == [0, 0, 0, 0]
    assert quantile({0: 3}, Fraction(1, 2)) == 0.0


def test_infinity_and_nan_keep_their_ranks_and_answer_null() -> None:
    buckets = buckets_of([-np.inf, 1.0, np.inf, np.nan])

    assert [quantile(buckets, Fraction(rank, 3)) for rank in range(4)] == [
        None,
        pytest.approx(1.0, rel=RELATIVE_ERROR),
        None,
        None,
    ]


def test_a_quantile_of_no_values_is_null() -> None:
    assert quantile({}, Fraction(1, 2)) is None


def test_a_histogram_lists_every_bucket_with_values_by_its_low_end() -> None:
    values = [-250.0, 0.0, 0.0, 1.0, 250.0, 251.0, np.inf, -np.inf, np.nan]

    found = histogram(buckets_of(values))

    largest = sys.float_info.max
    assert [row[2] for row in found] == [1, 1, 2, 1, 1, 1, 1, 1]
    assert found[0] == [None, -largest, 1]
    assert found[2] == [0.0, 0.0, 2]
    assert found[-2:] == [[largest, None, 1], [None, None, 1]]
    assert found[1] == [pytest.approx(-250.9, abs=0.2), pytest.approx(-246.0, abs=0.2), 1]


@pytest.mark.parametrize("name", DATA)
def test_a_histogram_s_ranges_hold_their_values_and_do_not_overlap(name: str) -> None:
    values = np.sort(DATA[name](np.random.default_rng(5)))

    rows = histogram(buckets_of(values))

    at = 0
    for low, high, count in rows:
        assert low is not None
        assert high is not None
        assert count is not None
        held = values[at : at + int(count)]
        assert (low <= held).all()
        assert (held <= high).all()
        at += int(count)
    assert at == len(values)
    assert all(before[1] <= after[0] for before, after in pairwise(rows))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        ([5, 0], [1, 1]),
        ([SHIFT, 2], [1]),
        ([SHIFT], [0]),
        ([NAN + 1], [1]),
        ([SHIFT + 36_000], [1]),
        ([3], [1]),
        ([2**63 - 1, 2], [1, 1]),
        ([2**64 - 1], [1]),
    ],
)
def test_one_damaged_dump_among_many_is_refused(steps: list[int], counts: list[int]) -> None:
    sketch = Quantiles("f")
    good = sketch.dump(buckets_of([1.0, 2.0, -3.0]))

    with pytest.raises(ValueError, match="dump of"):
        sketch.restore_all([good, msgspec.msgpack.encode((steps, counts)), good])


def test_cells_of_few_buckets_far_apart_merge_as_well() -> None:
    sketch = Quantiles("f")
    partials = [buckets_of([10.0**e, -(10.0**e), 0.0, math.inf, math.nan]) for e in range(-300, 300, 7)]
    column = as_column([sketch.empty(), sketch.empty()])

    sketch.merge_all(column, as_slots([number % 2 for number in range(len(partials))]), partials)

    assert [as_buckets(whole) for whole in column] == [merged(partials[::2]), merged(partials[1::2])]


def merged(partials: list[Buckets]) -> Buckets:
    whole: Buckets = {}
    for partial in partials:
        whole = Quantiles("f").merge(whole, partial)
    return whole
