"""Rows that foreign clients XADD past the door: misplaced and too old ones are dead letters."""

from __future__ import annotations

import zlib

import pytest

from pipeline.core.batches import Batch, read_batch
from pipeline.core.definitions import Field, FieldType, Stream, TimePolicy
from pipeline.core.entries import Entry, parse_entry
from pipeline.core.events import Reader

PARTITIONS = 4
ARRIVAL_MS = 1_700_000_000_000


def stream_of(key_type: FieldType, partition_by: str | None = "key") -> Stream:
    fields = (Field("key", key_type), Field("value", "float"))
    return Stream("s", fields, TimePolicy(), partition_by=partition_by, partitions=PARTITIONS)


def row(number: int, key: str) -> Entry:
    return parse_entry(f"{ARRIVAL_MS}-{number}".encode(), {b"key": key.encode(), b"value": b"1.5"})


def read(stream: Stream, partition: int, *keys: str) -> Batch:
    """Read by a stage that does not need the key itself."""
    entries = [row(number, key) for number, key in enumerate(keys)]
    return read_batch(entries, Reader(stream, ["value"]), partition=partition, max_future_ms=0)


@pytest.mark.parametrize(("key_type", "text"), [("string", "Zürich"), ("int", "-7"), ("bool", "true")])
def test_a_row_counts_in_the_partition_of_its_key_and_in_no_other(key_type: FieldType, text: str) -> None:
    right = zlib.crc32(text.encode()) % PARTITIONS
    for partition in range(PARTITIONS):
        batch = read(stream_of(key_type), partition, text)
        assert len(batch.times_ms) == (partition == right)
        assert [dead.code for dead in batch.dead] == ["misplaced"] * (partition != right)
        assert batch.n_events == 1


def test_a_misplaced_row_is_named_with_the_place_it_belongs_to_and_the_others_go_on() -> None:
    keys = [f"k{number}" for number in range(20)]
    right = [key for key in keys if zlib.crc32(key.encode()) % PARTITIONS == 0]
    assert 0 < len(right) < len(keys)

    batch = read(stream_of("string"), 0, *keys)

    assert len(batch.times_ms) == len(right)
    assert batch.n_dead == len(keys) - len(right)
    stray = batch.dead[0]
    key = keys[int(stray.entry_id.partition(b"-")[2])]
    assert f"{{s.{zlib.crc32(key.encode()) % PARTITIONS}}}:raw" in stray.message
    assert stray.body == b'{"key":"%s","value":"1.5"}' % key.encode()


def test_a_misplaced_row_does_not_move_time() -> None:
    stray = next(key for key in map(str, range(100)) if zlib.crc32(key.encode()) % PARTITIONS != 0)
    assert read(stream_of("string"), 0, stray).prefix_watermarks(None, 0)[1] is None


def test_rows_of_a_stream_that_spreads_evenly_stand_anywhere() -> None:
    for partition in range(PARTITIONS):
        assert len(read(stream_of("string", partition_by=None), partition, "a", "b").times_ms) == 2


@pytest.mark.parametrize(("age_ms", "codes"), [(59_000, []), (64_000, []), (66_000, ["too_old"]), (10**9, ["too_old"])])
def test_a_row_older_than_max_age_is_dead_and_what_the_door_let_in_stays_in(age_ms: int, codes: list[str]) -> None:
    """The door's clock may be a second behind the row's arrival: at the edge the row counts."""
    fields = (Field("ts", "timestamp", unit="ms"),)
    stream = Stream("s", fields, TimePolicy("ts", max_age_ms=60_000), partitions=1)
    entry = parse_entry(f"{ARRIVAL_MS}-0".encode(), {b"ts": b"%d" % (ARRIVAL_MS - age_ms)})

    batch = read_batch([entry], Reader(stream, []), partition=0, max_future_ms=0)

    assert [dead.code for dead in batch.dead] == codes
    assert len(batch.times_ms) == 1 - len(codes)
