"""Which windows an event still counts in, as a function of the log alone: its time and the watermark before it.

    watermark before the event       W
    windows of its pane        ----e1   ----e2   ----e3        late for the windows with end + allowed lateness <= W;
                                   late     counts   counts    from_end = e2, the end of the first it counts in

An event that is late for all its windows goes to the late stream; one that is late for none has no `from_end`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.core.definitions import Aggregate, Session
from pipeline.core.windows import Int64, panes_of

NO_END = -(2**63)  # of an event that is late for none of its windows
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of each event; parallel arrays, in ms.

    `panes`: start of its pane. `late`: it counts in no window. `from_ends`: end of the first window it counts in, or
    NO_END for all. `begins`, `ends`: the last window it could have counted in. `before_log`: of the late, those that
    only the trimmed beginning of the log keeps out.
    """

    panes: Int64
    late: Mask
    from_ends: Int64
    begins: Int64
    ends: Int64
    before_log: Mask


def judge(stage: Aggregate, times_ms: Int64, watermarks_ms: Int64, floor_ms: int | None) -> Verdict:
    """Judge events by the watermark before each; windows that begin at or before `floor_ms` lost events to a trim."""
    if isinstance(stage.window, Session):
        return _judge_sessions(stage.window, stage.allowed_lateness_ms, times_ms, watermarks_ms, floor_ms)
    panes = panes_of(stage.window)
    starts_ms = panes.pane_starts(times_ms)
    first_ms, last_ms = panes.first_ends(starts_ms), panes.last_ends(starts_ms)
    counted_ms = panes.ends_after(starts_ms, watermarks_ms - stage.allowed_lateness_ms)
    in_time = counted_ms <= last_ms
    if floor_ms is not None:
        counted_ms = np.maximum(counted_ms, panes.ends_begun_after(starts_ms, floor_ms))
    late = counted_ms > last_ms
    from_ends = np.where(counted_ms > first_ms, counted_ms, NO_END)
    return Verdict(starts_ms, late, from_ends, panes.last_begins(starts_ms), last_ms, late & in_time)


def _judge_sessions(
    window: Session, lateness_ms: int, times_ms: Int64, watermarks_ms: Int64, floor_ms: int | None
) -> Verdict:
    """An event is late by itself, whatever sessions there are: it could have been a session of its own."""
    ends_ms = times_ms + window.gap_ms
    late = ends_ms + lateness_ms <= watermarks_ms
    before_log = np.zeros(len(late), dtype=np.bool_)
    if floor_ms is not None:
        before_log = ~late & (times_ms <= floor_ms)  # what may have joined something lost is not published (doubtful)
    slices = np.zeros_like(times_ms) if window.max_ms is None else times_ms - times_ms % window.max_ms
    return Verdict(slices, late | before_log, np.full_like(times_ms, NO_END), times_ms, ends_ms, before_log)
