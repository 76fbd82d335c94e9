"""What has been kept long enough goes: results with their panes, and the rows of streams nobody has to commit.

A result's retention counts from when it was last published, not from its event time: data of ten years ago keeps its
results. Its panes live exactly as long. Open panes never expire.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from pipeline.core.definitions import Aggregate, Stream, Transform
from pipeline.rim import keys
from pipeline.rim.scripts import Scripts

WINDOWS_A_RUN = 5_000  # of one version of a metric; the next run goes on
WINDOWS_A_STEP = 100
ROWS_A_STEP = 5_000  # small entries, 0.3 ms of the server (trim.py)
STEPS_A_RUN = 200


@dataclass(frozen=True, slots=True)
class Expired:
    """What a run removed."""

    results: int = 0
    rows: int = 0

    def __add__(self, other: Expired) -> Expired:
        return Expired(self.results + other.results, self.rows + other.rows)


def expire_results(
    client: redis.Redis, scripts: Scripts, stream: Stream, stage: Aggregate, version: str, now_ms: int
) -> Expired:
    """Delete the results of one version of a metric that were published more than its retention ago, with their panes.

    A window of which a partition has changes still to be published stays. Every step may be repeated, or done by
    another run at the same time.
    """
    before_ms = now_ms - stage.retention_ms
    removed = 0
    skipped = 0
    while removed + skipped < WINDOWS_A_RUN:
        members = client.execute_command(
            "ZRANGEBYSCORE", keys.ages(stage.name, version), "-inf", before_ms, "LIMIT", skipped, WINDOWS_A_STEP
        )
        for member in members:
            gone = _expire_window(client, scripts, stream, stage.name, version, member.decode(), before_ms)
            removed, skipped = (removed + 1, skipped) if gone else (removed, skipped + 1)
        if len(members) < WINDOWS_A_STEP:
            break
    return Expired(results=removed)


def _expire_window(
    client: redis.Redis, scripts: Scripts, stream: Stream, metric: str, version: str, window: str, before_ms: int
) -> bool:
    """Delete one window: the panes first, so that a crash in between leaves a result that is found again."""
    start, _, end = window.partition(":")
    group = f"{metric}@{version}"
    due = client.pipeline(transaction=False)
    for partition in range(stream.partitions):
        due.execute_command("HEXISTS", keys.due(stream.name, partition, group), start)
    # All partitions are asked before one is touched: a window must not be published again from a part of its panes.
    if any(due.execute()):
        return False
    for partition in range(stream.partitions):
        gone = scripts.run(
            "expire_pane",
            keys=[
                keys.panes(stream.name, partition, group),
                keys.due(stream.name, partition, group),
                keys.pane(stream.name, partition, group, int(start)),
            ],
            args=[start],
        )
        if not int(gone):
            return False
    deleted = scripts.run(
        "expire_result",
        keys=[
            keys.ages(metric, version),
            keys.windows(metric, version),
            keys.result(metric, version, int(start), int(end)),
        ],
        args=[window, before_ms],
    )
    return bool(int(deleted))


def expire_downstream(client: redis.Redis, stage: Aggregate, now_ms: int) -> Expired:
    """Trim a metric's downstream rows by its retention."""
    return Expired(rows=_trim_rows(client, keys.rows(stage.name), now_ms - stage.retention_ms))


def expire_side_streams(client: redis.Redis, stream: Stream, groups: Sequence[str], now_ms: int) -> Expired:
    """Trim what a stream's stages put aside (late, dead), and what the door refused, by the stream's retention."""
    before_ms = now_ms - stream.retention_ms
    rows = 0
    for partition in range(stream.partitions):
        rows += _trim_rows(client, keys.quarantine(stream.name, partition), before_ms)
        for group in groups:
            rows += _trim_rows(client, keys.late(stream.name, partition, group), before_ms)
            rows += _trim_rows(client, keys.dead(stream.name, partition, group), before_ms)
    return Expired(rows=rows)


def expire_transform(client: redis.Redis, stream: Stream, transform: Transform, now_ms: int) -> Expired:
    """Trim the rows of a transform with `publish: true` by the retention of its stream."""
    before_ms = now_ms - stream.retention_ms
    return Expired(
        rows=sum(
            _trim_rows(client, keys.published_transform(stream.name, partition, transform.name), before_ms)
            for partition in range(stream.partitions)
        )
    )


def _trim_rows(client: redis.Redis, key: str, before_ms: int) -> int:
    """Remove whole nodes of rows added before `before_ms`, a step at a time; a node that is partly younger stays."""
    removed = 0
    for _ in range(STEPS_A_RUN):
        step = int(client.execute_command("XTRIM", key, "MINID", "~", max(0, before_ms), "LIMIT", ROWS_A_STEP))
        removed += step
        if step == 0:
            break
    return removed
