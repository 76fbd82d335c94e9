"""Requests that come while an append is under way go together in the next one, each with an entry of its own."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import pytest

from api.gathering import MAX_TOGETHER, Gathering, Small, Written
from pipeline.core.partitioning import Chunk
from pipeline.errors import StreamgaugeError
from pipeline.rim.streams import Appended
from tests.servers import wait_for


def small(name: str) -> Small:
    return Small(Chunk(name.encode(), 1, None, None), 0)


@dataclass
class Log:
    """Stands for Redis: remembers each append, and holds the first one until it may go on."""

    appends: list[list[str]] = field(default_factory=list)
    may_go_on: threading.Event = field(default_factory=threading.Event)
    fails: bool = False

    def write(self, together: Sequence[Small]) -> tuple[int, Appended]:
        names = [each.chunk.body.decode() for each in together]
        self.appends.append(names)
        if len(self.appends) == 1:
            assert self.may_go_on.wait(10)
        if self.fails and len(self.appends) == 2:
            raise StreamgaugeError("the second append failed")
        return 7, Appended(False, 1_000 + len(self.appends), 0, tuple(f"{name}-0" for name in names))


def have_come(log: Log, gathering: Gathering, n: int) -> bool:
    return len(gathering._waiting) + sum(map(len, log.appends)) == n


def gathered(log: Log, gathering: Gathering, names: Sequence[str], pool: ThreadPoolExecutor) -> list[Future[Written]]:
    """Appends that begin one after the other, all but the first while that one is under way."""
    futures = []
    for number, name in enumerate(names):
        futures.append(pool.submit(gathering.append, small(name)))
        wait_for(partial(have_come, log, gathering, number + 1), f"append {number} waits")
    log.may_go_on.set()
    return futures


def _have_come(log: Log, gathering: Gathering, n: int) -> bool:
    return len(gathering._waiting) + sum(map(len, log.appends)) == n


def test_what_waits_for_an_append_goes_together_in_the_next_one() -> None:
    log = Log()
    gathering = Gathering(log.write)
    with ThreadPoolExecutor(4) as pool:
        found = [future.result(10) for future in gathered(log, gathering, ["a", "b", "c", "d"], pool)]

    assert log.appends == [["a"], ["b", "c", "d"]]
    assert found == [Written(7, "a-0", 1_001), *(Written(7, f"{name}-0", 1_002) for name in "bcd")]


def test_an_append_takes_so_many_at_most_and_the_rest_is_not_forgotten() -> None:
    log = Log()
    gathering = Gathering(log.write)
    names = [f"n{number}" for number in range(MAX_TOGETHER + 3)]
    with ThreadPoolExecutor(len(names)) as pool:
        found = [future.result(10).entry_id for future in gathered(log, gathering, names, pool)]

    assert [len(append) for append in log.appends] == [1, MAX_TOGETHER, 2]
    assert found == [f"{name}-0" for name in names]


def test_an_append_that_fails_fails_for_all_in_it_and_for_nobody_else() -> None:
    log = Log(fails=True)
    gathering = Gathering(log.write)
    with ThreadPoolExecutor(3) as pool:
        first, *others = gathered(log, gathering, ["a", "b", "c"], pool)
        assert first.result(10).entry_id == "a-0"
        for future in others:
            with pytest.raises(StreamgaugeError, match="the second append failed"):
                future.result(10)
    assert gathering.append(small("d")).entry_id == "d-0"
    assert log.appends == [["a"], ["b", "c"], ["d"]]


def test_many_threads_write_each_of_theirs_once_and_in_their_order() -> None:
    log = Log()
    log.may_go_on.set()
    gathering = Gathering(log.write)

    def send(thread: int) -> list[str]:
        return [gathering.append(small(f"{thread}.{number}")).entry_id for number in range(200)]

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(send, range(8)))

    written = [name for append in log.appends for name in append]
    assert found == [[f"{thread}.{number}-0" for number in range(200)] for thread in range(8)]
    for thread in range(8):
        mine = [name for name in written if name.startswith(f"{thread}.")]
        assert mine == [f"{thread}.{number}" for number in range(200)]
