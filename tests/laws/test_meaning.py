"""The columns say what a plain loop over the events says: the same cells, the same bits, the same ledger."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.cells import CellTable, cell_field
from pipeline.core.programs import compile_programs
from pipeline.runtime.finishing import finished_rows
from tests.laws.logs import METRIC, Logged, config, law, logs
from tests.laws.naive import meaning, values
from tests.laws.replaying import Committed, replay

PROGRAM = compile_programs(config())[METRIC]


@law
@given(log=logs(), cuts=st.lists(st.integers(1, 5), max_size=14))
def test_a_stage_gives_what_a_plain_loop_gives(log: list[Logged], cuts: list[int]) -> None:
    done = replay(PROGRAM, log, [(size, "go on") for size in cuts])
    plain = meaning(log, PROGRAM.stage, PROGRAM.stream.time)

    ledger = done.ledger
    counted = sum(map(len, plain.cells.values()))
    assert (ledger.read, ledger.accepted, ledger.filtered) == (plain.read, counted, plain.filtered)
    assert (ledger.late, ledger.dead) == (plain.late, plain.dead)
    assert done.time.max_seen_ms == plain.max_seen_ms
    expected = {(start, cell_field(group)): values(events) for (start, group), events in plain.cells.items()}
    assert finished(done, next(iter(expected.values()), {}).keys()) == expected


def finished(done: Committed, names: object) -> dict[tuple[int, bytes], dict[str, object]]:
    table = CellTable(PROGRAM.layout)
    for start, cells in done.panes.items():
        table.load(start, cells)
    found = [(start, field) for start, cells in done.panes.items() for field in cells]
    rows = finished_rows(PROGRAM, table.columns, table.slots(found), [0] * len(found))
    wanted = set(names)  # type: ignore[call-overload]
    return {
        cell: {name: value for name, value in row.items() if name in wanted}
        for cell, row in zip(found, rows, strict=True)
    }
