"""Rebuilding one stage and partition from the retained log: what follows when a commit was found torn (DESIGN 8.2).

While the torn marker stands no commit can pass, so the cells can be deleted in steps; the last step takes the marker away
and puts the group back to the beginning of the log, in one script.
"""

from __future__ import annotations

import redis

from pipeline.rim import keys, store
from pipeline.rim.scripts import Scripts

STEP = 500  # keys deleted by one command


def rebuild_partition(client: redis.Redis, scripts: Scripts, stream: str, partition: int, group: str) -> bool:
    """Delete a torn partition's state and start it again; return False when it is not torn.

    Published results stay. Windows that begin before what is left of the log are left alone.
    """
    if not store.load_checkpoint(client, stream, partition, group).torn:
        return False
    starts = list(store.pane_marks(client, stream, partition, group))
    for at in range(0, len(starts), STEP):
        client.execute_command("UNLINK", *(keys.pane(stream, partition, group, s) for s in starts[at : at + STEP]))
    client.execute_command(
        "UNLINK",
        *(of(stream, partition, group) for of in (keys.panes, keys.due, keys.late, keys.dead, keys.suspect)),
    )
    done = scripts.run(
        "reset",
        keys=[keys.raw(stream, partition), keys.checkpoint(stream, partition, group), keys.cut(stream, partition)],
        args=[group],
    )
    return bool(int(done))
