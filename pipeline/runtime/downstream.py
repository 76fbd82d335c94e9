"""What a metric sends downstream of a published window: a row for each group, or chunks of rows (`output:`).

rows     window_start window_end state revision version, group fields, values        one entry a group
chunks   window_start window_end state revision version n rows                       rows: NDJSON of group and values
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pipeline.core.programs import Program
from pipeline.rim.store import Result
from pipeline.runtime.finishing import finished_result, group_values

CHUNK_ROWS = 500  # some 75 kB of JSON

Entry = Mapping[str, bytes | str | int]


def outgoing_entries(program: Program, result: Result | None) -> list[Entry]:
    """The entries of one published window, in the order every publisher finds them in; none without a result."""
    if result is None:
        return []
    about: dict[str, bytes | str | int] = {
        "window_start": result.start_ms,
        "window_end": result.end_ms,
        "state": result.state,
        "revision": result.revision,
        "version": program.version,
    }
    rows = [
        group_values(program, group) | values
        for group, values in zip(result.groups, finished_result(program, result), strict=True)
    ]
    if program.stage.output == "chunks":
        return [about | _chunk(rows[at : at + CHUNK_ROWS]) for at in range(0, len(rows), CHUNK_ROWS)]
    return [about | {name: text(value) for name, value in row.items() if value is not None} for row in rows]


def _chunk(rows: Sequence[Mapping[str, Any]]) -> dict[str, bytes | str | int]:
    return {"n": len(rows), "rows": b"\n".join(map(msgspec.json.encode, rows))}


def text(value: Any) -> str:
    """A value as text in a row: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
