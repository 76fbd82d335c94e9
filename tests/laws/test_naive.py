"""The two oracles, written apart, agree on every kind of window: a plain Python loop and DuckDB over the same logs.

Nothing of the pipeline runs here: where they agree and it does not, it is the pipeline that is wrong.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.definitions import Aggregate, AggregateSpec, Session
from tests.laws.logs import Logged, as_bytes, chunk, law
from tests.laws.naive import Event, Fate, answers, meaning, sessions, values
from tests.oracle import duck
from tests.oracle.every_kind import CASES, FATE, KINDS, LATENESS_UNITS, METRIC, Kind, config_of
from tests.oracle.random_logs import random_logs

SPECS = (
    AggregateSpec("n", "count"),
    AggregateSpec("n_v", "count", "v"),
    AggregateSpec("sum_v", "sum", "v"),
    AggregateSpec("max_v", "max", "v"),
    AggregateSpec("first_v", "first", "v"),
    AggregateSpec("sum_k", "sum", "k"),
    AggregateSpec("min_k", "min", "k"),
    AggregateSpec("last_k", "last", "k"),
)


def fate(event: Event) -> Fate:
    return "filtered" if event["k"] == 13 else "kept"


@pytest.mark.parametrize("kind", KINDS)
@law
@given(data=st.data())
def test_a_plain_loop_and_duckdb_agree(kind: Kind, data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(CASES[kind]), label="case")
    log = data.draw(random_logs(case), label="log")
    config = config_of(case, "floats")
    stage, time = config.stages[METRIC], next(iter(config.streams.values())).time
    assert isinstance(stage, Aggregate)
    lateness_ms = data.draw(st.sampled_from([0, LATENESS_UNITS]), label="units of lateness") * case.unit_ms
    stage = replace(stage, aggregates=SPECS, allowed_lateness_ms=lateness_ms, select={})

    plain = [meaning(entries, stage, time, fate, number) for number, entries in enumerate(log.entries)]

    table = log.table()
    expected = duck.windows(table, stage, time, FATE)
    found = {key: values(fold) for key, fold in answers(stage, plain).items()}
    names = [spec.name for spec in SPECS]
    places = ("first", "last") if isinstance(stage.window, Session) else ("window_start", "window_end")
    assert {key: {name: value[name] for name in names} for key, value in found.items()} == {
        (tuple(row[n] for n in places), tuple(row[n] for n in stage.group_by)): {n: row[n] for n in names}
        for row in expected
    }
    judgement = duck.judge(table, stage, time, FATE)
    assert [late for each in plain for late in each.late] == [
        (row["event_ms"], row["late_by_ms"]) for row in judgement.late
    ]
    assert judgement.account == duck.Account(
        read=sum(each.read for each in plain) - log.too_far,
        accepted=sum(each.accepted for each in plain),
        filtered=sum(each.filtered for each in plain),
        late=sum(len(each.late) for each in plain),
        dead=sum(each.dead for each in plain) - log.too_far,
        partial=sum(each.partial for each in plain),
    )


def test_sessions_fold_into_the_earliest_and_merge_what_they_bridge() -> None:
    """The order of the fold decides the bits of a float sum: 1e16 and 1.0 in one session, then 1.0 that bridges."""
    config = config_of(CASES["session"][0], "floats")  # a gap of 2 s
    stage, time = config.stages[METRIC], next(iter(config.streams.values())).time
    assert isinstance(stage, Aggregate)
    rows: list[dict[str, Any]] = [
        {"ts": ts, "key": "a", "on": None, "v": v, "k": None} for ts, v in ((0, 1e16), (3_500, 1.0), (1_800, 1.0))
    ]
    log = [Logged("1700000000000-0", as_bytes(chunk(rows, 0, 1_700_000_000_000)))]

    [(place, fold)] = sessions([meaning(log, stage, time, fate)]).items()

    assert place == ((0, 3_500), ("a", None))
    assert [event["v"] for event in fold.events] == [1e16, 1.0, 1.0]
    assert fold.sum_v == (1e16 + 1.0) + 1.0 == 1e16
