"""Many windows that wait to be published: the oldest first, each once, and not all are looked through for each."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.definitions import (
    Aggregate,
    AggregateSpec,
    Calendar,
    Config,
    Cumulating,
    Field,
    Hopping,
    PaneWindow,
    Stream,
    TimePolicy,
    Tumbling,
)
from pipeline.core.programs import Program
from pipeline.core.windows import panes_of
from pipeline.rim.scripts import Scripts
from pipeline.rim.store import Due, parsed_due
from pipeline.runtime import closer as closing
from pipeline.runtime import doctor
from pipeline.runtime.closer import Closer, next_windows, waiting_windows
from pipeline.runtime.doctor import check_published
from pipeline.runtime.worker import Worker
from tests.line import Line
from tests.servers import RunningServer

HOUR_MS = 3_600_000
WINDOWS: list[PaneWindow] = [
    Tumbling(10),
    Tumbling(10, 3),
    Hopping(30, 10),
    Hopping(25, 10, 4),
    Cumulating(30, 10),
    Calendar("day", "Europe/Berlin"),
]


@given(st.data(), st.sampled_from(WINDOWS))
def test_the_next_windows_are_the_first_of_all_that_wait(data: st.DataObject, window: PaneWindow) -> None:
    panes = panes_of(window)
    unit = HOUR_MS if isinstance(window, Calendar) else 1
    times = data.draw(st.lists(st.integers(-500, 500), min_size=0, max_size=40))
    starts = sorted({int(panes.pane_starts(np.array([time * unit]))[0]) for time in times})
    from_ends = data.draw(st.lists(st.integers(-500, 500).map(lambda n: n * unit), min_size=40, max_size=40))
    due: list[dict[int, bytes]] = [{}, {}]
    for start, from_end in zip(starts, from_ends, strict=False):
        text = b"1-1 -" if from_end % 3 == 0 else b"1-1 %d" % from_end
        due[start % 2 if from_end % 2 else 0][start] = text
        if from_end % 5 == 0:
            due[1][start] = text
    to_ms = data.draw(st.integers(-600, 600)) * unit
    program = cast(Program, SimpleNamespace(panes=panes))

    everything = waiting_windows(program, [parsed_due(panes) for panes in due], to_ms=to_ms)
    found, others = next_windows(program, due, to_ms, look=data.draw(st.integers(1, 5)))

    assert found == everything[: len(found)]
    assert bool(found) == bool(everything)
    assert others or found == everything


BASE_MS = 1_700_000_000_000
STREAM = Stream("s", (Field("ts", "timestamp"), Field("v", "int")), TimePolicy("ts", disorder_ms=0), partitions=2)


def count_only(line: Line, times_ms: range, monkeypatch: pytest.MonkeyPatch, *, partitions: int) -> None:
    """An event at each of the times, in so many partitions, and the end: all is counted and nothing published."""
    monkeypatch.setattr(Worker, "_close", lambda worker: 0)
    for partition in range(partitions):
        line.chunk("s", [{"ts": ms, "v": 1} for ms in times_ms], times_ms=list(times_ms), partition=partition)
    line.end("s", times_ms[-1])
    worker = line.worker("w")
    while not worker.poll_once().idle:
        pass


@pytest.mark.parametrize("window", [Tumbling(1_000), Hopping(3_000, 1_000)])
def test_a_pass_looks_at_the_oldest_panes_and_all_are_published_in_the_end(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, window: PaneWindow
) -> None:
    count, pane_starts = 700, range(BASE_MS, BASE_MS + 700_000, 1_000)
    line = Line(Config({"s": STREAM}, {"m": Aggregate("m", "s", window, (), (AggregateSpec("n", "count"),))}), server)
    monkeypatch.setattr(closing, "PANES_A_LOOK", 120)
    count_only(line, pane_starts, monkeypatch, partitions=2)
    looked: list[bytes] = []
    parse = Due.parse

    def noted(text: bytes) -> Due:
        looked.append(text)
        return parse(text)

    monkeypatch.setattr(Due, "parse", noted)
    monkeypatch.setattr(doctor, "WAITING_WARN", 500)
    closer = Closer(line.programs["m"], line.client, Scripts(line.client))
    assert not check_published(line.client, line.config).ok
    looked.clear()

    passes: list[Any] = [closer.close_once()]
    assert passes[0].published >= 100
    assert passes[0].more
    assert len(looked) <= 2 * 2 * 120 + 2 * 3 * passes[0].published, "found, and settled, in both partitions"
    while passes[-1].more:
        passes.append(closer.close_once())

    assert check_published(line.client, line.config).ok
    windows = count if isinstance(window, Tumbling) else count + 2
    assert sum(each.published for each in passes) == windows
    rows = line.rows("m")
    assert len(rows) == windows
    assert {row["state"] for row in rows} == {"final"}
    assert sum(row["n"] for row in rows) == 2 * count * (1 if isinstance(window, Tumbling) else 3)


def test_doctor_says_how_many_closed_windows_wait(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Aggregate("m", "s", Tumbling(1_000), (), (AggregateSpec("n", "count"),))
    line = Line(Config({"s": STREAM}, {"m": metric}), server)
    count_only(line, range(BASE_MS, BASE_MS + 1_002_000, 1_000), monkeypatch, partitions=1)

    check = check_published(line.client, line.config)

    assert check.seen == "m: 1,002 closed windows wait, from 2023-11-14T22:13:20.000+00:00 on"
    assert not check.ok
    assert "oldest first" in check.fix
