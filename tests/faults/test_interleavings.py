"""Two workers, or one and somebody else, in the worst order; each test writes the order down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.errors import FenceError, StreamgaugeError, TornError
from pipeline.rim import keys, store
from pipeline.rim.rebuild import rebuild_partition
from pipeline.rim.scripts import Scripts
from pipeline.runtime.worker import Worker
from tests.faults.line import STREAM, Interrupted, Line, published_revisions, without
from tests.faults.logs import log_bytes, restart_with_log
from tests.servers import RunningServer, wait_for

# --- zombies


def test_a_zombie_paused_before_its_commit_is_refused(server: RunningServer) -> None:
    line = Line(server.client)
    zombie = line.runner("zombie", scripts=Interrupted(server.client, "commit", line.finish))
    line.add((1_000, "x", 1), (2_000, "y", 2))

    with pytest.raises(FenceError):
        line.work(zombie)

    assert zombie.state is None  # it has to load again
    assert line.right()


def test_a_zombie_paused_while_another_has_only_loaded_is_refused(server: RunningServer) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1))
    others = []
    zombie = Interrupted(server.client, "commit", lambda: others.append(line.runner("owner")))

    with pytest.raises(FenceError, match="pending"):
        line.finish_with(zombie)
    others[0].process(line.decode)

    assert line.right()


def test_a_commit_whose_reply_is_lost_is_not_done_again(server: RunningServer) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1))

    class Unanswered(Scripts):
        def run(self, name: str, **arguments: Any) -> Any:
            reply = super().run(name, **arguments)
            if name == "commit":
                raise ConnectionError("the reply is lost")
            return reply

    runner = line.runner("a", scripts=Unanswered(server.client))
    with pytest.raises(ConnectionError):
        line.work(runner)
    line.finish()

    assert line.checkpoint().commit == 1
    assert line.right()


def test_late_and_dead_rows_of_a_refused_commit_are_not_written(server: RunningServer) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1), (30_000, "x", 2))
    server.client.xadd(keys.raw(STREAM, 0), {"ts": "31000", "g": "x", "k": "not a number"})
    line.add((2_000, "late", 4))
    zombie = line.runner("zombie", scripts=Interrupted(server.client, "commit", line.finish))

    with pytest.raises(FenceError):
        line.work(zombie)

    assert server.client.xlen(keys.late(STREAM, 0, line.group)) == 1
    assert server.client.xlen(keys.dead(STREAM, 0, line.group)) == 1
    assert line.right()


# --- rollbacks


def test_a_state_ahead_of_a_rolled_back_log_is_forgotten(throwaway_server: RunningServer) -> None:
    line = Line(throwaway_server.client)
    worker = line.runner("worker")
    line.add((1_000, "x", 1))
    line.work(worker)
    before = log_bytes(throwaway_server)
    line.add((2_000, "x", 2), (30_000, "x", 4))
    line.work(worker)

    restart_with_log(throwaway_server, before)
    line.add((3_000, "x", 8))  # in time for the log that survived; late for the one that is gone
    with pytest.raises(FenceError, match="checkpoint"):
        line.work(worker)
    worker.load()
    worker.process(line.decode)

    assert line.cells() == {(0, "x"): (2, 9)}
    assert line.right()


def test_a_log_cut_inside_a_commit_has_all_of_it_or_nothing(throwaway_server: RunningServer) -> None:
    line = Line(throwaway_server.client)
    worker = line.runner("worker")
    line.add((1_000, "x", 1), (2_000, "y", 2))
    line.read(worker)
    before = log_bytes(throwaway_server)
    worker.process(line.decode)
    after = log_bytes(throwaway_server)

    for size in range(len(before), len(after), (len(after) - len(before)) // 5):
        restart_with_log(throwaway_server, after[:size])
        assert line.checkpoint().read == 0
        assert line.cells() == {}
    restart_with_log(throwaway_server, after)
    assert line.right()


def test_a_window_is_published_again_when_a_partition_was_rolled_back(server: RunningServer) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1))
    saved = line.everything("{s.0}:*")
    line.add((2_000, "x", 2), (30_000, "x", 4))
    line.finish()
    line.closer().close_once()

    # The shard of the partition comes back from a moment ago, the metric's does not: its marks stay.
    server.client.delete(*server.client.keys("{s.0}:*"))
    for key, value in saved.items():
        server.client.restore(key, 0, value)
    line.add((40_000, "x", 8))
    line.finish()
    line.closer().close_once()

    assert line.cells() == {(0, "x"): (1, 1), (40_000, "x"): (1, 8)}
    assert published_revisions(server.client) == [("0", "0"), ("0", "1")]


# --- a commit that was cut off, and keys that somebody else changed


def test_a_commit_that_fails_in_the_middle_leaves_the_torn_marker(server: RunningServer) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1))
    last_write = "redis.call('DEL', KEYS[5])\n"
    failing = Scripts(server.client, without("commit", last_write, "redis.call('NO_SUCH_COMMAND')\n"))

    with pytest.raises(Exception, match="nknown"):
        line.finish_with(failing)
    line.add((2_000, "x", 2))
    with pytest.raises(TornError):
        line.finish()

    assert line.checkpoint().torn


def test_a_worker_rebuilds_a_torn_partition_from_the_log(server: RunningServer) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1), (30_000, "x", 2), (2_000, "late", 4))
    line.finish()
    server.client.hset(keys.checkpoint(STREAM, 0, line.group), "torn", "1")
    line.add((31_000, "x", 8))
    worker = Worker(line.config, server.client, server.client, "w")

    for _ in range(4):
        worker.poll_once()

    assert not line.checkpoint().torn
    assert line.right()


def test_a_rebuilt_window_is_published_again_even_when_the_clock_went_back(server: RunningServer) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1), (30_000, "x", 2))
    in_an_hour_ms = str(store.redis_time_ms(server.client) + 3_600_000)
    server.client.hset(keys.checkpoint(STREAM, 0, line.group), "load_ms", in_an_hour_ms)
    line.finish()
    line.closer().close_once()

    server.client.hset(keys.checkpoint(STREAM, 0, line.group), "torn", "1")
    rebuild_partition(server.client, Scripts(server.client), STREAM, 0, line.group)
    line.finish()
    line.closer().close_once()

    assert published_revisions(server.client) == [("0", "0"), ("0", "1")]
    assert line.right()


def test_a_reset_is_refused_while_there_are_panes(server: RunningServer) -> None:
    """A rebuilder that was paused since before another's reset knows nothing of the panes that came after it."""
    line = Line(server.client)
    line.add((1_000, "x", 1))
    line.finish()
    checkpoint = keys.checkpoint(STREAM, 0, line.group)
    server.client.hset(checkpoint, "torn", "1")

    raw, cut, panes = keys.raw(STREAM, 0), keys.cut(STREAM, 0), keys.panes(STREAM, 0, line.group)
    due = keys.due(STREAM, 0, line.group)
    done = Scripts(server.client).run(
        "reset", keys=[raw, checkpoint, cut, panes, keys.tables(STREAM, 0), due], args=[line.group]
    )

    assert done == 0
    assert line.checkpoint().torn
    assert line.cells() == {(0, "x"): (1, 1)}


