"""The laws of every sketch: merges in any order, batches of any size, increments for the whole; all to the byte."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.sketches import Sketch, as_column, as_slots
from tests.examples import examples
from tests.laws.sketch_cases import CASES, CELLS, Event, copied, dumps, events_of, fold, folded

sketch_law = settings(max_examples=examples(15, whole=200), deadline=None, derandomize=os.environ.get("CI") == "true")
every_sketch = pytest.mark.parametrize("case", CASES)


def merged(sketch: Sketch, *states: list[Any]) -> list[Any]:
    """The states of all cells merged into a copy of the first, one after the other; checks that no other changed."""
    result = [copied(sketch, cell) for cell in states[0]]
    for state in states[1:]:
        before = dumps(sketch, state)
        result = [sketch.merge(into, other) for into, other in zip(result, state, strict=True)]
        assert dumps(sketch, state) == before
    return result


@sketch_law
@every_sketch
@given(data=st.data())
def test_merging_is_associative_and_commutative(case: str, data: st.DataObject) -> None:
    sketch, values = CASES[case]
    a, b, c = (folded(sketch, data.draw(events_of(values)), partition) for partition in range(3))

    left = dumps(sketch, merged(sketch, merged(sketch, a, b), c))

    assert left == dumps(sketch, merged(sketch, a, merged(sketch, b, c)))
    assert left == dumps(sketch, merged(sketch, c, b, a))


@sketch_law
@every_sketch
@given(data=st.data())
def test_an_empty_partial_is_the_identity(case: str, data: st.DataObject) -> None:
    sketch, values = CASES[case]
    state = folded(sketch, data.draw(events_of(values)))
    empty = [sketch.empty() for _ in range(CELLS)]

    assert dumps(sketch, merged(sketch, state, empty)) == dumps(sketch, state)
    assert dumps(sketch, merged(sketch, empty, state)) == dumps(sketch, state)


@sketch_law
@every_sketch
@given(data=st.data())
def test_many_cells_at_once_are_what_they_are_one_by_one(case: str, data: st.DataObject) -> None:
    sketch, values = CASES[case]
    partials = [cell for partition in range(3) for cell in folded(sketch, data.draw(events_of(values)), partition)]
    slots = data.draw(st.lists(st.integers(0, CELLS - 1), min_size=len(partials), max_size=len(partials)))
    expected = [sketch.empty() for _ in range(CELLS)]
    for slot, partial in zip(slots, partials, strict=True):
        expected[slot] = sketch.merge(expected[slot], partial)

    stored = sketch.dump_all(partials)
    column = as_column([sketch.empty() for _ in range(CELLS)])
    first = data.draw(st.integers(0, len(partials)))
    for part in (slice(first), slice(first, None)):
        sketch.merge_all(column, as_slots(slots[part]), sketch.restore_all(stored[part]))

    assert stored == dumps(sketch, partials)
    assert sketch.dump_all(column) == dumps(sketch, expected)
    assert dumps(sketch, list(column)) == dumps(sketch, expected)
    with pytest.raises(ValueError, match="dump of"):
        sketch.restore_all([*stored, b"\xc1" + stored[0][1:]])


@sketch_law
@every_sketch
@given(data=st.data())
def test_any_split_into_batches_gives_the_same_bytes_and_so_do_the_increments(case: str, data: st.DataObject) -> None:
    sketch, values = CASES[case]
    events = data.draw(events_of(values, max_size=40))
    cuts = [0, *sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4))), len(events)]

    whole = [sketch.empty() for _ in range(CELLS)]
    stored = [[sketch.dump(cell)] for cell in whole]
    for begin, end in pairwise(cuts):
        for cell, increments in enumerate(fold(sketch, whole, events[begin:end], at=begin)):
            stored[cell] = [*(stored[cell] if sketch.incremental or not increments else []), *increments]

    assert dumps(sketch, whole) == dumps(sketch, folded(sketch, events))
    for cell, (base, *increments) in zip(whole, stored, strict=True):
        loaded = sketch.restore(base)
        for increment in increments:
            loaded = sketch.merge(loaded, sketch.restore(increment))
        assert sketch.dump(loaded) == sketch.dump(cell)


@sketch_law
@every_sketch
@given(data=st.data())
def test_a_restart_between_two_batches_changes_nothing(case: str, data: st.DataObject) -> None:
    sketch, values = CASES[case]
    events = data.draw(events_of(values))
    cut = data.draw(st.integers(0, len(events)))

    cells = [copied(sketch, cell) for cell in folded(sketch, events[:cut])]
    fold(sketch, cells, events[cut:], at=cut)

    assert dumps(sketch, cells) == dumps(sketch, folded(sketch, events))


@sketch_law
@every_sketch
@given(data=st.data())
def test_a_dump_that_is_cut_off_or_made_of_something_else_is_refused(case: str, data: st.DataObject) -> None:
    sketch, values = CASES[case]
    whole = max(dumps(sketch, folded(sketch, data.draw(events_of(values)))), key=len)
    cut = data.draw(st.integers(0, len(whole) - 1))
    # a list of registers ends with every third byte, one of hashes with every eighth: a cut there is a shorter one
    step = {b"\x01": 3, b"\x03": 8}[whole[:1]] if case.startswith("distinct ") else 1
    is_shorter_list = step > 1 and cut > 0 and (len(whole) - cut) % step == 0 and whole[:cut] != b"\x01"

    if not is_shorter_list:
        with pytest.raises(ValueError, match="dump of"):
            sketch.restore(whole[:cut])
    with pytest.raises(ValueError, match="dump of"):
        sketch.restore(b"\xc1" + whole[1:])  # a byte that msgpack never uses


@every_sketch
def test_the_weight_of_a_large_partial_is_about_the_length_of_its_dump(case: str) -> None:
    sketch, _ = CASES[case]
    if hasattr(sketch, "cap"):
        sketch = replace(sketch, cap=10_000)  # type: ignore[type-var]
    kind = next((word for word in ("string", "float") if word in case), "int")
    many: list[Any] = [{"string": f"user-{n}", "float": n / 7, "int": n}[kind] for n in range(2_000)]

    cell = folded(sketch, [Event(0, 1_000 * at, value) for at, value in enumerate(many)])[0]

    assert len(sketch.dump(cell)) / 2 <= sketch.weight(cell) <= 2 * len(sketch.dump(cell))


def test_the_names_of_sketches_tell_them_apart() -> None:
    names = {case.partition(" ")[0]: sketch.name for case, (sketch, _) in CASES.items()}

    assert names == {
        "quantiles": "quantiles(f)",
        "distinct": "distinct(f)",
        "distinct_exact": "distinct_exact(f)",
        "items": "items(f)",
        "samples": "samples(f)",
        "a": "extent(f)",
    }
