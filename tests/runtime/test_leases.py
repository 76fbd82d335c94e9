"""Leases: who works on which partition; a dead worker's run out, a living one's are shared out evenly."""

from __future__ import annotations

import pytest
import redis

from pipeline.rim import keys
from pipeline.rim.scripts import Scripts
from pipeline.runtime import leases
from pipeline.runtime.leases import Leases
from tests.servers import RunningServer, wait_for

PARTITIONS = [("s", number) for number in range(4)]


def worker(client: redis.Redis, name: str) -> Leases:
    return Leases(name, PARTITIONS, client, Scripts(client))


@pytest.fixture(autouse=True)
def no_pause_between_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "BEAT_S", 0.0)


def test_one_worker_takes_everything(any_server: RunningServer) -> None:
    a = worker(any_server.client, "a")

    assert a.beat()

    assert a.held == set(PARTITIONS)


def test_a_second_worker_gets_its_half_and_nothing_that_is_held(any_server: RunningServer) -> None:
    a, b = worker(any_server.client, "a"), worker(any_server.client, "b")

    a.beat()
    b.beat()
    assert b.held == set()
    a.beat()
    b.beat()

    assert len(a.held) == len(b.held) == 2
    assert a.held | b.held == set(PARTITIONS)


def test_what_is_given_back_is_free_at_once(any_server: RunningServer) -> None:
    a, b = worker(any_server.client, "a"), worker(any_server.client, "b")
    a.beat()

    a.release()
    b.beat()

    assert a.held == set()
    assert b.held == set(PARTITIONS)


def test_a_worker_that_is_dead_or_paused_loses_its_partitions(
    any_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_MS", 50)
    a, b = worker(any_server.client, "a"), worker(any_server.client, "b")
    a.beat()

    wait_for(lambda: b.beat() and b.held == set(PARTITIONS), "the leases of the dead worker to run out", timeout_s=5)
    a.beat()

    assert any_server.client.get(keys.lease(*PARTITIONS[0])) == b"b"
    assert a.held & b.held == set()
