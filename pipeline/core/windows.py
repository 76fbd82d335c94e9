"""Which pane an event belongs to and which windows a pane is part of; half-open, floor-aligned, exact before 1970.

    hopping 60 s every 20 s      pane 0   pane 1   pane 2   pane 3   pane 4       an event is added to one pane;
    window 0                     [--------------------------)                    windows are merges of panes
    window 1                              [--------------------------)           (DESIGN section 5)
    window 2                                       [--------------------------)

A tumbling window and a calendar window are one pane. Within a pane all windows are ordered by their ends, so which of
them an event still counts in is one number: the end of the first. Times and bounds are int64 epoch milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import gcd
from typing import Protocol, assert_never

import numpy as np
import numpy.typing as npt

from pipeline.core.calendars import Boundaries, boundaries
from pipeline.core.definitions import Calendar, Cumulating, Hopping, PaneWindow, Tumbling

Int64 = npt.NDArray[np.int64]
Span = tuple[int, int]  # (start, end) of a window
FOREVER_MS = 2**62


class Panes(Protocol):
    """How one kind of window cuts time; every method takes pane starts that `pane_starts` gave."""

    def pane_starts(self, times_ms: Int64) -> Int64:
        """The start of each time's pane."""
        ...

    def first_ends(self, starts_ms: Int64) -> Int64:
        """The end of the first window that each pane is part of."""
        ...

    def last_ends(self, starts_ms: Int64) -> Int64:
        """The end of the last one."""
        ...

    def ends_after(self, starts_ms: Int64, times_ms: Int64) -> Int64:
        """The end of each pane's first window that ends after a time; beyond `last_ends` where none does."""
        ...

    def ends_begun_after(self, starts_ms: Int64, time_ms: int) -> Int64:
        """The end of each pane's first window that begins after a time; beyond `last_ends` where none does."""
        ...

    def windows_of(self, pane_ms: int, from_end_ms: int, to_end_ms: int) -> Iterator[Span]:
        """The windows of a pane with from_end <= end <= to_end, by end."""
        ...

    def panes_of(self, window: Span) -> list[int]:
        """The starts of a window's panes, in order."""
        ...

    def end_at_or_before(self, time_ms: int) -> int:
        """The last moment at or before a time at which a window ends, whether it has events or not."""
        ...


@cache
def panes_of(window: PaneWindow) -> Panes:
    """The panes of a window's definition."""
    match window:
        case Tumbling():
            return _Sliding(window.size_ms, window.size_ms, window.offset_ms)
        case Hopping():
            return _Sliding(window.size_ms, window.every_ms, window.offset_ms)
        case Cumulating():
            return _Growing(window.size_ms, window.every_ms, window.offset_ms)
        case Calendar():
            return _Local(boundaries(window.unit, window.zone))
        case _ as unreachable:
            assert_never(unreachable)


