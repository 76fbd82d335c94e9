"""What has been kept long enough goes: results with their panes, and the rows of streams nobody has to commit.

A result's retention counts from when it was last published, not from its event time: data of ten years ago keeps its
results. Its panes live as long as the last window they are part of. Open panes never expire.

Old data may be added to a window until it expires, so nothing is deleted before every partition was told (`expired_ms`
in its checkpoint): a commit that knows less is refused, and one that came before has made the window due again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from pipeline.core.definitions import Aggregate, Rollup, Session, Stream, Transform, Tumbling
from pipeline.core.entry_header import split_id
from pipeline.core.windows import Span, final_panes, panes_of
from pipeline.rim import keys, replies, store
from pipeline.rim.scripts import Scripts
from pipeline.rim.session_expiry import expire_sessions, final_to, forget_retired
from pipeline.rim.store import Due

WINDOWS_A_RUN = 5_000  # of one version of a metric; the next run goes on
WINDOWS_A_STEP = 100
ROWS_A_STEP = 5_000  # small entries, 0.3 ms of the server (trim.py)
STEPS_A_RUN = 200
MARKS_A_STEP = 500


@dataclass(frozen=True, slots=True)
class Expired:
    """What a run removed."""

    results: int = 0
    rows: int = 0

    def __add__(self, other: Expired) -> Expired:
        return Expired(self.results + other.results, self.rows + other.rows)


@dataclass(frozen=True, slots=True)
class Kept:
    """One version of a metric whose results may expire, as it was defined; one that is retired stands still."""

    stream: Stream
    stage: Aggregate
    version: str
    running: bool = True

    @property
    def group(self) -> str:
        return f"{self.stage.name}@{self.version}"


def expire_results(client: redis.Redis, scripts: Scripts, kept: Kept, retention_ms: int, now_ms: int) -> Expired:
    """Delete the results of one version of a metric that were published more than its retention ago, with their panes.

    A window that may still change stays, and so does a pane that another window uses. Every step may be repeated, or
    done by another run at the same time.
    """
    before_ms = now_ms - retention_ms
    name, version = kept.stage.name, kept.version
    if isinstance(kept.stage.window, Session):
        if not kept.running:
            forget_retired(client, kept.stream, kept.group, before_ms)
        final_to_ms = final_to(client, kept.stream, kept.stage, version) if kept.running else None
        gone = expire_sessions(client, scripts, kept.stage, version, before_ms, final_to_ms=final_to_ms)
        return Expired(results=gone)
    removed = 0
    skipped = 0
    while removed + skipped < WINDOWS_A_RUN:
        members = client.execute_command(
            "ZRANGEBYSCORE", keys.ages(name, version), "-inf", before_ms, "LIMIT", skipped, WINDOWS_A_STEP
        )
        for member in members:
            start, _, end = member.decode().partition(":")
            gone = _expire_window(client, scripts, kept, (int(start), int(end)), before_ms)
            removed, skipped = (removed + 1, skipped) if gone else (removed, skipped + 1)
        if len(members) < WINDOWS_A_STEP:
            break
    return Expired(results=removed)


def _expire_window(client: redis.Redis, scripts: Scripts, kept: Kept, window: Span, before_ms: int) -> bool:
    """Delete one window: announced, the panes, the result; a crash in between leaves a result that is found again."""
    stream, stage, version = kept.stream, kept.stage, kept.version
    assert not isinstance(stage.window, Session), "sessions expire by bucket"
    if _feeds_a_tier(client, kept, window):
        return False
    starts = panes_of(stage.window).panes_of(window)
    # All partitions are asked before one is touched: a window must not be published again from a part of its panes.
    if _may_change(client, kept, window, starts):
        return False
    if not _announce(client, scripts, kept, window, before_ms):
        return False
    live = store.published_windows(client, stage.name, version, window[0], 2 * window[1] - window[0])
    used = {start for span in live if span != window for start in starts if span[0] <= start < span[1]}
    used |= _unfinished(client, kept, starts)
    for partition in range(stream.partitions):
        marks = keys.panes(stream.name, partition, kept.group)
        due = keys.due(stream.name, partition, kept.group)
        checkpoint = keys.checkpoint(stream.name, partition, kept.group)
        for start in starts:
            if start not in used:
                pane = keys.pane(stream.name, partition, kept.group, start)
                scripts.run("expire_pane", keys=[marks, due, pane, checkpoint], args=[start])
    deleted = scripts.run(
        "expire_result",
        keys=[
            keys.ages(stage.name, version),
            keys.windows(stage.name, version),
            keys.result(stage.name, version, *window),
            keys.expired(stage.name, version),
        ],
        args=[f"{window[0]}:{window[1]}", before_ms, store.EXPIRED_WINDOWS],
    )
    return bool(int(deleted))


def _announce(client: redis.Redis, scripts: Scripts, kept: Kept, window: Span, before_ms: int) -> bool:
    """Close a window for old data in every partition; False when some came before that and it has to stay."""
    stream, stage, version = kept.stream, kept.stage, kept.version
    # A tier is merged from the windows in it: without one of them none may be revised.
    until_ms = max([window[1], *(start + size_ms for size_ms, start in _tiers_of(stage, window).items())])
    for partition in range(stream.partitions):
        checkpoint = keys.checkpoint(stream.name, partition, kept.group)
        due = keys.due(stream.name, partition, kept.group)
        if not int(scripts.run("announce", keys=[checkpoint, due], args=[window[0], until_ms])):
            return False
    age_ms = client.execute_command("ZSCORE", keys.ages(stage.name, version), f"{window[0]}:{window[1]}")
    return age_ms is not None and float(age_ms) <= before_ms and not _feeds_a_tier(client, kept, window)


def _unfinished(client: redis.Redis, kept: Kept, starts: Sequence[int]) -> set[int]:
    """Those of the panes that are also part of a window that is not final everywhere, so perhaps not published yet."""
    if not kept.running:
        return set()
    stream = kept.stream
    checkpoints = store.load_checkpoints(client, stream.name, stream.partitions, kept.group)
    seen = [checkpoint.max_seen_ms for checkpoint in checkpoints]
    if None in seen:
        return set(starts)
    watermark_ms = min(ms for ms in seen if ms is not None) - stream.time.disorder_ms
    final = final_panes(panes_of(kept.stage.window), starts, kept.stage.allowed_lateness_ms, watermark_ms)
    return set(starts) - set(final)


def expire_tier(client: redis.Redis, scripts: Scripts, kept: Kept, tier: Rollup, now_ms: int) -> Expired:
    """Delete the windows of a tier that were published more than its retention ago."""
    name, version, before_ms = kept.stage.name, kept.version, now_ms - tier.retention_ms
    ages, windows = keys.tier_ages(name, version, tier.size_ms), keys.tier(name, version, tier.size_ms)
    removed, expired = 0, keys.expired(name, version)
    members = client.execute_command("ZRANGEBYSCORE", ages, "-inf", before_ms, "LIMIT", 0, WINDOWS_A_RUN)
    for member in members:
        start, _, end = member.decode().partition(":")
        result = keys.result(name, version, int(start), int(end))
        where, what = [ages, windows, result, expired], [member, before_ms, tier.size_ms]
        removed += int(scripts.run("expire_result", keys=where, args=what))
    return Expired(results=removed)


def _feeds_a_tier(client: redis.Redis, kept: Kept, window: Span) -> bool:
    """Whether a window is still needed: its tier's window is not published, or may be revised by another window."""
    stage, stream = kept.stage, kept.stream
    if not stage.rollups or not kept.running:
        return False
    starts = _tiers_of(stage, window)
    final_at_ms = max(start + size_ms for size_ms, start in starts.items()) + stage.allowed_lateness_ms
    pipe = client.pipeline(transaction=False)
    for size_ms, start in starts.items():
        pipe.execute_command("HEXISTS", keys.tier_due(stage.name, kept.version, size_ms), start)
    if any(pipe.execute()):
        return True
    for partition in range(stream.partitions):
        pipe.execute_command("HGET", keys.checkpoint(stream.name, partition, kept.group), "max_seen_ms")
    return any(seen is None or int(seen) - stream.time.disorder_ms < final_at_ms for seen in pipe.execute())


