"""A body stored as columns reads to what the same rows read to: values, nulls, times, order and partition."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.core import texts as text_columns
from pipeline.core.codings import COLUMN_CODINGS
from pipeline.core.definitions import Field, Stream, TimePolicy
from pipeline.core.entries import Chunk
from pipeline.core.events import Reader
from pipeline.core.packing import WORTH_ROWS as SMALL_ROWS
from pipeline.core.partitioning import CHUNK_BYTES, CHUNK_ROWS
from pipeline.core.partitioning import Chunk as Posted
from pipeline.core.texts import codes, viewed
from pipeline.core.texts import packed as packed_texts
from pipeline.core.validation import Validator

pytestmark = pytest.mark.skipif(not text_columns.IS_BUILT, reason="the native parts are not built: no C compiler")

NOW_MS = 1_800_000_000_000
FIELDS = (
    Field("ts", "timestamp", unit="ms"),
    Field("user", "string"),
    Field("kind", "string", nullable=True),
    Field("note", "string", nullable=True),
    Field("count", "int", nullable=True),
    Field("value", "float", nullable=True),
    Field("ok", "bool", nullable=True),
    Field("seen", "timestamp", nullable=True, unit="s"),
)
NAMES = [field.name for field in FIELDS]
STREAM = Stream("events", FIELDS, TimePolicy("ts"), partitions=1)
KEYED = replace(STREAM, partitions=5, partition_by="user")


def rows_of(chance: Random, n: int) -> Iterator[dict[str, Any]]:
    users, as_text = chance.choice([1, 7, 400, 10**9]), chance.random() < 0.5
    for _ in range(n):
        moment = chance.randrange(10**9, 2 * 10**9)
        row = {
            "ts": NOW_MS - chance.randrange(10**9),
            "user": f"user-{chance.randrange(users)}" + "é" * chance.randrange(3),
            "kind": chance.choice(["view", "a longer kind of event, with a \\ and \n in it", "", None]),
            "note": "x" * chance.randrange(40) + str(chance.random()),
            "count": chance.choice([None, chance.randrange(-(10**17), 10**17)]),
            "value": chance.choice([None, chance.gauss(0, 1e6), 0.0, 21]),
            "ok": chance.choice([True, False, None]),
            "seen": f"2024-05-17T10:05:{moment % 60:02}.123456Z" if as_text else moment,
        }
        yield {name: value for name, value in row.items() if value is not None or chance.random() < 0.5}


def body_of(rows: Iterator[dict[str, Any]], chance: Random) -> bytes:
    return "\n".join(json.dumps(row, ensure_ascii=chance.random() < 0.5) for row in rows).encode()


def entry(chunk: Posted) -> Chunk:
    return Chunk(b"1-0", chunk.n, 0, crc32(chunk.body), NOW_MS, chunk.coding, chunk.body)


def read(stream: Stream, chunks: list[Posted]) -> tuple[pl.DataFrame, list[int]]:
    reader = Reader(stream, NAMES)
    arrivals_ms = np.full(sum(chunk.n for chunk in chunks), NOW_MS)
    frame, times_ms = reader.joined([reader.events(entry(chunk)) for chunk in chunks], arrivals_ms)
    return frame, times_ms.tolist()


def as_rows(stream: Stream, body: bytes, monkeypatch: pytest.MonkeyPatch) -> dict[int, list[Posted]]:
    """How the body is shared out where nothing is packed."""
    with monkeypatch.context() as patch:
        patch.setattr(text_columns, "IS_BUILT", False)
        return Validator(stream).check(body, kind="ndjson", now_ms=NOW_MS).shares(stream, 0)


@pytest.mark.parametrize("stream", [STREAM, KEYED], ids=["spread", "keyed"])
@pytest.mark.parametrize("seed", range(25))
def test_what_is_packed_reads_as_its_rows_do(seed: int, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(seed)
    stream = replace(stream, compression=chance.choice(["none", "lz4", "zstd"]))
    body = body_of(rows_of(chance, chance.randrange(SMALL_ROWS, 5_000)), chance)
    packed = Validator(stream).check(body, kind="ndjson", now_ms=NOW_MS).shares(stream, 0)
    plain = as_rows(stream, body, monkeypatch)

    assert packed.keys() == plain.keys()
    for partition, chunks in packed.items():
        large = sum(chunk.n for chunk in chunks) >= SMALL_ROWS
        assert {chunk.coding in COLUMN_CODINGS for chunk in chunks} == {large}
        assert (chunks[0].lo_ms, chunks[0].hi_ms) == (plain[partition][0].lo_ms, plain[partition][0].hi_ms)
        frame, times_ms = read(stream, chunks)
        expected, expected_ms = read(stream, plain[partition])
        assert times_ms == expected_ms
        assert_frame_equal(frame, expected, check_exact=True)


@pytest.mark.parametrize("seed", range(5))
def test_the_rows_that_a_chunk_is_shown_as_are_taken_as_the_same_rows(seed: int) -> None:
    chance = Random(seed)
    body = body_of(rows_of(chance, 1_000), chance)
    [chunk] = Validator(STREAM).check(body, kind="ndjson", now_ms=NOW_MS).shares(STREAM, 0)[0]
    reader = Reader(STREAM, NAMES)
    rows = reader.stored_rows(chunk.body, chunk.coding, chunk.n)
    chosen = [chance.randrange(1_000) for _ in range(50)]

    assert reader.stored_rows(chunk.body, chunk.coding, chunk.n, chosen) == [rows[row] for row in chosen]
    again = Validator(STREAM).check(b"\n".join(rows), kind="ndjson", now_ms=NOW_MS).shares(STREAM, 0)[0]
    frame, times_ms = read(STREAM, [chunk])
    found, found_ms = read(STREAM, again)
    assert found_ms == times_ms
    assert_frame_equal(found, frame, check_exact=True)


def test_undeclared_fields_and_refused_rows_keep_a_body_as_it_came() -> None:
    rows = [b'{"ts":%d,"user":"u"}' % (NOW_MS - n) for n in range(SMALL_ROWS)]
    for odd in (b'{"ts":1,"user":"u","more":1}', b'{"ts":1}', b'{"ts":1,"user":"u","count":1e3}'):
        checked = Validator(STREAM).check(b"\n".join([*rows, odd]), kind="ndjson", now_ms=NOW_MS)
        [chunk] = checked.shares(STREAM, 0)[0]
        assert chunk.coding == b"ndjson", odd
        assert chunk.n == checked.n_good >= SMALL_ROWS


def test_chunks_keep_to_their_rows_and_bytes() -> None:
    long = b"\n".join(b'{"ts":%d,"user":"%b"}' % (NOW_MS, b"%d" % n * 3_000) for n in range(1_000))
    many = b"\n".join(b'{"ts":%d,"user":"%d"}' % (NOW_MS, n) for n in range(2 * CHUNK_ROWS + 5))
    for body, n in ((long, 1_000), (many, 2 * CHUNK_ROWS + 5)):
        chunks = Validator(STREAM).check(body, kind="ndjson", now_ms=NOW_MS).shares(STREAM, 0)[0]
        assert len(chunks) > 2
        assert sum(chunk.n for chunk in chunks) == n
        assert all(chunk.n <= CHUNK_ROWS and len(chunk.body) <= CHUNK_BYTES + 10_000 for chunk in chunks)
        assert read(STREAM, chunks)[0]["user"].to_list() == [json.loads(line)["user"] for line in body.splitlines()]


@pytest.mark.parametrize("n_chunks", [64, 65, 256])
def test_a_read_of_many_small_chunks_is_one_frame_whose_texts_are_told_apart(n_chunks: int) -> None:
    """Each chunk brings a buffer of texts of its own; a read of more than 64 of them ended the worker."""
    notes = [f"a note long enough to stand outside of its view, {n % 1_000}" for n in range(SMALL_ROWS * n_chunks)]
    lines = [b'{"ts":%d,"user":"u","note":"%b"}' % (NOW_MS, note.encode()) for note in notes]
    chunks = []
    for first in range(0, len(lines), SMALL_ROWS):
        body = b"\n".join(lines[first : first + SMALL_ROWS])
        chunks += Validator(STREAM).check(body, kind="ndjson", now_ms=NOW_MS).shares(STREAM, 0)[0]
    assert len(chunks) == n_chunks
    assert {chunk.coding for chunk in chunks} == {b"arrow"}

    frame, _ = read(STREAM, chunks)
    numbers, firsts = codes(frame["note"])

    assert frame["note"].to_list() == notes
    assert numbers.tolist() == [n % 1_000 for n in range(len(notes))]
    assert firsts.tolist() == list(range(1_000))


# --- _texts.pack


def views_of(texts: list[str | None]) -> Any:
    return pl.Series(texts, dtype=pl.String).to_arrow(compat_level=pl.CompatLevel.newest())


@pytest.mark.parametrize("distinct", [1, 2, 255, 256, 257, 5_000, 65_536, 65_537, 10**9])
def test_any_number_of_distinct_texts_comes_back(distinct: int) -> None:
    chance = Random(distinct)
    n = 150_000
    texts = [f"{chance.randrange(distinct):x}" * chance.choice([1, 1, 9]) for _ in range(n)]
    places = np.array([chance.randrange(n) for _ in range(2_000)], dtype=np.int64)

    packed = packed_texts(views_of(list(texts)), None, 0, n)
    assert packed.to_pylist() == texts
    assert pl.Series(viewed(packed), dtype=pl.String).to_list() == texts
    assert packed_texts(views_of(list(texts)), places, 7, 1_500).to_pylist() == [texts[at] for at in places[7:1_507]]


@pytest.mark.parametrize("length", range(40))
def test_texts_that_differ_in_one_byte_are_told_apart(length: int) -> None:
    texts = ["a" * at + "b" + "a" * (length - at) for at in range(length + 1)] + ["a" * (length + 1), ""]
    chance = Random(length)
    column = [chance.choice(texts) for _ in range(3_000)]
    packed = packed_texts(views_of(list(column)), None, 0, len(column))
    assert packed.to_pylist() == column
    assert len(packed.dictionary) == len(set(column))


@pytest.mark.parametrize("texts", [[], [None], [None] * 300, ["", None, ""] * 200, ["é", None, "x" * 99] * 200])
def test_nulls_and_empty_texts_stay_what_they_are(texts: list[str | None]) -> None:
    packed = packed_texts(views_of(texts), None, 0, len(texts))
    packed.validate(full=True)
    assert packed.to_pylist() == texts
    assert packed.null_count == texts.count(None)
    again = viewed(packed)
    again.validate(full=True)
    assert pl.Series(again, dtype=pl.String).to_list() == texts


@pytest.mark.parametrize("seed", range(20))
def test_a_text_has_one_number_wherever_it_stands(seed: int) -> None:
    chance = Random(seed)
    some = [None, "", "a", "b", "é" * 7, *(f"text {n}, which is longer" for n in range(chance.randrange(2_000)))]
    column = pl.Series([chance.choice(some) for _ in range(3_000)], dtype=pl.String)[chance.randrange(9) :]
    numbers, firsts = codes(column)

    expected: dict[str, int] = {}
    for value in column.drop_nulls():
        expected.setdefault(value, len(expected))
    assert numbers.tolist() == [-1 if value is None else expected[value] for value in column]
    assert column.gather(firsts).to_list() == list(expected)


def test_a_view_that_points_nowhere_and_rows_that_are_not_there_are_errors() -> None:
    from pipeline.core import _texts

    views = b"".join(n.to_bytes(4, "little") for n in (13, 0, 0, 1))
    with pytest.raises(ValueError, match="outside of its texts"):
        _texts.pack(views, [b"only 13 bytes"], None, None, 0, 1)
    with pytest.raises(ValueError, match="outside of its texts"):
        _texts.pack(views, [], None, None, 0, 1)
    for places, first, count in ((None, 0, 2), (None, -1, 1), (np.array([1]), 0, 1), (np.array([-1]), 0, 1)):
        with pytest.raises(ValueError, match="outside of the column"):
            _texts.pack(bytes(16), [], None, places, first, count)
    with pytest.raises(TypeError):
        _texts.pack(bytes(16), [b"", None], None, None, 0, 1)
    with pytest.raises(ValueError, match="outside of its texts"):
        _texts.codes(views, [b"only 13 bytes"], None, 1)
    with pytest.raises(ValueError, match="outside of the column"):
        _texts.codes(views, [b"14 bytes, which"], None, 2)


@pytest.mark.parametrize(
    ("offsets", "indices", "width", "count", "message"),
    [
        ([0, 3], None, 0, 2, "do not hold so many"),
        ([], None, 0, 1, "do not hold so many"),
        ([0, 3], b"\0", 3, 1, "do not hold so many"),
        ([0, 3], b"\0", 1, 2, "do not hold so many"),
        ([0, 3], None, 0, -1, "do not hold so many"),
        ([0, 4], None, 0, 1, "points outside"),
        ([-1, 3], None, 0, 1, "points outside"),
        ([2, 1], None, 0, 1, "points outside"),
        ([0, 3], b"\1", 1, 1, "points outside"),
        ([0, 3], b"\0\1", 2, 1, "points outside"),
    ],
)
def test_offsets_and_indices_are_checked(
    offsets: list[int], indices: bytes | None, width: int, count: int, message: str
) -> None:
    from pipeline.core import _texts

    with pytest.raises(ValueError, match=message):
        _texts.views(np.array(offsets, dtype=np.int32), b"abc", indices, width, count)
