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

from pipeline.core.json_names import json_names
from pipeline.core.names import Names
from pipeline.core.programs import Program
from pipeline.rim.publish import RowColumns, Rows
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


def outgoing_entries(program: Program, window: Finished | None) -> Rows:
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
    columns = {name: [group[name] for group in groups] for name in program.stage.group_by}
    return _entries(about, {**columns, **window.values}, len(groups))


def _chunk(lines: Sequence[bytes]) -> list[Any]:
    return ["n", str(len(lines)), "rows", b"\n".join(lines)]


def _entries(about: list[str], columns: Mapping[str, Sequence[Any]], n_rows: int) -> Rows:
    """A row for each group; what is null is left out."""
    same = [part.encode() for part in about]
    named = [(name.encode(), values, _names(values)) for name, values in columns.items()]
    if not any(None in values for _, values, _ in named):
        return RowColumns([*same, *(part for name, _, texts in named for part in (name, texts))], n_rows)
    listed = [(name, values, texts.tolist()) for name, values, texts in named]
    return [
        [*same, *(part for name, values, texts in listed if values[row] is not None for part in (name, texts[row]))]
        for row in range(n_rows)
    ]


def _names(values: Sequence[Any]) -> Names:
    """Values as texts in a row (see `text`), `null` among them."""
    if any(isinstance(value, str) for value in values):
        return Names.of(text(value).encode() for value in values)
    return json_names(values)


def text(value: Any) -> str:
    """A value as text in a row: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
