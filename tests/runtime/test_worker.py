"""The worker's loop: what it does about a partition it cannot work on, while the others go on."""

from __future__ import annotations

import pytest

from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Tumbling
from pipeline.rim import keys
from pipeline.runtime import runner, worker
from pipeline.runtime.metric_query import MetricQuery
from pipeline.runtime.query import Metrics
from pipeline.runtime.setup import set_up
from pipeline.runtime.worker import Worker
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


def append(server: RunningServer, n: int, partition: int = 0) -> None:
    with server.client.pipeline(transaction=False) as pipe:
        for _ in range(n):
            pipe.xadd(keys.raw("steps", partition), {"ts": "1000"})
        pipe.execute()


@pytest.fixture
def patient(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Worker:
    """A worker that would gather for ever."""
    monkeypatch.setattr(worker, "GATHER_S", 3_600.0)
    set_up(server.client, CONFIG)
    found = Worker(CONFIG, server.client, server.client, "w")
    found.poll_once()
    return found


def test_what_comes_after_the_first_events_is_gathered(server: RunningServer, patient: Worker) -> None:
    append(server, 3)
    assert patient.poll_once(block_ms=1).events == 3

    # What comes now waits, and in the other partition it does not
    append(server, 1)
    append(server, 1, partition=1)
    assert patient.poll_once(block_ms=1).events == 1
    assert patient.poll_once(block_ms=1).idle
    assert counted(server) == 4

    # Who may not wait reads it, and so does everybody once the time is over
    assert patient.poll_once().events == 1
    append(server, 2)
    patient._gathers_until_s["steps", 0] = 0.0
    assert sum(patient.poll_once(block_ms=1).events for _ in range(2)) == 2


def test_a_backlog_is_read_at_once(server: RunningServer, patient: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "MAX_ENTRIES", 5)
    append(server, 13)
    assert [patient.poll_once(block_ms=1).events for _ in range(3)] == [5, 5, 3]
