"""Every kind of window with every aggregate, over random logs through the pure core, equals DuckDB's answer.

One example asks all aggregates of a kind at once, so that DuckDB is asked once. The same through real processes:
tests/product/test_every_kind.py.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from pipeline.core.programs import Program, compile_programs
from tests.laws.logs import law
from tests.oracle import core_line, duck
from tests.oracle.every_kind import AGGREGATES, CASES, FATE, KINDS, METRIC, Case, Kind, config_of
from tests.oracle.random_logs import random_logs

SHORT, LONG = 20, 200  # examples of each kind: in `make test`, and in `make faults`
UNSHRUNK = [Phase.explicit, Phase.reuse, Phase.generate]  # shrinking takes minutes: ask for it when needed
short_law = settings(law, max_examples=SHORT, phases=UNSHRUNK)
long_law = settings(law, max_examples=LONG, phases=UNSHRUNK)


@cache
def program_of(case: Case, of: str, is_late_allowed: bool) -> Program:
    return compile_programs(config_of(case, of, is_late_allowed=is_late_allowed))[METRIC]


@pytest.mark.parametrize("kind", KINDS)
@short_law
@given(data=st.data())
def test_the_core_gives_duckdbs_answer(kind: Kind, data: st.DataObject) -> None:
    assert_the_core_gives_duckdbs_answer(kind, data)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@long_law
@given(data=st.data())
def test_the_core_gives_duckdbs_answer_two_hundred_times(kind: Kind, data: st.DataObject) -> None:
    assert_the_core_gives_duckdbs_answer(kind, data)


def assert_the_core_gives_duckdbs_answer(kind: Kind, data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(CASES[kind]), label="case")
    log = data.draw(random_logs(case), label="log")
    cuts = data.draw(st.lists(st.integers(1, 5), max_size=5), label="entries a batch")
    of = data.draw(st.sampled_from(sorted(AGGREGATES)), label="aggregates over")
    program = program_of(case, of, data.draw(st.booleans(), label="is late allowed"))

    found = core_line.run(program, log.entries, [(size, "go on") for size in cuts])

    table, stage, time = log.table(), program.stage, program.stream.time
    duck.assert_same_rows(found.rows, duck.windows(table, stage, time, FATE))
    judgement = duck.judge(table, stage, time, FATE)
    late = ("event_ms", "late_by_ms", "window_start", "window_end")
    assert [tuple(row.values()) for row in found.late] == [tuple(row[name] for name in late) for row in judgement.late]
    ledger, expected = found.ledger, judgement.account
    assert (ledger.accepted, ledger.filtered, ledger.late) == (expected.accepted, expected.filtered, expected.late)
    assert (ledger.read, ledger.dead) == (expected.read + log.too_far, log.too_far)
    assert found.ledger.partial == expected.partial
