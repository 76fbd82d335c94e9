"""The first groups of an answer over its whole range: by their partials merged, not by values of windows."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from pipeline.core.cell_columns import CellColumns, merged_cells
from pipeline.core.cell_fields import OTHERS
from pipeline.runtime.answer import value_order
from pipeline.runtime.finishing import finished_columns
from pipeline.runtime.window_cells import Known, RowCells


def top_groups(known: Known, batches: Iterable[RowCells], order: str, count: int) -> list[bytes]:
    """The first `count` groups by a value over all of some rows, as `order` says; never the ones above a cap."""
    program, groups = known.program, known.groups
    total: list[CellColumns] = []
    end_ms = 0
    for rows in batches:
        if not len(rows.cells):
            continue
        end_ms = max(end_ms, int(rows.ends.max()))
        together = rows.cells.renumbered(windows=np.zeros(len(rows.cells), dtype=np.int64))
        total = [merged_cells(program.layout, [*total, together])]
    if not total:
        return []
    [cells] = total
    name = order.removeprefix("-")
    ends = np.full(len(cells), end_ms, dtype=np.int64)
    values = finished_columns(program, cells.columns, cells.slots, ends, (name,))[name]
    places = value_order(groups, ends, ends, cells.groups, values, order.startswith("-"), count + 1)
    names = [groups.shown.names[number] for number in cells.groups[places].tolist()]
    return [group for group in names if group != OTHERS][:count]
