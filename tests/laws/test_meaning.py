"""The columns say what a plain loop over the events says: the same windows, the same bits, the same ledger."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.definitions import Aggregate, Calendar, Cumulating, Hopping, Session, Tumbling, Window
from pipeline.core.programs import Program, compile_programs
from tests.laws.logs import METRIC, Logged, config, law, logs
from tests.laws.naive import Fold, Group, Span, answers, meaning, values
from tests.oracle import core_line

WINDOWS: dict[str, Window] = {
    "tumbling": Tumbling(10_000, offset_ms=3_000),
    "hopping": Hopping(10_000, 4_000, offset_ms=3_000),  # the size is no multiple of the step
    "cumulating": Cumulating(12_000, 3_000, offset_ms=-1_000),
    "calendar": Calendar("day", "America/New_York"),
    "session": Session(2_500, max_ms=20_000),
}
LATENESS_MS = 6_000
POSSIBLE = list(product(WINDOWS, (0, LATENESS_MS)))


@cache
def program_of(kind: str, lateness_ms: int) -> Program:
    whole = config()
    stage = whole.stages[METRIC]
    assert isinstance(stage, Aggregate)
    stage = replace(stage, window=WINDOWS[kind], allowed_lateness_ms=lateness_ms)
    return compile_programs(replace(whole, stages=dict(whole.stages) | {METRIC: stage}))[METRIC]


@pytest.mark.parametrize(("kind", "lateness_ms"), POSSIBLE)
@law
@given(log=logs(), cuts=st.lists(st.integers(1, 5), max_size=14))
def test_a_stage_gives_what_a_plain_loop_gives(kind: str, lateness_ms: int, log: list[Logged], cuts: list[int]) -> None:
    program = program_of(kind, lateness_ms)
    done = core_line.run(program, [log], [(size, "go on") for size in cuts])
    plain = meaning(log, program.stage, program.stream.time)

    ledger = done.ledger
    assert (ledger.read, ledger.accepted, ledger.filtered) == (plain.read, plain.accepted, plain.filtered)
    assert (ledger.late, ledger.dead) == (len(plain.late), plain.dead)
    assert ledger.partial == plain.partial
    assert [(row["time"], row["late_by_ms"]) for row in done.late] == plain.late
    expected = {key: finished(fold) for key, fold in answers(program.stage, [plain]).items()}
    names = next(iter(expected.values()), {}).keys()
    found = {place(row, program.stage.group_by): {name: row[name] for name in names} for row in done.rows}
    assert found == expected
    assert len(found) == len(done.rows)


def finished(fold: Fold) -> dict[str, Any]:
    numbers = [int(event["key"]) for event in fold.events if event["key"] is not None]
    return values(fold) | {"sum_number": sum(numbers)}


def place(row: dict[str, Any], groups: tuple[str, ...]) -> tuple[Span, Group]:
    span = (row["first"], row["last"]) if "closes_at" in row else (row["window_start"], row["window_end"])
    return span, tuple(row[name] for name in groups)
