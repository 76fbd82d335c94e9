"""However a log is cut into batches, and wherever a worker dies, the cells are the same to the last bit."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.definitions import Aggregate, Session
from pipeline.core.programs import Program, compile_programs
from tests.laws.logs import METRIC, TOTAL, Logged, config, law, logs
from tests.laws.replaying import Fate, replay

PROGRAMS = compile_programs(config())
SESSIONS = "sessions"


def _with_sessions() -> Program:
    whole = config()
    stage = whole.stages[METRIC]
    assert isinstance(stage, Aggregate)
    stage = replace(stage, window=Session(2_500, max_ms=20_000), allowed_lateness_ms=6_000)
    return compile_programs(replace(whole, stages=dict(whole.stages) | {METRIC: stage}))[METRIC]


PROGRAMS[SESSIONS] = _with_sessions()
sizes = st.integers(1, 5)


@law
@given(log=logs(), cuts=st.lists(sizes, max_size=14))
@pytest.mark.parametrize("metric", [METRIC, TOTAL, SESSIONS])
def test_any_cut_into_batches_gives_the_same_bits(metric: str, log: list[Logged], cuts: list[int]) -> None:
    program = PROGRAMS[metric]

    at_once = replay(program, log)
    in_batches = replay(program, log, [(size, "go on") for size in cuts])

    assert in_batches == at_once
    assert in_batches.ledger.balances


@law
@given(log=logs(), batches=st.lists(st.tuples(sizes, st.sampled_from(get_args(Fate))), max_size=14))
@pytest.mark.parametrize("metric", [METRIC, SESSIONS])
def test_a_worker_may_die_before_or_after_any_commit(
    metric: str, log: list[Logged], batches: list[tuple[int, Fate]]
) -> None:
    program = PROGRAMS[metric]

    assert replay(program, log, batches) == replay(program, log)


@law
@given(log=logs())
def test_every_event_is_accepted_filtered_late_or_dead(log: list[Logged]) -> None:
    done = replay(PROGRAMS[METRIC], log)

    ledger = done.ledger
    assert ledger.read == sum(events_in(entry) for entry in log)
    assert ledger.read == ledger.accepted + ledger.filtered + ledger.late + ledger.dead
    assert ledger.late == len(done.late)
    assert ledger.dead == sum(int(letter["n"]) for letter in done.dead)


def events_in(entry: Logged) -> int:
    if b"_k" not in entry.fields:
        return 1
    return int(entry.fields.get(b"n", b"0"))
