"""A live session as its partition's hash holds it: absolute, one field a session.

field    FIRST ' ' JSON array of the group's values       1700000000000 ["ada"]
value    last int64, number of forebears uint32, (first int64, last int64) of each, the packed cell; little-endian
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.session_walk import Span

_HEADER = struct.Struct("<qI")
_SPAN = struct.Struct("<qq")


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A live session; `forebears` are (first, last) of earlier forms of it that may have been published."""

    group: bytes
    first: int
    last: int
    forebears: Sequence[Span]
    cell: bytes


def pack_sessions(
    lasts: Sequence[int], cells: Sequence[bytes], forebears: Sequence[Sequence[Span]] | None = None
) -> list[bytes]:
    """The values of sessions; `forebears` None where none of them has any."""
    if forebears is None:
        return [_HEADER.pack(last, 0) + cell for last, cell in zip(lasts, cells, strict=True)]
    return [
        _HEADER.pack(last, len(before)) + b"".join(_SPAN.pack(*span) for span in before) + cell
        for last, before, cell in zip(lasts, forebears, cells, strict=True)
    ]


def parse_session(field: bytes, value: bytes) -> StoredSession:
    """Read one field of the hash.

    Raises:
        ValueError: it is cut off.
    """
    first, _, group = field.partition(b" ")
    if len(value) < _HEADER.size:
        raise ValueError(f"session {field!r} has {len(value)} bytes, not even its header")
    last, n = _HEADER.unpack_from(value)
    end = _HEADER.size + n * _SPAN.size
    if len(value) <= end:
        raise ValueError(f"session {field!r} is cut off after {len(value)} bytes, in its {n} forebears or its cell")
    return StoredSession(group, int(first), last, [*_SPAN.iter_unpack(value[_HEADER.size : end])], value[end:])
