"""Closing: two publishers at once, one that was paused, one that died; a window goes out once with each revision."""

from __future__ import annotations

import pytest

from pipeline.core.names import Names
from pipeline.rim import keys, publish
from pipeline.rim.commit import Mark
from pipeline.rim.publish import Closed, Outgoing, Settled
from pipeline.rim.scripts import Scripts
from tests.faults.line import METRIC, STREAM, Interrupted, Line, published_revisions
from tests.faults.model import rows_of
from tests.servers import RunningServer


def test_two_closers_at_once_publish_a_window_once(server: RunningServer) -> None:
    line = Line(server.client, partitions=2)
    for partition in range(2):
        line.add((1_000, "x", 1), (30_000, "x", 2), partition=partition)
        line.finish(partition=partition)
    other = line.closer()

    line.closer(Interrupted(server.client, "publish", other.close_once)).close_once()

    assert published_revisions(server.client) == [("0", "0")]
    assert [row[b"n"] for _, row in rows_of(server.client, keys.rows(METRIC))] == [b"2"]
    assert server.client.keys("{m}:staging*") == []
    assert [server.client.hlen(keys.due(STREAM, p, line.group)) for p in range(2)] == [1, 1]  # the windows still open


def window(*marks: Mark, start_ms: int = 0) -> Closed:
    group, finished = Names.of([b'["x"]']), Names.of([b"%d" % start_ms])
    return Closed(METRIC, "v", start_ms, start_ms + 10_000, "final", marks, group, [b"cell"], finished)


def test_a_publish_is_refused_unless_one_mark_is_ahead_and_none_behind(server: RunningServer) -> None:
    def revision(*marks: Mark) -> int | None:
        return publish.publish(server.client, Scripts(server.client), window(*marks))

    assert revision(Mark(100, 5), Mark(100, 5)) == 0
    assert revision(Mark(100, 5), Mark(100, 5)) is None  # the same again
    assert revision(Mark(100, 4), Mark(100, 5)) is None  # behind
    assert revision(Mark(100, 6), Mark(100, 4)) is None  # ahead in one, behind in another
    assert revision(Mark(200, 1), Mark(100, 5)) == 1  # loaded later: ahead, whatever the commit number
    assert revision(Mark(100, 9), Mark(100, 9)) is None  # of the load before


def test_an_older_window_that_is_published_later_does_not_become_the_latest(server: RunningServer) -> None:
    server.client.hset(keys.versions(METRIC), "active", "v")

    for start_ms in (10_000, 0):
        publish.publish(server.client, Scripts(server.client), window(Mark(100, 5), start_ms=start_ms))

    assert server.client.hgetall(keys.latest(METRIC)) == {b'["x"]': b"10000"}


def test_a_version_that_does_not_answer_yet_leaves_the_latest_alone(server: RunningServer) -> None:
    server.client.hset(keys.versions(METRIC), "active", "the version before")

    publish.publish(server.client, Scripts(server.client), window(Mark(100, 5)))

    assert not server.client.exists(keys.latest(METRIC))


def test_a_window_whose_staged_result_ran_out_is_published_by_the_next_pass(server: RunningServer) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1), (30_000, "x", 2))
    line.finish()

    def staging_runs_out() -> None:
        server.client.delete(*server.client.keys("{m}:staging*"))

    line.closer(Interrupted(server.client, "publish", staging_runs_out)).close_once()  # paused for over a minute
    line.closer().close_once()

    assert published_revisions(server.client) == [("0", "0")]


def test_a_refused_publish_settles_only_what_the_stored_result_holds(server: RunningServer) -> None:
    line = Line(server.client, partitions=2)
    for partition in range(2):
        line.add((1_000, "x", 1), (30_000, "x", 2), partition=partition)
        line.finish(partition=partition)

    def other_publishes() -> None:
        line.closer().close_once()
        # as by two that closed again after rebuilds, each with the newer mark of another partition
        result = keys.result(METRIC, line.program.version, 0, 10_000)
        mine, other = server.client.execute_command("HGET", result, "marks").split(b" ")
        server.client.hset(result, "marks", b" ".join([b"1-1", b"9" + other]))
        server.client.hset(keys.due(STREAM, 0, line.group), "0", mine + b" -")
        server.client.hset(keys.due(STREAM, 1, line.group), "0", b"9" + other + b" -")

    line.closer(Interrupted(server.client, "publish", other_publishes)).close_once()

    assert server.client.hexists(keys.due(STREAM, 0, line.group), "0")
    assert server.client.hexists(keys.due(STREAM, 1, line.group), "0")


def test_settling_leaves_a_pane_that_changed_after_the_publish(server: RunningServer) -> None:
    scripts, due = Scripts(server.client), keys.due(STREAM, 0, "g")
    server.client.hset(due, mapping={"0": "100-5 -", "10000": "100-6 -", "20000": "100-5 -"})

    done = [Settled(0, Mark(100, 5), None), Settled(10_000, Mark(100, 5), None), Settled(20_000, Mark(100, 5), 40_000)]
    settled = publish.settle(scripts, STREAM, 0, "g", done)

    assert settled == 1
    assert server.client.hgetall(due) == {b"10000": b"100-6 -", b"20000": b"100-5 40000"}


def test_two_that_send_a_window_downstream_send_every_row_once(server: RunningServer) -> None:
    rows = [["row", str(number)] for number in range(2 * publish.EMIT_ROWS + 1)]
    head = Outgoing(0, 10_000, 0, 0)
    server.client.rpush(keys.emit(METRIC, "v"), str(head))

    def other_sends() -> None:
        [now] = publish.outgoing(server.client, METRIC, "v")
        assert now is not None
        assert publish.emit(Scripts(server.client), METRIC, "v", now, rows)

    first = Interrupted(server.client, "emit", other_sends, nth=2)  # after its first step
    finished = publish.emit(first, METRIC, "v", head, rows)

    assert not finished
    sent = [int(fields[b"row"]) for _, fields in rows_of(server.client, keys.rows(METRIC))]
    assert sent == list(range(len(rows)))
    assert publish.outgoing(server.client, METRIC, "v") == []


def test_what_a_publisher_left_unsent_when_it_died_is_sent_by_the_next(server: RunningServer) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1), (30_000, "x", 2))
    line.finish()

    def die() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        line.closer(Interrupted(server.client, "emit", die)).close_once()
    assert server.client.xlen(keys.rows(METRIC)) == 0
    line.closer().close_once()

    assert published_revisions(server.client) == [("0", "0")]
