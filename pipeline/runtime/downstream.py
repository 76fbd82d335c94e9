"""What a metric sends downstream of a published window: a row for each group, or chunks of rows (`output:`).

rows     window_start window_end state revision version, group fields, values        one entry a group
chunks   window_start window_end state revision version n rows                       rows: NDJSON of group and values

An entry is a flat list, field and value in turn, as XADD takes it: there may be a million of a window.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import msgspec

from pipeline.core.json_names import json_texts
from pipeline.core.programs import Program
from pipeline.rim.publish import Row
from pipeline.rim.store import Result
from pipeline.runtime.finishing import finished_result, groups_values

CHUNK_ROWS = 500  # some 75 kB of JSON


@dataclass(frozen=True, slots=True)
class Finished:
    """One published window with its finished rows, in the order of its groups."""

    start_ms: int
    end_ms: int
    state: str
    revision: int
    groups: Sequence[bytes]
    values: Mapping[str, list[Any]]  # by name, in the order of the groups

    @classmethod
    def of(cls, program: Program, result: Result) -> Finished:
        values = finished_result(program, result)
        return cls(result.start_ms, result.end_ms, result.state, result.revision, result.groups, values)


def outgoing_entries(program: Program, window: Finished | None) -> list[Row]:
    """The entries of one published window, in the order every publisher finds them in; none without a window."""
    if window is None:
        return []
    about = ["window_start", str(window.start_ms), "window_end", str(window.end_ms)]
    about += ["state", window.state, "revision", str(window.revision), "version", program.version]
    groups = groups_values(program, window.groups)
    if program.stage.output == "chunks":
        rows = zip(*window.values.values(), strict=True)
        lines = [
            msgspec.json.encode(named | dict(zip(window.values, row, strict=True)))
            for named, row in zip(groups, rows, strict=True)
        ]
        return [about + _chunk(lines[at : at + CHUNK_ROWS]) for at in range(0, len(lines), CHUNK_ROWS)]
    columns = {name: [_text(group[name]) for group in groups] for name in program.stage.group_by}
    columns |= {name: _texts(values) for name, values in window.values.items()}
    return _entries(about, columns, len(groups))


def _chunk(lines: Sequence[bytes]) -> list[Any]:
    return ["n", str(len(lines)), "rows", b"\n".join(lines)]


def _texts(values: Sequence[Any]) -> list[Any]:
    """Values as texts in a row (see `text`); None stays None."""
    if any(isinstance(value, str) for value in values):
        return list(map(_text, values))
    texts: list[Any] = list(json_texts(values))
    return (
        texts
        if None not in values
        else [None if value is None else text for value, text in zip(values, texts, strict=True)]
    )


def _text(value: Any) -> str | None:
    return None if value is None else text(value)


def _entries(about: list[Any], columns: Mapping[str, Sequence[Any]], n_rows: int) -> list[Row]:
    """A row for each group; what is null is left out."""
    if not columns:
        return [about] * n_rows
    named = [part for name, texts in columns.items() for part in (repeat(name), texts)]
    rows: list[Row] = [about + list(row) for row in zip(*named, strict=False)]  # the names repeat for ever
    if not any(None in texts for texts in columns.values()):
        return rows
    places = range(len(about), len(about) + 2 * len(columns), 2)
    return [about + [part for at in places if row[at + 1] is not None for part in row[at : at + 2]] for row in rows]


def text(value: Any) -> str:
    """A value as text in a row: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
