"""Four guards keep the numbers right; each interleaving here is right with its guard, and visibly wrong without it.

A mutation test proves that the suite can see: a guard taken out, and nothing noticed, would be a suite that looks away.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from pipeline.core.batches import Batch
from pipeline.core.partitioning import Chunk
from pipeline.errors import FenceError
from pipeline.rim.scripts import Script, Scripts
from pipeline.rim.streams import IdempotencyKey, Step, append
from tests.faults.line import STREAM, Interrupted, Line, without
from tests.faults.logs import log_bytes, restart_with_log
from tests.servers import RunningServer

CHECKPOINT_FENCE = """\
if (checkpoint[2] or '') ~= ARGV[3] or (checkpoint[3] or '0') ~= ARGV[4] or (checkpoint[4] or '') ~= ARGV[5] then
  return 'checkpoint'
end
"""
PENDING_COUNT = "if mine ~= tonumber(ARGV[6]) or pending[2] ~= ARGV[7] then return 'pending' end\n"
IDEMPOTENCY_RECORD = "local record = key ~= '' and redis.call('HGET', KEYS[3], key)\n"


# --- 1: the checkpoint fence


def stale_worker_reads_the_next_entry(line: Line, scripts: Scripts) -> None:
    """A and B loaded the same state; A commits the first entry, B the second, from the state before the first."""
    a, b = line.runner("a"), line.runner("b", scripts=scripts)
    line.add((1_000, "x", 1))
    line.work(a)
    line.add((2_000, "x", 2))
    line.work(b)


def test_a_stale_worker_is_refused_by_the_checkpoint(server: RunningServer) -> None:
    line = Line(server.client)

    with pytest.raises(FenceError, match="checkpoint"):
        stale_worker_reads_the_next_entry(line, Scripts(server.client))
    line.finish()

    assert line.cells() == {(0, "x"): (2, 3)}
    assert line.right()


def test_without_the_checkpoint_fence_a_stale_worker_overwrites_a_count(server: RunningServer) -> None:
    line = Line(server.client)

    stale_worker_reads_the_next_entry(line, mutated(server, without("commit", CHECKPOINT_FENCE)))
    line.finish()

    assert line.cells() == {(0, "x"): (1, 2)}  # the first event is lost
    assert not line.right()


# --- 2: the count of pending entries


def zombie_overtakes_the_owner(line: Line, scripts: Scripts) -> None:
    """The owner has read an old event and not committed it; a zombie reads the next one, which is far ahead."""
    zombie, owner = line.runner("zombie", scripts=scripts), line.runner("owner")
    line.add((1_000, "x", 1))
    line.read(owner)
    line.add((30_000, "x", 2))
    try:
        line.work(zombie)
    finally:
        line.finish("the zombie, loaded again")  # it claims what the owner holds
        with pytest.raises(FenceError):
            owner.process(line.decode)


def test_a_zombie_cannot_overtake_what_the_owner_has_pending(server: RunningServer) -> None:
    line = Line(server.client)

    with pytest.raises(FenceError, match="pending"):
        zombie_overtakes_the_owner(line, Scripts(server.client))
    line.finish()

    assert line.cells() == {(0, "x"): (1, 1), (30_000, "x"): (1, 2)}
    assert line.right()


def test_without_the_pending_count_an_overtaken_event_is_late(server: RunningServer) -> None:
    line = Line(server.client)

    zombie_overtakes_the_owner(line, mutated(server, without("commit", PENDING_COUNT)))
    line.finish()

    assert line.cells() == {(30_000, "x"): (1, 2)}  # the event of the owner came after its window
    assert not line.right()


def log_is_rolled_back_under_a_batch(server: RunningServer, line: Line, scripts: Scripts) -> None:
    """A worker has read an event; the server dies, and comes back with a log that ends before that event."""
    line.add((1_000, "x", 1))
    line.finish()
    runner = line.runner("worker", scripts=scripts)
    before = log_bytes(server)
    line.add((2_000, "x", 2))
    line.read(runner)
    restart_with_log(server, before)
    runner.process(line.decode)


def test_a_batch_read_before_a_rollback_is_not_committed_after_it(throwaway_server: RunningServer) -> None:
    line = Line(throwaway_server.client)

    with pytest.raises(FenceError, match="pending"):
        log_is_rolled_back_under_a_batch(throwaway_server, line, Scripts(throwaway_server.client))
    line.finish()

    assert line.cells() == {(0, "x"): (1, 1)}
    assert line.right()


def test_without_the_pending_count_events_that_no_longer_exist_are_counted(throwaway_server: RunningServer) -> None:
    line = Line(throwaway_server.client)

    scripts = mutated(throwaway_server, without("commit", PENDING_COUNT))
    log_is_rolled_back_under_a_batch(throwaway_server, line, scripts)

    assert line.cells() == {(0, "x"): (2, 3)}
    assert not line.right()


# --- 3: the watermark before each event

FAR_THEN_OLD = [(1_000, "x", 1), (30_000, "x", 2), (2_000, "x", 4)]  # the third is late: its window closed at 31 s


def in_one_batch(line: Line) -> None:
    line.add(*FAR_THEN_OLD)
    line.finish()


def one_by_one(line: Line) -> None:
    for event in FAR_THEN_OLD:
        line.add(event)
        line.finish()


@pytest.mark.parametrize("cut", [in_one_batch, one_by_one])
def test_the_watermark_before_each_event_decides_what_is_late(server: RunningServer, cut: Any) -> None:
    line = Line(server.client)

    cut(line)

    assert line.cells() == {(0, "x"): (1, 1), (30_000, "x"): (1, 2)}
    assert line.right()


def before_the_batch(batch: Batch, max_seen_ms: int | None, disorder_ms: int) -> tuple[Any, int | None]:
    """The mutant: one watermark for the whole batch, as it was when the batch began."""
    watermarks_ms, newest_ms = PREFIX(batch, max_seen_ms, disorder_ms)
    return np.full_like(watermarks_ms, watermarks_ms[0] if len(watermarks_ms) else 0), newest_ms


def after_the_batch(batch: Batch, max_seen_ms: int | None, disorder_ms: int) -> tuple[Any, int | None]:
    """The mutant: one watermark for the whole batch, from its newest event."""
    watermarks_ms, newest_ms = PREFIX(batch, max_seen_ms, disorder_ms)
    return np.full_like(watermarks_ms, (newest_ms or 0) - disorder_ms), newest_ms


PREFIX = Batch.prefix_watermarks


@pytest.mark.parametrize(
    ("mutant", "wrong"),
    [
        (before_the_batch, {(0, "x"): (2, 5), (30_000, "x"): (1, 2)}),  # the late event is counted
        (after_the_batch, {(30_000, "x"): (1, 2)}),  # the first event is late because of one behind it
    ],
)
def test_with_a_watermark_for_a_whole_batch_the_cut_decides_the_numbers(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, mutant: Any, wrong: dict[tuple[int, str], tuple[int, int]]
) -> None:
    monkeypatch.setattr(Batch, "prefix_watermarks", mutant)
    line = Line(server.client)

    in_one_batch(line)

    assert line.cells() == wrong
    assert not line.right()


# --- 4: the idempotent append


def producer_retries_after_a_lost_reply(line: Line, scripts: Scripts) -> None:
    """The first call was written and its answer lost; the producer sends the same batch under the same key."""
    rows = [{"ts": 1_000, "g": "x", "k": 1}, {"ts": 2_000, "g": "x", "k": 2}]
    body = "\n".join(json.dumps(row) for row in rows).encode()
    step = Step([Chunk(body, 2, 1_000, 2_000)], [], undeclared=0, judged_ms=0)
    for _ in range(2):
        append(scripts, STREAM, 0, step, IdempotencyKey("batch 1", "fingerprint"))


def test_a_retried_batch_is_stored_once(server: RunningServer) -> None:
    line = Line(server.client)

    producer_retries_after_a_lost_reply(line, Scripts(server.client))
    line.finish()

    assert line.cells() == {(0, "x"): (2, 3)}
    assert line.right()


def test_without_the_idempotency_record_a_retry_doubles_the_batch(server: RunningServer) -> None:
    line = Line(server.client)

    mutants = without("append", IDEMPOTENCY_RECORD, "local record = false\n")
    producer_retries_after_a_lost_reply(line, mutated(server, mutants))
    line.finish()

    assert line.cells() == {(0, "x"): (4, 6)}


# --- what the mutation tests rest on


def test_a_guard_that_is_not_in_its_script_fails_the_test_that_takes_it_out() -> None:
    with pytest.raises(AssertionError, match="0 times"):
        without("commit", "if the_fence_was_rewritten then")


def test_an_interruption_stands_right_before_the_commit(server: RunningServer) -> None:
    line = Line(server.client)
    seen: list[int] = []
    runner = line.runner("a", scripts=Interrupted(server.client, "commit", lambda: seen.append(line.checkpoint().read)))
    line.add((1_000, "x", 1))

    line.work(runner)

    assert seen == [0]
    assert line.right()


def mutated(server: RunningServer, scripts: Mapping[str, Script]) -> Scripts:
    return Scripts(server.client, scripts)
