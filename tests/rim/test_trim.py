"""Trim on a real server: only what is old and committed by everyone goes, and the cut says what time it was there."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.core.definitions import HOUR_MS, Field, Stream, TimePolicy
from pipeline.rim import keys
from pipeline.rim.replies import parse_entries, parse_hash
from pipeline.rim.scripts import Scripts
from pipeline.rim.trim import Sample, Trimmed, trim_stream
from tests.servers import RunningServer

STREAM = Stream("readings", (Field("ts", "timestamp"),), TimePolicy(field="ts"), partitions=1, retention_ms=HOUR_MS)
RAW = keys.raw("readings", 0)
CUTS = keys.cuts("readings", 0)
CUT = keys.cut("readings", 0)
TABLES = keys.tables("readings", 0)
GROUPS = ("fast@v1", "slow@v1")
MINUTE_MS = 60_000


def fill(server: RunningServer, minutes: int, *, per_minute: int = 1, body: bytes = b"x") -> None:
    """Entries that arrived at minute 1, 2, … of the epoch."""
    pipe = server.client.pipeline(transaction=False)
    for minute in range(1, minutes + 1):
        for number in range(per_minute):
            pipe.execute_command("XADD", RAW, f"{minute * MINUTE_MS}-{number}", "_k", "chunk", "body", body)
    pipe.execute()


def store(server: RunningServer, key: str, **fields: str | int) -> None:
    server.client.execute_command("HSET", key, *(part for pair in fields.items() for part in pair))


def commit(server: RunningServer, group: str, minute: int) -> None:
    cursor = f"{minute * MINUTE_MS}-0"
    store(server, keys.checkpoint("readings", 0, group), cursor=cursor, max_seen_ms=minute * 10, max_ts_ms=minute * 11)


def run(
    server: RunningServer, now_minute: int, *, stream: Stream = STREAM, groups: tuple[str, ...] = GROUPS
) -> Trimmed:
    return trim_stream(server.client, Scripts(server.client), stream, groups, now_minute * MINUTE_MS)


def minutes_left(server: RunningServer) -> list[int]:
    found = parse_entries(server.client.execute_command("XRANGE", RAW, "-", "+"))
    return [int(entry.id.partition(b"-")[0]) // MINUTE_MS for entry in found]


def cut(server: RunningServer) -> dict[bytes, bytes]:
    return parse_hash(server.client.execute_command("HGETALL", CUT))


def test_entries_older_than_retention_and_committed_by_every_group_go(any_server: RunningServer) -> None:
    fill(any_server, 100)
    commit(any_server, "fast@v1", 90)
    commit(any_server, "slow@v1", 30)
    assert run(any_server, 100) == Trimmed(30)
    assert minutes_left(any_server) == list(range(31, 101))
    assert cut(any_server) == {b"cursor": b"1800000-0", b"max_seen_ms": b"300", b"max_ts_ms": b"330"}


def test_entries_younger_than_retention_stay(server: RunningServer) -> None:
    fill(server, 100)
    for group in GROUPS:
        commit(server, group, 100)
    assert run(server, 100) == Trimmed(0)
    assert len(minutes_left(server)) == 100
    assert cut(server) == {}


def test_the_cut_is_made_at_a_sampled_checkpoint_only(server: RunningServer) -> None:
    fill(server, 100)
    for minute in (20, 50, 80):
        for group in GROUPS:
            commit(server, group, minute)
        run(server, minute)
    assert run(server, 139) == Trimmed(30)
    assert minutes_left(server)[0] == 51
    assert cut(server)[b"max_seen_ms"] == b"500"


def test_a_group_without_a_checkpoint_keeps_everything(server: RunningServer) -> None:
    fill(server, 100)
    commit(server, "fast@v1", 90)
    assert run(server, 200) == Trimmed(0)
    assert len(minutes_left(server)) == 100


@pytest.mark.parametrize(
    ("checkpoint", "why"),
    [
        ({"cursor": "60000-0", "max_seen_ms": 1}, "it was rolled back behind the sample"),
        ({"cursor": f"{50 * MINUTE_MS}-0", "max_seen_ms": 1, "torn": "1"}, "it is torn"),
        ({"commit": 3}, "it has no cursor"),
    ],
)
def test_the_script_checks_every_checkpoint_again(
    any_server: RunningServer, checkpoint: dict[str, str | int], why: str
) -> None:
    fill(any_server, 100)
    for group in GROUPS:
        commit(any_server, group, 50)
    run(any_server, 60)
    key = keys.checkpoint("readings", 0, "slow@v1")
    any_server.client.delete(key)
    store(any_server, key, **checkpoint)
    assert run(any_server, 200) == Trimmed(0, (key,)), why
    assert len(minutes_left(any_server)) == 100
    assert cut(any_server) == {}


def test_unread_and_pending_entries_are_never_trimmed(any_server: RunningServer) -> None:
    fill(any_server, 100)
    any_server.client.execute_command("XGROUP", "CREATE", RAW, "slow@v1", "0")
    any_server.client.execute_command("XREADGROUP", "GROUP", "slow@v1", "me", "COUNT", 40, "STREAMS", RAW, ">")
    for minute in range(1, 26):
        any_server.client.execute_command("XACK", RAW, "slow@v1", f"{minute * MINUTE_MS}-0")
    commit(any_server, "slow@v1", 25)
    run(any_server, 10_000, groups=("slow@v1",))
    assert minutes_left(any_server) == list(range(26, 101))


def test_ids_are_compared_as_numbers_and_to_the_last_digit(server: RunningServer) -> None:
    """9-… comes before 10-…, and sequence numbers above 2^53 are told apart."""
    large = 2**53
    for entry_id in ("9-0", f"10-{large}", f"10-{large + 1}"):
        server.client.execute_command("XADD", RAW, entry_id, "a", "b")
    store(server, keys.checkpoint("readings", 0, "slow@v1"), cursor=f"10-{large}", max_seen_ms=1, max_ts_ms=1)
    sample = Sample(f"10-{large + 1}", 1, 1)
    args: list[str | int] = [sample.cursor, 1, 1, sample.next_id, 100]
    checkpoint = keys.checkpoint("readings", 0, "slow@v1")
    scripts = Scripts(server.client)
    assert scripts.run("trim", keys=[RAW, CUTS, CUT, TABLES, checkpoint], args=args) == [-1, checkpoint.encode()]
    assert run(server, 100, groups=("slow@v1",)) == Trimmed(2)


def test_steps_are_bounded_and_the_cut_stands_before_the_first(server: RunningServer) -> None:
    fill(server, 50, per_minute=100)
    commit(server, "slow@v1", 49)
    sample = Sample(f"{49 * MINUTE_MS}-0", 490, None)
    steps: list[tuple[int, int]] = []
    while not (steps and steps[-1][1] == 1):
        args: list[str | int] = [sample.cursor, sample.max_seen_ms, "", sample.next_id, 700]
        keys_ = [RAW, CUTS, CUT, TABLES, keys.checkpoint("readings", 0, "slow@v1")]
        steps.append(Scripts(server.client).run("trim", keys=keys_, args=args))
        assert cut(server) == {b"cursor": sample.cursor.encode(), b"max_seen_ms": b"490"}
    assert len(steps) >= 7
    assert max(removed for removed, _ in steps) <= 700
    assert sum(removed for removed, _ in steps) == 48 * 100 + 1


def test_a_cut_never_moves_back(server: RunningServer) -> None:
    fill(server, 100)
    commit(server, "slow@v1", 50)
    run(server, 200, groups=("slow@v1",))
    older = Sample(f"{20 * MINUTE_MS}-0", 200, 220)
    checkpoint = keys.checkpoint("readings", 0, "slow@v1")
    args: list[str | bytes | int] = [older.cursor, 200, 220, older.next_id, 100]
    assert Scripts(server.client).run("trim", keys=[RAW, CUTS, CUT, TABLES, checkpoint], args=args) == [0, 1]
    assert cut(server)[b"cursor"] == b"%d-0" % (50 * MINUTE_MS)


def test_used_samples_go_and_unused_ones_are_few(server: RunningServer) -> None:
    fill(server, 400)
    for minute in range(1, 400):
        commit(server, "slow@v1", minute)
        run(server, minute, groups=("slow@v1",))
    assert server.client.zcard(CUTS) <= 61
    assert minutes_left(server)[0] == 340


def test_a_stream_over_its_bytes_loses_the_oldest_committed_entries_first(any_server: RunningServer) -> None:
    small = replace(STREAM, partitions=2, retention_bytes=300_000)
    for partition in (0, 1):
        raw = keys.raw("readings", partition)
        for minute in range(1, 51):
            any_server.client.execute_command("XADD", raw, f"{minute * MINUTE_MS}-{partition}", "body", b"x" * 10_000)
            checkpoint = keys.checkpoint("readings", partition, "slow@v1")
            cursor = f"{minute * MINUTE_MS}-{partition}"
            store(any_server, checkpoint, cursor=cursor, max_seen_ms=minute, max_ts_ms=minute)
            if minute <= 40:
                run(any_server, 0, stream=replace(small, retention_bytes=2**40), groups=("slow@v1",))
    run(any_server, 50, stream=small, groups=("slow@v1",))
    lengths = [any_server.client.xlen(keys.raw("readings", partition)) for partition in (0, 1)]
    assert sum(any_server.client.memory_usage(keys.raw("readings", p), 0) or 0 for p in (0, 1)) <= 300_000
    assert abs(lengths[0] - lengths[1]) <= 1, "both partitions lose the same stretch of time"
    assert sum(lengths) >= 20, "no more than needed"


def test_bytes_never_take_what_is_not_committed(server: RunningServer) -> None:
    fill(server, 50, body=b"x" * 10_000)
    commit(server, "slow@v1", 10)
    run(server, 50, stream=replace(STREAM, retention_bytes=1_000), groups=("slow@v1",))
    assert minutes_left(server) == list(range(11, 51))


def test_a_stream_that_nothing_reads_is_trimmed_by_retention_alone(server: RunningServer) -> None:
    fill(server, 100)
    store(server, keys.door("readings", 0), last_id=f"{40 * MINUTE_MS}-0", max_seen_ms=7, max_ts_ms=8)
    assert run(server, 50, groups=()) == Trimmed(0)
    assert run(server, 100, groups=()) == Trimmed(40)
    assert cut(server)[b"max_ts_ms"] == b"8"


def test_two_schedulers_trim_the_same_log_once(server: RunningServer) -> None:
    fill(server, 100)
    for group in GROUPS:
        commit(server, group, 30)
    assert run(server, 100) == Trimmed(30)
    assert run(server, 100) == Trimmed(0)
    assert len(minutes_left(server)) == 70
