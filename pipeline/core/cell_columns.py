"""Cells as columns for the reading side: those of many windows at once, merged by sorting numbers, without a dict.

A cell is (window number, group number, partial). Merging keeps the order the cells were given in, since float sums are
left folds: who gives them by window start, then from_end, then partition gets the same bits as the closer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.core.accumulators import Column, Int64, Slots
from pipeline.core.cell_layout import RECORDS, Layout
from pipeline.core.grouping import ranked


@dataclass(frozen=True, slots=True)
class CellColumns:
    """Cells in order: `windows` and `groups` are numbers of the caller's, `columns` those of a table of cells."""

    windows: Int64
    groups: Int64
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def slots(self) -> Slots:
        return np.arange(len(self.windows), dtype=np.intp)

    def taken(self, slots: npt.NDArray[np.intp | np.bool_]) -> CellColumns:
        """Some of the cells, in the order of `slots`."""
        columns = {
            name: column[slots] for name, column in self.columns.items() if name == RECORDS or column.dtype == "O"
        }
        return CellColumns(self.windows[slots], self.groups[slots], _with_fixed(columns))

    def renumbered(self, *, windows: Int64 | None = None, groups: Int64 | None = None) -> CellColumns:
        """The same partials under other windows or groups: to be merged again."""
        return CellColumns(
            self.windows if windows is None else windows, self.groups if groups is None else groups, self.columns
        )


def cells_in_one_window(window: int, groups: Int64, columns: Mapping[str, Column]) -> CellColumns:
    return CellColumns(np.full(len(groups), window, dtype=np.int64), groups, columns)


def merged_cells(layout: Layout, parts: Sequence[CellColumns]) -> CellColumns:
    """Merge the cells of one window and group, in the order given; the answer is by window, then group number."""
    parts = [part for part in parts if len(part)]
    if not parts:
        none = np.empty(0, dtype=np.int64)
        return CellColumns(none, none, layout.blank(0))
    together = _concatenated(layout, parts)
    windows, groups = together.windows, together.groups
    n_groups = int(groups.max()) + 1
    keys = windows * n_groups + groups
    if np.all(keys[1:] > keys[:-1]):
        return together  # nearly always: published windows in order, nothing to merge
    slots, first = ranked(keys, (int(windows.max()) + 1) * n_groups)
    if len(first) == len(keys):
        return together.taken(first)
    columns = layout.blank(len(first))
    for accumulator in layout.accumulators:
        accumulator.merge(columns, slots, together.columns)
    for sketch in layout.sketches:
        sketch.merge_all(columns[sketch.name], slots, together.columns[sketch.name])
    return CellColumns(windows[first], groups[first], columns)


def _concatenated(layout: Layout, parts: Sequence[CellColumns]) -> CellColumns:
    if len(parts) == 1:
        return parts[0]
    objects = (*layout.variable, *(sketch.name for sketch in layout.sketches))
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in (RECORDS, *objects)}
    return CellColumns(
        np.concatenate([part.windows for part in parts]),
        np.concatenate([part.groups for part in parts]),
        _with_fixed(columns),
    )


def _with_fixed(columns: dict[str, Column]) -> dict[str, Column]:
    """Add the fixed columns, which are views of the records."""
    records = columns[RECORDS]
    return columns | {name: records[name] for name in records.dtype.names or ()}


@dataclass(slots=True)
class GroupNumbers:
    """The groups (JSON arrays) an answer has met, numbered in the order they came."""

    names: list[bytes] = field(default_factory=list)
    _numbers: dict[bytes, int] = field(default_factory=dict)
    _last: tuple[list[bytes], Int64] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def number(self, group: bytes) -> int:
        known = self._numbers.get(group)
        if known is None:
            known = self._numbers[group] = len(self.names)
            self.names.append(group)
        return known

    def numbers(self, groups: list[bytes]) -> Int64:
        """The number of each group; one window after the other has the same ones, which one comparison finds out."""
        if self._last is not None and self._last[0] == groups:
            return self._last[1]
        known = self._numbers
        new = [group for group in dict.fromkeys(groups) if group not in known]
        known.update(zip(new, range(len(known), len(known) + len(new)), strict=True))
        self.names += new
        numbers = np.array(list(map(known.__getitem__, groups)), dtype=np.int64)
        self._last = (groups, numbers)
        return numbers
