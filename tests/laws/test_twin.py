"""The twin over a log has the bits that commits leave, however the log is cut for either of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.cell_layout import Layout
from pipeline.core.definitions import Aggregate, Config, Session
from pipeline.core.programs import Program, compile_programs
from pipeline.core.session_twin import PartitionSessions
from pipeline.core.twin import PartitionPanes, PartitionTwin
from tests.laws.logs import METRIC, STREAM, TOTAL, Logged, config, law, logs
from tests.laws.replaying import Committed, read, replay

PROGRAMS = compile_programs(config())
Part = TypeVar("Part", bound=PartitionTwin)
sizes_of_batches = st.lists(st.integers(1, 5), max_size=5)


@law
@given(log=logs(), cuts=sizes_of_batches, others=sizes_of_batches)
def test_the_twin_has_the_cells_the_books_and_the_time_of_the_committed_state(
    log: list[Logged], cuts: list[int], others: list[int]
) -> None:
    for program in (PROGRAMS[METRIC], PROGRAMS[TOTAL]):
        committed = replay(program, log, [(size, "go on") for size in cuts])

        twin = taken(PartitionPanes(program, 0), log, others)

        assert {start: twin.packed(start) for start in twin.table.panes} == packed(program.layout, committed)
        assert (twin.ledger, twin.time) == (committed.ledger, committed.time)


def in_sessions(window: Session, lateness_ms: int) -> Program:
    """The metric of every accumulator, in sessions; one partition, so that a key's are in one."""
    known = config()
    stage = known.stages[METRIC]
    assert isinstance(stage, Aggregate)
    stage = replace(stage, name="sessions", window=window, allowed_lateness_ms=lateness_ms)
    streams = {STREAM: replace(known.streams[STREAM], partitions=1)}
    return compile_programs(Config(streams, {**known.stages, stage.name: stage}))[stage.name]


SESSIONS = [
    in_sessions(Session(500), 0),
    in_sessions(Session(2_000), 30_000),
    in_sessions(Session(3_000, max_ms=10_000), 4_000),
]


@pytest.mark.parametrize("program", SESSIONS, ids=lambda program: str(program.window))
@law
@given(log=logs(max_entries=20), cuts=sizes_of_batches, others=sizes_of_batches)
def test_the_twin_has_the_sessions_the_earlier_forms_the_books_and_the_time_of_the_committed_state(
    program: Program, log: list[Logged], cuts: list[int], others: list[int]
) -> None:
    """The committed state here is of a worker that never forgets; the twin puts aside what is final."""
    committed = replay(program, log, [(size, "go on") for size in cuts])

    twin = taken(PartitionSessions(program, 0), log, others)

    assert twin.stored() == committed.sessions
    assert twin.arrivals_ms.keys() == committed.sessions.keys()
    assert not twin.final.keys() & twin.live().keys()
    assert (twin.ledger, twin.time) == (committed.ledger, committed.time)


def taken(twin: Part, log: Sequence[Logged], sizes: Sequence[int]) -> Part:
    """The twin after a log, cut into batches."""
    at = 0
    for size in (*sizes, len(log)):
        twin.take(read(twin.program, log[at : at + size], 0))
        at += size
    return twin


def packed(layout: Layout, committed: Committed) -> dict[int, dict[bytes, bytes]]:
    """The committed panes as whole packed cells."""
    panes = {}
    for start, stored in committed.panes.items():
        names, columns = layout.gather(stored)
        panes[start] = dict(zip(names, layout.pack(columns, list(range(len(names)))), strict=True))  # type: ignore[arg-type]
    return panes
