"""A partition's log through one stage without Redis: batches cut anywhere, crashes anywhere, commits kept in memory.

What `Committed` holds is what the commit script would have written: the absolute cells, the rows, the ledger, the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.core.batches import Batch, read_batch
from pipeline.core.entries import parse_entry
from pipeline.core.events import Reader
from pipeline.core.process import Ledger, TimeState
from pipeline.core.programs import Program
from pipeline.core.session_blocks import StoredSessions, live_sessions
from pipeline.rim import keys
from pipeline.rim.tables import TableCache
from pipeline.runtime.assignments import aggregate_computation
from pipeline.runtime.computations import AggregateComputation, Changes
from pipeline.runtime.session_computation import SessionComputation
from tests.laws.logs import Logged

Worker = AggregateComputation | SessionComputation
Fate = Literal["go on", "crash before the commit", "crash after the commit"]


@dataclass(slots=True)
class Committed:
    """The state outside the worker."""

    panes: dict[int, dict[bytes, bytes]] = field(default_factory=dict)
    live: dict[bytes, bytes] = field(default_factory=dict)  # the hash of live sessions
    late: list[Any] = field(default_factory=list)
    dead: list[Any] = field(default_factory=list)
    ledger: Ledger = field(default_factory=Ledger)
    time: TimeState = field(default_factory=TimeState)

    @property
    def sessions(self) -> dict[bytes, bytes]:
        """The live sessions by field."""
        return live_sessions(self.live)

    def ordered(self) -> Committed:
        """With the dead letters by place: a commit writes what it could not decode before what it could not compute."""
        self.dead.sort(key=lambda letter: (letter["entry"], letter["row"]))
        return self


def replay(
    program: Program,
    log: Sequence[Logged],
    batches: Sequence[tuple[int, Fate]] = (),
    partition: int = 0,
    tables: TableCache | None = None,
    time: TimeState | None = None,
    expired_ms: int | None = None,
) -> Committed:
    """Run a log in batches of the sizes given, each with its fate; what is left afterwards is one last batch.

    `tables` are what lookups join with, `time` the state the log begins with. Windows that end at
    or before `expired_ms` are gone, as far as backfilled rows are concerned.
    """
    tables = tables or TableCache()
    committed = Committed(time=time or TimeState())
    worker = aggregate_computation(program, partition, tables)
    at = 0
    for size, fate in [*batches, (len(log), "go on")]:
        if fate == "crash before the commit":
            _apply(worker, committed, log[at : at + size], expired_ms)
        else:
            commit(worker, committed, log[at : at + size], expired_ms)
            at += size
        if fate != "go on":
            worker = reloaded(program, committed, partition, tables)
    return committed.ordered()


def commit(worker: Worker, committed: Committed, entries: Sequence[Logged], expired_ms: int | None = None) -> set[int]:
    """Compute some entries and commit what they change; return the panes that changed."""
    program, partition = worker.program, worker.partition
    changes = _apply(worker, committed, entries, expired_ms)
    for start, change in changes.panes.items():
        stored = committed.panes.setdefault(start, {})
        stored.update(change.cells)
        for name in change.gone:
            del stored[name]
    for change in changes.hashes.values():
        assert change.gone <= committed.live.keys() - change.cells.keys()
        committed.live = {n: v for n, v in committed.live.items() if n not in change.gone} | change.cells
    committed.late += changes.rows.get(keys.late(program.stream.name, partition, program.group), [])
    committed.dead += changes.rows.get(keys.dead(program.stream.name, partition, program.group), [])
    assert changes.ledger.balances
    committed.ledger += changes.ledger
    committed.time = changes.time
    worker.forget(committed.time)
    return set(changes.panes)


def _apply(worker: Worker, committed: Committed, entries: Sequence[Logged], expired_ms: int | None) -> Changes:
    batch = read(worker.program, entries, worker.partition).read_by(worker.program.group)
    time = replace(committed.time, expired_ms=expired_ms)
    if isinstance(worker, SessionComputation):
        return worker.apply(batch, worker.compute(batch, time))
    computed = worker.compute(batch, time)
    if batch.has_backfill:  # as `recall` does from Redis
        for start in {start for start, _ in computed.cells} & committed.panes.keys() - worker.table.panes.keys():
            worker.table.load(start, committed.panes[start])
    return worker.apply(batch, computed)


def read(program: Program, log: Sequence[Logged], partition: int) -> Batch:
    entries = [parse_entry(entry.id.encode(), entry.fields) for entry in log]
    reader = Reader(program.stream, program.needs)
    return read_batch(entries, reader, partition=partition, max_future_ms=program.stream.time.max_future_ms)


def reloaded(program: Program, committed: Committed, partition: int, tables: TableCache) -> Worker:
    """A new worker that has loaded the open panes, or the live sessions."""
    worker = aggregate_computation(program, partition, tables)
    if isinstance(worker, SessionComputation):
        worker.restore(StoredSessions.read(committed.live))
        return worker
    for start, cells in committed.panes.items():
        worker.table.load(start, cells)
    worker.forget(committed.time)
    return worker
