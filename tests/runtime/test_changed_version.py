"""A changed stage, poll by poll: its old version answers until all of the new one's windows are published."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Tumbling
from pipeline.runtime import worker
from pipeline.runtime.closer import WINDOWS_A_PASS
from tests.line import Line
from tests.servers import RunningServer, wait_for

SECOND_MS = 1_000
BASE_MS = 1_700_000_000_000
WINDOWS = 3 * WINDOWS_A_PASS  # more than one pass of a closer publishes
STREAM = Stream("s", (Field("ts", "timestamp"), Field("v", "int")), TimePolicy("ts", disorder_ms=0), partitions=1)
OLD = Aggregate("m", "s", Tumbling(SECOND_MS), (), (AggregateSpec("n", "count"),))
NEW = replace(OLD, aggregates=(*OLD.aggregates, AggregateSpec("total", "sum", "v")))


def config(stage: Aggregate) -> Config:
    return Config(streams={"s": STREAM}, stages={"m": stage})


def test_no_window_that_was_final_is_shown_open_or_missing_while_a_changed_stage_is_rebuilt(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "CLOSE_EVERY_S", 0.0)
    monkeypatch.setattr(worker, "CLOSE_IDLE_S", 0.0)
    monkeypatch.setattr(worker, "TIDY_EVERY_S", 0.0)
    old = Line(config(OLD), server)
    times_ms = [BASE_MS + number * SECOND_MS for number in range(WINDOWS)]
    old.chunk("s", [{"ts": at_ms, "v": 2} for at_ms in times_ms], times_ms=times_ms)
    old.end("s", times_ms[-1])
    first = old.worker("old")
    old.settle(first)
    first.drain()
    assert {row["state"] for row in old.rows("m")} == {"final"}

    new = Line(config(NEW), server)
    second = new.worker("new")

    def switched() -> bool:
        second.poll_once()
        rows = new.rows("m")
        assert [(row["window_start"], row["state"], row["n"]) for row in rows] == [(t, "final", 1) for t in times_ms]
        return "total" in rows[0]

    wait_for(switched, "the new version to answer")
    assert {row["total"] for row in new.rows("m")} == {2}
