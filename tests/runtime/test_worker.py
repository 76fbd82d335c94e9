"""The worker's loop: what it does about a partition it cannot work on, while the others go on."""

from __future__ import annotations

import time

import pytest

from api.intake import Intake
from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Tumbling
from pipeline.rim import keys
from pipeline.runtime.metric_query import MetricQuery
from pipeline.runtime.query import Metrics
from pipeline.runtime.setup import set_up
from pipeline.runtime.worker import PACE_S, Worker
from tests.servers import RunningServer

CONFIG = Config(
    streams={
        "steps": Stream(
            "steps",
            (Field("ts", "timestamp", unit="ms"),),
            TimePolicy("ts", disorder_ms=0),
            partitions=2,
        )
    },
    stages={"counts": Aggregate("counts", "steps", Tumbling(10_000), (), (AggregateSpec("n", "count"),))},
)


def counted(server: RunningServer) -> int:
    rows = Metrics(CONFIG, server.client).query(MetricQuery("counts")).rows
    return sum(row["n"] for row in rows)


def test_a_key_overwritten_by_others_rests_its_partition_and_no_other(server: RunningServer) -> None:
    # Given a partition whose hash of pane marks is somebody's string
    set_up(server.client, CONFIG)
    worker = Worker(CONFIG, server.client, server.client, "w")
    foreign = keys.panes("steps", 0, worker.programs["counts"].group)
    server.client.set(foreign, "mine")

    # When both partitions get an event
    for partition in range(2):
        server.client.xadd(keys.raw("steps", partition), {"ts": "1000"})
    worker.poll_once()
    worker.poll_once()

    # Then the other partition is counted, and this one waits instead of ending the worker
    resting = {partition: work.is_resting for partition, work in worker._work.items()}
    assert resting == {("steps", 0): True, ("steps", 1): False}
    server.client.delete(foreign)
    assert counted(server) == 1

    # And once the key is gone and the rest is over, nothing was lost
    worker._work["steps", 0].runners[0].resting_until_s = 0.0
    worker.poll_once()
    assert counted(server) == 2


@pytest.mark.parametrize(("n_events", "may_wait", "paces"), [(1, True, True), (1, False, False), (300, True, False)])
def test_after_little_came_more_may_come_before_the_next_read(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, n_events: int, may_wait: bool, paces: bool
) -> None:
    set_up(server.client, CONFIG)
    worker = Worker(CONFIG, server.client, server.client, "w")
    slept_s: list[float] = []
    monkeypatch.setattr(time, "sleep", slept_s.append)
    rows = b"\n".join([b'{"ts": 1000}'] * n_events)
    intake = Intake(server.client, CONFIG.streams["steps"], ())
    intake.take(rows, "ndjson")

    worker.poll_once(block_ms=10 if may_wait else None)

    assert counted(server) == n_events, "what is there is counted at once"
    assert [0 <= seconds <= PACE_S for seconds in slept_s] == [True] * paces
