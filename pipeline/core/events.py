"""Stored events back to columns: what a stage needs of each chunk and row, decoded by the stream's schema.

Invariant: whatever the door accepts reads to the same values here, from a chunk or from the row `POST /publish` writes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
from isal.isal_zlib import crc32

from pipeline.core import arrow_chunks, codings, stored_chunks
from pipeline.core.arrow_stream import ArrowBodyError
from pipeline.core.codings import COLUMN_CODINGS, CodingError, unpack_rows
from pipeline.core.definitions import Field, FieldType, ScalarType, Stream
from pipeline.core.entries import Chunk
from pipeline.core.native import NativeReader
from pipeline.core.schema import field_type, fields_of, slices, struct_type
from pipeline.core.stored_chunks import ChunkReader
from pipeline.core.timestamps import Int64, TimestampsError, to_ms

_DTYPES: dict[ScalarType, Any] = {
    "string": pl.String(),
    "int": pl.Int64(),
    "float": pl.Float64(),
    "bool": pl.Boolean(),
    "timestamp": pl.Datetime("ms"),  # naive, UTC
}

_KINDS: dict[FieldType, str] = {
    "string": "a string",
    "int": "an int",
    "float": "a float",
    "bool": "a bool (true or false)",
    "timestamp": "a timestamp",
    "list": "a list in JSON",
}

_raw_lines = msgspec.json.Decoder(msgspec.Raw)


class ChunkError(ValueError):
    """A chunk's body is not the events its header promises: nothing of it can be counted."""


class RowError(ValueError):
    """A row entry that does not fit the schema: `code` names the rule, `field` what broke it."""

    def __init__(self, field: str | None, code: str, message: str) -> None:
        self.field = field
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Columns:
    """Decoded events as columns: `fields` those a reader needs, `times_ms` None where arrival is the time.

    `fields` is a DataFrame, or still an Arrow table (see `arrow_chunks`), which becomes one with those beside it.
    """

    n: int
    fields: pl.DataFrame | Any
    times_ms: Int64 | None

    def __len__(self) -> int:
        return self.n


Events = list[Any] | Columns  # structs, one an event, or columns: as they were stored


