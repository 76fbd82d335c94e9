"""Chunks of columns as the door writes them, many read at once and without pyarrow (`_chunks.c`).

Invariant: what it reads, `arrow_chunks` reads to the same values; for everything else it says None, and `arrow_chunks`
looks at the chunk and says what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.core.arrow_columns import STORED
from pipeline.core.definitions import Field, ScalarType
from pipeline.core.timestamps import Int64

try:
    from pipeline.core import _chunks
except ImportError:  # not built: no C compiler where it was installed
    IS_BUILT = False
else:
    IS_BUILT = True

MAX_FIELDS = 64  # of a schema, as in _chunks.c
_KINDS: dict[ScalarType, str] = {"string": "s", "int": "i", "float": "f", "bool": "b", "timestamp": "t"}


@dataclass(frozen=True, slots=True)
class ChunkReader:
    """Reads the columns of `fields`, which are no lists."""

    fields: tuple[Field, ...]
    _named: tuple[tuple[str, str, bool], ...]

    @classmethod
    def of(cls, fields: Sequence[Field]) -> ChunkReader | None:
        """A reader, or None where it is not built or a field is not one it can read."""
        if not IS_BUILT or len(fields) > MAX_FIELDS or any(field.type == "list" for field in fields):
            return None
        named = tuple((field.name, _KINDS[field.type], field.nullable) for field in fields if field.type != "list")
        return cls(tuple(fields), named)

    def columns(self, bodies: list[bytes], counts: list[int]) -> dict[str, Any] | None:
        """The columns of bodies as Arrow arrays by name, texts as string views; None: look at each by itself."""
        found = _chunks.columns(bodies, counts, self._named)
        if found is None:
            return None
        total = sum(counts)
        return {field.name: _array(field, total, *column) for field, column in zip(self.fields, found, strict=True)}

    def rows(self, body: bytes, count: int, rows: Sequence[int]) -> list[list[Any]] | None:
        """The values of each field in some rows of a body, times as epoch milliseconds; None: as for `columns`."""
        return _chunks.rows(body, count, self._named, np.array(rows, dtype=np.int64))


def times_of(column: Any) -> Int64:
    """A column of times without nulls, whole, as epoch milliseconds."""
    return np.frombuffer(column.buffers()[1], dtype=np.int64)


def _array(field: Field, total: int, nulls: int, validity: bytes | None, data: bytes, text: bytes | None) -> Any:
    kind = pa.string_view() if text is not None else STORED[field.type]  # type: ignore[index]  # `of`: no list
    buffers = [None if validity is None else pa.py_buffer(validity), pa.py_buffer(data)]
    return pa.Array.from_buffers(kind, total, [*buffers, *([] if text is None else [pa.py_buffer(text)])], nulls)
