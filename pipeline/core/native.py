"""The native reader of NDJSON (`_ndjson.c`), where it was built: what it takes, msgspec takes with the same values.

It reads what bodies nearly always are and gives everything else back, so no rule of the door lives here: the careful
path (validation, events) decides and explains, and without a C compiler it does all the work.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from pipeline.core.arrow_numpy import Mask, filled, is_null
from pipeline.core.definitions import Field, ScalarType, Stream
from pipeline.core.schema import fields_of
from pipeline.core.timestamps import Int64, TimestampsError, to_ms

try:
    from pipeline.core import _ndjson
except ImportError:  # not built: no C compiler where it was installed
    IS_BUILT = False
else:
    IS_BUILT = True

_KINDS: dict[ScalarType, str] = {"string": "s", "int": "i", "float": "f", "bool": "b", "timestamp": "t"}
MAX_FIELDS = 64  # of a schema, as in _ndjson.c
Owners = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class NativeRows:
    """A body read to columns: `columns` the wanted fields (Arrow), `times_ms` of the timestamps, 0 where null."""

    columns: Any
    times_ms: dict[str, Int64]
    undeclared: int  # rows with fields that the schema does not have
    scanned: Any

    def __len__(self) -> int:
        return int(self.scanned.n)

    def given(self, name: str) -> Mask | None:
        """Where a field has a value; None where it has one in every row."""
        column = self.columns.column(name)
        return ~is_null(column) if column.null_count else None

    def frame(self) -> pl.DataFrame:
        """The wanted fields, timestamps as int64 milliseconds."""
        frame = pl.DataFrame(self.scanned)
        times = []
        for name, times_ms in self.times_ms.items():
            given = self.given(name)
            series = pl.Series(name, times_ms)
            times.append(series if given is None else series.set(pl.Series(~given), None))
        return frame.with_columns(times)

    def partitions(self, name: str, n: int) -> Owners:
        """The partition of each row by a string or int field among the wanted ones."""
        return np.frombuffer(self.scanned.partitions(name, n), dtype=np.int32)

    def lines(self, owners: Owners, partition: int) -> bytes:
        """The rows that belong to a partition, one a line, as they came."""
        found: bytes = self.scanned.lines(owners.tobytes(), partition)
        return found


class NativeReader:
    """Reads bodies of one stream to the columns of `names`."""

    def __init__(self, stream: Stream, names: Collection[str]) -> None:
        self._times = [field for field in fields_of(stream) if field.name in names and field.type == "timestamp"]
        self._scanner = _ndjson.Scanner(
            [(field.name, _kind(field), field.nullable, field.name in names) for field in fields_of(stream)]
        )

    @classmethod
    def of(cls, stream: Stream, names: Collection[str]) -> NativeReader | None:
        """A reader, or None where it is not built or the schema is not one it can read."""
        if not IS_BUILT or not 0 < len(stream.fields) <= MAX_FIELDS:
            return None
        is_read = all(field.item != "timestamp" and field.name not in names for field in stream.fields if field.item)
        return cls(stream, names) if is_read else None

    def read(self, body: bytes) -> NativeRows | None:
        """The rows of a body, one a line without blank ones; None where the careful path has to look at it."""
        scanned = self._scanner.scan(body)
        if scanned is None:
            return None
        columns = pa.record_batch(scanned)
        try:
            times_ms = {
                field.name: _as_ms(field, filled(columns.column(field.name)), as_text=field.name in scanned.texts)
                for field in self._times
            }
        except TimestampsError:
            return None
        return NativeRows(columns, times_ms, scanned.undeclared, scanned)


def _kind(field: Field) -> str:
    if field.type == "list":
        assert field.item is not None, f"list field {field.name} has no item type"
        return f"l{_KINDS[field.item]}"
    return _KINDS[field.type]


def _as_ms(field: Field, numbers: Int64, *, as_text: bool) -> Int64:
    """Epoch numbers of a field's unit as milliseconds; written times are it already."""
    return numbers if as_text else to_ms(numbers, field.unit, field.zone)
