"""Runs of a batch: events of one key without a gap between them, found column-wise; most are one session's, in one go.

A run is foldable in stream order into one session when, in stream order, each event touches what is there before it:
then joining event by event never makes a second session that is merged later. Events in order of time always do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.accumulators import Int64, Slots

Mask = npt.NDArray[np.bool_]
FAR_MS = 2**62  # beyond every time: neutral for a minimum, and its negative for a maximum


@dataclass(frozen=True, slots=True)
class Runs:
    """A batch's rows by key, then time, then stream order, cut where the key changes or the gap is too wide.

    `order`: the row at each sorted place, `times_ms` its time, `run_of` its run. For each run: `heads` its first sorted
    place, `keys` its key, `lows` and `highs` its first and last time.
    """

    order: Slots
    times_ms: Int64
    run_of: Slots
    heads: Slots
    keys: Slots
    lows: Int64
    highs: Int64

    def __len__(self) -> int:
        return len(self.heads)

    @property
    def begins_key(self) -> Mask:
        """Whether each run is the first of its key."""
        return np.concatenate([[True], self.keys[1:] != self.keys[:-1]])


def runs_of(key_of: Slots, times_ms: Int64, gap_ms: int) -> Runs:
    """Cut rows, of which `key_of` is the number of each one's key, into runs."""
    order = _by_key_and_time(key_of, times_ms)
    keys, times = key_of[order], times_ms[order]
    begins = np.ones(len(order), dtype=np.bool_)
    begins[1:] = (keys[1:] != keys[:-1]) | (times[1:] > times[:-1] + gap_ms)
    heads = np.flatnonzero(begins)
    ends = np.append(heads[1:], len(order)) - 1 if len(order) else heads
    return Runs(order, times, np.cumsum(begins) - 1, heads, keys[heads], times[heads], times[ends])


def _by_key_and_time(key_of: Slots, times_ms: Int64) -> Slots:
    """Rows by key, then time, then stream order; as one integer where they fit, which sorts five times as fast."""
    n = len(times_ms)
    if not n:
        return np.empty(0, dtype=np.intp)
    least_ms = int(times_ms.min())
    width = int(times_ms.max()) - least_ms + 1
    if width * n * (int(key_of.max()) + 1) >= FAR_MS:
        return np.lexsort((times_ms, key_of))
    packed = np.sort((key_of * width + (times_ms - least_ms)) * n + np.arange(n))
    return packed % n


def fold_in_order(runs: Runs, held: tuple[Int64, Int64], watermarks_ms: Int64, gap_ms: int) -> Mask:
    """For each run, whether in stream order every event touches what is there of it before, and replaces no form that
    may have been published.

    Args:
        held: first and last of the existing session that each run touches; FAR_MS and -FAR_MS where there is none.
        watermarks_ms: of each row, the partition's watermark before it.
    """
    order, times, run_of = runs.order, runs.times_ms, runs.run_of
    inside = np.ones(len(order), dtype=np.bool_)
    inside[runs.heads] = False
    lowest = np.where(inside, runs.lows[run_of], FAR_MS)
    highest = np.empty_like(times)
    highest[1:] = times[:-1]
    highest[runs.heads] = -FAR_MS
    back = np.flatnonzero(inside[1:] & (order[1:] < order[:-1])) + 1
    if len(back):  # stream order is not time order there
        disordered = np.zeros(len(runs), dtype=np.bool_)
        disordered[run_of[back]] = True
        places = np.flatnonzero(disordered[run_of])
        rows = places[np.lexsort((order[places], run_of[places]))]
        order, times = order.copy(), times.copy()
        order[places], times[places] = order[rows], times[rows]
        lowest[places], highest[places] = _running(times[places], runs, run_of[places], inside[places])
    lowest, highest = np.minimum(lowest, held[0][run_of]), np.maximum(highest, held[1][run_of])
    exists = highest >= lowest
    touches = ~exists | ((times >= lowest - gap_ms) & (times <= highest + gap_ms))
    outside = (times < lowest) | (times > highest)
    replaces = exists & outside & (watermarks_ms[order] >= highest + gap_ms)
    good = np.ones(len(runs), dtype=np.bool_)
    good[run_of[~touches | replaces]] = False
    return good


def _running(times: Int64, runs: Runs, run_of: Slots, inside: Mask) -> tuple[Int64, Int64]:
    """The smallest and largest time before each row in its run; rows stand run by run, each in stream order.

    One accumulate over all runs: each is lifted above the one before it by more than a run is long.
    """
    _, numbers = np.unique(run_of, return_inverse=True)
    lows = runs.lows[run_of]
    width = int((runs.highs[run_of] - lows).max()) + 1
    if width * (int(numbers[-1]) + 2) >= FAR_MS:
        return _running_slowly(times, inside)
    lift = np.multiply(numbers, width, dtype=np.int64)
    highest = np.maximum.accumulate(times - lows + lift) - lift + lows
    lowest = lows - (np.maximum.accumulate(lows - times + lift) - lift)
    return _before(lowest, inside, FAR_MS), _before(highest, inside, -FAR_MS)


def _running_slowly(times: Int64, inside: Mask) -> tuple[Int64, Int64]:
    lowest, highest = np.full_like(times, FAR_MS), np.full_like(times, -FAR_MS)
    for row in np.flatnonzero(inside).tolist():
        lowest[row] = min(lowest[row - 1], times[row - 1])
        highest[row] = max(highest[row - 1], times[row - 1])
    return lowest, highest


def _before(running: Int64, inside: Mask, start: int) -> Int64:
    shifted = np.empty_like(running)
    shifted[1:] = running[:-1]
    shifted[~inside] = start
    return shifted
