"""Expiry on a real server: a result goes with its panes, `retention` after it was last published, and never sooner."""

from __future__ import annotations

from dataclasses import replace

from pipeline.core.definitions import (
    HOUR_MS,
    Aggregate,
    AggregateSpec,
    Field,
    Hopping,
    Rollup,
    Stream,
    TimePolicy,
    Transform,
    Tumbling,
)
from pipeline.rim import keys
from pipeline.rim.expiry import (
    WINDOWS_A_STEP,
    Expired,
    Kept,
    expire_downstream,
    expire_results,
    expire_side_streams,
    expire_transform,
)
from pipeline.rim.replies import parse_hash
from pipeline.rim.scripts import Scripts
from pipeline.rim.store import EXPIRED_WINDOWS, Gone, load_gone
from tests.servers import RunningServer

STREAM = Stream("readings", (Field("ts", "timestamp"),), TimePolicy(field="ts"), partitions=2, retention_ms=HOUR_MS)
STAGE = Aggregate("means", "readings", Tumbling(10), (), (AggregateSpec("n", "count"),), retention_ms=HOUR_MS)
VERSION = "v1"
GROUP = "means@v1"


def publish(server: RunningServer, start: int, published_ms: int, *, due_in: int | None = None) -> None:
    """A published window as publish.lua and the commits of two partitions leave it."""
    client, window = server.client, f"{start}:{start + 10}"
    client.hset(keys.result("means", VERSION, start, start + 10), mapping={"revision": 0, "b0": "…"})
    client.zadd(keys.windows("means", VERSION), {window: start + 10})
    client.zadd(keys.ages("means", VERSION), {window: published_ms})
    for partition in range(STREAM.partitions):
        client.hset(keys.pane("readings", partition, GROUP, start), mapping={"- []": "cell"})
        client.hset(keys.panes("readings", partition, GROUP), str(start), "1-1")
        client.hset(keys.checkpoint("readings", partition, GROUP), "max_seen_ms", 10**12)
        if partition == due_in:
            client.hset(keys.due("readings", partition, GROUP), str(start), "1-2 -")


def expire(server: RunningServer, now_ms: int) -> Expired:
    kept = Kept(STREAM, STAGE, VERSION)
    return expire_results(server.client, Scripts(server.client), kept, STAGE.retention_ms, now_ms)


def existing(server: RunningServer, start: int) -> set[str]:
    """What of a window is still there."""
    client, window = server.client, f"{start}:{start + 10}"
    found = {
        "result": client.exists(keys.result("means", VERSION, start, start + 10)),
        "window": client.zscore(keys.windows("means", VERSION), window) is not None,
        "age": client.zscore(keys.ages("means", VERSION), window) is not None,
    }
    for partition in range(STREAM.partitions):
        marks = parse_hash(client.execute_command("HGETALL", keys.panes("readings", partition, GROUP)))
        found[f"pane {partition}"] = client.exists(keys.pane("readings", partition, GROUP, start))
        found[f"mark {partition}"] = str(start).encode() in marks
    return {name for name, there in found.items() if there}


WHOLE = {"result", "window", "age", "pane 0", "mark 0", "pane 1", "mark 1"}


def test_a_result_goes_with_its_panes_retention_after_it_was_published(any_server: RunningServer) -> None:
    publish(any_server, 100, published_ms=1_000)
    publish(any_server, -10, published_ms=2_000)
    assert expire(any_server, HOUR_MS + 999) == Expired()
    assert existing(any_server, 100) == WHOLE

    assert expire(any_server, HOUR_MS + 1_000) == Expired(results=1)

    assert existing(any_server, 100) == set()
    assert existing(any_server, -10) == WHOLE
    assert expire(any_server, HOUR_MS + 2_000) == Expired(results=1)
    checkpoints = {keys.checkpoint("readings", p, GROUP).encode() for p in range(STREAM.partitions)}
    assert set(any_server.client.keys("*")) == checkpoints | {keys.expired("means", VERSION).encode()}
    assert load_gone(any_server.client, "means", VERSION) == Gone(start_ms=100), "not of the one that expired last"


def test_a_window_with_changes_still_to_be_published_stays_whole(server: RunningServer) -> None:
    publish(server, 100, published_ms=1_000, due_in=1)
    publish(server, 110, published_ms=1_000)
    assert expire(server, 2 * HOUR_MS) == Expired(results=1)
    assert existing(server, 100) == WHOLE
    assert existing(server, 110) == set()


def test_windows_that_stay_do_not_hold_up_those_behind_them(server: RunningServer) -> None:
    for number in range(WINDOWS_A_STEP + 5):
        publish(server, number * 10, published_ms=1_000 + number, due_in=0)
    publish(server, 90_000, published_ms=50_000)
    assert expire(server, 2 * HOUR_MS) == Expired(results=1)
    assert existing(server, 90_000) == set()


