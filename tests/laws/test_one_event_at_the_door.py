"""A row that the door takes by itself is what the whole door would have made of it, byte for byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.core.definitions import Dedup, Field, Stream, TimePolicy
from pipeline.core.one_event import OneEventReader
from pipeline.core.validation import Validator
from tests.laws.ndjson_bodies import FIELDS, STREAM, Bodies

NOW_MS = 1_800_000_000_000
BODIES = 300
TIMES = (
    *(b"1799999999999", b"1800000000", b"1800000300000", b"1800000300001", b"1799999940000", b"1799999939999"),
    *(b"1799999999.5", b'"2027-01-15T07:59:59Z"', b'"2027-01-15T08:59:59+01:00"', b'"2027-01-15T07:59:59"'),
    *(b'"yesterday"', b"true", b"null", b"1e30", b"-1", b"9223372036854775808", b"1799999999999999999"),
)


def by_name(name: str, kind: Any, **more: Any) -> Stream:
    """A stream that is partitioned by a field of any type."""
    others = tuple(field for field in FIELDS if field.name != name)
    return replace(STREAM, fields=(*others, Field(name, kind, **more)), partition_by=name)


STREAMS = {
    "by text": STREAM,
    "spread": replace(STREAM, partition_by=None),
    "closed": replace(STREAM, extra="refuse"),
    "packed": replace(STREAM, compression="zstd"),
    "no time": replace(STREAM, time=TimePolicy(None)),
    "by number": replace(STREAM, partition_by="count"),
    "by a number that may be missing": replace(STREAM, partition_by="value"),
    "by time": replace(STREAM, partition_by="seen"),
    "by truth": replace(STREAM, partition_by="ok"),
    "young": replace(STREAM, time=replace(STREAM.time, max_age_ms=60_000)),
    "in its own zone": by_name("ts", "timestamp", unit="auto", zone="Europe/Paris"),
}


def assert_alike(stream: Stream, body: bytes) -> bool:
    """True where the row was taken by itself: then the whole door takes it, and stores the same."""
    validator = Validator(stream)
    reader = OneEventReader.of(validator)
    assert reader is not None
    event = reader.read(body, NOW_MS)
    if event is None:
        return False
    checked = validator.check(body, kind="json", now_ms=NOW_MS)
    assert (checked.n_received, checked.refusals, checked.undeclared) == (1, [], int(event.undeclared)), body
    [(partition, [chunk])] = checked.shares(stream, 0).items()
    assert event.chunk == chunk, body
    assert (event.owner or 0, event.chunk.hi_ms) == (partition, checked.newest_ms), body
    return True


@pytest.mark.parametrize("name", [name for name in STREAMS if name != "young"])
def test_a_row_is_taken_as_the_whole_door_takes_it(name: str) -> None:
    bodies = Bodies(seed=1 + list(STREAMS).index(name), oddness=0.15)
    rows = [row for _ in range(BODIES) for row in bodies.body().split(b"\n")]

    taken = sum(assert_alike(STREAMS[name], row + b"\n") for row in rows)

    assert taken > len(rows) // 10, "many rows are good, and taken"


@pytest.mark.parametrize("name", ["by text", "young", "in its own zone"])
def test_a_time_is_read_as_the_whole_door_reads_it(name: str) -> None:
    taken = [time for time in TIMES if assert_alike(STREAMS[name], b'{"name": "a", "count": 1, "ts": %s}' % time)]

    assert b"1799999999999" in taken
    assert b'"yesterday"' not in taken


@pytest.mark.parametrize("body", [b"", b"[]", b'{"ts": 1}\n{"ts": 2}', b'{"ts":\n1}', b"\xef\xbb\xbf{}", b"{}{}", b"1"])
def test_what_is_no_row_on_one_line_is_left_to_the_whole_door(body: bytes) -> None:
    assert not assert_alike(replace(STREAM, fields=FIELDS[:1], partition_by=None), body)


def test_rows_that_are_looked_at_together_are_left_to_the_whole_door() -> None:
    listed = replace(STREAM, fields=(*FIELDS, Field("stops", "list", nullable=True, item="timestamp")))

    for stream in (listed, replace(STREAM, dedup=Dedup("name", 1_000))):
        assert OneEventReader.of(Validator(stream)) is None
