"""The partial of the variance: split anywhere it is the same to the bit, merged in any order the same to 1e-9."""

from __future__ import annotations

import math
import os
import statistics
import sys
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.core.accumulators import Column, Moments
from pipeline.core.cell_layout import Layout
from tests.examples import examples
from tests.laws.sketch_cases import CELLS, Event, batch_of, events_of, finite_floats

moments_law = settings(max_examples=examples(25, whole=200), deadline=None, derandomize=os.environ.get("CI") == "true")
PART = Moments("f")
LAYOUT = Layout.of([PART])
SLOTS = np.arange(CELLS)
some_events = events_of(finite_floats)


def folded(*batches: list[Event]) -> dict[str, Column]:
    state = LAYOUT.blank(CELLS)
    for batch in batches:
        PART.fold(state, batch_of(batch))
    return state


def merged(*states: dict[str, Column]) -> dict[str, Column]:
    result = LAYOUT.blank(CELLS)
    for state in states:
        PART.merge(result, SLOTS, state)
    return result


def packed(state: dict[str, Column]) -> list[bytes]:
    return LAYOUT.pack(state, SLOTS)


def variances(state: dict[str, Column]) -> list[Any]:
    return PART.variances(state, SLOTS)


def near(one: list[Any], other: list[Any], scale: float) -> bool:
    """Equal to nine digits of the values' squares; below the smallest normal double a square has no nine digits."""
    pairs = zip(one, other, strict=True)
    tolerance = max(1e-9 * scale, sys.float_info.min)
    return all(
        a is b is None or (a is not None and b is not None and math.isclose(a, b, rel_tol=1e-9, abs_tol=tolerance))
        for a, b in pairs
    )


def scale_of(*parts: list[Event]) -> float:
    return max((e.value**2 for events in parts for e in events), default=0.0)


@moments_law
@example(events=[Event(0, 0, value) for value in (0.1, 0.2, 0.3, 0.7)], cut=1)
@example(events=[Event(0, 0, 5.0), Event(1, 0, 6.0), Event(0, 0, 7.0)], cut=0)  # a cell's first value, in one batch
@given(events=some_events, cut=st.integers(0, 20))
def test_any_split_into_batches_gives_the_same_bits(events: list[Event], cut: int) -> None:
    assert packed(folded(events[:cut], events[cut:])) == packed(folded(events))
    assert packed(folded(*([event] for event in events))) == packed(folded(events))


@moments_law
@given(a=some_events, b=some_events, c=some_events)
def test_merges_in_any_order_are_near_each_other(a: list[Event], b: list[Event], c: list[Event]) -> None:
    x, y, z = folded(a), folded(b), folded(c)
    scale = scale_of(a, b, c)

    left = variances(merged(merged(x, y), z))

    assert near(left, variances(merged(x, merged(y, z))), scale)
    assert near(left, variances(merged(z, y, x)), scale)
    assert near(left, variances(folded(a + b + c)), scale)


@moments_law
@example(events=[Event(0, 0, 1e308), Event(0, 0, -1e308)])  # sums that overflowed
@given(events=some_events)
def test_a_blank_cell_is_the_identity(events: list[Event]) -> None:
    state, blank = folded(events), folded()

    assert packed(merged(state, blank)) == packed(state)
    assert packed(merged(blank, state)) == packed(state)


@moments_law
@given(a=some_events, b=some_events)
def test_merging_several_partials_into_one_cell_at_once_is_merging_one_after_the_other(
    a: list[Event], b: list[Event]
) -> None:
    x, y = folded(a), folded(b)
    both = {name: np.concatenate([x[name], y[name]]) for name, _ in PART.columns}
    at_once = LAYOUT.blank(CELLS)

    PART.merge(at_once, np.concatenate([SLOTS, SLOTS]), both)

    assert packed(at_once) == packed(merged(x, y))


@moments_law
@example(values=[4.084350269099914e-161, 0.0, 0.0])  # a variance of 112 times the smallest double there is
@given(values=st.lists(finite_floats, max_size=40))
def test_the_variance_is_the_one_of_sql(values: list[float]) -> None:
    state = folded([Event(0, 0, value) for value in values])

    found = variances(state)[0]

    (expected,) = duckdb.execute("SELECT var_samp(v) FROM (SELECT unnest(?::DOUBLE[]) AS v)", [values]).fetchone() or ()
    assert near([found], [expected], max((value**2 for value in values), default=0.0))


def test_values_far_from_zero_keep_their_digits() -> None:
    values = [1e9 + value for value in (4.0, 7.0, 13.0, 16.0)]

    assert variances(folded([Event(0, 0, value) for value in values]))[0] == pytest.approx(30.0, rel=1e-12)
    assert statistics.variance(values) == 30.0  # whereas the sum of squares minus the square of the sum is not near


@pytest.mark.parametrize("values", [[1e200, -1e200], [float("inf"), 1.0, 2.0], [1.0, float("nan")]])
def test_a_variance_that_is_no_number_is_null(values: list[float]) -> None:
    assert variances(folded([Event(0, 0, value) for value in values]))[0] is None


def test_a_variance_needs_two_values() -> None:
    assert variances(folded([Event(0, 0, 5.0), Event(1, 0, 5.0), Event(1, 0, 8.0)])) == [None, 4.5, None]
