"""Every sketch with the values it takes: what the laws of sketches quantify over.

Caps are small here, so that they are met; values repeat, so that items, buckets and ties are met.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from pipeline.core.accumulators import PLACE_SHIFT, Column, Values
from pipeline.core.registry import RegisteredAggregate
from pipeline.core.sketch_distinct import Distinct, DistinctExact
from pipeline.core.sketch_items import Items
from pipeline.core.sketch_quantiles import Quantiles
from pipeline.core.sketch_samples import Samples
from pipeline.core.sketch_user import UserPartials
from pipeline.core.sketches import Sketch

CELLS = 3
CAP = 6

ints = st.integers(-3, 12) | st.integers(-(2**63), 2**63 - 1)
texts = st.sampled_from(["", "a", "b", "naïve", "0123456", "01234567", "012345678", "x" * 300]) | st.text(max_size=12)
floats = st.sampled_from([0.0, -0.0, 1.02, -1.02, 5e-324]) | st.floats(width=64)
finite_floats = st.floats(-1e6, 1e6).map(lambda value: value + 0.0)


class Extent:
    """A user's aggregate: the least and greatest value, and how many."""

    def lift(self, value: int) -> dict[str, int]:
        return {"n": 1, "low": value, "high": value}

    def merge(self, a: dict[str, int], b: dict[str, int]) -> dict[str, int]:
        a["n"] += b["n"]
        a["low"] = min(a["low"], b["low"])
        a["high"] = max(a["high"], b["high"])
        return a

    def finish(self, partial: dict[str, int]) -> float:
        return partial["high"] - partial["low"]


EXTENT = RegisteredAggregate(Extent(), "hash", "float")

CASES: dict[str, tuple[Sketch, st.SearchStrategy[Any]]] = {
    "quantiles of floats": (Quantiles("f"), floats),
    "quantiles of ints": (Quantiles("f"), ints),
    "distinct ints": (Distinct("f", cap=CAP), ints),
    "distinct floats": (Distinct("f", cap=CAP), floats),
    "distinct strings": (Distinct("f", cap=CAP), texts),
    "distinct_exact ints": (DistinctExact("f", cap=CAP), ints),
    "distinct_exact floats": (DistinctExact("f", cap=CAP), floats),
    "distinct_exact strings": (DistinctExact("f", cap=CAP), texts),
    "items of ints": (Items("f", cap=CAP), ints),
    "items of strings": (Items("f", cap=CAP), texts),
    "samples of floats": (Samples("f", cap=CAP), floats),
    "samples of ints": (Samples("f", dtype="<i8", cap=CAP), ints),
    "a user's": (UserPartials("extent", "f", EXTENT), ints),
}


@dataclass(frozen=True, slots=True)
class Event:
    """One value of one of the cells; equal times are likely."""

    cell: int
    time_ms: int
    value: Any


def events_of(values: st.SearchStrategy[Any], max_size: int = 20) -> st.SearchStrategy[list[Event]]:
    return st.lists(st.builds(Event, st.integers(0, CELLS - 1), st.sampled_from([-5, 0, 7]), values), max_size=max_size)


def column_of(values: Sequence[Any]) -> Column:
    """Values as a fold gets them: int64, float64, or objects for strings."""
    if values and isinstance(values[0], str):
        column = np.empty(len(values), dtype=object)
        column[:] = values
        return column
    return np.array(values, dtype=np.float64 if values and isinstance(values[0], float) else np.int64)


def batch_of(events: Sequence[Event], partition: int = 0, at: int = 0) -> Values:
    return Values(
        slots=np.array([e.cell for e in events], dtype=np.intp),
        values=column_of([e.value for e in events]),
        times_ms=np.array([e.time_ms for e in events], dtype=np.int64),
        places=np.full(len(events), partition << PLACE_SHIFT, dtype=np.int64),
        rows=np.arange(at, at + len(events), dtype=np.int64),
    )


def fold(
    sketch: Sketch, cells: list[Any], events: Sequence[Event], partition: int = 0, at: int = 0
) -> list[list[bytes]]:
    """Fold a batch into cells, in place; return the dumps of what was admitted, by cell."""
    increments: list[list[bytes]] = [[] for _ in cells]
    if events:
        slots, fresh = sketch.lift(batch_of(events, partition, at))
        assert sorted({e.cell for e in events}) == slots.tolist()
        for slot, partial in zip(slots.tolist(), fresh, strict=True):
            cells[slot], admitted = sketch.fold(cells[slot], partial)
            increments[slot].append(sketch.dump(admitted))
    return increments


def folded(sketch: Sketch, events: Sequence[Event], partition: int = 0) -> list[Any]:
    """CELLS partials after the events of one partition, one batch."""
    cells = [sketch.empty() for _ in range(CELLS)]
    fold(sketch, cells, events, partition)
    return cells


def dumps(sketch: Sketch, cells: Sequence[Any]) -> list[bytes]:
    return [sketch.dump(cell) for cell in cells]


def copied(sketch: Sketch, cell: Any) -> Any:
    return sketch.restore(sketch.dump(cell))
