"""A posted Arrow body: which of its rows fit the stream's schema, and why each other one is refused.

Invariant: a row has the fate that the same row sent as NDJSON has; a body that is no valid IPC stream is refused whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import attrgetter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from pipeline.core import texts
from pipeline.core.arrow_chunks import chunks_of, concatenated, kept, schema_of, size_of, without_views
from pipeline.core.arrow_columns import plain_text, stored_column
from pipeline.core.arrow_numpy import column_of, filled, numpy_of
from pipeline.core.arrow_stream import ArrowBody, ArrowBodyError, Limits, is_text, read_stream, text_lengths
from pipeline.core.definitions import Stream
from pipeline.core.ndjson import encode_rows
from pipeline.core.partitioning import Chunk, partition_of
from pipeline.core.refusals import Refusal, too_large
from pipeline.core.schema import fields_of
from pipeline.core.timestamps import MAX_TIME_MS, MIN_TIME_MS, Int64
from pipeline.core.validation import MAX_ROW_BYTES, Reason, refuse_by_clock
from pipeline.errors import BadRequestError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TO_MS = {"s": 1_000, "ms": 1, "us": 1 / 1_000, "ns": 1 / 1_000_000}


@dataclass(frozen=True, slots=True)
class CheckedColumns:
    """A body of columns judged, as `validation.Checked` is of rows: `n_received == n_good + len(refusals)`.

    `batch`: the good rows, columns as they are stored, but for texts that came as views.
    """

    batch: Any
    n_received: int
    n_good: int
    times_ms: Int64 | None
    refusals: list[Refusal]
    undeclared: int
    newest_ms: int | None
    document_refused: bool = False

    def shares(self, stream: Stream, home: int) -> dict[int, list[Chunk]]:
        """The good rows as chunks by partition; those of a stream that is spread evenly go `home`."""
        if stream.partition_by is None:
            return {home: list(chunks_of(stream, self.batch, self.times_ms))}
        return {partition: self.chunks_at(stream, rows) for partition, rows in self.rows_by_partition(stream).items()}

    def rows_by_partition(self, stream: Stream) -> dict[int, Int64]:
        """The places of the good rows of each partition of a stream that has a `partition_by`."""
        assert stream.partition_by is not None, f"{stream.name} spreads evenly"
        owners = _owners(self.batch.column(stream.partition_by), stream.partitions)
        return {partition: np.flatnonzero(owners == partition) for partition in np.unique(owners).tolist()}

    def chunks_at(self, stream: Stream, places: Int64) -> list[Chunk]:
        """Some of the good rows, in order, as chunks."""
        times_ms = None if self.times_ms is None else self.times_ms[places]
        return list(chunks_of(stream, without_views(self.batch).take(column_of(pa.int64(), places)), times_ms))


class ColumnValidator:
    """Judges Arrow bodies posted to one stream."""

    def __init__(self, stream: Stream, limits: Limits) -> None:
        self.stream = stream
        self._fields = fields_of(stream)
        self._names = [field.name for field in self._fields]
        self._schema = schema_of(stream)
        self._limits = limits

    def check(self, body: bytes, *, now_ms: int, of_any_age: bool = False, to_the_end: bool = False) -> CheckedColumns:
        """Judge every row of `body`; `now_ms` is Redis's clock, `of_any_age` old data that is sent on purpose.

        Raises:
            BadRequestError: 413, the body is beyond a limit, inflated or expanded.
        """
        try:
            found = read_stream(body, self._names, self._limits, to_the_end=to_the_end)
        except ArrowBodyError as error:
            if error.code == "too_large":
                raise BadRequestError(f"The Arrow body is too large: {error}.", code="too_large", status=413) from None
            refusal = Refusal(0, None, "malformed", f"the body is not taken as Arrow: {error}", body)
            return CheckedColumns(self._empty(), 1, 0, None, [refusal], 0, None, document_refused=True)
        return self._judge(found, now_ms, of_any_age=of_any_age)

    def _empty(self) -> Any:
        return concatenated(self._schema, [])

    def _judge(self, found: ArrowBody, now_ms: int, *, of_any_age: bool) -> CheckedColumns:
        refused: dict[int, Reason] = {}
        stored, first = [], 0
        for n, columns in found.batches:
            stored.append(self._stored(found, n, columns, first, refused))
            first += n
        batch = concatenated(self._schema, stored)
        self._refuse_long(batch, refused)
        if found.others and self.stream.extra == "refuse":
            name = found.others[0][:300]
            for row in range(found.n_rows):
                refused.setdefault(
                    row, (name, "undeclared", f"{name} is not in the schema, which refuses other fields")
                )
        times_ms = newest_ms = None
        if self.stream.time.field is not None:
            times_ms = filled(batch.column(self.stream.time.field))
            max_age_ms = None if of_any_age else self.stream.time.max_age_ms
            newest_ms = refuse_by_clock(self.stream, times_ms, now_ms, max_age_ms, refused)
        refusals = _refusals(found, refused)
        if refused:
            keep = np.ones(found.n_rows, dtype=np.bool_)
            keep[list(refused)] = False
            batch, times_ms = kept(batch, keep), None if times_ms is None else times_ms[keep]
        undeclared = batch.num_rows if found.others else 0
        return CheckedColumns(batch, found.n_rows, batch.num_rows, times_ms, refusals, undeclared, newest_ms)

    def _stored(self, found: ArrowBody, n: int, columns: dict[str, Any], first: int, refused: dict[int, Reason]) -> Any:
        """One batch with the columns of the schema; why a row is refused is the first field's reason."""
        as_views = texts.IS_BUILT and len(found.batches) == 1  # packed as they came; several batches are put together
        stored = []
        for field, target in zip(self._fields, self._schema, strict=True):
            name = field.name

            def refuse(row: int, code: str, message: str, name: str = name) -> None:
                refused.setdefault(first + row, (name, code, message))

            if name in columns:
                stored.append(stored_column(field, columns[name], refuse, as_views=as_views))
                continue
            stored.append(pa.nulls(n, target.type))
            if name in found.unreadable:
                message = f"{name}: no field can have values of the Arrow type {found.unreadable[name][:200]}"
                _every(n, refuse, "wrong_type", message)
            elif not field.nullable:
                _every(n, refuse, "missing", f"{name} is missing; the schema requires it")
        return pa.record_batch(dict(zip(self._names, stored, strict=True)))

    def _refuse_long(self, batch: Any, refused: dict[int, Reason]) -> None:
        if size_of(batch) <= MAX_ROW_BYTES:
            return
        sizes = sum((_sizes(column) for column in batch.columns), np.zeros(batch.num_rows, dtype=np.int64))
        for row in np.flatnonzero(sizes > MAX_ROW_BYTES).tolist():
            refused[row] = (None, "too_large", too_large(row, b"\0" * int(sizes[row]), MAX_ROW_BYTES).message)