def _tiers_of(stage: Aggregate, window: Span) -> dict[int, int]:
    """The tier windows that a window is part of: size → start."""
    if not stage.rollups:
        return {}
    assert isinstance(stage.window, Tumbling), f"{stage.name} has tiers and is not tumbling"
    return {tier.size_ms: window[0] - (window[0] - stage.window.offset_ms) % tier.size_ms for tier in stage.rollups}


def _may_change(client: redis.Redis, kept: Kept, window: Span, starts: Sequence[int]) -> bool:
    """Whether events can still count in a window, or some have that it was not published with."""
    stream, end_ms = kept.stream, window[1]
    final_at_ms = end_ms + kept.stage.allowed_lateness_ms + stream.time.disorder_ms
    pipe = client.pipeline(transaction=False)
    for partition in range(stream.partitions):
        pipe.execute_command("HGET", keys.checkpoint(stream.name, partition, kept.group), "max_seen_ms")
        pipe.execute_command("HMGET", keys.due(stream.name, partition, kept.group), *starts)
    answers = iter(pipe.execute())
    for seen_ms, due in zip(answers, answers, strict=True):
        if kept.running and (seen_ms is None or int(seen_ms) < final_at_ms):
            return True
        if any(Due.parse(pane).from_end_ms <= end_ms for pane in due if pane is not None):
            return True
    return False