@pytest.mark.parametrize("part", ["cursor", "commit", "max_seen_ms"])
def test_each_part_of_the_checkpoint_is_compared(server: RunningServer, part: str) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1))
    line.finish()
    worker = line.runner("worker")
    line.add((2_000, "x", 2))
    line.read(worker)
    server.client.hset(keys.checkpoint(STREAM, 0, line.group), part, "7-7" if part == "cursor" else "7")

    with pytest.raises(FenceError, match="checkpoint"):
        worker.process(line.decode)


def test_a_consumer_that_holds_entries_is_never_retired(server: RunningServer) -> None:
    """Deleting it would drop its entries for good (FACTS 6)."""
    line = Line(server.client)
    line.add((1_000, "x", 1))
    holder = line.runner("holder")
    line.read(holder)
    idle = line.runner("idle")  # claims it
    line.runner("holds nothing since").process(line.decode)
    line.add((2_000, "x", 2))
    line.read(idle)

    retired = Scripts(server.client).run("retire", keys=[keys.raw(STREAM, 0)], args=[line.group, -1])

    assert retired == 2
    assert [c["pending"] for c in server.client.xinfo_consumers(keys.raw(STREAM, 0), line.group)] == [1]
    line.finish()
    assert line.right()


OURS: dict[str, Callable[[Line], str]] = {
    "checkpoint": lambda line: keys.checkpoint(STREAM, 0, line.group),
    "pane marks": lambda line: keys.panes(STREAM, 0, line.group),
    "due panes": lambda line: keys.due(STREAM, 0, line.group),
    "journal": lambda line: keys.suspect(STREAM, 0, line.group),
    "pane": lambda line: keys.pane(STREAM, 0, line.group, 0),
    "late rows": lambda line: keys.late(STREAM, 0, line.group),
}


@pytest.mark.parametrize("kind", sorted(OURS))
def test_a_key_that_somebody_overwrote_stops_the_commit_before_it_writes(server: RunningServer, kind: str) -> None:
    line = Line(server.client)
    runner = line.runner("a")
    line.add((1_000, "x", 1), (30_000, "x", 2), (2_000, "late", 4))
    line.read(runner)
    server.client.set(OURS[kind](line), "a string of somebody else")
    before = line.everything()

    with pytest.raises(StreamgaugeError, match="something else writes"):
        runner.process(line.decode)

    assert line.everything() == before


# --- a server that came back with less, and nothing new comes


def test_what_survived_a_rollback_is_counted_even_when_nothing_new_comes(throwaway_server: RunningServer) -> None:
    line = Line(throwaway_server.client)
    worker = Worker(line.config, throwaway_server.client, throwaway_server.client, "w")
    line.add((1_000, "x", 1))
    before = log_bytes(throwaway_server)
    worker.poll_once()
    line.add((2_000, "x", 2))
    while not worker.poll_once().idle:
        pass  # until nothing but a new entry would wake it

    restart_with_log(throwaway_server, before)  # so quickly that the worker's connections only reconnect
    wait_for(lambda: worker.poll_once() is not None and line.right(), "the worker to find out", timeout_s=5)

    assert line.cells() == {(0, "x"): (1, 1)}


def test_a_worker_that_waits_for_an_entry_that_was_rolled_back_comes_to_rest(throwaway_server: RunningServer) -> None:
    line = Line(throwaway_server.client)
    worker = Worker(line.config, throwaway_server.client, throwaway_server.client, "w")
    line.add((1_000, "x", 1))
    worker.poll_once()
    before = log_bytes(throwaway_server)
    line.add((2_000, "x", 2))
    worker.poll_once()

    restart_with_log(throwaway_server, before)
    worker.forget()  # as after a lost connection
    for _ in range(10):
        worker.poll_once()

    consumers = throwaway_server.client.xinfo_consumers(keys.raw(STREAM, 0), line.group)
    assert len(consumers) <= 4  # each load takes a new name: it loaded again once or twice, not ten times
    assert line.right()
