"""A live session as its partition's hash holds it: absolute, one field a session.

field    FIRST ' ' JSON array of the group's values       1700000000000 ["ada"]
value    last int64, number of forebears uint32, (first int64, last int64) of each, the packed cell; little-endian
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.accumulators import Int64
from pipeline.core.names import Names, joined
from pipeline.core.session_walk import Span

_HEADER = struct.Struct("<qI")
_HEAD = np.dtype([("last", "<i8"), ("n", "<u4")])  # the same, of many
_SPAN = struct.Struct("<qq")


@dataclass(frozen=True, slots=True)
class StoredSession:
    """A live session; `forebears` are (first, last) of earlier forms of it that may have been published."""

    group: bytes
    first: int
    last: int
    forebears: Sequence[Span]
    cell: bytes


def pack_sessions(lasts: Int64, cells: Names, forebears: Sequence[Sequence[Span]] | None = None) -> Names:
    """The values of sessions; `forebears` None where none of them has any."""
    heads = np.zeros(len(lasts), dtype=_HEAD)
    heads["last"] = lasts
    packed = Names.of_width(heads.tobytes(), _HEAD.itemsize)
    if forebears is None:
        return joined([packed, cells], len(lasts))
    heads["n"] = [len(before) for before in forebears]
    packed = Names.of_width(heads.tobytes(), _HEAD.itemsize)
    spans = Names.of([b"".join(_SPAN.pack(*span) for span in before) for before in forebears])
    return joined([packed, spans, cells], len(lasts))


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
