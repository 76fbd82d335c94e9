"""One consumer group on one partition: load, take, compute, commit; on any doubt forget everything and load again.

The state in memory is only ever the state after the last commit that succeeded. The fence decides whether it still is
the state in Redis; this module never tries to find out by itself (DESIGN 8.3, 8.4).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import redis
import structlog

from pipeline.core.definitions import Stream
from pipeline.core.entries import Chunk, Entry, Tick, parse_entry
from pipeline.core.process import TimeState
from pipeline.errors import TornError
from pipeline.rim import groups, keys, store
from pipeline.rim.commit import MAX_CELLS, Checkpoint, Commit, Fence, commit
from pipeline.rim.replies import Entry as RawEntry
from pipeline.rim.scripts import Scripts
from pipeline.rim.soundness import what_is_lost
from pipeline.runtime.computations import Changes, Computation
from pipeline.runtime.poison import Decode, Journal, Trial, set_apart, suspects_of
from pipeline.runtime.positions import position_after
from pipeline.runtime.setup import look_after_group

TARGET_EVENTS = 100_000  # events a read aims at: polars and numpy are at their best, a commit stays short
MAX_ENTRIES = 256  # entries a read takes at most: after many rows of one event may come as many chunks of a megabyte
REST_S = 5.0  # between tries on a state that something else has overwritten; the other stages go on
FIRST_GUESS = 5_000.0  # events an entry, before the first read: a backlog of large chunks must not fill the memory

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Loaded:
    """The state a runner works on: what the last successful commit (or the load) left."""

    consumer: str
    checkpoint: Checkpoint
    pending: list[Entry]  # ours and not yet committed, in order
    suspects: frozenset[bytes] = frozenset()  # pending entries that may be what killed the workers before us


@dataclass(slots=True)
class Runner:
    """Runs one computation on one partition; the caller holds the lease."""

    stream: Stream
    partition: int
    computation: Computation
    client: redis.Redis
    scripts: Scripts
    worker: str
    state: Loaded | None = None
    resting_until_s: float = 0.0
    _events_per_entry: float = field(default=FIRST_GUESS)
    _cells_per_entry: float = field(default=1.0)  # of the last batch: what fits in a commit is computed once

    @property
    def group(self) -> str:
        return self.computation.group

    @property
    def read_count(self) -> int:
        """How many entries to take next, so that they bring about TARGET_EVENTS."""
        return max(1, min(MAX_ENTRIES, int(TARGET_EVENTS / max(1.0, self._events_per_entry))))

    @property
    def where(self) -> str:
        return f"{self.group} on partition {self.partition} of {self.stream.name}"

    def load(self) -> Loaded:
        """Claim every pending entry under a new name, then read the checkpoint and the open panes.

        In this order: after the claim no other worker's commit can pass the fence, so what is read next stands still.

        Raises:
            TornError: a commit was cut off, entries were trimmed that this group had not read, or a key of the state
                was deleted; rebuild it.
        """
        consumer = f"{self.worker}-{secrets.token_hex(4)}"
        look_after_group(self.scripts, self.stream.name, self.partition, self.group)
        load_ms = store.redis_time_ms(self.client)
        claimed = groups.claim_all(self.client, self.stream.name, self.partition, self.group, consumer)
        checkpoint = store.load_checkpoint(self.client, self.stream.name, self.partition, self.group)
        if checkpoint.torn:
            raise TornError(f"{self.where}: {self._lost()}")
        if claimed.lost:
            log.error("pending entries are gone from the log", group=self.group, ids=[i.decode() for i in claimed.lost])
        self.computation.load(self.client, time_state(checkpoint))
        if lost := self._lost():
            raise TornError(f"{self.where}: {lost}")
        groups.retire_consumers(self.scripts, self.stream.name, self.partition, self.group)
        checkpoint = replace(checkpoint, load_ms=max(checkpoint.load_ms, load_ms))
        suspects = suspects_of(claimed.deliveries)
        self.state = Loaded(consumer, checkpoint, parse_entries(claimed.entries), suspects)
        return self.state

    def is_elsewhere(self) -> bool:
        """Whether the state in Redis is not the one in memory, or a key of it is gone; False when there is none."""
        if self.state is None:
            return False
        stored = store.load_checkpoint(self.client, self.stream.name, self.partition, self.group)
        return stored.fence != self.state.checkpoint.fence or self._lost() is not None

    def _lost(self) -> str | None:
        """What something else deleted of the state; it is marked torn then."""
        panes = self.computation.open_panes
        return what_is_lost(self.scripts, self.stream.name, self.partition, self.group, panes)

    def rest(self, error: Exception) -> None:
        """Forget the state and leave it alone for a while; the other stages go on."""
        log.error(
            "stage rests",
            stage=self.group.partition("@")[0],
            group=self.group,
            stream=self.stream.name,
            partition=self.partition,
            seconds=REST_S,
            why=str(error),
        )
        self.state = None
        self.resting_until_s = time.monotonic() + REST_S

    @property
    def is_resting(self) -> bool:
        return time.monotonic() < self.resting_until_s

    def take(self, entries: Sequence[RawEntry]) -> None:
        """Add entries that XREADGROUP gave this consumer."""
        assert self.state is not None, "entries were read without a loaded state"
        self.state.pending += parse_entries(entries)

    def process(self, decode: Decode) -> int:
        """Compute and commit everything pending; return the number of events.

        Raises:
            FenceError: nothing was written and the state is forgotten; the next poll loads again.
        """
        assert self.state is not None
        events = 0
        while self.state.pending:
            try:
                events += self._process(decode, self.state.pending)
            except BaseException:
                self.state = None  # the table may hold what was not committed
                raise
        return events

    def _process(self, decode: Decode, entries: Sequence[Entry]) -> int:
        """Commit the oldest of `entries` that fit in one commit."""
        state = self.state
        assert state is not None
        entries = set_apart(entries, state.suspects)[: self._fitting]
        if backfills := any(isinstance(entry, Chunk) and entry.backfill for entry in entries):
            self._look_at_expiry(state)
        if entries[0].id in state.suspects:
            changes = self._compute_suspect(decode, entries[0])
        else:
            batch = decode(entries).read_by(self.group)
            computed = self.computation.compute(batch, time_state(state.checkpoint))
            size = self.computation.size(computed)
            self._cells_per_entry = size / len(entries)
            if size > MAX_CELLS and len(entries) > 1:
                return self._process(decode, entries[: len(entries) // 2])
            if backfills:
                self.computation.recall(self.client, computed)
            changes = self.computation.apply(batch, computed)
        after = self._after(state.checkpoint, entries, changes)
        first = state.pending[0].id
        fence = Fence(self.group, state.consumer, state.checkpoint, len(state.pending), first, backfills)
        what = Commit(fence, [entry.id for entry in entries], after, changes.panes, changes.rows, changes.hashes)
        commit(self.scripts, self.stream.name, self.partition, what)
        state.checkpoint = after
        state.pending = state.pending[len(entries) :]
        self.computation.forget(time_state(after))
        if changes.ledger.read:  # ticks say nothing about what comes next
            self._events_per_entry = changes.ledger.read / len(entries)
        return changes.ledger.read

    def _look_at_expiry(self, state: Loaded) -> None:
        """Old data counts in windows that are there: what has expired by now, which the commit compares again."""
        expired_ms = store.load_expired_ms(self.client, self.stream.name, self.partition, self.group)
        state.checkpoint = replace(state.checkpoint, expired_ms=expired_ms)

    @property
    def _fitting(self) -> int:
        """How many entries fit in one commit, going by the last ones; fewer bring more cells each, never fewer."""
        return max(1, int(MAX_CELLS / max(1.0, self._cells_per_entry)))

    def _compute_suspect(self, decode: Decode, entry: Entry) -> Changes:
        """Compute one entry that may kill us, with every attempt on record before it is made (DESIGN 8.6)."""
        assert self.state is not None
        key = keys.suspect(self.stream.name, self.partition, self.group)
        trial = Trial(self.computation, Journal(self.client, key, entry.id))
        batch = trial.decode(decode, entry)
        return trial.apply(trial.compute(batch, time_state(self.state.checkpoint)))

    def _after(self, before: Checkpoint, entries: Sequence[Entry], changes: Changes) -> Checkpoint:
        ledger = changes.ledger
        assert ledger.balances, f"{self.group}: the ledger of a batch does not add up: {ledger}"
        where = position_after(before, entries, self.group)
        return replace(
            before,
            cursor=entries[-1].id,
            max_seen_ms=changes.time.max_seen_ms,
            max_ts_ms=changes.time.max_ts_ms,
            max_event_ms=changes.time.max_event_ms,
            max_beat_ms=changes.time.max_beat_ms,
            commit=before.commit + 1,
            position=where.position,
            arrival_ms=where.arrival_ms,
            offset=where.offset,
            missing=where.missing,
            entries=before.entries + len(entries),
            ticks=before.ticks + sum(isinstance(entry, Tick) for entry in entries),
            read=before.read + ledger.read,
            accepted=before.accepted + ledger.accepted,
            filtered=before.filtered + ledger.filtered,
            late=before.late + ledger.late,
            dead=before.dead + ledger.dead,
            partial=before.partial + ledger.partial,
            others=before.others + ledger.others,
            backfilled=before.backfilled + ledger.backfilled,
            replayed=before.replayed + ledger.replayed,
            tables=changes.time.tables,
        )


def time_state(checkpoint: Checkpoint) -> TimeState:
    return TimeState(
        max_seen_ms=checkpoint.max_seen_ms,
        max_ts_ms=checkpoint.max_ts_ms,
        floor_ms=checkpoint.floor_ms,
        max_event_ms=checkpoint.max_event_ms,
        max_beat_ms=checkpoint.max_beat_ms,
        tables=checkpoint.tables,
        expired_ms=checkpoint.expired_ms,
    )


def parse_entries(entries: Sequence[RawEntry]) -> list[Entry]:
    return [parse_entry(entry.id, entry.fields) for entry in entries if entry.fields is not None]
