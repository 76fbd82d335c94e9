"""How a cell is called in a pane's hash: the end of the first window it counts in, and its group as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.core.names import Names

ALWAYS = b"-"  # from_end of events that are late for none of their windows
FROM_ALWAYS = ALWAYS + b" "  # as a cell's field begins
OTHER = "__other__"  # what every field of the groups above a stage's cap is said to be
OTHERS = b'"__other__"'  # where a group's JSON array stands: those groups, counted together


def from_end_order(from_end: bytes) -> int:
    """Order cells by the end of the first window they count in; `-` is before all."""
    return -(2**63) if from_end == ALWAYS else int(from_end)


def cell_field(group: Sequence[Any], from_end: bytes = ALWAYS) -> bytes:
    """Return the hash field of a cell: `- ["GET",200]`."""
    return from_end + b" " + group_json(group)


def cell_fields(groups: Sequence[Sequence[Any]]) -> Names:
    """The fields of many cells of events that are late for none of their windows.

    All are written as one JSON text and cut between two arrays, which is a tenth of the time. A string with such a
    place in it makes a part too many: then one by one. JSON text has no line break in it.
    """
    text = msgspec.json.encode(groups)[1:-1]
    fields = (FROM_ALWAYS + text.replace(b"],[", b"]\n" + FROM_ALWAYS + b"[")).split(b"\n")
    return Names.of(fields if len(fields) == len(groups) else [cell_field(group) for group in groups])


def group_json(group: Sequence[Any]) -> bytes:
    """A group as compact JSON: the one spelling used in fields, blocks and `latest`."""
    return msgspec.json.encode(group)


def split_field(field: bytes) -> tuple[bytes, bytes]:
    """Return (from_end, group JSON) of a cell's field."""
    from_end, _, group = field.partition(b" ")
    return from_end, group
