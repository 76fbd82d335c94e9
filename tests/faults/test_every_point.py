"""A worker's life has some forty commands to Redis: it dies, or is overtaken, at each of them, and no number changes.

Found by counting, not chosen: a command that is added to the loop is tested from the day it is there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import redis

from pipeline.errors import FenceError, TornError
from pipeline.rim import keys
from pipeline.rim.connection import writer
from pipeline.rim.rebuild import rebuild_partition
from pipeline.rim.scripts import Scripts
from tests.faults.line import METRIC, STREAM, Line
from tests.faults.model import WINDOW_MS, Cells, rows_of
from tests.servers import RunningServer

MOST_COMMANDS = 200  # of one life: far above what it takes, so that a loop without end is seen


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Point:
    """The n-th command (or pipeline) of a client, and what happens right before or right after it."""

    number: int
    meanwhile: Callable[[], object]
    after: bool
    command: str = ""  # what stood there, once it was reached
    _seen: int = 0

    def around(self, name: str, call: Callable[[], Any]) -> Any:
        self._seen += 1
        if self._seen != self.number:
            return call()
        self.command = name
        if self.after:
            reply = call()
            self.meanwhile()
            return reply
        self.meanwhile()
        return call()


def client_with(server: RunningServer, point: Point) -> redis.Redis:
    """A client of the product's own making, on which something happens at one point."""
    client: Any = writer(server.url)
    execute, pipeline = client.execute_command, client.pipeline

    def intercepted(*args: Any, **options: Any) -> Any:
        return point.around(str(args[0]), lambda: execute(*args, **options))

    def intercepted_pipeline(*args: Any, **options: Any) -> Any:
        pipe = pipeline(*args, **options)
        run = pipe.execute
        pipe.execute = lambda **how: point.around("pipeline", partial(run, **how))
        return pipe

    client.execute_command, client.pipeline = intercepted, intercepted_pipeline
    found: redis.Redis = client
    return found


def prepared(server: RunningServer) -> Line:
    """A line with a published window, an open one, and new events: in time, late, filtered, dead; a window to close."""
    server.client.flushall()
    line = Line(server.client)
    line.add((1_000, "x", 1), (12_000, "x", 2), (13_000, "y", 4))
    live(line)
    line.add((14_000, "x", 8), (15_000, "bot", 16), (30_000, "y", 32), (2_000, "late", 64), (31_000, "x", 128))
    server.client.xadd(keys.raw(STREAM, 0), {"ts": "32000", "g": "x", "k": "not a number"})
    return line


def live(line: Line) -> None:
    """All that a worker does: load, claim, read, compute, commit, close, publish, send downstream, settle."""
    try:
        line.finish()
    except (FenceError, TornError) as error:
        if isinstance(error, TornError):
            rebuild_partition(line.client, Scripts(line.client), STREAM, 0, line.group)
        line.finish()  # the next poll
    line.closer().close_once()


def on(line: Line, client: redis.Redis) -> Line:
    """The same line through another client."""
    other = copy(line)
    other.client = client
    return other


def assert_right(line: Line, where: str) -> None:
    downstream: Cells = {}  # a rebuilt window is published again: its newest revision comes last
    sent: set[tuple[int, str, int]] = set()
    for _, row in rows_of(line.client, keys.rows(METRIC)):
        cell = (int(row[b"window_start"]), row[b"g"].decode())
        assert (*cell, int(row[b"revision"])) not in sent, f"{where}: {cell} was sent downstream twice"
        sent.add((*cell, int(row[b"revision"])))
        downstream[cell] = (int(row[b"n"]), int(row[b"sum_k"]))
    model = line.model()
    closed_ms = model.watermarks_ms[0]
    assert downstream == {cell: v for cell, v in model.cells.items() if cell[0] + WINDOW_MS <= closed_ms}, where
    assert line.cells() == model.cells, where
    assert line.right(), where
    assert line.client.xlen(keys.dead(STREAM, 0, line.group)) == 1, where
    assert line.client.llen(keys.emit(METRIC, line.program.version)) == 0, where
    staged: list[Any] = line.client.keys("{m}:staging*")
    assert all(line.client.pttl(key) > 0 for key in staged), f"{where}: {staged} would stay for ever"


def die() -> None:
    raise Killed


def points(
    server: RunningServer, meanwhile: Callable[[Line], Callable[[], object]], *, after: bool, torn: bool = False
) -> Iterator[tuple[Line, str]]:
    """Live a life for each of its commands, with something happening at that command; yield the line after it."""
    for number in range(1, MOST_COMMANDS):
        line = prepared(server)
        if torn:
            server.client.hset(keys.checkpoint(STREAM, 0, line.group), "torn", "1")
        point = Point(number, meanwhile(line), after)
        client = client_with(server, point)
        try:
            live(on(line, client))
        except (Killed, FenceError):
            pass  # it died, or was refused and would load again
        finally:
            client.close()
        if not point.command:
            assert number > 20, "a life has more commands than that"
            return
        yield line, f"{'after' if after else 'before'} command {number}, {point.command}"
    pytest.fail(f"a life of more than {MOST_COMMANDS} commands")


@pytest.mark.parametrize("after", [False, True], ids=["command lost", "reply lost"])
@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
def test_a_worker_may_die_at_any_command(server: RunningServer, after: bool, torn: bool) -> None:
    for line, where in points(server, lambda line: die, after=after, torn=torn):
        live(line)
        assert_right(line, where)


@pytest.mark.parametrize("torn", [False, True], ids=["whole", "torn"])
def test_a_worker_may_be_overtaken_by_another_at_any_command(server: RunningServer, torn: bool) -> None:
    def other_lives(line: Line) -> Callable[[], object]:
        return lambda: live(line)

    for line, where in points(server, other_lives, after=False, torn=torn):
        live(line)
        assert_right(line, where)
