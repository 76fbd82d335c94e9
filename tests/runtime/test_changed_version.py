"""A changed stage, poll by poll: its old version answers until all of the new one's windows are published."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Tumbling
from pipeline.rim import keys
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
    [newest] = server.client.hvals(keys.latest("m"))
    assert json.loads(newest) == {
        "window_start": times_ms[-1],
        "window_end": times_ms[-1] + SECOND_MS,
        "n": 1,
        "total": 2,
    }


def test_a_version_that_comes_back_after_a_trim_it_did_not_see_is_rebuilt_and_counts_whole_windows_only(
    server: RunningServer,
) -> None:
    # Given a version that counted one window, and another config under which the log went on and was trimmed
    old = Line(config(OLD), server)
    old.row("s", {"ts": str(BASE_MS), "v": "1"})
    old.settle()
    new = Line(config(NEW), server)
    in_the_gap = BASE_MS + 10 * SECOND_MS
    new.row("s", {"ts": str(in_the_gap), "v": "1"})
    new.settle()
    raw = keys.raw("s", 0)
    cursor = new.entry_ids("m")[-1]
    server.client.hset(keys.cut("s", 0), mapping={"cursor": cursor, "max_seen_ms": in_the_gap, "max_ts_ms": in_the_gap})
    server.client.xtrim(raw, maxlen=0, approximate=False)

    # When the first version comes back, and with it events of the window that lost one, and of a later one
    again = Line(config(OLD), server)
    again.row("s", {"ts": str(in_the_gap + 1), "v": "1"})
    later = in_the_gap + 5 * SECOND_MS
    again.row("s", {"ts": str(later), "v": "1"})
    again.end("s", later)
    again.settle()

    # Then the half window is left alone and said to be late, and the whole one is counted
    rows = {row["window_start"]: row["n"] for row in again.rows("m")}
    assert rows[later] == 1
    assert in_the_gap not in rows
    [late] = again.late("m")
    assert late["reason"] == "before_log"
    assert again.get("m")["meta"]["complete_from"] == in_the_gap + SECOND_MS
