"""Panes in blocks: however commits cut a log, and wherever a worker dies, what Redis holds is the same cells.

The sizes are small here, so that a few events fill, outdate, rewrite and delete many blocks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import blocks, cells
from pipeline.core.accumulators import Count, Edge, Values
from pipeline.core.cell_fields import cell_field, cell_fields
from pipeline.core.cell_layout import Layout
from pipeline.core.cells import CellTable
from pipeline.core.programs import compile_programs
from pipeline.core.sketch_quantiles import Quantiles
from tests.laws.logs import METRIC, TOTAL, Logged, config, law, logs
from tests.laws.replaying import Committed, Fate, replay

PROGRAMS = [compile_programs(config())[name] for name in (METRIC, TOTAL)]
sizes = st.integers(1, 5)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_CELLS", 3)
    monkeypatch.setattr(cells, "BLOCK_FROM", 3)
    monkeypatch.setattr(cells, "MAX_SINGLES", 4)
    monkeypatch.setattr(cells, "MAX_REWRITTEN", 5)


def unpacked(layout: Layout, committed: Committed) -> dict[int, Mapping[bytes, bytes]]:
    found: dict[int, Mapping[bytes, bytes]] = {}
    for start, stored in committed.panes.items():
        names, columns = layout.gather(stored)
        found[start] = dict(zip(names, layout.pack(columns, np.arange(len(names))), strict=True))
    return found


@law
@given(log=logs(), batches=st.lists(st.tuples(sizes, st.sampled_from(get_args(Fate))), max_size=14))
@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_any_cut_and_any_crash_give_the_same_cells(
    number: int, log: list[Logged], batches: list[tuple[int, Fate]]
) -> None:
    program = PROGRAMS[number]

    in_batches, at_once = replay(program, log, batches), replay(program, log)

    assert unpacked(program.layout, in_batches) == unpacked(program.layout, at_once)
    assert in_batches.ledger == at_once.ledger


LAYOUT = Layout.of([Count(None), Edge("f", "last", "O")], [Quantiles("f")])
Writes = list[tuple[list[int], bool]]  # the cells of each commit, and whether the worker is another one afterwards


@law
@given(writes=st.lists(st.tuples(st.lists(st.integers(0, 30), min_size=1, max_size=12, unique=True), st.booleans())))
def test_a_pane_has_the_newest_of_every_cell_and_no_block_without_one(writes: Writes) -> None:
    table, stored, expected = CellTable(LAYOUT), dict[bytes, bytes](), dict[bytes, tuple[int, str, int]]()
    used: set[bytes] = set()
    for number, (groups, restarts) in enumerate(writes, start=1):
        keys = [(0, cell_field([group])) for group in groups]
        slots = table.slots(keys)
        for slot, (_, name) in zip(slots.tolist(), keys, strict=True):
            table.columns["n(*)"][slot] = number
            table.columns["last(f).time"][slot] = number
            table.columns["last(f).value"][slot] = f"text {number}"
            expected[name] = (number, f"text {number}", 1 + expected.get(name, (0, "", 0))[2])
        zeros = np.zeros(len(slots), dtype=np.int64)
        table.fold_sketch(0, Values(slots, zeros, zeros, zeros, zeros))
        change = table.changes(keys, slots)[0]

        fresh = {name for name in change.cells if name.startswith(b"#")}
        assert not fresh & used, "a block was numbered twice"
        assert change.gone <= stored.keys()
        used |= fresh
        stored |= change.cells
        for name in change.gone:
            del stored[name]
        content = LAYOUT.read(stored)
        zeros_seen = [sum(_counts(partial)) for partial in content.columns["quantiles(f)"]]
        rows = zip(content.columns["n(*)"].tolist(), content.columns["last(f).value"].tolist(), zeros_seen, strict=True)
        assert dict(zip(content.names, rows, strict=True)) == expected
        live = {b"#%d" % home for home in content.homes.tolist() if home >= 0}
        there = {name for name in stored if name.startswith(b"#")}
        assert there == live if fresh else there >= live  # only who writes a block deletes others
        if restarts:
            table = CellTable(LAYOUT)
            table.load(0, stored)


def _counts(partial: Any) -> list[int]:
    return list(map(int, partial.values() if isinstance(partial, dict) else partial[1]))


@pytest.mark.parametrize(
    "groups",
    [
        [()] * 3,
        [("a",), ("b",)],
        [('",["',), ("],[",), ("]\n,[",)],
        [(1, None), (None, 2.5)],
        [(True, "x"), (False, "],["), (None, "é\\")],
        [("],[",)],
    ],
)
def test_many_fields_are_spelled_as_one_is(groups: list[tuple[object, ...]]) -> None:
    assert cell_fields(groups) == [cell_field(group) for group in groups]


def test_a_damaged_block_is_an_error() -> None:
    columns = LAYOUT.blank(5)
    columns["quantiles(f)"][:] = [{0: 1}, {}, {40_001: 3, 40_009: 500}, {}, {-40_001: 70_000}]
    columns["last(f).value"][:] = ["a", None, "b", "c", "d"]
    names = [cell_field([number]) for number in range(5)]
    block = LAYOUT.pack_block(names, columns, np.arange(5))
    again, found = LAYOUT.gather({b"#0": block})

    assert again == names
    assert LAYOUT.pack(found, np.arange(5)) == LAYOUT.pack(columns, np.arange(5))
    for at in range(len(block)):
        with pytest.raises(ValueError, match=r"block|dump"):
            LAYOUT.gather({b"#0": block[:at]})
    for number in (b"#", b"#x", b"#-"):
        with pytest.raises(ValueError, match="invalid literal"):
            LAYOUT.gather({number: block})
    other = Layout.of([Count(None)], [Quantiles("f")])
    with pytest.raises(ValueError, match="block"):
        other.gather({b"#0": block})


@pytest.mark.parametrize("layout", [LAYOUT, Layout.of([Count(None), Edge("f", "last", "O")]), Layout.of([Count(None)])])
def test_panes_that_are_read_together_are_what_each_is_by_itself(layout: Layout) -> None:
    columns = layout.blank(40)
    columns["n(*)"][:] = np.arange(40)
    names = [cell_field([number]) for number in range(40)]
    cells = dict(zip(names, layout.pack_bases(columns, np.arange(40)), strict=True))
    block = layout.pack_block(names[5:20], columns, np.arange(5, 20))
    panes = [{}, dict([*cells.items()][:9]), {b"#3": block}, {**cells, b"#0": block}, {}, dict([*cells.items()][30:])]

    together = layout.gather_all(panes)

    assert len(together) == len(panes)
    for stored, (found, its_columns) in zip(panes, together, strict=True):
        alone, columns_alone = layout.gather(stored)
        every = np.arange(len(alone))
        assert found == alone
        assert layout.pack(its_columns, every) == layout.pack(columns_alone, every)
        assert its_columns["n(*)"].tolist() == columns_alone["n(*)"].tolist()
