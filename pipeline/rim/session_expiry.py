"""Sessions that were published long enough ago go, a bucket at a time, with what `latest` shows of them."""

from __future__ import annotations

import redis

from pipeline.rim import keys, session_store
from pipeline.rim.scripts import Scripts

SESSIONS_A_STEP = 500  # some 2 µs each
BUCKETS_A_RUN = 1_000


def expire_sessions(client: redis.Redis, scripts: Scripts, metric: str, version: str, before_ms: int) -> int:
    """Delete the buckets of one version that were last published to before `before_ms`; return how many sessions.

    A bucket lives as long as the youngest publication in it, so nothing goes before its retention is over. Every step
    may be repeated, or done by another run at the same time.
    """
    members = client.execute_command(
        "ZRANGEBYSCORE", keys.ages(metric, version), "-inf", before_ms, "LIMIT", 0, BUCKETS_A_RUN
    )
    return sum(_expire_bucket(client, scripts, metric, version, int(bucket), before_ms) for bucket in members)


def _expire_bucket(
    client: redis.Redis, scripts: Scripts, metric: str, version: str, bucket: int, before_ms: int
) -> int:
    key = keys.session_rows(metric, version, bucket)
    where = [keys.ages(metric, version), keys.windows(metric, version), key, keys.latest(metric)]
    fields = [field for field, _ in session_store.scan(client, key)]
    removed = 0
    for at in range(0, max(1, len(fields)), SESSIONS_A_STEP):
        step = fields[at : at + SESSIONS_A_STEP]
        if int(scripts.run("expire_sessions", keys=where, args=[bucket, before_ms, *step])) < 0:
            return removed  # published to again
        removed += len(step)
    return removed
