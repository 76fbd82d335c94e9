"""Which pane an event belongs to and which window a pane closes with; half-open, floor-aligned, exact before 1970.

    offset        offset+size      offset+2·size
      |  pane 0       |  pane 1        |
      [ start ... end )[ start ... end )

A tumbling window is one pane. Times and bounds are int64 epoch milliseconds.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.core.definitions import Tumbling

Int64 = npt.NDArray[np.int64]


def pane_starts(window: Tumbling, times_ms: Int64) -> Int64:
    """Return the start of each event's pane; numpy's `%` floors, so negative times fall into the right pane."""
    return times_ms - (times_ms - window.offset_ms) % window.size_ms


def pane_start(window: Tumbling, time_ms: int) -> int:
    """The scalar twin of `pane_starts`."""
    return time_ms - (time_ms - window.offset_ms) % window.size_ms


def aligned_at_or_before(window: Tumbling, time_ms: int) -> int:
    """The last window boundary at or before `time_ms`: up to there every window has ended."""
    return pane_start(window, time_ms)


def is_final(window: Tumbling, start_ms: int, watermark_ms: int) -> bool:
    """Whether no further event can count in the pane that starts at `start_ms`."""
    return start_ms + window.size_ms <= watermark_ms
