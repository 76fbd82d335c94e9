"""Small requests that come while an append is under way wait for it and go together in the next one.

    request 1  ── append ──────▶ answer
    request 2     wait ─────────── append 2, 3, 4 ──▶ answer      it writes for those that wait as well
    request 3       wait ─────────────────────────── ▶ answer
    request 4          wait ────────────────────────── ▶ answer

Invariant: each request has an entry of its own, and is answered after it was written; nothing waits for company. An
append that fails fails for all that are in it, as each alone would have: it writes all of them or none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from pipeline.core.partitioning import Chunk
from pipeline.rim.streams import Appended

# Of one append: the server works on it alone, and on so many for about a millisecond (FACTS 8).
MAX_TOGETHER = 64


@dataclass(frozen=True, slots=True)
class Small:
    """The good rows of one request, one chunk, and how many of them have undeclared fields."""

    chunk: Chunk
    undeclared: int


@dataclass(frozen=True, slots=True)
class Written:
    """Where a request's rows are: their entry, in which partition, and when they arrived."""

    partition: int
    entry_id: str
    arrival_ms: int


Write = Callable[[Sequence[Small]], tuple[int, Appended]]
"""Appends the rows of several requests to one partition, in order, and says to which."""


def _held() -> threading.Lock:
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(slots=True)
class _Waiting:
    small: Small
    woken: threading.Lock = field(default_factory=_held)  # let go when it is written, or to write for those behind it
    written: Written | None = None
    error: BaseException | None = None


class Gathering:
    """The appends of small requests to one place; used by all threads."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._waiting: list[_Waiting] = []
        self._is_writing = False

    def append(self, small: Small) -> Written:
        """Write the rows of one request, with those of others that wait.

        Raises:
            Exception: whatever the append raised; nothing, or after a lost reply perhaps all of it, was written.
        """
        mine = _Waiting(small)
        with self._lock:
            self._waiting.append(mine)
            waits, self._is_writing = self._is_writing, True
        if waits:
            mine.woken.acquire()  # whoever writes lets go of it, and writes no longer than a reply may take
        if mine.written is None and mine.error is None:
            self._write_waiting()
        if mine.error is not None:
            raise mine.error
        assert mine.written is not None, "nobody wrote for this request"
        return mine.written

    def _write_waiting(self) -> None:
        """Write for the first of those that wait, who is the caller; then the next one is its own writer."""
        with self._lock:
            together, self._waiting = self._waiting[:MAX_TOGETHER], self._waiting[MAX_TOGETHER:]
        try:
            partition, done = self._write([each.small for each in together])
            for each, entry_id in zip(together, done.ids, strict=True):
                each.written = Written(partition, entry_id, done.arrival_ms)
        except BaseException as error:
            for each in together:
                each.error = error
        finally:
            with self._lock:
                following = self._waiting[0] if self._waiting else None
                self._is_writing = following is not None
            for each in together[1:]:
                each.woken.release()
            if following is not None:
                following.woken.release()
