"""The append script on real servers: exactly once by key, a balanced ledger, nothing after a refusal."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
import redis

from pipeline.core.codings import unpack_rows
from pipeline.core.partitioning import CHUNK_BYTES, CHUNK_ROWS, Chunk, chunks, partition_of
from pipeline.core.refusals import Refusal
from pipeline.errors import BadRequestError, StreamgaugeError
from pipeline.rim import keys
from pipeline.rim.replies import Fields, parse_entries, parse_hash
from pipeline.rim.scripts import Scripts
from pipeline.rim.streams import (
    QUARANTINED_BYTES,
    AlreadyReplayedError,
    IdempotencyKey,
    RowEntry,
    StageReplay,
    Step,
    append,
)
from tests.servers import RunningServer

CHUNK = Chunk(b'{"ts":1}\n{"ts":2}', 2, 1, 2)
BAD = Refusal(7, "ts", "bad_time", "ts: not a time", b'{"ts":"noon"}')
KEY = IdempotencyKey("order-1", "f00d")


def step(*entries: Chunk | RowEntry, refusals: tuple[Refusal, ...] = ()) -> Step:
    return Step(entries, refusals, 0, 1_000)


def door(server: RunningServer, partition: int = 0) -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in parse_hash(server.client.hgetall(keys.door("s", partition))).items()}


def ledger(server: RunningServer) -> tuple[int, int, int, int]:
    stored = door(server)
    received, *parts = (int(stored[name]) for name in ("received", "stored", "duplicate", "rejected"))
    assert received == sum(parts)
    return (received, *parts)  # type: ignore[return-value]


def entries(server: RunningServer, key: str = keys.raw("s", 0)) -> list[tuple[bytes, Fields]]:
    found = parse_entries(server.client.execute_command("XRANGE", key, "-", "+"))
    return [(entry_id, fields or {}) for entry_id, fields in found]


def test_a_chunk_is_stored_with_its_header_and_the_door_follows(any_server: RunningServer) -> None:
    scripts = Scripts(any_server.client)
    append(scripts, "s", 0, step(CHUNK))
    done = append(scripts, "s", 0, step(CHUNK))
    (_, first), (entry_id, second) = entries(any_server)
    assert list(second) == [b"_k", b"v", b"n", b"seq", b"crc", b"at", b"lo", b"hi", b"coding", b"body"]
    assert second[b"body"] == CHUNK.body
    assert int(second[b"crc"]) == zlib.crc32(CHUNK.body)
    assert (first[b"seq"], second[b"seq"], second[b"lo"], second[b"hi"]) == (b"0", b"2", b"1", b"2")
    assert int(second[b"at"]) == done.arrival_ms
    assert done.ids == (entry_id.decode(),)
    assert door(any_server) == {
        "received": "4", "stored": "4", "duplicate": "0", "rejected": "0", "undeclared": "0",
        "bytes": str(2 * len(CHUNK.body)), "max_seen_ms": "2", "max_ts_ms": "2",
        "last_arrival_ms": str(done.arrival_ms), "last_id": done.ids[0],
    }  # fmt: skip


def test_no_event_moves_the_doors_time_past_its_arrival(server: RunningServer) -> None:
    done = append(Scripts(server.client), "s", 0, step(Chunk(b"{}", 1, 4 * 10**12, 4 * 10**12)))
    assert door(server)["max_seen_ms"] == str(done.arrival_ms)
    assert door(server)["max_ts_ms"] == str(4 * 10**12)


def test_without_event_time_the_arrival_stands_for_it(server: RunningServer) -> None:
    done = append(Scripts(server.client), "s", 0, step(Chunk(b"{}", 1, None, None)))
    ((_, fields),) = entries(server)
    assert int(fields[b"lo"]) == int(fields[b"hi"]) == done.arrival_ms == int(door(server)["max_ts_ms"])


def test_a_row_entry_is_its_fields_and_nothing_else(server: RunningServer) -> None:
    append(Scripts(server.client), "s", 0, step(RowEntry({"ts": b"5", "name": b"a\0b"}, 5)))
    ((_, fields),) = entries(server)
    assert fields == {b"ts": b"5", b"name": b"a\0b"}
    assert door(server)["max_seen_ms"] == "5"


def test_times_before_1970_are_kept_exactly(server: RunningServer) -> None:
    append(Scripts(server.client), "s", 0, step(Chunk(b"{}", 1, -62_135_596_800_000, -5)))
    ((_, fields),) = entries(server)
    assert (fields[b"lo"], fields[b"hi"]) == (b"-62135596800000", b"-5")
    assert door(server)["max_seen_ms"] == "-5"


def test_a_known_key_counts_duplicates_and_writes_nothing(any_server: RunningServer) -> None:
    scripts = Scripts(any_server.client)
    first = append(scripts, "s", 0, step(CHUNK, refusals=(BAD,)), KEY)
    again = append(scripts, "s", 0, step(CHUNK, refusals=(BAD,)), KEY)
    assert (first.known, again.known) == (False, True)
    assert (again.ids, again.arrival_ms, again.judged_ms) == (first.ids, first.arrival_ms, 1_000)
    assert len(entries(any_server)) == any_server.client.xlen(keys.quarantine("s", 0)) == 1
    assert ledger(any_server) == (6, 2, 2, 2)


def test_a_key_with_another_body_is_a_conflict_and_counts_nothing(server: RunningServer) -> None:
    scripts = Scripts(server.client)
    append(scripts, "s", 0, step(CHUNK), KEY)
    before = door(server)
    with pytest.raises(BadRequestError) as caught:
        append(scripts, "s", 0, step(CHUNK), IdempotencyKey("order-1", "beef"))
    assert caught.value.status == 409
    assert door(server) == before
    assert len(entries(server)) == 1


def test_a_key_is_remembered_where_nothing_was_written(server: RunningServer) -> None:
    scripts = Scripts(server.client)
    append(scripts, "s", 0, step(), KEY)
    assert append(scripts, "s", 0, step(), KEY).known
    assert ledger(server) == (0, 0, 0, 0)


def test_old_records_go_a_few_at_a_time(server: RunningServer) -> None:
    old = {f"k{n}": n for n in range(40)}  # arrived in 1970
    server.client.zadd(keys.idem_times("s", 0), old)
    server.client.hset(keys.idem("s", 0), mapping=dict.fromkeys(old, "x 1 1 "))
    append(Scripts(server.client), "s", 0, step(CHUNK), KEY)
    assert server.client.zcard(keys.idem_times("s", 0)) == server.client.hlen(keys.idem("s", 0)) == 40 + 1 - 16
    assert server.client.hexists(keys.idem("s", 0), KEY.key)


def test_refused_rows_are_quarantined_with_bounded_bytes(server: RunningServer) -> None:
    long = Refusal(8, None, "too_large", "the row is long", b"x" * (QUARANTINED_BYTES + 1))
    append(Scripts(server.client), "s", 0, step(refusals=(BAD, long)))
    (_, first), (_, second) = entries(server, keys.quarantine("s", 0))
    assert first == {
        b"reason": b"ts: not a time",
        b"code": b"bad_time",
        b"field": b"ts",
        b"index": b"7",
        b"body": BAD.body,
    }
    assert second[b"body"] == long.body[:QUARANTINED_BYTES]
    assert ledger(server) == (2, 0, 0, 2)
    assert "last_id" not in door(server)


def test_the_door_waits_behind_rows_that_came_past_it(server: RunningServer) -> None:
    scripts = Scripts(server.client)
    first = append(scripts, "s", 0, step(CHUNK))
    server.client.xadd(keys.raw("s", 0), {"ts": "9"})
    append(scripts, "s", 0, step(CHUNK))
    assert door(server)["last_id"] == first.ids[0]


@pytest.mark.parametrize("of", [keys.raw, keys.door, keys.idem, keys.idem_times, keys.quarantine])
def test_a_key_of_another_type_is_found_before_anything_is_written(server: RunningServer, of: Any) -> None:
    server.client.set(of("s", 0), "mine")
    with pytest.raises(StreamgaugeError, match=of("s", 0)):
        append(Scripts(server.client), "s", 0, step(CHUNK, refusals=(BAD,)), KEY)
    assert server.client.keys() == [of("s", 0).encode()]


BAD_ARGUMENTS = [
    ["", "", "1", "1", "0", "1", "0", "chunk", "1", "nan", "2", "3", "", "", "ndjson", "{}"],
    ["", "", "1", "1", "0", "1", "0", "chunk", "0x1", "1", "2", "3", "", "", "ndjson", "{}"],
    ["", "", "1", "2", "0", "1", "0", "chunk", "1", "1", "2", "3", "", "", "ndjson", "{}"],
    ["", "", "1", "1", "0", "1", "0", "chunk", "1", "1", "2", "3", "", "", "nd json", "{}"],
    ["", "", "1", "1", "0", "1", "0", "chunk", "1", "1", "2", "3", "", "", "ndjson"],
    ["", "", "1", "1", "0", "1", "0", "chunk", "1", "1", "2", "3"],
    ["", "", "1", "1", "0", "1", "0", "row", "1", "0"],
    ["", "", "1", "0", "0", "0", "1", "reason"],
    ["", "", " 5 ", "0", "0", "0", "0"],
]


@pytest.mark.parametrize("args", BAD_ARGUMENTS)
def test_arguments_that_do_not_parse_write_nothing(server: RunningServer, args: list[str]) -> None:
    names = [of("s", 0) for of in (keys.raw, keys.door, keys.idem, keys.idem_times, keys.quarantine)]
    with pytest.raises(redis.ResponseError, match=r"append\.lua"):
        Scripts(server.client).run("append", keys=names, args=args)
    assert server.client.keys() == []


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_chunk_is_stored_under_the_coding_it_names(server: RunningServer, compression: Any) -> None:
    plain = Chunk(b"\n".join([b'{"ts":1}'] * 100), 100, 1, 1)
    packed = plain.compressed(compression)
    append(Scripts(server.client), "s", 0, step(packed))
    ((_, fields),) = entries(server, keys.raw("s", 0))
    assert fields[b"coding"] == b"ndjson+" + compression.encode()
    assert len(fields[b"body"]) < len(plain.body) / 4
    assert unpack_rows(fields[b"body"], fields[b"coding"]) == plain.body
    assert server.client.hget(keys.door("s", 0), "bytes") == b"%d" % len(packed.body)


def test_a_full_server_refuses_the_whole_step(throwaway_server: RunningServer) -> None:
    throwaway_server.client.config_set("maxmemory", "1mb")
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        append(Scripts(throwaway_server.client), "s", 0, step(CHUNK, refusals=(BAD,)), KEY)
    assert throwaway_server.client.keys() == []


def test_chunks_are_cut_by_rows_and_by_bytes_and_lose_nothing() -> None:
    rows = [b'{"n":%d}' % n for n in range(2 * CHUNK_ROWS + 1)]
    cut = list(chunks(b"\n".join(rows), len(rows), None))
    assert [chunk.n for chunk in cut] == [CHUNK_ROWS, CHUNK_ROWS, 1]
    assert b"\n".join(chunk.body for chunk in cut) == b"\n".join(rows)
    wide = [b"x" * 999_999] * 9
    cut = list(chunks(b"\n".join(wide), 9, None))
    assert [chunk.n for chunk in cut] == [4, 4, 1]
    assert max(len(chunk.body) for chunk in cut) <= CHUNK_BYTES
    assert list(chunks(b"", 0, None)) == []


def test_partition_keys_are_text_whatever_their_type() -> None:
    assert partition_of("user-1", 4) == zlib.crc32(b"user-1") % 4
    assert partition_of(17, 1000) == zlib.crc32(b"17") % 1000
    assert partition_of(True, 1000) == zlib.crc32(b"true") % 1000
    assert partition_of(None, 1000) == 0
    assert partition_of("é", 1000) == zlib.crc32("é".encode()) % 1000


def test_old_data_is_stored_as_such_and_moves_no_time(any_server: RunningServer) -> None:
    scripts = Scripts(any_server.client)
    old = Step([CHUNK], [], 0, 1_000, backfill=True)

    first = append(scripts, "s", 0, old)
    assert "max_seen_ms" not in door(any_server)
    live = append(scripts, "s", 0, step(Chunk(b'{"ts":1}', 1, 1, 1)))
    append(scripts, "s", 0, Step([Chunk(b'{"ts":9}', 1, 9, 9)], [], 0, 1_000, backfill=True))

    found = door(any_server)
    assert (found["max_seen_ms"], found["max_ts_ms"], found["last_arrival_ms"]) == ("1", "9", str(live.arrival_ms))
    assert int(found["last_backfill_ms"]) >= first.arrival_ms
    assert ledger(any_server) == (4, 4, 0, 0)
    assert [fields.get(b"mode") for _, fields in entries(any_server)] == [b"backfill", None, b"backfill"]


def replayed(origins: tuple[str, ...], request: str, *, again: bool = False) -> Step:
    return Step([CHUNK], [], 0, 1_000, backfill=True, replay=StageReplay("m@1", origins, request, again))


def test_rows_put_aside_are_replayed_once_by_their_origins(any_server: RunningServer) -> None:
    scripts = Scripts(any_server.client)
    append(scripts, "s", 0, replayed(("5-0 1", "5-0 2"), "a"))

    for step_again in (
        replayed(("5-0 2",), "a"),
        replayed(("5-0 3", "5-0 1"), "b"),
        replayed(("5-0 1",), "a", again=True),
    ):
        with pytest.raises(AlreadyReplayedError):
            append(scripts, "s", 0, step_again)
    append(scripts, "s", 0, replayed(("5-0 1",), "b", again=True))

    marks = parse_hash(any_server.client.hgetall(keys.replayed("s", 0, "m@1")))
    assert marks == {b"5-0 1": b"b", b"5-0 2": b"a"}
    assert [fields[b"only"] for _, fields in entries(any_server)] == [b"m@1", b"m@1"]
