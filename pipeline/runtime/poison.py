"""An entry that may kill whoever computes it: processed alone, by ranges of rows; every attempt is recorded first.

    delivered 3 times, not committed      [0 ............... n)     attempt on record, then computed apart
    that killed the process               [0 ..... n/2)[n/2 .. n)   likewise, each half
    and so on                             a row alone that has killed three times is a dead letter

Invariant: a row is given up only after it stood alone three times; whatever else was in flight when a process died is
computed as if nothing had happened. What was tried and passed is what is applied: nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import redis
import structlog

from pipeline.core.batches import Batch, DeadEntry, row_json
from pipeline.core.cells import PaneChange
from pipeline.core.codings import NDJSON
from pipeline.core.entries import Chunk, Entry, Row
from pipeline.core.process import Ledger, TimeState
from pipeline.core.steps import POISON_ATTEMPTS
from pipeline.rim import replies
from pipeline.runtime.computations import Changes, Computation, RowFields

SUSPECT_DELIVERIES = 3  # read once and claimed twice: two workers had it and neither committed it
KILLED_WORKER = "killed_worker"  # code of the dead letter
DECODING = "decoding"  # the attempt on record while an entry is decoded, before there are rows

log = structlog.get_logger(__name__)
Decode = Callable[[Sequence[Entry]], Batch]
Range = tuple[int, int]  # rows [first, after) of the entry
Part = tuple[Batch, Any]  # rows of an entry, and what they were computed to


def suspects_of(deliveries: Mapping[bytes, int]) -> frozenset[bytes]:
    """The entries that were delivered so often, without a commit, that they may be what kills."""
    return frozenset(entry_id for entry_id, times in deliveries.items() if times >= SUSPECT_DELIVERIES)


def set_apart(entries: Sequence[Entry], suspects: frozenset[bytes]) -> Sequence[Entry]:
    """The first of `entries` to process together: those before the first suspect, or the suspect alone."""
    if not suspects:
        return entries
    first = next((number for number, entry in enumerate(entries) if entry.id in suspects), len(entries))
    return entries[: max(1, first)]


@dataclass(frozen=True, slots=True)
class Journal:
    """Attempts on one suspect entry, in a hash that the commit deletes: `ID FIRST AFTER` or `ID decoding` → how many.

    The entry's id is in every field: a zombie that still tries an older entry writes beside, never over.
    """

    client: redis.Redis
    key: str
    entry_id: bytes

    def attempts(self) -> dict[str, int]:
        """Attempts that were begun and did not pass, by what was tried."""
        stored = replies.parse_hash(self.client.execute_command("HGETALL", self.key))
        ours = ((field.partition(b" "), times) for field, times in stored.items())
        return {what.decode(): int(times) for (entry_id, _, what), times in ours if entry_id == self.entry_id}

    def begin(self, what: str) -> None:
        self.client.execute_command("HINCRBY", self.key, self._field(what), 1)

    def passed(self, what: str) -> None:
        self.client.execute_command("HDEL", self.key, self._field(what))

    def _field(self, what: str) -> bytes:
        return self.entry_id + b" " + what.encode()


@dataclass(frozen=True, slots=True)
class Trial:
    """One suspect entry, tried on a computation without state before it is applied to the real one."""

    computation: Computation
    journal: Journal

    def decode(self, decode: Decode, entry: Entry) -> Batch:
        """Decode the entry, or give it up whole when decoding it has killed three times."""
        if not isinstance(entry, Chunk | Row):
            return decode([entry])  # a tick: there is nothing in it to decode
        if isinstance(entry, Chunk) and not entry.is_for(self.computation.group):
            return replace(decode([]), entries=(entry,))
        if self.journal.attempts().get(DECODING, 0) >= POISON_ATTEMPTS:
            log.error("an entry killed its worker while it was decoded", group=self.computation.group, entry=entry.id)
            return _undecodable(decode([]), entry)
        self.journal.begin(DECODING)
        batch = decode([entry])
        self.journal.passed(DECODING)
        return batch

    def compute(self, batch: Batch, before: TimeState) -> list[Part]:
        """Compute the entry in ranges of rows; a row that has killed often enough alone becomes a dead letter."""
        attempts = self.journal.attempts()
        parts: list[Part] = []
        time = before
        for first, after in _ranges(attempts, 0, len(batch.times_ms)):
            what, part = _name(first, after), _rows(batch, first, after)
            if after - first == 1 and attempts.get(what, 0) >= POISON_ATTEMPTS:
                log.error("a row killed its worker", group=self.computation.group, entry=part.entry_id(0), row=first)
                part = _killed(part)
                computed, time = self._try(part, time)
            else:
                self.journal.begin(what)
                computed, time = self._try(part, time)
                self.journal.passed(what)
            parts.append((part, computed))
        return parts

    def _try(self, part: Batch, before: TimeState) -> tuple[Any, TimeState]:
        apart = self.computation.fresh()
        computed = apart.compute(part, before)
        return computed, apart.apply(part, computed).time

    def apply(self, parts: Sequence[Part]) -> Changes:
        """Apply what passed, in stream order: a left fold gives the same bits in parts as at once."""
        return _together([self._apply(batch, computed) for batch, computed in parts])

    def _apply(self, batch: Batch, computed: Any) -> Changes:
        if batch.has_backfill:
            self.computation.recall(self.journal.client, computed)
        return self.computation.apply(batch, computed)


def _ranges(attempts: Mapping[str, int], first: int, after: int) -> Iterator[Range]:
    """The ranges to try: one that has killed is never tried whole again, its halves are."""
    if after - first < 2 or not attempts.get(_name(first, after)):
        yield first, after
        return
    middle = (first + after) // 2
    yield from _ranges(attempts, first, middle)
    yield from _ranges(attempts, middle, after)


def _name(first: int, after: int) -> str:
    return f"{first} {after}"


def _rows(batch: Batch, first: int, after: int) -> Batch:
    """Some rows of a batch of one entry; ticks and rows that could not be decoded go with the first."""
    cut = slice(first, after)
    return replace(
        batch,
        frame=batch.frame.slice(first, after - first),
        times_ms=batch.times_ms[cut],
        effective_ms=batch.effective_ms[cut],
        places=batch.places[cut],
        rows=batch.rows[cut],
        entry_of=batch.entry_of[cut],
        ticks=batch.ticks if first == 0 else (),
        reloads=batch.reloads if first == 0 else (),
        dead=batch.dead if first == 0 else (),
    )


def _killed(row: Batch) -> Batch:
    """One row as a dead letter. It was decoded, so its time is known and moves the watermark, as for any failed row."""
    message = f"computing this row alone ended {POISON_ATTEMPTS} worker processes"
    body = row.raw_rows([0])[0]
    letter = DeadEntry(row.entry_id(0), row.row_in_entry(0), 1, KILLED_WORKER, message, body)
    effective_ms = int(row.effective_ms[0])
    return replace(_rows(row, 1, 1), ticks=(*row.ticks, (0, effective_ms)), dead=(*row.dead, letter))


def _undecodable(empty: Batch, entry: Chunk | Row) -> Batch:
    """A whole entry as a dead letter: which of its rows kills cannot be seen, and its bytes are kept."""
    message = f"decoding this entry ended {POISON_ATTEMPTS} worker processes"
    n, body, coding = (entry.n, entry.body, entry.coding) if isinstance(entry, Chunk) else (1, row_json(entry), NDJSON)
    return replace(empty, entries=(entry,), dead=(DeadEntry(entry.id, 0, n, KILLED_WORKER, message, body, coding),))


def _together(changes: Sequence[Changes]) -> Changes:
    """The changes of consecutive parts as those of one batch: the newest value of each cell, all rows."""
    panes: dict[int, PaneChange] = {}
    hashes: dict[str, PaneChange] = {}
    rows: dict[str, list[RowFields]] = {}
    ledger = Ledger()
    for change in changes:
        for start_ms, pane in change.panes.items():
            panes[start_ms] = panes[start_ms].then(pane) if start_ms in panes else pane
        for key, each in change.hashes.items():
            hashes[key] = hashes[key].then(each) if key in hashes else each
        for key, more in change.rows.items():
            rows.setdefault(key, []).extend(more)
        ledger += change.ledger
    return Changes(panes, rows, ledger, changes[-1].time, hashes)
