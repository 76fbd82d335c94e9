"""Reading panes together: what there is, whatever its size, in one round trip where it is small, and of one moment."""

from __future__ import annotations

import threading
from itertools import chain
from typing import Any

import pytest
import redis

from pipeline.rim import keys, store
from pipeline.rim.store import SMALL_PANE, load_panes, load_panes_of_all
from tests.servers import RunningServer

STREAM, GROUP = "readings", "means@v1"
Panes = dict[tuple[int, int], dict[bytes, bytes]]


def fill(server: RunningServer, panes: Panes) -> Panes:
    for (partition, start), fields in panes.items():
        key = keys.pane(STREAM, partition, GROUP, start)
        if fields:
            server.client.execute_command("HSET", key, *chain.from_iterable(fields.items()))
    return panes


def cells(count: int, size: int = 9) -> dict[bytes, bytes]:
    return {b"- [%d]" % number: b"%d" % number * size for number in range(count)}


def read(server: RunningServer, partitions: list[int], starts: list[int]) -> Panes:
    return load_panes_of_all(server.client, STREAM, partitions, GROUP, starts)


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of commands of each pipeline that was sent."""
    sent: list[int] = []
    execute = redis.client.Pipeline.execute

    def noted(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        sent.append(len(pipe.command_stack))
        return execute(pipe, *args, **kwargs)

    monkeypatch.setattr(redis.client.Pipeline, "execute", noted)
    return sent


def test_small_panes_of_all_partitions_are_one_round_trip(any_server: RunningServer, round_trips: list[int]) -> None:
    panes = fill(any_server, {(p, s): cells(p * s) for p in (0, 1, 3) for s in (-1, 0, 10)})
    read(any_server, [0], [0])  # the server knows the script from here on
    round_trips.clear()

    assert read(any_server, [0, 1, 3], [-1, 0, 10]) == panes
    assert round_trips == [3]


def test_a_server_that_does_not_know_the_script_answers_as_well(any_server: RunningServer) -> None:
    panes = fill(any_server, {(p, 0): cells(p + 1) for p in (0, 1)})
    any_server.client.script_flush()

    assert read(any_server, [0, 1], [0]) == panes


def test_large_panes_among_small_ones_are_read_by_themselves(any_server: RunningServer) -> None:
    sizes = {10: 3, 20: SMALL_PANE, 30: SMALL_PANE + 1, 40: 0, 50: 3_000, 60: 1}
    panes = fill(any_server, {(p, start): cells(size) for p in (0, 1) for start, size in sizes.items()})

    assert read(any_server, [0, 1], list(sizes)) == panes
    assert load_panes(any_server.client, STREAM, 1, GROUP, [50, 10]) == {50: panes[1, 50], 10: panes[1, 10]}
    assert read(any_server, [0, 1], []) == read(any_server, [], [10]) == {}


def test_panes_of_many_bytes_are_read_in_turns(any_server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "ENOUGH_BYTES", 100)
    monkeypatch.setattr(store, "PANES_A_READ", 4)
    starts = list(range(0, 150, 10))
    panes = fill(any_server, {(p, s): cells((s // 10) % 4, 1 + p * 90) for p in (0, 1) for s in starts})
    fill(any_server, {(1, 70): cells(SMALL_PANE + 1)})
    panes[1, 70] = cells(SMALL_PANE + 1)

    assert read(any_server, [0, 1], starts) == panes


def test_panes_of_a_partition_are_of_one_moment(server: RunningServer) -> None:
    """Given a writer that changes two panes together, as a commit does, all the time they are read."""
    where = [keys.pane(STREAM, 0, GROUP, start) for start in (0, 10)]
    ended = threading.Event()

    def commit_on() -> None:
        number = 0
        while not ended.is_set():
            pipe = server.client.pipeline(transaction=True)
            for key in where:
                pipe.hset(key, "- []", str(number := number + 1) if key == where[0] else str(number))
            pipe.execute()

    writer = threading.Thread(target=commit_on)
    writer.start()
    try:
        seen = [read(server, [0, 1], [0, 10]) for _ in range(300)]
    finally:
        ended.set()
        writer.join()

    assert all(found[0, 0] == found[0, 10] for found in seen)
    assert len({found[0, 0].get(b"- []") for found in seen}) > 10, "too few commits came in between to see anything"


def test_what_is_due_is_read_after_every_checkpoint(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a window could be called complete, and be neither due nor published (see metric_completeness)."""
    read: list[Any] = []
    execute = redis.client.Pipeline.execute

    def noted(pipe: Any, *args: Any, **kwargs: Any) -> Any:
        read.extend(words[1] for words, _ in pipe.command_stack)
        return execute(pipe, *args, **kwargs)

    monkeypatch.setattr(redis.client.Pipeline, "execute", noted)
    for partition in (0, 1):
        server.client.hset(keys.checkpoint(STREAM, partition, GROUP), "max_seen_ms", 70 + partition)
        server.client.hset(keys.due(STREAM, partition, GROUP), str(10 * partition), "1-2 -")

    checkpoints, due = store.load_progress(server.client, STREAM, 2, GROUP)

    assert [each.max_seen_ms for each in checkpoints] == [70, 71]
    assert [list(each) for each in due] == [[0], [10]]
    assert read == [of(STREAM, partition, GROUP) for of in (keys.checkpoint, keys.due) for partition in (0, 1)]
