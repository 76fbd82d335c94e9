"""The commit: every write a worker makes, in one fenced script, as absolute values.

1. What changed is put together from plain values (`Commit`), nothing is read here.
2. The script checks the fence: not torn, the checkpoint is the one this worker started from, and the group's pending
   entries of this consumer are the n it knows of, the smallest first.
3. It writes cells, marks, due panes, rows (late, dead, published), acknowledgements and the checkpoint, or nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from typing import Any

from pipeline.core.cells import PaneChange
from pipeline.errors import FenceError, ForeignKeyError, TornError
from pipeline.rim import keys
from pipeline.rim.scripts import Scripts

Row = Mapping[str, bytes | str | int]  # of a stream, by field

MAX_CELLS = 10_000  # cells and rows of a commit, the one script allowed to be long: about 20 ms (DESIGN 8.2)


@dataclass(frozen=True, slots=True)
class Mark:
    """When a pane was changed last: (load time of the worker, commit number), compared as a pair."""

    load_ms: int = 0
    commit: int = 0

    def __str__(self) -> str:
        return f"{self.load_ms}-{self.commit}"

    @classmethod
    def parse(cls, text: bytes | None) -> Mark:
        """The mark as it is stored; a pane that is not there has the mark 0-0."""
        if text is None:
            return cls()
        load_ms, _, commit = text.partition(b"-")
        return cls(int(load_ms), int(commit))

    @property
    def order(self) -> tuple[int, int]:
        return (self.load_ms, self.commit)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a stage is in a partition: the fence, the time state and the ledger, as stored in one hash."""

    cursor: bytes = b""
    max_seen_ms: int | None = None
    max_ts_ms: int | None = None
    floor_ms: int | None = (
        None  # windows that begin at or before it lost events to a trim: this stage leaves them alone
    )
    max_event_ms: int | None = None  # of the events alone, and of heartbeats alone: see core/process.TimeState
    max_beat_ms: int | None = None
    offset: int | None = None  # position less events read; None until it is known: see runtime/positions
    load_ms: int = 0
    commit: int = 0
    position: int = 0  # events the door had stored up to the cursor: what backpressure is measured by
    arrival_ms: int = 0  # arrival of the last committed entry
    entries: int = 0
    ticks: int = 0
    missing: int = 0  # events the door stored that the log did not bring
    read: int = 0
    accepted: int = 0
    filtered: int = 0
    late: int = 0
    dead: int = 0
    partial: int = 0
    others: int = 0
    backfilled: int = 0
    replayed: int = 0
    expired_ms: int | None = None  # windows that end at or before it may be gone: written by expiry, never by a commit
    torn: bool = False
    tables: Mapping[str, str] = field(default_factory=dict)  # hash of the content each lookup table has at the cursor

    @property
    def mark(self) -> Mark:
        return Mark(self.load_ms, self.commit)

    @property
    def fence(self) -> tuple[bytes, int, int | None]:
        """What a commit compares: the state it starts from is this one, or nothing is written."""
        return (self.cursor, self.commit, self.max_seen_ms)

    def fields(self) -> dict[str, str]:
        """As written: integers as text, what is unknown left out."""
        values = {
            "cursor": self.cursor.decode(),
            **{name: getattr(self, name) for name in _OPTIONAL},
            **{name: getattr(self, name) for name in _COUNTERS},
            **{f"table:{name}": content for name, content in self.tables.items()},
        }
        return {name: str(value) for name, value in values.items() if value is not None}

    @classmethod
    def parse(cls, stored: Mapping[bytes, bytes]) -> Checkpoint:
        numbers = {name: int(stored.get(name.encode(), b"0")) for name in _COUNTERS}
        return cls(
            cursor=stored.get(b"cursor", b""),
            max_seen_ms=_optional(stored.get(b"max_seen_ms")),
            max_ts_ms=_optional(stored.get(b"max_ts_ms")),
            floor_ms=_optional(stored.get(b"floor_ms")),
            max_event_ms=_optional(stored.get(b"max_event_ms")),
            max_beat_ms=_optional(stored.get(b"max_beat_ms")),
            offset=_optional(stored.get(b"offset")),
            expired_ms=_optional(stored.get(b"expired_ms")),
            torn=b"torn" in stored,
            tables={
                name.removeprefix(b"table:").decode(): content.decode()
                for name, content in stored.items()
                if name.startswith(b"table:")
            },
            **numbers,
        )


