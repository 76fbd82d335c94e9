"""What was just published of one metric, kept once for all its live readers: a bounded ring of events.

    ring     [event 41][event 42][event 43]        at most RING_BYTES; the oldest goes first
    reader              ▲ next=42                  a cursor; one that the ring has passed was too slow

Invariant: memory does not grow with readers or with how slow they are. A reader whose place is gone is told so.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from api.live_snapshots import Snapshot
from pipeline.core.programs import Program
from pipeline.rim.row_streams import EntryId
from pipeline.runtime.live_feeds import Feed
from pipeline.runtime.live_rows import Line

RING_BYTES = 8 << 20  # of JSON a metric: some 50,000 rows, which a reader on the same machine takes in well under 1 s
LINE_OVERHEAD_BYTES = 300  # of one line's Python objects


@dataclass(frozen=True, slots=True)
class Event:
    """Some whole publications in order: their lines, and the position after them."""

    lines: Sequence[Line]
    last: EntryId
    meta: bytes

    @property
    def size(self) -> int:
        return sum(len(line.json) + LINE_OVERHEAD_BYTES for line in self.lines)


@dataclass(frozen=True, slots=True)
class Reset:
    """Why every reader of a metric has to begin again."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Missed:
    """What a cursor is told instead of events."""

    reset: Reset


TOO_SLOW = Reset("too_slow", "rows were published faster than this reader took them; it begins again with a snapshot")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a ring: the number of its next event, in one run of the ring without a reset."""

    run: int
    number: int


@dataclass(slots=True)
class Topic:
    """One metric's ring. Its one writer is the hub's thread; readers take from it under the lock."""

    program: Program
    feed: Feed
    position: EntryId  # what the ring was read up to
    floor: EntryId  # everything published after it is in the ring
    making: threading.Lock = field(default_factory=threading.Lock)  # held while a snapshot is made
    snapshot: Snapshot | None = None
    _wakes: set[threading.Event] = field(default_factory=set)  # of its readers
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ring: deque[Event] = field(default_factory=deque)
    _first: int = 0  # number of the ring's oldest event
    _size: int = 0
    _run: int = 0
    _reset: Reset = TOO_SLOW  # why the run before this one ended

    def listen(self, wake: threading.Event) -> None:
        """Set `wake` whenever there is something new."""
        with self._lock:
            self._wakes.add(wake)

    def ignore(self, wake: threading.Event) -> bool:
        """Forget a reader; return whether anybody is left."""
        with self._lock:
            self._wakes.discard(wake)
            return bool(self._wakes)

    def append(self, event: Event) -> None:
        """Add what was just published, and let go of the oldest above the bound."""
        with self._lock:
            self.position = event.last
            if not event.lines:
                return
            self._ring.append(event)
            self._size += event.size
            while self._size > RING_BYTES and len(self._ring) > 1:
                oldest = self._ring.popleft()
                self._size -= oldest.size
                self._first += 1
                self.floor = oldest.last
        self.wake()

    def reset(self, program: Program, feed: Feed, position: EntryId, why: Reset) -> None:
        """Forget everything, and go on from another position: every reader begins again."""
        with self._lock:
            self.program, self.feed = program, feed
            self._first += len(self._ring)
            self._ring.clear()
            self._size = 0
            self._run += 1
            self._reset = why
            self.position = self.floor = position
        self.wake()

    def wake(self) -> None:
        """Make every reader look."""
        with self._lock:
            wakes = tuple(self._wakes)
        for wake in wakes:
            wake.set()

    def cursor(self, after: EntryId) -> Cursor | None:
        """The cursor of a reader that has everything up to a position; None while the ring begins later."""
        with self._lock:
            if after < self.floor:
                return None
            behind = sum(event.last > after for event in self._ring)
            return Cursor(self._run, self._first + len(self._ring) - behind)

    def take(self, cursor: Cursor) -> tuple[Event, Cursor] | Missed | None:
        """The next event of a cursor and the cursor after it; None when there is none yet."""
        with self._lock:
            if cursor.run != self._run:
                return Missed(self._reset)
            if cursor.number < self._first:
                return Missed(TOO_SLOW)
            at = cursor.number - self._first
            if at >= len(self._ring):
                return None
            return self._ring[at], Cursor(self._run, cursor.number + 1)


def meta_json(watermark_ms: int | None, complete_to_ms: int | None) -> bytes:
    """The `meta` of rows: how far their metric is."""
    return msgspec.json.encode({"watermark": watermark_ms, "complete_to": complete_to_ms})


def rows_json(metric: str, lines: Sequence[Line], meta: bytes) -> bytes:
    """One JSON object on one line, in the envelope of the read API."""
    data = b",".join(line.json for line in lines)
    return b'{"metric":"%b","data":[%b],"meta":%b}' % (metric.encode(), data, meta)
