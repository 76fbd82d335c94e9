"""A session metric on one partition: live sessions in memory and in one hash, written absolutely with every commit."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import redis

from pipeline.core.batches import Batch
from pipeline.core.definitions import Stream
from pipeline.core.process import Prepared, TimeState
from pipeline.core.programs import Program
from pipeline.core.session_blocks import SessionBlocks, StoredSessions
from pipeline.core.session_process import arrivals, fold_sessions, session_window
from pipeline.core.sessions import Arrivals, SessionTable
from pipeline.rim import keys, session_store
from pipeline.rim.tables import TableCache
from pipeline.runtime.computations import Changes, aside_rows, prepared_with
from pipeline.runtime.user_failures import say_failures


@dataclass(frozen=True, slots=True)
class PreparedSessions:
    """A batch computed up to its runs of events, no session touched yet."""

    prepared: Prepared
    new: Arrivals


@dataclass(slots=True)
class SessionComputation:
    """A metric's live sessions on one partition.

    `accounted`: what the closer last said of them; None while it has not since they were loaded.
    """

    program: Program
    partition: int
    tables: TableCache = field(default_factory=TableCache)
    table: SessionTable = field(init=False)
    blocks: SessionBlocks = field(default_factory=SessionBlocks)
    accounted: session_store.Account | None = None

    def __post_init__(self) -> None:
        self.table = self._empty()

    def _empty(self) -> SessionTable:
        return SessionTable(self.program.layout, session_window(self.program))

    @property
    def group(self) -> str:
        return self.program.group

    @property
    def needs(self) -> frozenset[str]:
        return self.program.needs

    @property
    def window(self) -> None:
        return None

    @property
    def open_panes(self) -> Collection[int]:
        return ()

    @property
    def stream(self) -> Stream:
        return self.program.stream

    @property
    def key(self) -> str:
        return keys.live_sessions(self.stream.name, self.partition, self.group)

    def load(self, client: redis.Redis, time: TimeState) -> None:
        """Load the live sessions; the closer says again what is published of them."""
        self.restore(session_store.stored_sessions(client, self.stream.name, self.partition, self.group))

    def restore(self, stored: StoredSessions) -> None:
        """Go on from what the last commit, or the last settling, has left."""
        self.accounted, self.table = None, self._empty()
        self.blocks = SessionBlocks.of(stored, self.table.load(stored.pairs()))

    def recall(self, client: redis.Redis, computed: PreparedSessions) -> None:
        """Old data joins live sessions, which are all here; what is final and forgotten takes nothing any more."""

    def compute(self, batch: Batch, before: TimeState) -> PreparedSessions:
        prepared = prepared_with(self.tables, self.program, batch, before)
        return PreparedSessions(prepared, arrivals(self.program, batch, prepared))

    def size(self, computed: PreparedSessions) -> int:
        """How many fields a commit sets and rows it appends, at most."""
        return len(computed.new.runs) + len(computed.prepared.late)

    def apply(self, batch: Batch, computed: PreparedSessions) -> Changes:
        prepared = computed.prepared
        changed = fold_sessions(self.program, batch, prepared, computed.new, self.table)
        say_failures(self.program)
        rows = aside_rows(self.program, self.partition, batch, prepared)
        hashes = {}
        if len(changed.slots):
            hashes[self.key] = self.blocks.change(self.table, changed.slots, changed.released)
        return Changes({}, rows, prepared.ledger, prepared.time, hashes)

    def forget(self, time: TimeState) -> None:
        """Sessions are forgotten when they are final and published: the closer knows."""

    def fresh(self) -> SessionComputation:
        """The same work without any state: for trying what may kill."""
        return SessionComputation(self.program, self.partition, self.tables)
