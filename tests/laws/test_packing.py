"""What is packed unpacks to the same cells and blocks; what is cut off or of another format is refused, not guessed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.cells import CellTable, cell_field, pack_block, split_field, unpack_block
from pipeline.core.programs import compile_programs
from tests.laws.logs import METRIC, Logged, config, law, logs
from tests.laws.replaying import replay

PROGRAM = compile_programs(config())[METRIC]
groups = st.lists(st.one_of(st.none(), st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1)), max_size=3)


@law
@given(log=logs())
def test_cells_unpack_to_what_was_packed(log: list[Logged]) -> None:
    cells = [cell for pane in replay(PROGRAM, log).panes.values() for cell in pane.values()]
    layout = PROGRAM.layout

    assert layout.pack(layout.unpack(cells), np.arange(len(cells))) == cells


@law
@given(log=logs())
def test_a_table_loaded_from_packed_cells_packs_to_the_same(log: list[Logged]) -> None:
    panes = replay(PROGRAM, log).panes
    table = CellTable(PROGRAM.layout)
    for start, cells in panes.items():
        table.load(start, cells)

    for start, cells in panes.items():
        assert table.packed(table.slots((start, field) for field in cells)) == list(cells.values())


@law
@given(group=groups, from_end=st.none() | st.integers(-(2**62), 2**62))
def test_a_cell_s_field_splits_into_what_it_was_made_of(group: list[object], from_end: int | None) -> None:
    end = b"-" if from_end is None else b"%d" % from_end
    field = cell_field(group, end)

    found, group_json = split_field(field)
    assert found == end
    assert cell_field(group) == b"- " + group_json


@law
@given(pairs=st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=9)), max_size=5))
def test_blocks_unpack_to_what_was_packed(pairs: list[tuple[bytes, bytes]]) -> None:
    names, cells = [name for name, _ in pairs], [cell for _, cell in pairs]

    assert unpack_block(pack_block(names, cells)) == (names, cells)


@pytest.mark.parametrize("cell", [b"", b"\x01", b"\x02" + bytes(1_000), b"\x01" + bytes(10)])
def test_a_cell_that_is_cut_off_or_of_another_format_is_refused(cell: bytes) -> None:
    with pytest.raises(ValueError, match="is not of format"):
        PROGRAM.layout.unpack([cell])


def test_a_block_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="not with format"):
        unpack_block(b"\x02" + pack_block([b"[]"], [b"cell"])[1:])
