"""Whether a stage's keys on a partition still are what its commits left: sets up what is missing, marks what is lost.

The checkpoint is the truth about how far the log is counted, and it counts the fields of the other keys. What a deleted
key held is never guessed: the partition is marked torn, and rebuilt from the log (`rebuild`).
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from pipeline.rim import keys
from pipeline.rim.scripts import Scripts

PANES_A_LOOK = 1_000  # looked at by one script: some 0.5 ms


class Found(IntEnum):
    """What `set_up_group` found (setup.lua)."""

    SOUND = 0
    NEW = 1
    TRIMMED = 2  # marked torn
    REGROUPED = 3
    LOST = 4  # marked torn


def set_up_group(scripts: Scripts, stream: str, partition: int, group: str) -> Found:
    """Make a stage's consumer group where there is none; one that was lost goes on at its checkpoint's cursor.

    The only place that makes groups (FACTS 6): one made at the beginning beside a state counts everything again.
    """
    state = (keys.panes, keys.due, keys.live_sessions, keys.late, keys.dead)
    answer = scripts.run(
        "setup",
        keys=[
            keys.raw(stream, partition),
            keys.checkpoint(stream, partition, group),
            keys.cut(stream, partition),
            keys.tables(stream, partition),
            *(of(stream, partition, group) for of in state),
        ],
        args=[group],
    )
    return Found(int(answer))


def what_is_lost(scripts: Scripts, stream: str, partition: int, group: str, panes_ms: Iterable[int] = ()) -> str | None:
    """Look at the state, and at some of its panes; what is gone is said and marked torn. None: nothing is missing."""
    starts = list(panes_ms)
    hashes = [of(stream, partition, group) for of in (keys.panes, keys.due, keys.live_sessions)]
    for at in range(0, max(1, len(starts)), PANES_A_LOOK):
        step = starts[at : at + PANES_A_LOOK]
        panes = [keys.pane(stream, partition, group, start) for start in step]
        where = [keys.checkpoint(stream, partition, group), *hashes, *panes]
        lost: bytes = scripts.run("inspect", keys=where, args=step)
        if lost:
            return lost.decode()
    return None
