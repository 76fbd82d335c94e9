"""What went downstream of a metric, as the flat rows of the read API: a line of JSON each, with what readers filter by.

Invariant: a line is what `GET /v1/metrics/{metric}` would give of that publication: every column, null where unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from pipeline.core.cell_fields import OTHER
from pipeline.core.definitions import SESSION_TYPES, Session
from pipeline.core.programs import Program
from pipeline.rim.replies import Entry
from pipeline.rim.row_streams import EntryId, parse_id
from pipeline.runtime.downstream import Finished
from pipeline.runtime.finishing import as_rows, group_values

Span = tuple[int, int]
CHUNK_FIELDS = {b"n", b"rows"}
ABOUT_FIELDS = {b"window_start", b"window_end", b"state", b"revision", b"version"}
WINDOW_TYPES = {"window_start": "timestamp", "window_end": "timestamp", "state": "string", "revision": "int"}


@dataclass(frozen=True, slots=True)
class Line:
    """One row: its place in what was published, its window and revision, its group's values, and its JSON."""

    entry: EntryId
    window: Span
    revision: int
    groups: tuple[Any, ...]
    json: bytes

    @property
    def identity(self) -> tuple[Span, tuple[Any, ...]]:
        return self.window, self.groups


def line_of_row(program: Program, row: Mapping[str, Any], entry: EntryId) -> Line:
    """A row of an answer as a line."""
    groups = tuple(row[name] for name in program.stage.group_by)
    window = (row["window_start"], row["window_end"])
    return Line(entry, window, row["revision"], groups, msgspec.json.encode(row))


def lines_of_window(program: Program, window: Finished, entry: EntryId) -> list[Line]:
    """The rows of a published window, in the order of its groups."""
    about = {
        "window_start": window.start_ms,
        "window_end": window.end_ms,
        "state": window.state,
        "revision": window.revision,
    }
    return [
        line_of_row(program, {**about, **group_values(program, group), **values}, entry)
        for group, values in zip(window.groups, as_rows(window.values), strict=True)
    ]


def lines_of_entry(program: Program, entry: Entry) -> list[Line]:
    """The rows in one entry of the downstream stream; none of another version than the one that answers."""
    fields = entry.fields
    if fields is None or fields[b"version"] != program.version.encode():
        return []
    types = column_types(program)
    entry_id = parse_id(entry.id)
    if not _is_chunk(program, fields):
        row = {name: _value(kind, fields.get(name.encode())) for name, kind in types.items()}
        return [line_of_row(program, row, entry_id)]
    about = {name: _value(types[name], fields.get(name.encode())) for name in WINDOW_TYPES}
    rows = (msgspec.json.decode(line) for line in fields[b"rows"].splitlines())
    return [line_of_row(program, {name: row.get(name, about.get(name)) for name in types}, entry_id) for row in rows]


def column_types(program: Program) -> dict[str, str]:
    """Every column of a metric's rows with its type, in order."""
    session = SESSION_TYPES if isinstance(program.window, Session) else {}
    return {**WINDOW_TYPES, **session, **dict(program.group_types), **program.value_types}


def _is_chunk(program: Program, fields: Mapping[bytes, bytes]) -> bool:
    """Whether an entry is many rows (`output: chunks`); it may have been written under another setting than now."""
    if fields.keys() - ABOUT_FIELDS != CHUNK_FIELDS:
        return False
    own = {name.encode() for name in column_types(program)}
    return not own >= CHUNK_FIELDS or program.stage.output == "chunks"


def _value(kind: str, text: bytes | None) -> Any:
    """What `downstream.text` made a text of: texts are as they were, everything else is JSON."""
    if text is None:
        return None
    if kind == "string" or text == OTHER.encode():
        return text.decode()
    return msgspec.json.decode(text)


def matches(program: Program, where: Mapping[str, Sequence[Any]], line: Line) -> bool:
    """Whether a line's group is one of those asked for."""
    return all(line.groups[program.stage.group_by.index(name)] in wanted for name, wanted in where.items())
