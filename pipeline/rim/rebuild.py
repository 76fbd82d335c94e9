"""Rebuilding one stage and partition from the retained log: what follows when its state was found torn (DESIGN 8.2).

Torn is what a commit left that was cut off, and a state of which a key was deleted (`soundness`). While the marker
stands no commit can pass, so the cells can be deleted in steps; the last step takes the marker away and puts the group
back to the beginning of the log, in one script. Every step is one only while the marker stands: of two that rebuild,
the slower one deletes nothing that was counted again.
"""

from __future__ import annotations

from collections.abc import Iterator

import redis

from pipeline.core.definitions import PaneWindow
from pipeline.core.windows import begun_and_over
from pipeline.rim import keys, store
from pipeline.rim.commit import Mark
from pipeline.rim.scripts import Scripts

STEP = 500  # panes deleted by one script
SCAN_COUNT = 2_000  # keys a step looks at, when those that a list may have lost are looked for


def rebuild_partition(
    client: redis.Redis,
    scripts: Scripts,
    stream: str,
    partition: int,
    group: str,
    *,
    partitions: int = 1,
    window: PaneWindow | None = None,
) -> bool:
    """Delete a torn partition's state and start it again; return False when it is not torn.

    Published results stay until they are revised. Windows that begin before what is left of the log are left alone, and
    of those of `window` the ones that have expired: `partitions` are asked how far.
    """
    if not store.load_checkpoint(client, stream, partition, group).torn:
        return False
    checkpoint, panes = keys.checkpoint(stream, partition, group), keys.panes(stream, partition, group)
    starts = sorted(
        store.pane_marks(client, stream, partition, group).keys() | set(_panes(client, stream, partition, group))
    )
    for at in range(0, len(starts), STEP):
        step = starts[at : at + STEP]
        cells = [keys.pane(stream, partition, group, start) for start in step]
        if not int(scripts.run("discard", keys=[checkpoint, panes, *cells], args=step)):
            return False
    rest = [of(stream, partition, group) for of in (keys.due, keys.live_sessions, keys.late, keys.dead, keys.suspect)]
    raw, cut, tables = (of(stream, partition) for of in (keys.raw, keys.cut, keys.tables))
    expired_ms = _expired_ms(client, stream, partitions, group)
    floor_ms = None if window is None or expired_ms is None else begun_and_over(window, expired_ms)
    done = scripts.run(
        "reset",
        keys=[raw, checkpoint, cut, panes, tables, *rest],
        args=[
            group,
            _published_ms(client, partition, group),
            "" if expired_ms is None else expired_ms,
            "" if floor_ms is None else floor_ms,
        ],
    )
    return bool(int(done))


def _panes(client: redis.Redis, stream: str, partition: int, group: str) -> Iterator[int]:
    """The panes of which there is a hash: the marks that list them may be what was lost."""
    prefix = keys.pane_prefix(stream, partition, group)
    for key in client.scan_iter(match=f"{prefix}*", count=SCAN_COUNT):
        yield int(key.removeprefix(prefix.encode()))


def _published_ms(client: redis.Redis, partition: int, group: str) -> int:
    """The load time of the newest mark that was published of a partition: what is rebuilt has to be ahead of it."""
    metric, _, version = group.partition("@")
    mark = client.execute_command("HGET", keys.published(metric, version), partition)
    return Mark.parse(mark).load_ms


def _expired_ms(client: redis.Redis, stream: str, partitions: int, group: str) -> int | None:
    """How far the windows of a stage have expired: every partition was told so, and this one may have forgotten."""
    found = [checkpoint.expired_ms for checkpoint in store.load_checkpoints(client, stream, partitions, group)]
    return max((ms for ms in found if ms is not None), default=None)
