"""Old data meets a window that is about to expire: in every order the window is whole, or gone and the data is late."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from pipeline.core.partitioning import Chunk
from pipeline.errors import FenceError
from pipeline.rim import keys, store
from pipeline.rim.expiry import Expired, Kept, expire_results
from pipeline.rim.rebuild import rebuild_partition
from pipeline.rim.scripts import Script, Scripts
from pipeline.rim.streams import Step, append
from tests.faults.line import DISORDER_MS, METRIC, STREAM, Interrupted, Line, published_revisions, without
from tests.faults.model import rows_of
from tests.servers import RunningServer

AFTER_MS = 7 * 24 * 3_600_000 + 3_600_000  # an hour more than the retention of results


def closed_window(server: RunningServer, partitions: int = 1) -> Line:
    """A line whose window [0, 10 s) is published with one event a partition, and so is [10 s, 20 s)."""
    line = Line(server.client, partitions)
    for partition in range(partitions):
        line.add((1_000, "x", 1), (11_000, "x", 2), (30_000 + DISORDER_MS, "x", 4), partition=partition)
        line.finish(partition=partition)
    line.closer().close_once()
    return line


def backfill(line: Line, *events: tuple[int, str, int], partition: int = 0) -> None:
    body = b"\n".join(json.dumps({"ts": ts, "g": g, "k": k}).encode() for ts, g, k in events)
    times = [ts for ts, _, _ in events]
    step = Step([Chunk(body, len(events), min(times), max(times))], [], 0, judged_ms=0, backfill=True)
    append(Scripts(line.client), STREAM, partition, step)


def expire(line: Line, scripts: Scripts | None = None, *, end_ms: int = 10_000) -> Expired:
    """Let the windows that end by `end_ms` expire, and no other."""
    client, kept = line.client, Kept(line.config.streams[STREAM], line.program.stage, line.program.version)
    now_ms = store.redis_time_ms(client)
    for start, end in store.published_windows(client, METRIC, kept.version):
        published_ms = now_ms - AFTER_MS if end <= end_ms else now_ms
        client.zadd(keys.ages(METRIC, kept.version), {f"{start}:{end}": published_ms})
    return expire_results(client, scripts or Scripts(client), kept, line.program.stage.retention_ms, now_ms)


def late_reasons(line: Line, partition: int = 0) -> list[bytes]:
    return [row[b"reason"] for _, row in rows_of(line.client, keys.late(STREAM, partition, line.group))]


def test_a_closed_window_is_published_again_with_what_came_late(server: RunningServer) -> None:
    line = closed_window(server)

    backfill(line, (2_000, "x", 8), (3_000, "y", 16))
    line.finish()
    line.closer().close_once()

    assert line.cells() == {(0, "x"): (2, 9), (0, "y"): (1, 16), (10_000, "x"): (1, 2), (30_000, "x"): (1, 4)}
    assert published_revisions(server.client) == [("0", "0"), ("10000", "0"), ("0", "1"), ("0", "1")]
    assert (line.checkpoint().accepted, line.checkpoint().backfilled, line.checkpoint().late) == (5, 2, 0)


def test_what_has_expired_is_late_and_touches_nothing(server: RunningServer) -> None:
    line = closed_window(server)
    assert expire(line) == Expired(results=1)
    before = line.everything("*:pane:*")

    backfill(line, (2_000, "x", 8), (12_000, "x", 16))
    line.finish()
    line.closer().close_once()

    assert late_reasons(line) == [b"expired"]
    assert line.cells() == {(10_000, "x"): (2, 18), (30_000, "x"): (1, 4)}
    assert line.everything(f"*:pane:{line.group}:0") == {}
    assert before.keys() == line.everything("*:pane:*").keys()


def compute_while_it_expires(line: Line, scripts: Mapping[str, Script] | None = None) -> None:
    """A worker that has loaded the window computes old data into it, and commits after it has expired."""
    backfill(line, (2_000, "x", 8))
    line.finish_with(Interrupted(line.client, "commit", lambda: expire(line), scripts=scripts))


def test_a_window_that_expires_between_load_and_commit_is_not_written_to(server: RunningServer) -> None:
    line = closed_window(server)

    with pytest.raises(FenceError, match="windows expired"):
        compute_while_it_expires(line)
    assert (0, "x") not in line.cells()
    line.finish()
    line.closer().close_once()

    assert late_reasons(line) == [b"expired"]
    assert (0, "x") not in line.cells()


def test_without_the_comparison_an_expired_window_comes_back(server: RunningServer) -> None:
    line = closed_window(server)
    guard = "if ARGV[8] ~= '' and (checkpoint[5] or 'none') ~= ARGV[8] then return 'expired' end\n"

    compute_while_it_expires(line, without("commit", guard))
    line.closer().close_once()

    assert (0, "x") in line.cells()


def test_a_window_that_became_due_after_the_look_is_not_announced(server: RunningServer) -> None:
    line = closed_window(server, partitions=2)
    backfill(line, (2_000, "x", 8), partition=1)
    late_commit = Interrupted(server.client, "announce", lambda: line.finish("other", partition=1), nth=2)

    assert expire(line, late_commit) == Expired()
    line.closer().close_once()

    assert line.cells()[0, "x"] == (3, 10)


def test_without_the_look_at_what_is_due_a_window_comes_back_as_half_of_it(server: RunningServer) -> None:
    line = closed_window(server, partitions=2)
    backfill(line, (2_000, "x", 8), partition=1)
    guard = "start >= from and start < to"
    blind = without("announce", guard, "false")

    def commit() -> None:
        line.finish("other", partition=1)

    expire(line, Interrupted(server.client, "announce", commit, nth=2, scripts=blind))
    line.closer().close_once()

    assert line.cells().get((0, "x")) != (3, 10)


def test_a_window_that_was_published_again_after_the_look_stays(server: RunningServer) -> None:
    line = closed_window(server, partitions=2)
    backfill(line, (2_000, "x", 8), partition=1)

    def commit_and_publish() -> None:
        line.finish("other", partition=1)
        line.closer().close_once()

    assert expire(line, Interrupted(server.client, "announce", commit_and_publish, nth=2)) == Expired()
    assert line.cells()[0, "x"] == (3, 10)
    marks = [server.client.hexists(keys.panes(STREAM, p, line.group), "0") for p in range(2)]
    assert marks == [True, True]


def test_a_rebuild_remembers_what_has_expired(server: RunningServer) -> None:
    line = closed_window(server)
    expire(line)
    server.client.hset(keys.checkpoint(STREAM, 0, line.group), "torn", "1")

    rebuild_partition(server.client, Scripts(server.client), STREAM, 0, line.group)
    backfill(line, (2_000, "x", 8))
    line.finish()

    assert line.checkpoint().expired_ms == 10_000
    assert late_reasons(line) == [b"expired"]
