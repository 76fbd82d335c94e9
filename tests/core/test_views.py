"""Columns of string views as senders make them: what the quick look finds sound is so, what is stored is bounded."""

from __future__ import annotations

import struct
from random import Random
from typing import Any

import pyarrow as pa
import pytest

from pipeline.core import texts
from pipeline.core.arrow_chunks import chunks_of, decode, size_of
from pipeline.core.arrow_stream import DAMAGE
from pipeline.core.definitions import Field, Stream, TimePolicy
from pipeline.core.partitioning import CHUNK_BYTES

pytestmark = pytest.mark.skipif(not texts.IS_BUILT, reason="the native parts are not built: no C compiler")

STREAM = Stream("events", (Field("note", "string"),), TimePolicy(None))


def views_of(values: list[str | None]) -> Any:
    return pa.array(values, pa.string_view())


def mutated(column: Any, chance: Random) -> Any:
    """The same column with some bytes of some buffer changed; lengths and places are tried more often."""
    buffers = [None if each is None else bytearray(each.to_pybytes()) for each in column.buffers()]
    for _ in range(chance.randrange(1, 4)):
        buffer = chance.choice([each for each in buffers if each])
        at = chance.randrange(len(buffer)) & (~3 if chance.random() < 0.5 else ~0)
        buffer[at] = chance.choice([0, 1, 4, 12, 13, 127, 128, 255, chance.randrange(256)])
    nulls = chance.choice([column.null_count, -1, 0, 1])
    rest = [None if each is None else pa.py_buffer(bytes(each)) for each in buffers]
    return pa.Array.from_buffers(pa.string_view(), len(column), rest, nulls)


def is_sound(column: Any) -> bool:
    try:
        column.validate(full=True)
    except DAMAGE:
        return False
    return True


def test_what_the_quick_look_finds_sound_passes_the_full_validation() -> None:
    chance, seen = Random(7), [0, 0]
    for _ in range(4_000):
        lengths = [chance.choice([0, 1, 7, 8, 9, 11, 12, 13, 16, 40]) for _ in range(chance.randrange(1, 30))]
        column = views_of(["x" * length if chance.random() < 0.9 else None for length in lengths])
        assert texts.is_sound_ascii(column)
        try:
            broken = mutated(column, chance)  # which checks the sizes of buffers, as the reader of bodies does before
        except DAMAGE:
            continue
        found = texts.is_sound_ascii(broken)
        seen[found] += 1
        assert not found or is_sound(broken)
    assert min(seen) > 200, "both kinds were seen"


@pytest.mark.parametrize("text", ["é", "a text of more than twelve bytes, é"])
def test_what_is_not_ascii_is_left_to_arrow(text: str) -> None:
    assert not texts.is_sound_ascii(views_of(["a", text]))
    assert is_sound(views_of(["a", text]))


@pytest.mark.parametrize(("values", "size"), [([], 0), ([None], 0), (["a", None, "x" * 20, "é"], 23)])
def test_the_bytes_of_texts_are_added_up(values: list[str | None], size: int) -> None:
    assert texts.bytes_of(views_of(values)) == size


def test_texts_that_share_their_bytes_are_cut_into_chunks_by_what_each_row_has() -> None:
    # Given 4,000 rows of 4 kB each, which all lie in 8 kB
    n, length = 4_000, 4_000
    text = ("abcdefghij" * ((length + n) // 10 + 1)).encode()
    heads = b"".join(struct.pack("<i4sii", length, text[at : at + 4], 0, at) for at in range(n))
    column = pa.Array.from_buffers(pa.string_view(), n, [None, pa.py_buffer(heads), pa.py_buffer(text)])
    column.validate(full=True)
    batch = pa.record_batch({"note": column})
    assert size_of(batch) > 3 * CHUNK_BYTES

    chunks = list(chunks_of(STREAM, batch, None))

    assert sum(chunk.n for chunk in chunks) == n
    assert len(chunks) > 1
    first = decode(STREAM, STREAM.fields, chunks[0].body, chunks[0].n)["note"]
    whole = first.dictionary_decode() if hasattr(first, "dictionary_decode") else first
    assert whole.to_pylist() == column.slice(0, chunks[0].n).to_pylist()
