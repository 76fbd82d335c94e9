"""What a metric sends downstream of a published window: a row for each group, or chunks of rows (`output:`).

rows     window_start window_end state revision version, group fields, values        one entry a group
chunks   window_start window_end state revision version n rows                       rows: NDJSON of group and values

An entry is a flat list, field and value in turn, as XADD takes it: there may be a million of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.core.programs import Program
from pipeline.rim.publish import Row
from pipeline.rim.store import Result
from pipeline.runtime.finishing import finished_result, group_values

CHUNK_ROWS = 500  # some 75 kB of JSON


@dataclass(frozen=True, slots=True)
class Finished:
    """One published window with its finished rows, in the order of its groups."""

    start_ms: int
    end_ms: int
    state: str
    revision: int
    groups: Sequence[bytes]
    rows: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, program: Program, result: Result) -> Finished:
        rows = finished_result(program, result)
        return cls(result.start_ms, result.end_ms, result.state, result.revision, result.groups, rows)


def outgoing_entries(program: Program, window: Finished | None) -> list[Row]:
    """The entries of one published window, in the order every publisher finds them in; none without a window."""
    if window is None:
        return []
    about = ["window_start", str(window.start_ms), "window_end", str(window.end_ms)]
    about += ["state", window.state, "revision", str(window.revision), "version", program.version]
    rows = zip((group_values(program, group) for group in window.groups), window.rows, strict=True)
    if program.stage.output == "chunks":
        lines = [msgspec.json.encode({**named, **values}) for named, values in rows]
        return [about + _chunk(lines[at : at + CHUNK_ROWS]) for at in range(0, len(lines), CHUNK_ROWS)]
    return [_entry(about, named, values) for named, values in rows]


def _chunk(lines: Sequence[bytes]) -> list[Any]:
    return ["n", str(len(lines)), "rows", b"\n".join(lines)]


def _entry(about: list[str], named: Mapping[str, Any], values: Mapping[str, Any]) -> list[str]:
    entry = about.copy()
    for part in (named, values):
        for name, value in part.items():
            if value is not None:
                entry += (name, text(value))
    return entry


def text(value: Any) -> str:
    """A value as text in a row: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
