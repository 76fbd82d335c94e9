"""Sessions that were published long enough ago go, a bucket at a time, with what `latest` shows of them.

Live sessions of a running version never expire; those of a retired one go when it has been at rest for as long.
"""

from __future__ import annotations

import redis

from pipeline.core.definitions import Aggregate, Session, Stream
from pipeline.core.watermarks import NO_TIME_MS
from pipeline.rim import keys, session_store, store
from pipeline.rim.scripts import Scripts

SESSIONS_A_STEP = 500  # some 2 µs each
BUCKETS_A_RUN = 1_000


def expire_sessions(
    client: redis.Redis, scripts: Scripts, stage: Aggregate, version: str, before_ms: int, *, final_to_ms: int | None
) -> int:
    """Delete the buckets of one version that were last published to before `before_ms`; return how many sessions.

    A bucket lives as long as the youngest publication in it, and stays while one of its sessions may still change: one
    that closes after `final_to_ms` (None: none can). Every step may be repeated, or done by another run meanwhile.
    """
    members = client.execute_command(
        "ZRANGEBYSCORE", keys.ages(stage.name, version), "-inf", before_ms, "LIMIT", 0, BUCKETS_A_RUN
    )
    removed = 0
    for bucket in members:
        closes_at = client.execute_command("ZSCORE", keys.windows(stage.name, version), bucket)
        if closes_at is not None and (final_to_ms is None or int(float(closes_at)) <= final_to_ms):
            removed += _expire_bucket(client, scripts, stage.name, version, int(bucket), before_ms)
    return removed


def final_to(client: redis.Redis, stream: Stream, stage: Aggregate, version: str) -> int:
    """The sessions that closed by this time are final, published so, and forgotten by their workers."""
    assert isinstance(stage.window, Session), f"{stage.name} has no sessions"
    accounts = session_store.accounts(client, stage.name, version, stream.partitions)
    known = [min(account.to_ms, account.own_ms) for account in accounts if account is not None]
    if len(known) < len(accounts):
        return NO_TIME_MS
    return min(known) - stage.window.gap_ms - stage.allowed_lateness_ms


def _expire_bucket(
    client: redis.Redis, scripts: Scripts, metric: str, version: str, bucket: int, before_ms: int
) -> int:
    key = keys.session_rows(metric, version, bucket)
    where = [keys.ages(metric, version), keys.windows(metric, version), key, keys.latest(metric)]
    where.append(keys.expired(metric, version))
    fields = [field for field, _ in session_store.scan(client, key)]
    removed = 0
    for at in range(0, max(1, len(fields)), SESSIONS_A_STEP):
        step = fields[at : at + SESSIONS_A_STEP]
        if int(scripts.run("expire_sessions", keys=where, args=[bucket, before_ms, *step])) < 0:
            return removed  # published to again
        removed += len(step)
    return removed


def forget_retired(client: redis.Redis, stream: Stream, group: str, before_ms: int) -> None:
    """Delete the live sessions of a retired version whose last entry arrived before `before_ms`."""
    checkpoints = store.load_checkpoints(client, stream.name, stream.partitions, group)
    if all(checkpoint.arrival_ms < before_ms for checkpoint in checkpoints):
        for partition in range(stream.partitions):
            client.execute_command("UNLINK", keys.live_sessions(stream.name, partition, group))
