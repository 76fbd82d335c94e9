"""Columns of texts: packed for a chunk, unpacked from one, and told apart by numbers (`_texts.c`).

Invariant: the same values in the same order; whether a column is a dictionary or plain is a matter of its size alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.types as kinds

from pipeline.core.arrow_numpy import filled, is_null

try:
    from pipeline.core import _texts
except ImportError:  # not built: no C compiler where it was installed
    IS_BUILT = False
else:
    IS_BUILT = True

Int32 = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]

_VIEW_BYTES = 16
_INDEX_TYPES = {1: pa.uint8(), 2: pa.uint16(), 4: pa.uint32()}


def packed(views: Any, places: Rows | None, first: int, count: int) -> Any:
    """Rows of a column of string views: those at `places` (all: None), `count` of them from `first` on.

    Returns a dictionary of utf8, or utf8 where that takes fewer bytes.
    """
    valid, heads, *texts = _buffers(views)
    nulls, validity, width, indices, offsets, text = _texts.pack(heads, texts, valid, places, first, count)
    validity = None if validity is None else pa.py_buffer(validity)
    flat = [pa.py_buffer(offsets), pa.py_buffer(text)]
    if indices is None:
        return pa.Array.from_buffers(pa.string(), count, [validity, *flat], nulls)
    distinct = pa.Array.from_buffers(pa.string(), len(offsets) // 4 - 1, [None, *flat], 0)
    kind = pa.dictionary(_INDEX_TYPES[width], pa.string())
    return pa.DictionaryArray.from_buffers(kind, count, [validity, pa.py_buffer(indices)], distinct, nulls)


def viewed(column: Any) -> Any:
    """A column that `packed` made, as string views into its text."""
    texts = column.dictionary if kinds.is_dictionary(column.type) else column
    assert kinds.is_string(texts.type), texts.type
    assert column.offset == texts.offset == 0, "a chunk's own columns begin at their first row"
    count, (_, offsets, text) = len(column), texts.buffers()
    indices, width = None, 0
    if column is not texts:
        indices = filled(column.indices)  # under a null stands any index
        width = indices.itemsize
    if not count or not len(texts):
        return pa.nulls(count, pa.string_view())
    text = text or b""
    views = _texts.views(offsets, text, indices, width, count)
    valid = column.buffers()[0] if column.null_count else None
    return pa.Array.from_buffers(pa.string_view(), count, [valid, pa.py_buffer(views), pa.py_buffer(text)])


def codes(column: pl.Series) -> tuple[Int32, Rows]:
    """The number of each text of a column among its distinct ones (null: -1), and the first row of each of these."""
    valid, heads, *texts = _buffers(column.rechunk().to_arrow(compat_level=pl.CompatLevel.newest()))
    numbers, rows = _texts.codes(heads, texts, valid, len(column))
    return np.frombuffer(numbers, dtype=np.int32), np.frombuffer(rows, dtype=np.int64)


def is_sound_ascii(views: Any) -> bool:
    """True where a column of string views passes Arrow's full validation, found out in a fifth of its time.

    False says nothing: texts may be UTF-8 beyond ASCII. The sizes of the column's buffers have been checked.
    """
    valid, heads, *texts = views.buffers()
    if not IS_BUILT or views.offset or heads is None:
        return False
    return bool(_texts.sound(heads, texts, valid, len(views)) == views.null_count)


def bytes_of(views: Any) -> int:
    """What the texts of a column of string views come to, each row with its own."""
    valid, heads, *_ = _buffers(views)
    return int(_texts.total(heads, valid, len(views))) if len(views) else 0


def number_codes(values: Rows) -> tuple[Int32, Rows]:
    """The number of each value among the distinct ones, and the first row of each of these."""
    numbers, rows = _texts.numbers(np.ascontiguousarray(values))
    return np.frombuffer(numbers, dtype=np.int32), np.frombuffer(rows, dtype=np.int64)


def _buffers(views: Any) -> list[Any]:
    """Validity (None where nothing is null), views, and the texts they point into."""
    assert kinds.is_string_view(views.type), views.type
    valid, heads, *texts = views.buffers()
    if not views.null_count:
        valid = None
    elif views.offset:
        valid = np.packbits(~is_null(views), bitorder="little")
    return [valid, heads.slice(_VIEW_BYTES * views.offset), *texts]
