"""Chunks of columns read natively: the values that pyarrow reads, and None for whatever pyarrow has to judge."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

from pipeline.core import arrow_chunks, packing, stored_chunks
from pipeline.core.arrow_columns import plain_text, stored_type
from pipeline.core.definitions import Field
from pipeline.core.events import Reader
from pipeline.core.native import NativeReader
from pipeline.core.partitioning import Chunk as Posted
from pipeline.core.schema import fields_of
from pipeline.core.stored_chunks import ChunkReader
from tests.laws.test_packing import NAMES, STREAM, body_of, entry, rows_of

pytestmark = pytest.mark.skipif(not stored_chunks.IS_BUILT, reason="the native parts are not built: no C compiler")

FIELDS = fields_of(STREAM)
N_DAMAGED = 1_500


def packed(chance: Random, n: int) -> tuple[bytes, int]:
    native = NativeReader.of(STREAM, NAMES)
    assert native is not None, "no field is a list"
    rows = native.read(body_of(rows_of(chance, n), chance))
    assert rows is not None, "bodies of the tests are what the door reads natively"
    [chunk] = packing.packed_chunks(STREAM, rows, None)
    return chunk.body, chunk.n


def reader() -> ChunkReader:
    found = ChunkReader.of(FIELDS)
    assert found is not None, "no field is a list"
    return found


def values(columns: dict[str, Any]) -> dict[str, list[Any]]:
    plain = {
        name: column
        if pa.types.is_timestamp(column.type) or column.type in (pa.int64(), pa.float64(), pa.bool_())
        else plain_text(column)
        for name, column in columns.items()
    }
    return {name: (c.view(pa.int64()) if pa.types.is_timestamp(c.type) else c).to_pylist() for name, c in plain.items()}


def by_pyarrow(body: bytes, n: int) -> dict[str, list[Any]]:
    return values(arrow_chunks.decode(STREAM, FIELDS, body, n))


@pytest.mark.parametrize("seed", range(6))
def test_many_chunks_are_one_after_the_other(seed: int) -> None:
    chance = Random(seed)
    chunks = [packed(chance, n) for n in (1, 300, 7, 2_000)]
    bodies, counts = [body for body, _ in chunks], [n for _, n in chunks]

    columns = reader().columns(bodies, counts)

    assert columns is not None
    each = [by_pyarrow(body, n) for body, n in chunks]
    assert values(columns) == {field.name: [v for found in each for v in found[field.name]] for field in FIELDS}


def test_chosen_rows_are_the_same_rows() -> None:
    body, n = packed(Random(1), 2_000)
    rows = [0, n - 1, 17, 17, 1_000]

    found = reader().rows(body, n, rows)

    whole = by_pyarrow(body, n)
    assert found == [[whole[field.name][row] for row in rows] for field in FIELDS]
    assert reader().rows(body, n, [n]) is None, "there is no such row"


def test_a_damaged_body_is_read_as_pyarrow_reads_it_or_left_to_it() -> None:
    """The first of each are whole; of the others some still read, by both, to the same values."""
    chance = Random(20)
    bodies = [packed(chance, n) for n in (1, 3, 9, 300)]
    read = left = 0
    for number in range(N_DAMAGED):
        body, n = bodies[number % len(bodies)]
        damaged = body if number < len(bodies) else damage(body, chance)

        columns = reader().columns([damaged], [n])

        if columns is None:
            left += 1
            assert number >= len(bodies), "a whole body is read natively"
            continue
        read += 1
        expected = by_pyarrow(damaged, n)  # which raises for what may not be read
        assert values(columns) == expected
        chosen = reader().rows(damaged, n, [0, n - 1])
        assert chosen == [[expected[field.name][row] for row in (0, n - 1)] for field in FIELDS]
    assert read > 100
    assert left > 100


def damage(body: bytes, chance: Random) -> bytes:
    found = bytearray(body)
    for _ in range(chance.choice([1, 1, 2, 4])):
        at = chance.randrange(min(len(found), chance.choice([200, 1_500, 3_000, len(found)])))
        match chance.randrange(5):
            case 0:
                del found[at : at + chance.choice([1, 4, 8, 64])]
            case 1:
                found[at] ^= 1 << chance.randrange(8)
            case _:
                found[at] = chance.choice([0, 1, 2, 4, 8, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    return bytes(found)


def test_what_is_stored_otherwise_is_left_to_pyarrow() -> None:
    plain = {field.name: pa.array([None], stored_type(field)) for field in FIELDS}
    whole = plain | {"ts": pa.array([1], pa.timestamp("ms")), "user": pa.array(["a"])}
    cases = {
        "compressed": (whole, "zstd"),
        "a null where there may be none": (whole | {"user": plain["user"]}, "none"),
        "another type": (whole | {"count": pa.array([1], pa.int32())}, "none"),
        "a required field is missing": ({n: c for n, c in whole.items() if n != "user"}, "none"),
        "a number that is none": (whole | {"value": pa.array([float("nan")])}, "none"),
        "a time beyond the years": (whole | {"ts": pa.array([2**60], pa.timestamp("ms"))}, "none"),
    }
    assert reader().columns([arrow_chunks.encode(pa.record_batch(whole), "none")], [1]) is not None
    for case, (columns, compression) in cases.items():
        body = arrow_chunks.encode(pa.record_batch(columns), compression)  # type: ignore[arg-type]
        assert reader().columns([body], [1]) is None, case
    body, n = packed(Random(1), 9)
    assert reader().columns([body], [n + 1]) is None, "another number of rows than the header says"
    assert reader().columns([body + b"\0" * 8], [n]) is None, "bytes behind the end"
    assert reader().columns([body, b""], [n, 0]) is None, "one of them is nothing"


def test_a_field_that_was_declared_later_is_null() -> None:
    body, n = packed(Random(1), 300)
    later = (*FIELDS, Field("later", "string", nullable=True), Field("size", "int", nullable=True))
    found = ChunkReader.of(later)
    assert found is not None
    columns = found.columns([body, body], [n, n])
    assert columns is not None
    assert columns["later"].null_count == columns["size"].null_count == 2 * n
    assert [column[0] for column in found.rows(body, n, [0]) or []][-2:] == [None, None]


def test_a_list_is_no_native_field() -> None:
    assert ChunkReader.of([Field("tags", "list", item="string")]) is None
    lists = replace(STREAM, fields=(*STREAM.fields, Field("tags", "list", nullable=True, item="string")))
    batch = pa.record_batch({f.name: pa.array([None], stored_type(f)) for f in lists.fields if f.item})
    assert reader().columns([arrow_chunks.encode(batch, "none")], [1]) is None


def test_a_reader_gives_the_same_frame_with_and_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = Random(5)
    chunks = [entry(chunk) for chunk in _posted(chance)]
    for names in (NAMES, ["kind"], []):
        with monkeypatch.context() as without:
            without.setattr(stored_chunks, "IS_BUILT", False)
            pure = Reader(STREAM, names)
        native = Reader(STREAM, names)
        together = native.together(chunks)
        assert together is not None
        assert pure.together(chunks) is None
        arrivals_ms = np.zeros(len(together), dtype=np.int64)
        frame, times_ms = native.joined([together], arrivals_ms)
        expected, expected_ms = pure.joined([pure.events(chunk) for chunk in chunks], arrivals_ms)
        assert_frame_equal(frame, expected)
        assert times_ms.tolist() == expected_ms.tolist()
        rows = [3, 1, 2]
        for chunk in chunks:
            assert native.stored_rows(chunk.body, chunk.coding, chunk.n, rows) == pure.stored_rows(
                chunk.body, chunk.coding, chunk.n, rows
            )
    assert isinstance(frame, pl.DataFrame)


def _posted(chance: Random) -> list[Posted]:
    native = NativeReader.of(STREAM, NAMES)
    assert native is not None
    bodies = [native.read(body_of(rows_of(chance, n), chance)) for n in (400, 30, 1_600)]
    return [chunk for rows in bodies if rows is not None for chunk in packing.packed_chunks(STREAM, rows, None)]
