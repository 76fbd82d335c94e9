"""What has brought time somewhere: the events themselves, sources that say they live, or silence.

Only the first two are somebody's word that nothing is missing: so `complete_by` tells a quiet source from one that is
down.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

CompleteBy = Literal["events", "heartbeat", "silence"]  # the surest first
_SURENESS: tuple[CompleteBy, ...] = get_args(CompleteBy)


def moved_by(time_ms: int, max_event_ms: int | None, max_beat_ms: int | None) -> CompleteBy:
    """What has brought a partition's running maximum to `time_ms`, from the maxima of events and of heartbeats."""
    if max_event_ms is not None and max_event_ms >= time_ms:
        return "events"
    if max_beat_ms is not None and max_beat_ms >= time_ms:
        return "heartbeat"
    return "silence"


def least_sure(found: Iterable[CompleteBy]) -> CompleteBy:
    """What may be said of several partitions together; of none: silence."""
    return max(found, key=_SURENESS.index, default="silence")
