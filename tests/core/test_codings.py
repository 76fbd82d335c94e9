"""Bodies of rows packed and unpacked: exact, bounded whatever they say of themselves, and damage has a name."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from pipeline.core.codings import CODINGS, MAX_INFLATED_BYTES, CodingError, coding_of, known, pack_rows, unpack_rows

ROWS = b"\n".join(b'{"ts":%d,"name":"somebody"}' % number for number in range(1_000))


@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
def test_what_is_packed_is_unpacked_to_the_same_bytes(compression: Any) -> None:
    coding, body = pack_rows(ROWS, compression)

    assert coding == coding_of(b"ndjson", compression)
    assert len(body) < len(ROWS) / 2 or compression == "none"
    assert unpack_rows(body, coding) == ROWS


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_what_does_not_become_smaller_stays_plain(compression: Any) -> None:
    assert pack_rows(b"{}", compression) == (b"ndjson", b"{}")


def packed(size: int, rows: bytes = ROWS, codec: str = "zstd") -> bytes:
    frame: bytes = pa.Codec(codec).compress(rows, asbytes=True)
    return size.to_bytes(8, "little") + frame


WRONG: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "too few"),
    "too short for a size": (b"\1\2\3", "too few"),
    "no frame": (len(ROWS).to_bytes(8, "little") + b"x" * 100, "no zstd frame"),
    "cut": (packed(len(ROWS))[:-10], "no zstd frame"),
    "another codec": (packed(len(ROWS), codec="lz4"), "no zstd frame"),
    "it says too little": (packed(10), "more than 10 bytes"),
    "it says too much": (packed(len(ROWS) + 1), "it says"),
    "it says more than is inflated": (packed(MAX_INFLATED_BYTES + 1), "at most 16,000,000"),
    "a bomb that says so": (packed(10**9, b"\0" * 10**8), "at most 16,000,000"),
    "a bomb that does not": (packed(1_000, b"\0" * 10**8), "more than 1,000 bytes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_what_it_says_is_refused_in_bounded_memory(name: str) -> None:
    body, said = WRONG[name]
    before = pa.total_allocated_bytes()

    with pytest.raises(CodingError, match=said):
        unpack_rows(body, b"ndjson+zstd")
    assert pa.total_allocated_bytes() - before < 1_000_000


def test_columns_have_no_lines() -> None:
    with pytest.raises(CodingError, match="holds no lines"):
        unpack_rows(b"", b"arrow")
    assert known() == ", ".join(sorted(coding.decode() for coding in CODINGS))