class Reader:
    """Decodes the fields of `names` (and the time field) of one stream's events."""

    def __init__(self, stream: Stream, names: Collection[str]) -> None:
        unknown = sorted(set(names) - {field.name for field in stream.fields})
        assert not unknown, f"{unknown} are no fields of {stream.name}"
        self.stream = stream
        self.columns = tuple(field for field in stream.fields if field.name in names)
        time = stream.field(stream.time.field) if stream.time.field else None
        self.time = time
        self._stored = [each for each in fields_of(stream) if each.name in {*names, *([time.name] if time else [])}]
        self._struct = struct_type(stream, {*names, *([time.name] if time else [])})
        self._decoder = msgspec.json.Decoder(self._struct)
        self._native = NativeReader.of(stream, [field.name for field in self._stored])
        self._chunks = ChunkReader.of(self._stored)
        self._whole_chunks = ChunkReader.of(fields_of(stream))
        self._texts = {field.name.encode(): _TextReader(field) for field in fields_of(stream)}
        self._required = tuple(name for name, text in self._texts.items() if not text.field.nullable)

    def events(self, chunk: Chunk) -> Events:
        """Decode the events of a chunk, in order, whatever its coding.

        Raises:
            ChunkError: the body cannot be decoded, or does not hold the `n` events of its header.
        """
        try:
            if chunk.coding in COLUMN_CODINGS:
                return self._columns_of(chunk.body, chunk.n)
            body = unpack_rows(chunk.body, chunk.coding)
            return self._native_columns(body, chunk.n) or self.chunk(body, chunk.n)
        except (CodingError, ArrowBodyError) as error:
            raise ChunkError(str(error)) from error

    def together(self, chunks: Sequence[Chunk]) -> Columns | None:
        """The events of plain chunks of one coding as one; None where each has to be looked at by itself."""
        if any(crc32(chunk.body) != chunk.crc for chunk in chunks):
            return None
        bodies, counts = [chunk.body for chunk in chunks], [chunk.n for chunk in chunks]
        match chunks[0].coding:
            case codings.ARROW:
                return self._stored_columns(bodies, counts)
            case codings.NDJSON:
                return self._lines_together(bodies, counts)
        return None

    def _lines_together(self, bodies: list[bytes], counts: list[int]) -> Columns | None:
        """Each body has as many lines as its header says rows, and a row is a line: none stands in for another's."""
        if any(body.count(b"\n") + 1 != n for body, n in zip(bodies, counts, strict=True)):
            return None
        return self._native_columns(b"\n".join(bodies), sum(counts))

    def _stored_columns(self, bodies: list[bytes], counts: list[int]) -> Columns | None:
        """The events of bodies of columns; None where `arrow_chunks` has to look at each."""
        columns = None if self._chunks is None else self._chunks.columns(bodies, counts)
        if columns is None:
            return None
        n = sum(counts)
        fields = pa.table({field.name: columns[field.name] for field in self.columns})
        return Columns(
            n,
            fields if self.columns else pl.DataFrame(height=n),
            None if self.time is None else stored_chunks.times_of(columns[self.time.name]),
        )

    def _native_columns(self, body: bytes, n: int) -> Columns | None:
        """The events of a body of rows; None where `chunk` has to look at it."""
        rows = None if self._native is None else self._native.read(body)
        if rows is None or len(rows) != n:
            return None
        frame = rows.frame().select(
            pl.col(field.name).cast(_DTYPES[field.type]) if field.type == "timestamp" else field.name
            for field in self.columns
        )
        return Columns(n, frame, None if self.time is None else rows.times_ms[self.time.name])

    def _columns_of(self, body: bytes, n: int) -> Columns:
        found = self._stored_columns([body], [n])
        if found is not None:
            return found
        columns = arrow_chunks.decode(self.stream, self._stored, body, n)
        names = [field.name for field in self.columns]
        fields = arrow_chunks.readable(columns, names) if names else pl.DataFrame(height=n)
        return Columns(n, fields, None if self.time is None else arrow_chunks.times_of(columns[self.time.name]))

    def chunk(self, body: bytes, n: int) -> list[Any]:
        """Decode the `n` events of a chunk, one struct each, in order.

        Raises:
            ChunkError: the body cannot be decoded, or does not hold `n` events.
        """
        try:
            rows = self._decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ChunkError(f"the chunk's body does not fit the schema of {self.stream.name}: {error}") from error
        if len(rows) != n:
            raise ChunkError(f"the chunk's body holds {len(rows)} events, its header says {n}")
        return rows

    def _decode(self, body: bytes) -> list[Any]:
        try:
            rows: list[Any] = []
            for piece in slices(body):
                rows += self._decoder.decode_lines(piece)
        except msgspec.DecodeError:
            return self._decoder.decode_lines(body)  # a newline inside an event is legal JSON: then no cut is safe
        return rows

    def raw_rows(self, body: bytes) -> list[bytes]:
        """The events of a body of rows as they were sent, in order."""
        return [bytes(raw) for raw in _raw_lines.decode_lines(body)]

    def stored_rows(self, body: bytes, coding: bytes, n: int, rows: Sequence[int] | None = None) -> list[bytes]:
        """The events of a stored body as JSON objects: those at `rows`, or (None) all, in order.

        They are as they were sent where they are stored so.

        Raises:
            ChunkError: the body cannot be decoded.
        """
        try:
            if coding in COLUMN_CODINGS:
                found = self._chosen_rows(body, n, rows)
                return arrow_chunks.body_rows(self.stream, body, n, rows) if found is None else found
            lines = self.raw_rows(unpack_rows(body, coding))
            return lines if rows is None else [lines[row] for row in rows]
        except (CodingError, ArrowBodyError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise ChunkError(str(error)) from error

    def _chosen_rows(self, body: bytes, n: int, rows: Sequence[int] | None) -> list[bytes] | None:
        """Some rows of a body of columns; None where `arrow_chunks` has to look at it."""
        if rows is None or self._whole_chunks is None:
            return None
        values = self._whole_chunks.rows(body, n, rows)
        return None if values is None else arrow_chunks.rows_as_json(self.stream, values)

    def row(self, fields: Mapping[bytes, bytes]) -> Any:
        """Decode a row entry: text for strings and written times, JSON for everything else (`21.5`, `true`, `[1,2]`).

        All declared fields are checked, whichever this reader needs: every stage must judge a row alike.

        Raises:
            RowError: the first field that does not fit.
        """
        for name in self._required:
            if name not in fields:
                shown = name.decode()
                raise RowError(shown, "missing", f"{shown} is missing; the stream {self.stream.name} requires it")
        values = {}
        for name, text in fields.items():
            reader = self._texts.get(name)
            if reader is not None:
                values[reader.field.name] = reader.read(text)
            elif self.stream.extra == "refuse":
                shown = name.decode(errors="replace")
                raise RowError(
                    shown, "undeclared", f"{shown} is not a field of {self.stream.name}, which refuses others"
                )
        chosen = self._struct.__struct_fields__
        return self._struct(**{name: value for name, value in values.items() if name in chosen})

    def partition_key(self, fields: Mapping[bytes, bytes]) -> Any:
        """The value of `partition_by` in a row entry that `row` has read, whichever fields this reader needs."""
        assert self.stream.partition_by is not None, f"{self.stream.name} spreads evenly"
        name = self.stream.partition_by.encode()
        return self._texts[name].read(fields[name])

    def times(self, rows: Sequence[Any], arrival_ms: Int64) -> Int64:
        """Event time of each row; its arrival where the stream has no time field."""
        if self.time is None:
            return arrival_ms
        return to_ms(list(map(attrgetter(self.time.name), rows)), self.time.unit, self.time.zone)

    def joined(self, parts: Sequence[Events], arrivals_ms: Int64) -> tuple[pl.DataFrame, Int64]:
        """Decoded events, part after part, as one frame and their event times; structs side by side are one part."""
        runs: list[Events] = []
        for part in parts:
            last = runs[-1] if runs else None
            if isinstance(part, list) and isinstance(last, list):
                last += part
            else:
                runs.append(list(part) if isinstance(part, list) else part)
        parts_found: list[pl.DataFrame | Any] = []
        times, at = [], 0
        for run in runs or [[]]:
            arrived_ms = arrivals_ms[at : at + len(run)]
            at += len(run)
            if isinstance(run, Columns):
                parts_found.append(run.fields)
                times.append(arrived_ms if run.times_ms is None else run.times_ms)
            else:
                parts_found.append(self.frame(run))
                times.append(self.times(run, arrived_ms))
        frames = _frames(parts_found)
        frame = frames[0] if len(frames) == 1 else pl.concat(frames)
        return frame, times[0] if len(times) == 1 else np.concatenate(times)

    def frame(self, rows: Sequence[Any]) -> pl.DataFrame:
        """The columns of `names` in the schema's order and canonical types, one row an event."""
        if not self.columns:
            return pl.DataFrame(height=len(rows))
        return pl.DataFrame([series_of(field, list(map(attrgetter(field.name), rows))) for field in self.columns])


def _frames(parts: Sequence[pl.DataFrame | Any]) -> list[pl.DataFrame]:
    """Fields of events as DataFrames: Arrow tables side by side become one of them."""
    frames: list[pl.DataFrame] = []
    for is_frame, run in groupby(parts, lambda part: isinstance(part, pl.DataFrame)):
        alike = list(run)
        frames += alike if is_frame else [arrow_chunks.frame_of(alike)]
    return frames


class _TextReader:
    """How one field's text in a row entry becomes the value its JSON would have."""

    def __init__(self, field: Field) -> None:
        self.field = field
        decode = bytes.decode if field.type == "string" else msgspec.json.Decoder(field_type(field)).decode
        self._decode: Callable[[bytes], Any] = decode

    def _read(self, text: bytes) -> Any:
        match self.field.type, self.field.item:
            case "timestamp", _:
                value = self._written_time(text)
                to_ms([] if value is None else [value], self.field.unit, self.field.zone)
            case "list", "timestamp":
                value = self._decode(text)
                to_ms(value or [], self.field.unit, self.field.zone)
            case _:
                value = self._decode(text)
        return value

    def _written_time(self, text: bytes) -> Any:
        """A number or null is JSON; a written time stands as it is, since nobody types quotes in XADD."""
        try:
            return self._decode(text)
        except msgspec.DecodeError as error:
            if isinstance(error, msgspec.ValidationError):
                raise
            return text.decode()

    def read(self, text: bytes) -> Any:
        name = self.field.name
        try:
            return self._read(text)
        except UnicodeDecodeError:
            raise RowError(name, "not_utf8", f"{name} is not UTF-8 text") from None
        except TimestampsError as error:
            raise RowError(name, "bad_time", f"{name}: {error}") from None
        except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
            raise RowError(name, "wrong_type", f"{name}: {self._misfit(text, error)}") from None

    def _misfit(self, text: bytes, error: Exception) -> str:
        """Say what a text is not. That it is no JSON says nothing to somebody who typed XADD; a wrong type does."""
        shown = repr(text[:60].decode(errors="replace"))
        if isinstance(error, RecursionError):
            return f"{shown} is nested too deeply"
        reason = f": {error}".replace("`", "") if isinstance(error, msgspec.ValidationError) else ""
        return f"{shown} is not {_KINDS[self.field.type]}{reason}"


def row_fields(stream: Stream, event: Any) -> dict[str, bytes]:
    """A validated event as the flat fields of a row entry: what `Reader.row` reads back to the same values."""
    fields = {}
    for field in stream.fields:
        value = getattr(event, field.name)
        if value is not None:
            fields[field.name] = value.encode() if isinstance(value, str) else msgspec.json.encode(value)
    return fields


def series_of(field: Field, values: list[Any]) -> pl.Series:
    """A field's values, as JSON brings them, as a column of its canonical type."""
    if field.type == "timestamp":
        return _times_series(field, values)
    if field.type == "list":
        return _list_series(field, values)
    return pl.Series(field.name, values, dtype=_DTYPES[field.type])


def _times_series(field: Field, values: list[Any]) -> pl.Series:
    given = [value for value in values if value is not None]
    times = pl.Series(field.name, to_ms(given, field.unit, field.zone)).cast(_DTYPES["timestamp"])
    if len(given) == len(values):
        return times
    present = np.array([value is not None for value in values])
    places = pl.Series(np.where(present, np.cumsum(present) - 1, 0))
    return times.gather(places.set(pl.Series(~present), None)) if given else pl.Series(field.name, values, times.dtype)


def _list_series(field: Field, values: list[Any]) -> pl.Series:
    assert field.item is not None
    dtype = pl.List(_DTYPES[field.item])
    if field.item != "timestamp":
        return pl.Series(field.name, values, dtype=dtype)
    times = to_ms([item for value in values if value for item in value], field.unit, field.zone).tolist()
    taken = iter(times)
    as_ms = [None if value is None else [next(taken) for _ in value] for value in values]
    return pl.Series(field.name, as_ms, dtype=pl.List(pl.Int64())).cast(dtype)
