"""Partials are mergeable: associative, commutative, with an identity; and folding in parts is folding at once.

Float sums are not associative: for them the order of merges is fixed by the caller, and the law is the identity's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.core.accumulators import (
    PLACE_SHIFT,
    Accumulator,
    Column,
    Count,
    Edge,
    Extreme,
    FloatSum,
    IntSum,
    Values,
)
from pipeline.core.cell_layout import Layout
from tests.laws.logs import floats, ints, law, small_law

CELLS = 3

EXACT: list[Accumulator] = [
    Count(None),
    Count("f"),
    IntSum("f"),
    Extreme("f", "min", "<i8"),
    Extreme("f", "max", "<i8"),
    Extreme("f", "min", "<f8"),
    Extreme("f", "max", "<f8"),
    Edge("f", "first", "<i8"),
    Edge("f", "last", "<f8"),
    Edge("f", "first", "O"),
    Edge("f", "last", "O"),
]
named = pytest.mark.parametrize("part", EXACT, ids=lambda part: f"{part.name} {part.columns[-1][1]}")


@dataclass(frozen=True, slots=True)
class Event:
    """One value for one of the cells; equal times are likely, so that ties are met."""

    cell: int
    time_ms: int
    int_value: int
    float_value: float


some_events = st.lists(
    st.builds(Event, st.integers(0, CELLS - 1), st.sampled_from([-5, 0, 7]), ints, floats.map(lambda v: v or 0.0)),
    max_size=8,
)


def partial(part: Accumulator, events: Sequence[Event], partition: int) -> dict[str, Column]:
    """The columns of CELLS cells after the events of one partition, in its order."""
    columns = Layout.of([part]).blank(CELLS)
    fold(part, columns, events, partition)
    return columns


def fold(part: Accumulator, columns: dict[str, Column], events: Sequence[Event], partition: int, at: int = 0) -> None:
    part.fold(
        columns,
        Values(
            slots=np.array([e.cell for e in events], dtype=np.intp),
            values=values_of(part, events),
            times_ms=np.array([e.time_ms for e in events], dtype=np.int64),
            places=np.full(len(events), partition << PLACE_SHIFT, dtype=np.int64),
            rows=np.arange(at, at + len(events), dtype=np.int64),
        ),
    )


def values_of(part: Accumulator, events: Sequence[Event]) -> Column:
    dtype = part.columns[-1][1]
    if dtype == "O":
        return np.array([f"value {e.int_value}" for e in events], dtype=object)
    return np.array([e.float_value if dtype == "<f8" else e.int_value for e in events], dtype=dtype)


def merged(part: Accumulator, states: Iterable[dict[str, Column]]) -> dict[str, Column]:
    """The states merged one after the other into the first."""
    layout = Layout.of([part])
    first, *others = states
    result = layout.unpack(layout.pack(first, np.arange(CELLS)))
    for other in others:
        part.merge(result, np.arange(CELLS), other)
    return result


def packed(part: Accumulator, columns: dict[str, Column]) -> list[bytes]:
    return Layout.of([part]).pack(columns, np.arange(CELLS))


@small_law
@named
@given(parts=st.lists(some_events, min_size=3, max_size=3))
def test_merging_is_associative(part: Accumulator, parts: list[list[Event]]) -> None:
    a, b, c = (partial(part, events, partition) for partition, events in enumerate(parts))

    assert packed(part, merged(part, [merged(part, [a, b]), c])) == packed(
        part, merged(part, [a, merged(part, [b, c])])
    )


@small_law
@named
@given(parts=st.lists(some_events, min_size=2, max_size=2))
def test_merging_is_commutative(part: Accumulator, parts: list[list[Event]]) -> None:
    a, b = (partial(part, events, partition) for partition, events in enumerate(parts))

    assert packed(part, merged(part, [a, b])) == packed(part, merged(part, [b, a]))


@small_law
@pytest.mark.parametrize("part", [*EXACT, FloatSum("f")], ids=lambda part: f"{part.name} {part.columns[-1][1]}")
@given(events=some_events)
def test_a_blank_cell_is_the_identity(part: Accumulator, events: list[Event]) -> None:
    state, blank = partial(part, events, 0), partial(part, [], 1)

    assert packed(part, merged(part, [state, blank])) == packed(part, state)
    assert packed(part, merged(part, [blank, state])) == packed(part, state)


@small_law
@pytest.mark.parametrize("part", [*EXACT, FloatSum("f")], ids=lambda part: f"{part.name} {part.columns[-1][1]}")
@example(events=[Event(0, 0, 1, value) for value in (0.1, 0.2, 0.3)], cut=1)  # (a + b) + c is not a + (b + c)
@given(events=some_events, cut=st.integers(0, 8))
def test_folding_in_two_batches_is_folding_at_once(part: Accumulator, events: list[Event], cut: int) -> None:
    in_two = partial(part, events[:cut], 0)
    fold(part, in_two, events[cut:], 0, at=cut)

    assert packed(part, in_two) == packed(part, partial(part, events, 0))


@law
@given(parts=st.lists(some_events, min_size=1, max_size=3))
def test_integer_sums_are_exact_at_any_size(parts: list[list[Event]]) -> None:
    part = IntSum("f")
    total = merged(part, [partial(part, events, partition) for partition, events in enumerate(parts)])

    for cell in range(CELLS):
        expected = sum(e.int_value for events in parts for e in events if e.cell == cell)
        assert part.totals(total, np.array([cell])) == [expected]


@law
@given(parts=st.lists(some_events, min_size=1, max_size=3))
@pytest.mark.parametrize("side", ["first", "last"])
def test_first_and_last_are_by_time_then_partition_then_position(side: Any, parts: list[list[Event]]) -> None:
    part = Edge("f", side, "<i8")
    states = [partial(part, events, partition) for partition, events in enumerate(parts)]
    edge = merged(part, reversed(states))

    for cell in range(CELLS):
        ranked = [
            (e.time_ms, partition, position, e.int_value)
            for partition, events in enumerate(parts)
            for position, e in enumerate(events)
            if e.cell == cell
        ]
        if ranked:
            expected = (min if side == "first" else max)(ranked)
            assert edge[f"{part.name}.value"][cell] == expected[-1]