def expire_downstream(client: redis.Redis, stage: Aggregate, now_ms: int) -> Expired:
    """Trim a metric's downstream rows by its retention."""
    return Expired(rows=_trim_rows(client, keys.rows(stage.name), now_ms - stage.retention_ms))


def expire_side_streams(client: redis.Redis, stream: Stream, groups: Sequence[str], now_ms: int) -> Expired:
    """Trim what a stream's stages put aside (late, dead), and what the door refused, by the stream's retention.

    With the rows goes the memory of their replays.
    """
    before_ms = now_ms - stream.retention_ms
    rows = 0
    for partition in range(stream.partitions):
        rows += _trim_rows(client, keys.quarantine(stream.name, partition), before_ms)
        for group in groups:
            rows += _trim_rows(client, keys.late(stream.name, partition, group), before_ms)
            rows += _trim_rows(client, keys.dead(stream.name, partition, group), before_ms)
        _forget_replays(client, stream, partition, groups)
    return Expired(rows=rows)


def _forget_replays(client: redis.Redis, stream: Stream, partition: int, groups: Sequence[str]) -> None:
    """Delete the marks of replayed rows that nothing can bring back: neither their row nor a rebuild from the log."""
    name = stream.name
    refused = _first(client, keys.quarantine(name, partition))
    _forget_marks(client, keys.quarantine_replayed(name, partition), [refused and refused.id])
    for group in groups:
        aside = [_first(client, of(name, partition, group)) for of in (keys.late, keys.dead)]
        origins = [(row.fields or {}).get(b"entry") for row in aside if row is not None]  # in the order of the log
        in_log = _first(client, keys.raw(name, partition))
        _forget_marks(client, keys.replayed(name, partition, group), [*origins, in_log and in_log.id])


def _first(client: redis.Redis, key: str) -> replies.Entry | None:
    found = replies.parse_entries(client.execute_command("XRANGE", key, "-", "+", "COUNT", 1))
    return found[0] if found else None


def _forget_marks(client: redis.Redis, key: str, oldest: Sequence[bytes | None]) -> None:
    """Delete the marks of what came before all of some entries."""
    known = [split_id(entry_id) for entry_id in oldest if entry_id]
    cursor = b"0"
    while True:
        cursor, page = client.execute_command("HSCAN", key, cursor, "COUNT", MARKS_A_STEP)
        origins = list(replies.parse_hash(page))
        gone = [origin for origin in origins if not known or split_id(origin.partition(b" ")[0]) < min(known)]
        if gone:
            client.execute_command("HDEL", key, *gone)
        if int(cursor) == 0:
            return


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