_OPTIONAL = ("max_seen_ms", "max_ts_ms", "floor_ms", "max_event_ms", "max_beat_ms", "offset")
_COUNTERS = (
    "load_ms",
    "commit",
    "position",
    "arrival_ms",
    "entries",
    "ticks",
    "missing",
    "read",
    "accepted",
    "filtered",
    "late",
    "dead",
    "partial",
    "others",
    "backfilled",
    "replayed",
)


def _optional(text: bytes | None) -> int | None:
    return None if text is None else int(text)


@dataclass(frozen=True, slots=True)
class Fence:
    """What must still be so when the commit arrives.

    `backfills`: some rows were judged by what had expired (`before.expired_ms`), so that is compared as well.
    """

    group: str
    consumer: str
    before: Checkpoint
    n_pending: int
    first_pending: bytes
    backfills: bool = False


@dataclass(frozen=True, slots=True)
class Commit:
    """What one batch changes: acknowledged ids, the checkpoint after it, absolute cells by pane, rows by stream key."""

    fence: Fence
    ids: Sequence[bytes]
    after: Checkpoint
    panes: Mapping[int, PaneChange] = field(default_factory=dict)
    rows: Mapping[str, Sequence[Row]] = field(default_factory=dict)
    hashes: Mapping[str, PaneChange] = field(default_factory=dict)  # by key; of state that is not panes


def commit(scripts: Scripts, stream: str, partition: int, what: Commit) -> None:
    """Write a batch, all or nothing.

    Raises:
        FenceError: another worker or a rollback moved on; nothing was written.
        TornError: an earlier commit was cut off; the partition needs a rebuild.
        ForeignKeyError: a key of ours has been overwritten with another type; nothing was written.
    """
    group = what.fence.group
    streams = list(what.rows)
    pane_keys = [keys.pane(stream, partition, group, start) for start in what.panes]
    answer = scripts.run(
        "commit",
        keys=[
            keys.raw(stream, partition),
            keys.checkpoint(stream, partition, group),
            keys.panes(stream, partition, group),
            keys.due(stream, partition, group),
            keys.suspect(stream, partition, group),
            *streams,
            *pane_keys,
            *what.hashes,
        ],
        args=_arguments(what, streams),
    )
    where = f"{group} on partition {partition} of {stream}"
    if answer == b"ok":
        return
    if answer == b"torn":
        raise TornError(f"{where}: an earlier commit was cut off in the middle; the partition has to be rebuilt")
    if answer.startswith(b"lost "):
        raise TornError(f"{where}: {answer[5:].decode()} is not what was committed: it was deleted")
    if answer == b"group":
        raise FenceError(f"{where}: the consumer group is gone; nothing was written")
    if answer == b"expired":
        raise FenceError(f"{where}: windows expired while old data was added to them; nothing was written")
    if answer in (b"checkpoint", b"pending"):
        raise FenceError(f"{where}: the {answer.decode()} is not the one this worker knows; nothing was written")
    raise ForeignKeyError(f"{where}: cannot commit: {answer!r}; something else writes to our keys; delete it")


def _arguments(what: Commit, streams: Sequence[str]) -> list[Any]:
    fence, before = what.fence, what.fence.before
    after = what.after.fields()
    runs = [run for number, name in enumerate(streams, start=1) for run in _runs(number, what.rows[name])]
    arguments: list[Any] = [
        fence.group,
        fence.consumer,
        before.cursor,
        before.commit,
        "" if before.max_seen_ms is None else before.max_seen_ms,
        fence.n_pending,
        fence.first_pending,
        "" if not fence.backfills else "none" if before.expired_ms is None else before.expired_ms,
        len(what.ids),
        len(after),
        len(streams),
        len(runs),
        len(what.panes),
        len(what.hashes),
        *what.ids,
        *chain.from_iterable(after.items()),
        *chain.from_iterable(runs),
    ]
    mark = str(what.after.mark)
    for start, change in what.panes.items():
        arguments += (start, mark, change.from_end)
        arguments += _changed(change)
    for change in what.hashes.values():
        arguments += _changed(change)
    return arguments


def _runs(number: int, rows: Sequence[Row]) -> Iterator[list[Any]]:
    """Rows of a stream as they go to the script: those side by side with the same fields name them once."""
    for names, run in groupby(rows, key=tuple):
        values = [row.values() for row in run]
        yield [number, len(names), *names, len(values), *chain.from_iterable(values)]


def _changed(change: PaneChange) -> Iterator[Any]:
    return chain((len(change.cells), len(change.gone)), chain.from_iterable(change.cells.items()), change.gone)
