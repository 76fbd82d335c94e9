"""A posted CSV body: its cells are typed by the stream's schema, and its rows judged as the same rows in JSON are.

Invariant: a row has the fate that the same row sent as NDJSON has, an empty cell standing for a field that is not
there; what is refused is the record as it was sent, beside its header, so that it can be replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np

from pipeline.core.column_names import TwoColumnsError, read_as
from pipeline.core.csv_cells import cell_reader
from pipeline.core.csv_columns import plain_lines, written_out
from pipeline.core.csv_rows import CsvBody, CsvBodyError, CsvRecord, names_of, read_csv
from pipeline.core.definitions import Stream
from pipeline.core.ndjson import plain_value
from pipeline.core.refusals import Refusal, too_many_rows, written_out_too_large
from pipeline.core.schema import fields_of
from pipeline.core.validation import MAX_BODY_BYTES, MAX_ROWS, NEWLINE, Checked, Validator

SLICE_ROWS = 1_000
MAX_WRITTEN_OUT = (
    2 * MAX_BODY_BYTES
)  # as JSON, where every row has the names of its fields: a long name is no way around
_SEPARATORS = ("\t", ";", "|")  # separators that a header may have in place of commas

_encoder = msgspec.json.Encoder()


class CsvValidator:
    """Judges CSV bodies posted to one stream; `validator` judges its rows."""

    def __init__(self, stream: Stream, validator: Validator) -> None:
        self.stream = stream
        self._validator = validator
        self._fields = {field.name: field for field in fields_of(stream)}

    def check(self, body: bytes, *, now_ms: int, of_any_age: bool = False) -> Checked:
        """Judge every row of `body`; `now_ms` is Redis's clock, `of_any_age` old data that is sent on purpose.

        Raises:
            BadRequestError: 413, there are too many rows, or they are too large once they are written out.
        """
        if np.count_nonzero(np.frombuffer(body, dtype=np.uint8) == NEWLINE) > MAX_ROWS + 1:
            raise too_many_rows(MAX_ROWS)
        try:
            plain = self._judge_plain(body, now_ms, of_any_age=of_any_age)
            if plain is not None:
                return plain
            found = read_csv(body)
            found = replace(found, names=self._read_as(found.names))
        except CsvBodyError as error:
            refusal = Refusal(0, None, "malformed", f"the body is not taken as CSV: {error}", body)
            return Checked(b"", 1, 0, None, None, [refusal], 0, None, document_refused=True)
        return self._judge(found, now_ms, of_any_age=of_any_age)

    def _judge_plain(self, body: bytes, now_ms: int, *, of_any_age: bool) -> Checked | None:
        """A body in which nothing is unusual, column by column; None where it has to be looked at carefully."""
        lines = plain_lines(body)
        if lines is None:
            return None
        header = lines.partition(b"\n")[0]
        names = self._read_as(names_of(header))
        dropped = any(name not in self._fields for name in names)
        rows = None if dropped and self.stream.extra == "refuse" else written_out(lines, names, self._fields)
        if rows is None:
            return None
        if len(rows) > MAX_WRITTEN_OUT:
            raise written_out_too_large(MAX_WRITTEN_OUT)
        checked = self._validator.check(rows, kind="ndjson", now_ms=now_ms, of_any_age=of_any_age)
        sent = lines.split(b"\n")[1:] if checked.refusals else []
        refusals = [replace(each, body=sent[each.index], header=header) for each in checked.refusals]
        return replace(checked, refusals=refusals, undeclared=checked.n_good if dropped else 0)

    def _read_as(self, names: Sequence[str]) -> list[str]:
        """The columns by the fields they are read as."""
        try:
            read = read_as(names, self._fields)
        except TwoColumnsError as error:
            raise CsvBodyError(str(error)) from error
        if any(name in self._fields for name in read):
            return read
        other = next((mark for mark in _SEPARATORS if len(names) == 1 and mark in names[0]), None)
        if other is not None:
            raise CsvBodyError(f"its columns are separated by {other!r}; separate them by commas")
        shown = ", ".join(names)[:200]
        raise CsvBodyError(f"no column is a field of the stream. Columns: {shown}. Fields: {', '.join(self._fields)}")

    def _judge(self, found: CsvBody, now_ms: int, *, of_any_age: bool) -> Checked:
        whole = [number for number, record in enumerate(found.records) if record.cells is not None]
        lines = self._written_out(found, [found.records[number] for number in whole])
        checked = self._validator.check(lines, kind="ndjson", now_ms=now_ms, of_any_age=of_any_age)
        refusals = [
            replace(refusal, index=whole[refusal.index], body=found.records[whole[refusal.index]].sent)
            for refusal in checked.refusals
        ]
        broken = [
            Refusal(number, None, record.code, record.problem, record.sent)
            for number, record in enumerate(found.records)
            if record.cells is None
        ]
        dropped = any(name not in self._fields for name in found.names)
        return replace(
            checked,
            n_received=len(found.records),
            refusals=[
                replace(each, header=found.header) for each in sorted(refusals + broken, key=attrgetter("index"))
            ],
            undeclared=checked.n_good if dropped else 0,
        )

    def _written_out(self, found: CsvBody, records: Sequence[CsvRecord]) -> bytes:
        """The records as NDJSON: empty cells left out, and the columns that the stream drops."""
        refuses = self.stream.extra == "refuse"
        read = [
            (place, name, cell_reader(self._fields[name].type if name in self._fields else "string"))
            for place, name in enumerate(found.names)
            if refuses or name in self._fields
        ]

        def values(cells: Sequence[str]) -> dict[str, Any]:
            return {name: _plain(of(cells[place])) for place, name, of in read if cells[place]}

        parts, size = [], 0
        for some in _slices(records):
            parts.append(_encoder.encode_lines([values(record.cells or ()) for record in some]))
            size += len(parts[-1])
            if size > MAX_WRITTEN_OUT:
                raise written_out_too_large(MAX_WRITTEN_OUT)
        return b"".join(parts)


def _plain(value: Any) -> Any:
    """What JSON can hold; an int beyond 64 bits is written as it is, for the door to refuse."""
    return value if type(value) in (str, float, bool) else plain_value(value)


def _slices(records: Sequence[CsvRecord]) -> Iterator[Sequence[CsvRecord]]:
    for start in range(0, len(records), SLICE_ROWS):
        yield records[start : start + SLICE_ROWS]
