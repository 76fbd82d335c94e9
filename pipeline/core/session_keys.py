"""The keys of live sessions by number, and the newest session of each: columns, with no Python object a key.

    heads     4  -1   0          the slot of the newest session of key 0, 1, 2; -1: it has none any more

Invariant: a key is never forgotten alone. When most of them have no session left, `only` numbers those that have anew.
"""

from __future__ import annotations

import numpy as np

from pipeline.core.accumulators import Slots
from pipeline.core.cell_keys import CellKeys
from pipeline.core.definitions import Session
from pipeline.core.names import Directory, Int32, Names, joined

NONE = -1  # no slot
_SLICE_BYTES = 8  # of an int64, before the cell field where sessions have a `max`
_FIRST_CAPACITY = 64


class SessionKeys:
    """Keys, (slice of time, cell field) each, numbered in the order they came first."""

    __slots__ = ("_directory", "_is_sliced", "heads")

    def __init__(self, window: Session) -> None:
        self._is_sliced = window.max_ms is not None
        self._directory = Directory()
        self.heads: Slots = np.full(_FIRST_CAPACITY, NONE, dtype=np.intp)

    def __len__(self) -> int:
        return len(self._directory)

    def numbers(self, keys: CellKeys) -> Int32:
        """The number of each key; new ones are added, without a session."""
        names = keys.fields
        if self._is_sliced:
            names = joined([Names.of_width(keys.panes.astype(">i8").tobytes(), _SLICE_BYTES), names], len(keys))
        found = self._directory.numbers(names)
        if len(self) > len(self.heads):
            grown = np.full(2 * len(self), NONE, dtype=np.intp)
            grown[: len(self.heads)] = self.heads
            self.heads = grown
        return found

    def fields(self, numbers: Int32) -> Names:
        """The cell fields of some keys."""
        names = self._directory.names(numbers)
        return names.without(_SLICE_BYTES) if self._is_sliced else names

    def only(self, numbers: Int32) -> Int32:
        """Forget all keys but these, which are given new numbers."""
        names, heads = self._directory.names(numbers), self.heads[numbers]
        self._directory = Directory()
        found = self._directory.numbers(names)
        self.heads = np.full(max(_FIRST_CAPACITY, 2 * len(self)), NONE, dtype=np.intp)
        self.heads[found] = heads
        return found
