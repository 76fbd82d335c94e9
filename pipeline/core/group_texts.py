"""The fields of cells that are grouped by one text: its bytes between quotes, where JSON spells it so.

Invariant: what is made here is what `cell_field` makes of each group by itself.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from pipeline.core.cell_fields import FROM_ALWAYS
from pipeline.core.names import Names, joined

_QUOTE, _BACKSLASH, _SPACE = 0x22, 0x5C, 0x20  # JSON escapes these two, and what is below a space


def text_fields(column: pl.Series, rows: npt.NDArray[np.intp]) -> Names | None:
    """The fields of the groups at `rows`, of events that are late for none of their windows.

    None: they are no texts, or one of them is null or has a character that JSON escapes.
    """
    if column.dtype != pl.String or column.null_count():
        return None
    texts = column.gather(rows).rechunk().to_arrow(compat_level=pl.CompatLevel.oldest())
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[texts.offset + 1 : texts.offset + len(texts) + 1]
    start = int(np.frombuffer(offsets, dtype=np.int64)[texts.offset])
    text = b"" if data is None else data.to_pybytes()[start : int(ends[-1]) if len(ends) else start]
    each = np.frombuffer(text, dtype=np.uint8)
    if ((each < _SPACE) | (each == _QUOTE) | (each == _BACKSLASH)).any():
        return None
    groups = Names.one_after_the_other(text, ends - start)
    return joined([FROM_ALWAYS + b'["', groups, b'"]'], len(groups))
