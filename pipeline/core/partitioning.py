"""Which partition an event belongs to, and how the good rows of a body are shared out.

Invariant: `crc32(key as UTF-8 text) mod partitions`, the same for the door and for whoever writes rows by XADD,
for ever: events of one key stay in one order only while this never changes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import numpy as np

from pipeline.core.codings import NDJSON, pack_rows
from pipeline.core.definitions import Compression
from pipeline.core.native import Owners
from pipeline.core.timestamps import Int64

# At most so much in one entry: a worker commits whole entries, and a commit has at most 10,000 cells (DESIGN 8.2).
CHUNK_ROWS = 10_000
CHUNK_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows for one entry: NDJSON, their number, and the least and greatest event time (None: no time field).

    `coding`: what the body is once it is written otherwise, see `codings`.
    """

    body: bytes
    n: int
    lo_ms: int | None
    hi_ms: int | None
    coding: bytes = NDJSON

    def compressed(self, compression: Compression) -> Chunk:
        """As it is stored under a stream's `compression`."""
        if compression == "none" or self.coding != NDJSON:
            return self
        coding, body = pack_rows(self.body, compression)
        return replace(self, body=body, coding=coding)


def key_text(key: Any) -> bytes:
    """A partition key as text: strings as they are, integers in decimal, true and false, nothing for null."""
    if isinstance(key, str):
        return key.encode()
    return b"" if key is None else msgspec.json.encode(key)


def partition_of(key: Any, partitions: int) -> int:
    return zlib.crc32(key_text(key)) % partitions


def chunks(body: bytes, n: int, times_ms: Int64 | None) -> Iterator[Chunk]:
    """Cut the rows of a body into chunks, in order."""
    if n <= CHUNK_ROWS and len(body) <= CHUNK_BYTES:
        if n:
            yield _chunk(body, n, times_ms)
        return
    lines = body.split(b"\n")
    for first, after in _cuts(lines):
        yield _chunk(b"\n".join(lines[first:after]), after - first, None if times_ms is None else times_ms[first:after])


def _cuts(lines: Sequence[bytes]) -> Iterator[tuple[int, int]]:
    first = size = 0
    for place, line in enumerate(lines):
        if place > first and (size + len(line) >= CHUNK_BYTES or place - first == CHUNK_ROWS):
            yield first, place
            first, size = place, 0
        size += len(line) + 1
    yield first, len(lines)


def _chunk(body: bytes, n: int, times_ms: Int64 | None) -> Chunk:
    if times_ms is None:
        return Chunk(body, n, None, None)
    return Chunk(body, n, int(times_ms.min()), int(times_ms.max()))


def owners_of(keys: Sequence[Any], partitions: int) -> Owners:
    """The partition of each key."""
    return np.array([partition_of(key, partitions) for key in keys], dtype=np.int32)