def _every(n: int, refuse: Any, code: str, message: str) -> None:
    for row in range(n):
        refuse(row, code, message)


def _sizes(column: Any) -> Int64:
    """About the bytes of each value."""
    sizes: Int64
    if is_text(column.type):
        sizes = text_lengths(column)
    elif kinds.is_list(column.type):
        offsets = numpy_of(column.offsets)
        items = _sizes(column.values)
        before = np.concatenate([[0], np.cumsum(items)])
        sizes = before[offsets[1:]] - before[offsets[:-1]]
    else:
        sizes = np.full(len(column), 8, dtype=np.int64)
    return sizes


def _owners(keys: Any, partitions: int) -> Int64:
    """The partition of each key; each distinct one is hashed once."""
    coded = (plain_text(keys) if kinds.is_string_view(keys.type) else keys).dictionary_encode()
    of_distinct = np.array([partition_of(key, partitions) for key in coded.dictionary.to_pylist()], dtype=np.int64)
    owners: Int64 = of_distinct[numpy_of(coded.indices)]
    return owners


# --- what a refused row looked like, for quarantine: as JSON, since its bytes stand in many places


def _refusals(found: ArrowBody, refused: dict[int, Reason]) -> list[Refusal]:
    refusals: list[Refusal] = []
    first = 0
    for n, columns in found.batches if refused else ():
        rows = [row for row in range(first, first + n) if row in refused]
        bodies = _bodies(columns, [row - first for row in rows])
        refusals += [Refusal(row, *refused[row], body) for row, body in zip(rows, bodies, strict=True)]
        first += n
    return sorted(refusals, key=attrgetter("index"))


def _bodies(columns: dict[str, Any], rows: Sequence[int]) -> list[bytes]:
    if not columns or not rows:
        return [b"{}"] * len(rows)
    shown = [_shown(column, rows) for column in columns.values()]
    lines = [dict(zip(columns, values, strict=True)) for values in zip(*shown, strict=True)]
    return encode_rows(lines).rstrip(b"\n").split(b"\n")


def _shown(column: Any, rows: Sequence[int]) -> list[Any]:
    """The values of some rows as Python has them; a time that Python cannot have is its number."""
    kind = column.type
    if kinds.is_string_view(kind) or kinds.is_dictionary(kind):
        column = plain_text(column)
    if kinds.is_date(kind):
        column = column.cast(pa.timestamp("ms"))
    if kinds.is_timestamp(column.type):
        scale, numbers = _TO_MS[column.type.unit], column.view(pa.int64())
        found = (numbers[row].as_py() for row in rows)
        return [None if number is None else _shown_time(number, scale) for number in found]
    return [_python(column[row]) for row in rows]


def _python(value: Any) -> Any:
    try:
        return value.as_py()
    except (ValueError, OverflowError):  # a list of times beyond year 9999, or finer than a microsecond
        return str(value)


def _shown_time(number: int, scale: float) -> int | str:
    ms = number * int(scale) if scale >= 1 else number // round(1 / scale)
    if not MIN_TIME_MS <= ms <= MAX_TIME_MS:
        return number
    return (_EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds")
