"""Rebuilding one stage and partition from the retained log: what follows when a commit was found torn (DESIGN 8.2).

While the torn marker stands no commit can pass, so the cells can be deleted in steps; the last step takes the marker
away and puts the group back to the beginning of the log, in one script. Every step is one only while the marker stands:
of two that rebuild, the slower one deletes nothing that was counted again.
"""

from __future__ import annotations

import redis

from pipeline.rim import keys, store
from pipeline.rim.scripts import Scripts

STEP = 500  # panes deleted by one script


def rebuild_partition(client: redis.Redis, scripts: Scripts, stream: str, partition: int, group: str) -> bool:
    """Delete a torn partition's state and start it again; return False when it is not torn.

    Published results stay. Windows that begin before what is left of the log are left alone.
    """
    if not store.load_checkpoint(client, stream, partition, group).torn:
        return False
    checkpoint, panes = keys.checkpoint(stream, partition, group), keys.panes(stream, partition, group)
    starts = list(store.pane_marks(client, stream, partition, group))
    for at in range(0, len(starts), STEP):
        step = starts[at : at + STEP]
        cells = [keys.pane(stream, partition, group, start) for start in step]
        if not int(scripts.run("discard", keys=[checkpoint, panes, *cells], args=step)):
            return False
    rest = [of(stream, partition, group) for of in (keys.due, keys.live_sessions, keys.late, keys.dead, keys.suspect)]
    raw, cut, tables = (of(stream, partition) for of in (keys.raw, keys.cut, keys.tables))
    return bool(int(scripts.run("reset", keys=[raw, checkpoint, cut, panes, tables, *rest], args=[group])))
