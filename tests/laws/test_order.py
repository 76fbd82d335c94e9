"""Events sent in another order within the disorder bound give the same windows, up to the rounding of float sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.cell_fields import split_field
from pipeline.core.cells import CellTable
from pipeline.core.programs import compile_programs
from pipeline.runtime.finishing import finished_rows
from tests.laws.logs import DISORDER_MS, FIRST_ARRIVAL_MS, METRIC, Logged, as_bytes, chunk, config, events, law
from tests.laws.replaying import replay

PROGRAM = compile_programs(config(partitions=2))[METRIC]
ARRIVAL_MS = FIRST_ARRIVAL_MS + 60_000  # after every event time: here time is what events say

# Ties at equal times go by position, so times are unique; a delay of up to the bound decides the order of arrival.
# Floats are of one sign: with cancellation no bound on the relative error of a sum holds, in any order.
in_time = st.lists(
    st.tuples(events, st.floats(0, 1e12), *[st.integers(0, DISORDER_MS)] * 2, st.integers(0, 1)),
    min_size=1,
    max_size=30,
    unique_by=lambda item: item[0]["ts"],
)


@law
@given(items=in_time, size=st.integers(1, 7))
def test_any_order_within_the_disorder_bound_gives_the_same_windows(
    items: list[tuple[dict[str, Any], float, int, int, int]], size: int
) -> None:
    timed = [(event | {"v": v}, one, other) for event, v, one, other, _ in items]

    first = finished([log_of([(e["ts"] + delay, e) for e, delay, _ in timed], size)])
    second = finished([log_of([(e["ts"] + delay, e) for e, _, delay in timed], size)])

    assert_same(first, second)


@law
@given(items=in_time, size=st.integers(1, 7))
def test_the_partition_an_event_is_in_does_not_matter(
    items: list[tuple[dict[str, Any], float, int, int, int]], size: int
) -> None:
    timed = [(event["ts"] + delay, event | {"v": v}, partition) for event, v, delay, _, partition in items]

    together = finished([log_of([(at, e) for at, e, _ in timed], size)])
    apart = finished([log_of([(at, e) for at, e, where in timed if where == p], size) for p in (0, 1)])

    assert_same(together, apart)


def log_of(arrivals: Sequence[tuple[int, dict[str, Any]]], size: int) -> list[Logged]:
    """Chunks of `size` events, in the order of the times they come at."""
    rows = [event for _, event in sorted(arrivals, key=lambda arrival: (arrival[0], arrival[1]["ts"]))]
    parts = [rows[at : at + size] for at in range(0, len(rows), size)]
    return [Logged(f"{ARRIVAL_MS}-{number}", as_bytes(chunk(part, 0, ARRIVAL_MS))) for number, part in enumerate(parts)]


def finished(partitions: Sequence[Sequence[Logged]]) -> dict[tuple[int, bytes], dict[str, Any]]:
    """The finished values by (window, group), merged over the partitions; nothing may have been late."""
    table = CellTable(PROGRAM.layout)
    for partition, log in enumerate(partitions):
        done = replay(PROGRAM, log, partition=partition)
        assert done.ledger.late == 0
        for start, cells in done.panes.items():
            partials = PROGRAM.layout.unpack(list(cells.values()))
            table.merge([(start, split_field(field)[1]) for field in cells], partials)
    found = sorted((start, group) for start, groups in table.panes.items() for group in groups)
    return dict(zip(found, finished_rows(PROGRAM, table.columns, table.slots(found), [0] * len(found)), strict=True))


def assert_same(one: dict[Any, dict[str, Any]], other: dict[Any, dict[str, Any]]) -> None:
    assert one.keys() == other.keys()
    for cell, values in one.items():
        for name, value in values.items():
            if name in ("sum_v", "mean_v"):
                assert math.isclose(value, other[cell][name], rel_tol=1e-9), (cell, name)
            else:
                assert value == other[cell][name], (cell, name)