@dataclass(frozen=True, slots=True)
class _Sliding:
    """Tumbling and hopping: a window starts at each multiple of `every`, panes are gcd(size, every) wide."""

    size: int
    every: int
    offset: int

    @property
    def width(self) -> int:
        return gcd(self.size, self.every)

    def pane_starts(self, times_ms: Int64) -> Int64:
        # numpy's % floors, so negative times fall into the right pane
        return times_ms - (times_ms - self.offset) % self.width

    def first_ends(self, starts_ms: Int64) -> Int64:
        return self._next_end(starts_ms)

    def last_ends(self, starts_ms: Int64) -> Int64:
        return starts_ms - (starts_ms - self.offset) % self.every + self.size

    def ends_after(self, starts_ms: Int64, times_ms: Int64) -> Int64:
        return np.maximum(self._next_end(starts_ms), self._next_end(times_ms))

    def ends_begun_after(self, starts_ms: Int64, time_ms: int) -> Int64:
        bound = time_ms + self.size
        return np.maximum(
            self._next_end(starts_ms), bound + self.every - (bound - self.offset - self.size) % self.every
        )

    def _next_end(self, times_ms: Int64) -> Int64:
        """The first window end after each time."""
        return times_ms + self.every - (times_ms - self.offset - self.size) % self.every

    def windows_of(self, pane_ms: int, from_end_ms: int, to_end_ms: int) -> Iterator[Span]:
        first = pane_ms + self.every - (pane_ms - self.offset - self.size) % self.every
        first += max(0, -(-(from_end_ms - first) // self.every)) * self.every
        last = pane_ms - (pane_ms - self.offset) % self.every + self.size
        return ((end - self.size, end) for end in range(first, min(last, to_end_ms) + 1, self.every))

    def panes_of(self, window: Span) -> list[int]:
        return list(range(*window, self.width))

    def end_at_or_before(self, time_ms: int) -> int:
        return time_ms - (time_ms - self.offset - self.size) % self.every


@dataclass(frozen=True, slots=True)
class _Growing:
    """Cumulating: windows [D, D + every) … [D, D + size); panes are `every` wide."""

    size: int
    every: int
    offset: int

    def pane_starts(self, times_ms: Int64) -> Int64:
        return times_ms - (times_ms - self.offset) % self.every

    def first_ends(self, starts_ms: Int64) -> Int64:
        return starts_ms + self.every

    def last_ends(self, starts_ms: Int64) -> Int64:
        return self._origins(starts_ms) + self.size

    def ends_after(self, starts_ms: Int64, times_ms: Int64) -> Int64:
        return np.maximum(starts_ms, times_ms - (times_ms - self.offset) % self.every) + self.every

    def ends_begun_after(self, starts_ms: Int64, time_ms: int) -> Int64:
        # they all begin together: either each of them begins after, or none
        return np.where(self._origins(starts_ms) > time_ms, starts_ms + self.every, FOREVER_MS)

    def _origins(self, starts_ms: Int64) -> Int64:
        return starts_ms - (starts_ms - self.offset) % self.size

    def windows_of(self, pane_ms: int, from_end_ms: int, to_end_ms: int) -> Iterator[Span]:
        origin = pane_ms - (pane_ms - self.offset) % self.size
        first = pane_ms + self.every
        first += max(0, -(-(from_end_ms - first) // self.every)) * self.every
        return ((origin, end) for end in range(first, min(origin + self.size, to_end_ms) + 1, self.every))

    def panes_of(self, window: Span) -> list[int]:
        return list(range(*window, self.every))

    def end_at_or_before(self, time_ms: int) -> int:
        return time_ms - (time_ms - self.offset) % self.every


@dataclass(frozen=True, slots=True)
class _Local:
    """Calendar: a pane is a window, from one local boundary to the next."""

    boundaries: Boundaries

    def pane_starts(self, times_ms: Int64) -> Int64:
        return self.boundaries.at_or_before(times_ms)

    def first_ends(self, starts_ms: Int64) -> Int64:
        return self.boundaries.after(starts_ms)

    def last_ends(self, starts_ms: Int64) -> Int64:
        return self.boundaries.after(starts_ms)

    def ends_after(self, starts_ms: Int64, times_ms: Int64) -> Int64:
        ends = self.boundaries.after(starts_ms)
        return np.where(ends > times_ms, ends, FOREVER_MS)

    def ends_begun_after(self, starts_ms: Int64, time_ms: int) -> Int64:
        return np.where(starts_ms > time_ms, self.boundaries.after(starts_ms), FOREVER_MS)

    def windows_of(self, pane_ms: int, from_end_ms: int, to_end_ms: int) -> Iterator[Span]:
        end = self._one(self.boundaries.after, pane_ms)
        return iter([(pane_ms, end)] if from_end_ms <= end <= to_end_ms else [])

    def panes_of(self, window: Span) -> list[int]:
        return [window[0]]

    def end_at_or_before(self, time_ms: int) -> int:
        return self._one(self.boundaries.at_or_before, time_ms)

    @staticmethod
    def _one(of: object, time_ms: int) -> int:
        assert callable(of)
        return int(of(np.array([time_ms], dtype=np.int64))[0])


def pane_starts(window: Tumbling, times_ms: Int64) -> Int64:
    return times_ms - (times_ms - window.offset_ms) % window.size_ms


def pane_start(window: Tumbling, time_ms: int) -> int:
    return time_ms - (time_ms - window.offset_ms) % window.size_ms


def aligned_at_or_before(window: Tumbling, time_ms: int) -> int:
    return pane_start(window, time_ms)


def is_final(window: Tumbling, start_ms: int, watermark_ms: int) -> bool:
    return start_ms + window.size_ms <= watermark_ms
