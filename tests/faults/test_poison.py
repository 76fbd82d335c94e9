"""An entry that kills its worker is found row by row, over as many lives as it takes; what stands beside it is counted.

Death is simulated: `Killed` leaves through every `except Exception`, and the next life is a new runner that knows
only what is in Redis. That is all a process has left behind after kill -9.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from pipeline.core.batches import Batch
from pipeline.core.definitions import PaneWindow
from pipeline.core.entries import Entry
from pipeline.core.partitioning import Chunk
from pipeline.core.process import TimeState
from pipeline.rim import keys
from pipeline.rim.scripts import Scripts
from pipeline.rim.streams import Step, append
from pipeline.runtime.computations import AggregateComputation, Changes, Computation
from pipeline.runtime.setup import set_up
from pipeline.runtime.worker import Worker
from tests.faults.line import STREAM, Line, config_of
from tests.faults.model import rows_of
from tests.servers import RunningServer

POISON = 666
MAX_LIVES = 40


class Killed(BaseException):
    """The process is gone."""


Death = Callable[[Batch], bool]


def by_poison(batch: Batch) -> bool:
    return POISON in batch.frame["k"].to_list()


@dataclass
class Deadly:
    """A computation that ends its process on some data."""

    inner: Computation
    kills: Death
    tried: list[int] = field(default_factory=list)  # rows of each attempt

    @property
    def group(self) -> str:
        return self.inner.group

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs

    @property
    def open_panes(self) -> Collection[int]:
        return self.inner.open_panes

    @property
    def window(self) -> PaneWindow | None:
        return self.inner.window

    def load(self, client: redis.Redis, time: TimeState) -> None:
        self.inner.load(client, time)

    def compute(self, batch: Batch, before: TimeState) -> Any:
        self.tried.append(len(batch.times_ms))
        if self.kills(batch):
            raise Killed
        return self.inner.compute(batch, before)

    def size(self, computed: Any) -> int:
        return self.inner.size(computed)

    def recall(self, client: redis.Redis, computed: Any) -> None:
        self.inner.recall(client, computed)

    def apply(self, batch: Batch, computed: Any) -> Changes:
        return self.inner.apply(batch, computed)

    def forget(self, time: TimeState) -> None:
        self.inner.forget(time)

    def fresh(self) -> Deadly:
        return Deadly(self.inner.fresh(), self.kills, self.tried)


def live_on(line: Line, kills: Death = by_poison, decode: Callable[[Sequence[Entry]], Batch] | None = None) -> int:
    """Start one life after another until everything is committed; return how many ended early."""
    for life in range(MAX_LIVES):
        computation = Deadly(AggregateComputation(line.program, 0), kills)
        try:
            runner = line.runner(f"life {life}", computation=computation)
            line.read(runner)
            runner.process(decode or line.decode)
        except Killed:
            continue
        return life
    pytest.fail(f"not done after {MAX_LIVES} lives")


def add_chunk(line: Line, *values: int, ts: int = 1_000, g: str = "x", backfill: bool = False) -> str:
    """Append one chunk with a row for each value."""
    body = "\n".join(json.dumps({"ts": ts, "g": g, "k": k}) for k in values).encode()
    step = Step([Chunk(body, len(values), ts, ts)], [], undeclared=0, judged_ms=0, backfill=backfill)
    return append(Scripts(line.client), STREAM, 0, step).ids[0]


def dead_letters(line: Line) -> list[tuple[str, int, int, str]]:
    """(entry, row, events, code) of every dead letter."""
    rows = rows_of(line.client, keys.dead(STREAM, 0, line.group))
    return [(row[b"entry"].decode(), int(row[b"row"]), int(row[b"n"]), row[b"code"].decode()) for _, row in rows]


def test_a_row_that_kills_its_worker_becomes_a_dead_letter_and_its_neighbours_count(server: RunningServer) -> None:
    line = Line(server.client)
    poisoned = add_chunk(line, *range(50), POISON, *range(51, 100))

    deaths = live_on(line)

    assert dead_letters(line) == [(poisoned, 50, 1, "killed_worker")]
    assert line.cells() == {(0, "x"): (99, sum(range(100)) - 50)}
    assert 0 < deaths <= 2 + 7 + 3  # unsuspected, the halves of 100 rows, the row alone
    assert not server.client.exists(keys.suspect(STREAM, 0, line.group))


def test_old_data_that_kills_is_added_to_the_closed_window_it_belongs_to(server: RunningServer) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1), (30_000, "x", 2))
    line.finish()
    poisoned = add_chunk(line, 4, POISON, 8, backfill=True)

    live_on(line)

    assert dead_letters(line) == [(poisoned, 1, 1, "killed_worker")]
    assert line.cells() == {(0, "x"): (3, 13), (30_000, "x"): (1, 2)}
    assert line.checkpoint().max_seen_ms == 30_000


def test_two_rows_that_kill_are_both_found(server: RunningServer) -> None:
    line = Line(server.client)
    first = add_chunk(line, 1, POISON, 2)
    add_chunk(line, 4, 8)
    second = add_chunk(line, 16, 32, POISON)

    live_on(line)

    assert dead_letters(line) == [(first, 1, 1, "killed_worker"), (second, 2, 1, "killed_worker")]
    assert line.cells() == {(0, "x"): (6, 63)}


def test_the_ledger_and_the_watermark_are_those_of_a_row_that_failed(server: RunningServer) -> None:
    line = Line(server.client)
    add_chunk(line, 1)
    add_chunk(line, POISON, ts=30_000)
    add_chunk(line, 2)  # late: the row that kills was decoded, so its time counts, as for every failed row

    live_on(line)

    checkpoint = line.checkpoint()
    assert (checkpoint.read, checkpoint.accepted, checkpoint.late, checkpoint.dead) == (3, 1, 1, 1)
    assert checkpoint.max_seen_ms == 30_000


def test_entries_in_flight_beside_a_killer_are_never_even_suspected_of_it(server: RunningServer) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1), (2_000, "bot", 2), (30_000, "y", 4), (3_000, "x", 8))
    poisoned = add_chunk(line, POISON, ts=31_000)
    line.add((32_000, "y", 16), (4_000, "x", 32))

    live_on(line)

    assert dead_letters(line) == [(poisoned, 0, 1, "killed_worker")]
    assert line.cells() == {(0, "x"): (1, 1), (30_000, "y"): (2, 20)}
    assert [int(row[b"time"]) for _, row in rows_of(server.client, keys.late(STREAM, 0, line.group))] == [3_000, 4_000]


def test_entries_that_were_only_in_flight_when_workers_were_killed_come_out_right(server: RunningServer) -> None:
    line = Line(server.client)
    for number in range(6):
        add_chunk(line, *range(8), ts=1_000 * number)
    for _ in range(2):
        line.read(line.runner("died"))

    deaths = live_on(line, kills=from_outside(5))

    assert deaths == 5
    assert dead_letters(line) == []
    assert line.right()


def from_outside(times: int) -> Death:
    """kill -9 from outside, whatever is being computed: each life ends one computation later than the one before."""
    lives, tries = 0, 0

    def kills(batch: Batch) -> bool:
        nonlocal lives, tries
        tries += 1
        if lives == times or tries <= lives:
            return False
        lives, tries = lives + 1, 0
        return True

    return kills


def test_an_entry_that_kills_while_it_is_decoded_is_a_dead_letter_whole(server: RunningServer) -> None:
    line = Line(server.client)
    add_chunk(line, 1, 2)
    bad = add_chunk(line, 4, 8, 16)
    add_chunk(line, 32)

    def deadly(entries: Sequence[Entry]) -> Batch:
        if bad.encode() in [entry.id for entry in entries]:
            raise Killed
        return line.decode(entries)

    live_on(line, decode=deadly)

    assert dead_letters(line) == [(bad, 0, 3, "killed_worker")]
    assert line.cells() == {(0, "x"): (3, 35)}
    assert (line.checkpoint().read, line.checkpoint().dead) == (6, 3)


def test_every_attempt_is_on_record_before_it_is_made(server: RunningServer) -> None:
    line = Line(server.client)
    entry = add_chunk(line, 1, 2)
    for _ in range(2):  # two workers take it and die
        line.read(line.runner("died"))
    on_record: list[dict[Any, Any]] = []

    def kills(batch: Batch) -> bool:
        on_record.append(line.client.execute_command("HGETALL", keys.suspect(STREAM, 0, line.group)))
        return False

    live_on(line, kills=kills)

    assert on_record == [{f"{entry} 0 2".encode(): b"1"}]


def test_what_a_zombie_recorded_of_another_entry_is_not_held_against_this_one(server: RunningServer) -> None:
    line = Line(server.client)
    add_chunk(line, 1)
    for _ in range(2):
        line.read(line.runner("died"))
    server.client.hset(keys.suspect(STREAM, 0, line.group), mapping={"1-1 0 1": "3", "1-1 decoding": "3"})

    live_on(line, kills=lambda batch: False)

    assert dead_letters(line) == []
    assert line.right()


def test_a_metric_that_dies_of_an_entry_does_not_double_what_another_stage_did_with_it(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(1, rare=True)
    line = Line(server.client)  # the same stream and metric
    set_up(server.client, config)
    add_chunk(line, 1, 2, POISON, 4, g="g0")
    compute = AggregateComputation.compute

    def deadly(self: AggregateComputation, batch: Batch, before: TimeState) -> Any:
        if by_poison(batch):
            raise Killed
        return compute(self, batch, before)

    monkeypatch.setattr(AggregateComputation, "compute", deadly)
    for life in range(MAX_LIVES):
        worker = Worker(config, server.client, server.client, f"w{life}")
        try:
            while not worker.poll_once().idle:
                pass
            break
        except Killed:
            server.client.delete(keys.lease(STREAM, 0), keys.workers())  # both run out by themselves

    rare = rows_of(server.client, keys.published_transform(STREAM, 0, "rare"))
    assert [int(row[b"k"]) for _, row in rare] == [1, 2, POISON, 4]
    assert [code for *_, code in dead_letters(line)] == ["killed_worker"]
    assert line.cells() == {(0, "g0"): (3, 7)}


def test_a_tick_that_was_in_flight_is_processed_as_ever(server: RunningServer) -> None:
    line = Line(server.client)
    line.add((1_000, "x", 1))
    server.client.xadd(keys.raw(STREAM, 0), {"_k": "tick", "t": "30000"})
    line.add((2_000, "x", 2))
    for _ in range(3):
        line.read(line.runner("died"))

    live_on(line, kills=lambda batch: False)

    assert line.checkpoint().ticks == 1
    assert line.right()
