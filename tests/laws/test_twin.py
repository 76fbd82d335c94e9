"""The twin over a log has the bits that commits leave, however the log is cut for either of them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.cells import Layout
from pipeline.core.programs import Program, compile_programs
from pipeline.core.twin import PartitionTwin
from tests.laws.logs import METRIC, TOTAL, Logged, config, law, logs
from tests.laws.replaying import Committed, read, replay

PROGRAMS = compile_programs(config())


@law
@given(log=logs(), cuts=st.lists(st.integers(1, 5), max_size=5), others=st.lists(st.integers(1, 5), max_size=5))
def test_the_twin_has_the_cells_the_books_and_the_time_of_the_committed_state(
    log: list[Logged], cuts: list[int], others: list[int]
) -> None:
    for program in (PROGRAMS[METRIC], PROGRAMS[TOTAL]):
        committed = replay(program, log, [(size, "go on") for size in cuts])

        twin = twin_of(program, log, others)

        assert {start: twin.packed(start) for start in twin.table.panes} == packed(program.layout, committed)
        assert (twin.ledger, twin.time) == (committed.ledger, committed.time)


def twin_of(program: Program, log: Sequence[Logged], sizes: Sequence[int]) -> PartitionTwin:
    twin = PartitionTwin(program, 0)
    at = 0
    for size in (*sizes, len(log)):
        twin.take(read(program, log[at : at + size], 0))
        at += size
    return twin


def packed(layout: Layout, committed: Committed) -> dict[int, dict[bytes, bytes]]:
    """The committed panes as whole packed cells."""
    panes = {}
    for start, stored in committed.panes.items():
        names, columns = layout.gather(stored)
        panes[start] = dict(zip(names, layout.pack(columns, list(range(len(names)))), strict=True))  # type: ignore[arg-type]
    return panes
