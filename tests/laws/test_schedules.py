"""Hopping windows with late events: whichever partition is ahead and however batches are cut, the end is the same.

Two partitions have logs of their own, and what a window holds is decided by these alone: each is judged by its own
watermark. When a window is published is decided by the slower of them, so a schedule changes how often it is, and with
what, before it is final; never the last of it, nor a late row, nor the ledger (DESIGN section 1, promise 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Transform
from pipeline.core.process import Ledger
from pipeline.core.programs import Program, compile_programs
from pipeline.core.windows import Span
from pipeline.runtime.computations import AggregateComputation
from tests.laws.logs import END_MS, Logged, as_bytes, law, small_law
from tests.laws.naive import answers, meaning, values
from tests.laws.outcomes import Outcome, outcome
from tests.laws.replaying import Committed, commit
from tests.laws.test_naive import fate
from tests.line import Line
from tests.oracle import core_line
from tests.oracle.every_kind import CASES, FILTER, METRIC, STREAM, Case, config_of
from tests.oracle.random_logs import RandomLog, random_logs
from tests.servers import RunningServer

SHORT, LONG = 70, 2_000
LATENESS = (0, 5)
SPECS = (
    AggregateSpec("n", "count"),
    AggregateSpec("sum_v", "sum", "v"),
    AggregateSpec("last_k", "last", "k"),
    AggregateSpec("tenths", "sum", "tenth"),  # a sum whose bits depend on the order it is added up in
)
ahead_and_split = list(product((0, 1), ([1], [4, 2])))  # which partition is ahead, entries a batch in turn

UNSHRUNK = [Phase.explicit, Phase.reuse, Phase.generate]  # shrinking takes minutes: ask for it when needed
schedule_law = settings(law, max_examples=SHORT, phases=UNSHRUNK)
long_law = settings(law, max_examples=LONG, phases=UNSHRUNK)
line_law = settings(
    law,
    max_examples=5,
    phases=UNSHRUNK,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@cache
def configured(case: Case, lateness: int) -> Config:
    whole = config_of(case, "floats")
    stage = whole.stages[METRIC]
    assert isinstance(stage, Aggregate)
    stage = replace(stage, aggregates=SPECS, allowed_lateness_ms=lateness * case.unit_ms, select={})
    return replace(whole, stages={"kept": Transform("kept", STREAM, FILTER, {"tenth": "v * 0.1"}), METRIC: stage})


@cache
def compiled(case: Case, lateness: int) -> Program:
    return compile_programs(configured(case, lateness))[METRIC]


hopping = st.sampled_from(CASES["hopping"]).flatmap(lambda case: st.tuples(st.just(case), random_logs(case)))
lateness_units = st.sampled_from(LATENESS)


@schedule_law
@given(chosen=hopping, lateness=lateness_units)
def test_two_schedules_and_two_splits_give_the_same(chosen: tuple[Case, RandomLog], lateness: int) -> None:
    assert_same_whatever_the_schedule(*chosen, lateness)


@pytest.mark.slow
@pytest.mark.timeout(2_400)  # minutes of a quiet core, and over 900 s of a busy machine
@long_law
@given(chosen=hopping, lateness=lateness_units)
def test_two_schedules_and_two_splits_give_the_same_2000_times(chosen: tuple[Case, RandomLog], lateness: int) -> None:
    assert_same_whatever_the_schedule(*chosen, lateness)


@small_law
@given(log=random_logs(CASES["tumbling"][0]))
def test_two_schedules_and_two_splits_give_the_same_of_tumbling_windows(log: RandomLog) -> None:
    assert_same_whatever_the_schedule(CASES["tumbling"][0], log, 0)


@line_law
@given(chosen=hopping, lateness=lateness_units)
def test_the_whole_line_gives_the_same_whichever_partition_s_log_comes_first(
    server: RunningServer, chosen: tuple[Case, RandomLog], lateness: int
) -> None:
    case, log = chosen
    assert_same_through_the_line(server, configured(case, lateness), ended(log))


@line_law
@given(log=random_logs(CASES["tumbling"][0]))
def test_the_whole_line_gives_the_same_of_tumbling_windows(server: RunningServer, log: RandomLog) -> None:
    assert_same_through_the_line(server, configured(CASES["tumbling"][0], 0), ended(log))


def assert_same_whatever_the_schedule(case: Case, log: RandomLog, lateness: int) -> None:
    program, logs = compiled(case, lateness), ended(log)
    first, *others = (Scheduled(program, logs).run(ahead, split) for ahead, split in ahead_and_split)
    for other in others:
        assert other == first

    windows, late, ledgers = first
    plain = [meaning(entries, program.stage, program.stream.time, fate, n) for n, entries in enumerate(logs)]
    names = ("n", "sum_v", "last_k")
    found = {
        (window, tuple(row[name] for name in program.stage.group_by)): {name: row[name] for name in names}
        for window, rows in windows.items()
        for row in rows
    }
    expected = {key: values(fold) for key, fold in answers(program.stage, plain).items()}
    assert found == {key: {name: value[name] for name in names} for key, value in expected.items()}
    assert [len(rows) for rows in late] == [len(each.late) for each in plain]
    assert [ledger.accepted for ledger in ledgers] == [each.accepted for each in plain]


def ended(log: RandomLog) -> list[list[Logged]]:
    """With a tick at the end of each partition, past every window and its allowed lateness."""
    newest = max((row["event_ms"] for row in log.rows), default=0) + END_MS
    number = sum(map(len, log.entries)) + 1
    id_ms = int(log.entries[0][-1].id.partition("-")[0]) if log.entries[0] else 1_700_000_000_000
    tick = Logged(f"{max(id_ms, newest) + number}-0", as_bytes({"_k": "tick", "t": newest}))
    return [[*entries, tick] for entries in log.entries]


class Scheduled:
    """Two partitions in the hands of one who also publishes: a window is, whenever it changed and has closed."""

    def __init__(self, program: Program, logs: Sequence[Sequence[Logged]]) -> None:
        self.program, self.logs = program, logs
        self.workers = [AggregateComputation(program, number) for number in range(len(logs))]
        self.committed = [Committed() for _ in logs]
        self.taken = [0 for _ in logs]
        self.due: set[int] = set()
        self.published: dict[Span, list[dict[str, Any]]] = {}

    def run(self, ahead: int, split: Sequence[int]) -> tuple[dict[Span, list[dict[str, Any]]], list[Any], list[Ledger]]:
        """Publications, late rows and ledgers when one partition is done before the other begins, but for its start."""
        behind = 1 - ahead
        self.step(behind, 1)
        for partition in (ahead, behind):
            sizes = repeated(split)
            while self.taken[partition] < len(self.logs[partition]):
                self.step(partition, next(sizes))
        assert not self.due, "the last tick has closed every window"
        return (
            self.published,
            [each.ordered().late for each in self.committed],
            [each.ledger for each in self.committed],
        )

    def step(self, partition: int, size: int) -> None:
        at = self.taken[partition]
        entries = self.logs[partition][at : at + size]
        self.due |= commit(self.workers[partition], self.committed[partition], entries)
        self.taken[partition] += len(entries)
        self.publish()

    def publish(self) -> None:
        """Publish the windows that changed and that both partitions have passed, each as a whole."""
        seen = [each.time.max_seen_ms for each in self.committed]
        known = [ms for ms in seen if ms is not None]
        if len(known) < len(seen) or not self.due:
            return
        watermark_ms = min(known) - self.program.stream.time.disorder_ms
        rows = core_line.merged_rows(
            self.program,
            [each.panes for each in self.committed],
            lambda pane, window: pane in self.due and window[1] <= watermark_ms,
        )
        spans = {(row["window_start"], row["window_end"]) for row in rows}
        self.published |= {span: [] for span in spans}
        for row in rows:
            self.published[row["window_start"], row["window_end"]].append(row)
        self.due -= {pane for pane in self.due if core_line.last_end(self.program, pane) <= watermark_ms}


def repeated(sizes: Sequence[int]) -> Iterator[int]:
    while True:
        yield from sizes


def assert_same_through_the_line(server: RunningServer, config: Config, logs: Sequence[Sequence[Logged]]) -> None:
    first, *others = (through_the_line(server, config, logs, ahead, split[0]) for ahead, split in ahead_and_split)
    for other in others:
        assert without_revisions(other) == without_revisions(first)
        assert (other.late, other.ledger) == (first.late, first.ledger)


def through_the_line(
    server: RunningServer, config: Config, logs: Sequence[Sequence[Logged]], ahead: int, size: int
) -> Outcome:
    """Append one partition's log before the other's, a few entries at a time, all worked off in between."""
    server.client.flushall()
    line = Line(config, server)
    worker = line.worker()
    for partition in (ahead, 1 - ahead):
        for at in range(0, len(logs[partition]), 4 * size):
            for entry in logs[partition][at : at + 4 * size]:
                line.entry(STREAM, entry.fields, partition=partition, entry_id=entry.id)
            line.settle(worker)
    assert {row["state"] for row in line.rows(METRIC)} <= {"final"}
    return outcome(line)


def without_revisions(found: Outcome) -> dict[tuple[str, int, int], tuple[Any, ...]]:
    """Groups and cells of every window; its revision and its state when that was published depend on the schedule."""
    return {window: (groups, cells) for window, (_, _, groups, cells) in found.results.items()}
