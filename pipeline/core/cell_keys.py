"""The keys of a batch's cells as columns: the pane of each, and its field there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from pipeline.core.accumulators import Int64, Slots
from pipeline.core.names import Names

CellKey = tuple[int, bytes]  # pane start, cell field


@dataclass(frozen=True, slots=True, eq=False)
class CellKeys(Sequence[CellKey]):
    """Keys of cells, in order; one by one they are pairs."""

    panes: Int64
    fields: Names

    @classmethod
    def of(cls, keys: Iterable[CellKey]) -> CellKeys:
        if isinstance(keys, CellKeys):
            return keys
        listed = list(keys)
        panes = np.fromiter((pane for pane, _ in listed), np.int64, len(listed))
        return cls(panes, Names.of([field for _, field in listed]))

    def by_pane(self) -> Iterator[tuple[int, Slots | slice]]:
        """Each pane, in the order they come, and the places of its cells."""
        if not len(self.panes):
            return
        first = int(self.panes[0])
        if (self.panes == first).all():  # nearly always one pane, or a few
            yield first, slice(None)
            return
        panes, firsts = np.unique(self.panes, return_index=True)
        for pane in panes[np.argsort(firsts)].tolist():
            yield pane, np.flatnonzero(self.panes == pane)

    def __len__(self) -> int:
        return len(self.panes)

    def __iter__(self) -> Iterator[CellKey]:
        return zip(self.panes.tolist(), self.fields.tolist(), strict=True)

    @overload
    def __getitem__(self, place: int) -> CellKey: ...
    @overload
    def __getitem__(self, place: slice) -> CellKeys: ...
    def __getitem__(self, place: int | slice) -> CellKey | CellKeys:
        if isinstance(place, slice):
            return CellKeys(self.panes[place], self.fields[place])
        return int(self.panes[place]), self.fields[place]