def test_a_result_published_again_after_the_look_stays(any_server: RunningServer) -> None:
    publish(any_server, 100, published_ms=1_000)
    publish(any_server, 100, published_ms=9_000)
    deleted = Scripts(any_server.client).run(
        "expire_result",
        keys=[
            keys.ages("means", VERSION),
            keys.windows("means", VERSION),
            keys.result("means", VERSION, 100, 110),
            keys.expired("means", VERSION),
        ],
        args=["100:110", 1_000, EXPIRED_WINDOWS],
    )
    assert deleted == 0
    assert existing(any_server, 100) == WHOLE


def test_a_pane_that_became_due_after_the_look_stays(any_server: RunningServer) -> None:
    publish(any_server, 100, published_ms=1_000, due_in=0)
    gone = Scripts(any_server.client).run(
        "expire_pane",
        keys=[
            keys.panes("readings", 0, GROUP),
            keys.due("readings", 0, GROUP),
            keys.pane("readings", 0, GROUP, 100),
        ],
        args=["100"],
    )
    assert gone == 0
    assert existing(any_server, 100) == WHOLE


def test_an_expiry_that_was_cut_off_is_finished_by_the_next(server: RunningServer) -> None:
    publish(server, 100, published_ms=1_000)
    server.client.delete(keys.pane("readings", 0, GROUP, 100))
    server.client.hdel(keys.panes("readings", 0, GROUP), "100")
    assert expire(server, 2 * HOUR_MS) == Expired(results=1)
    assert existing(server, 100) == set()


def test_rows_put_aside_go_after_the_retention_of_their_stream(server: RunningServer) -> None:
    transform = Transform("warm", "readings", publish=True)
    aside = [
        keys.late("readings", 1, GROUP),
        keys.dead("readings", 0, GROUP),
        keys.quarantine("readings", 0),
        keys.published_transform("readings", 1, "warm"),
        keys.rows("means"),
    ]
    for key in aside:
        for number in range(1, 1_001):
            server.client.execute_command("XADD", key, f"{number}-0", "a", "b")

    def expire_all(now_ms: int) -> int:
        done = expire_side_streams(server.client, STREAM, [GROUP], now_ms)
        done += expire_transform(server.client, STREAM, transform, now_ms)
        return (done + expire_downstream(server.client, STAGE, now_ms)).rows

    assert expire_all(HOUR_MS) == 0
    assert expire_all(HOUR_MS + 501) == len(aside) * 500
    assert [server.client.xlen(key) for key in aside] == [500] * len(aside)


def test_a_pane_stays_for_a_window_that_is_not_published_yet(server: RunningServer) -> None:
    """Time stood still for longer than the retention: [100, 120) has expired, and [110, 130) is still open."""
    hopping = replace(STAGE, window=Hopping(20, 10))
    client = server.client
    client.hset(keys.result("means", VERSION, 100, 120), mapping={"revision": 0, "b0": "…"})
    client.zadd(keys.windows("means", VERSION), {"100:120": 120})
    client.zadd(keys.ages("means", VERSION), {"100:120": 1_000})
    for partition in range(STREAM.partitions):
        client.hset(keys.checkpoint("readings", partition, GROUP), "max_seen_ms", 125 + STREAM.time.disorder_ms)
        for start in (100, 110):
            client.hset(keys.pane("readings", partition, GROUP, start), mapping={"- []": "cell"})
            client.hset(keys.panes("readings", partition, GROUP), str(start), "1-1")

    done = expire_results(client, Scripts(client), Kept(STREAM, hopping, VERSION), STAGE.retention_ms, 2 * HOUR_MS)

    assert done == Expired(results=1)
    assert [client.exists(keys.pane("readings", p, GROUP, start)) for start in (100, 110) for p in range(2)] == [
        0,
        0,
        1,
        1,
    ]


def test_with_a_window_its_tiers_are_closed_for_old_data(server: RunningServer) -> None:
    """A tier is merged from its windows: once one of them is gone, none of the others may be revised."""
    rolled = replace(STAGE, rollups=(Rollup(100, HOUR_MS), Rollup(50, HOUR_MS)))
    publish(server, 110, published_ms=1_000)
    publish(server, 120, published_ms=9 * HOUR_MS)

    done = expire_results(server.client, Scripts(server.client), Kept(STREAM, rolled, VERSION), HOUR_MS, 2 * HOUR_MS)

    assert done == Expired(results=1)
    checkpoints = [keys.checkpoint("readings", partition, GROUP) for partition in range(STREAM.partitions)]
    assert [server.client.hget(checkpoint, "expired_ms") for checkpoint in checkpoints] == [b"200", b"200"]


def test_a_window_stays_while_another_of_its_tier_is_due(server: RunningServer) -> None:
    rolled = replace(STAGE, rollups=(Rollup(100, HOUR_MS),))
    publish(server, 110, published_ms=1_000)
    publish(server, 120, published_ms=9 * HOUR_MS, due_in=1)  # old data was added to it

    done = expire_results(server.client, Scripts(server.client), Kept(STREAM, rolled, VERSION), HOUR_MS, 2 * HOUR_MS)

    assert done == Expired()
    assert existing(server, 110) == WHOLE
