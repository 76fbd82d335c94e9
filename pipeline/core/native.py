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

from pipeline.core.definitions import Field, ScalarType, Stream
from pipeline.core.schema import fields_of
from pipeline.core.timestamps import TimestampsError, to_ms

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
    """A body read to columns: `frame` the wanted fields, timestamps as int64 milliseconds."""

    frame: pl.DataFrame
    undeclared: int  # rows with fields that the schema does not have
    scanned: Any

    def __len__(self) -> int:
        return int(self.scanned.n)

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
        frame = pl.DataFrame(scanned)
        try:
            times = [_as_ms(field, frame[field.name]) for field in self._times if field.name not in scanned.texts]
        except TimestampsError:
            return None
        return NativeRows(frame.with_columns(times) if times else frame, scanned.undeclared, scanned)


def _kind(field: Field) -> str:
    if field.type == "list":
        assert field.item is not None, f"list field {field.name} has no item type"
        return f"l{_KINDS[field.item]}"
    return _KINDS[field.type]


def _as_ms(field: Field, numbers: pl.Series) -> pl.Series:
    """Epoch numbers of a field's unit as milliseconds; nulls stay."""
    times_ms = pl.Series(field.name, to_ms(numbers.fill_null(0).to_numpy(), field.unit, field.zone))
    return times_ms.set(numbers.is_null(), None) if numbers.null_count() else times_ms
