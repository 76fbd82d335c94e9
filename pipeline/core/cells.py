"""The table of cells: one row per (pane, group, from_end) with the partial of every accumulator, and its packed form.

The table lives in the worker's memory as numpy columns, so that a batch is folded into all its cells at once. What is
written to Redis is absolute and packed per cell:

    field of the pane's hash     FROM_END ' ' JSON array of the group's values        - ["GET",200]
    value                        format byte, fixed 8-byte columns little-endian, then msgpack of the variable ones

The fixed part of a cell is one row of a numpy record array, so packing a thousand changed cells is one `tobytes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from pipeline.core.accumulators import Accumulator, Column, Slots

FORMAT = b"\x01"  # first byte of every packed cell and block
ALWAYS = b"-"  # from_end of events that are late for none of their windows
RECORDS = ""  # the record array behind the fixed columns stands beside them under this name
_FIRST_CAPACITY = 64


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a table of cells, in packed order."""

    accumulators: tuple[Accumulator, ...]
    fixed: tuple[tuple[str, str], ...]
    variable: tuple[str, ...]

    @classmethod
    def of(cls, accumulators: Iterable[Accumulator]) -> Layout:
        parts = tuple(accumulators)
        columns = [column for part in parts for column in part.columns]
        return cls(
            parts,
            tuple((name, dtype) for name, dtype in columns if dtype != "O"),
            tuple(name for name, dtype in columns if dtype == "O"),
        )

    @property
    def record(self) -> np.dtype[Any]:
        return np.dtype(list(self.fixed))

    def blank(self, size: int) -> dict[str, Column]:
        """Return `size` cells of identities: columns over one record array, kept under RECORDS"""
        records = np.zeros(size, dtype=self.record)
        columns: dict[str, Column] = {RECORDS: records}
        columns.update({name: records[name] for name, _ in self.fixed})
        columns.update({name: np.empty(size, dtype=object) for name in self.variable})
        self.reset(columns, np.arange(size))
        return columns

    def reset(self, columns: Mapping[str, Column], slots: Slots) -> None:
        for part in self.accumulators:
            for (name, _), value in zip(part.columns, part.identity(), strict=True):
                columns[name][slots] = value

    def pack(self, columns: Mapping[str, Column], slots: Slots) -> list[bytes]:
        """Return the packed cell of each slot."""
        width = self.record.itemsize
        packed = columns[RECORDS][slots].tobytes()
        cells = [FORMAT + packed[at : at + width] for at in range(0, len(packed), width)]
        if not self.variable:
            return cells
        tails = zip(*(columns[name][slots].tolist() for name in self.variable), strict=True)
        return [cell + msgspec.msgpack.encode(tail) for cell, tail in zip(cells, tails, strict=True)]

    def unpack(self, cells: Sequence[bytes]) -> dict[str, Column]:
        """Return the columns of packed cells, in their order.

        Raises:
            ValueError: a cell is of another format or cut off.
        """
        width = self.record.itemsize
        for cell in cells:
            if cell[:1] != FORMAT or len(cell) < 1 + width:
                raise ValueError(f"cell of {len(cell)} bytes is not of format {FORMAT!r} with {width} fixed bytes")
        columns = self.blank(len(cells))
        columns[RECORDS][:] = np.frombuffer(b"".join(cell[1 : 1 + width] for cell in cells), dtype=self.record)
        if self.variable:
            tails = [msgspec.msgpack.decode(cell[1 + width :]) for cell in cells]
            for index, name in enumerate(self.variable):
                columns[name][:] = [tail[index] for tail in tails]
        return columns


class CellTable:
    """The open panes of one stage and partition (or the windows of one merge) as columns, indexed by pane and cell."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.columns = layout.blank(_FIRST_CAPACITY)
        self.panes: dict[int, dict[bytes, int]] = {}
        self._free: list[int] = list(range(_FIRST_CAPACITY - 1, -1, -1))

    def __len__(self) -> int:
        return sum(len(cells) for cells in self.panes.values())

    def slots(self, keys: Iterable[tuple[int, bytes]]) -> Slots:
        """Return the slot of each (pane start, cell field), making new cells of identities where there is none."""
        return np.fromiter((self._slot(pane, field) for pane, field in keys), dtype=np.intp)

    def _slot(self, pane: int, field: bytes) -> int:
        cells = self.panes.get(pane)
        if cells is None:
            cells = self.panes[pane] = {}
        slot = cells.get(field)
        if slot is None:
            if not self._free:
                self._grow()
            slot = cells[field] = self._free.pop()
        return slot

    def _grow(self) -> None:
        old_size = len(self.columns[RECORDS])
        grown = self.layout.blank(2 * old_size)
        grown[RECORDS][:old_size] = self.columns[RECORDS]
        for name in self.layout.variable:
            grown[name][:old_size] = self.columns[name]
        self.columns = grown
        self._free = list(range(2 * old_size - 1, old_size - 1, -1))

    def drop_pane(self, pane: int) -> None:
        """Forget a pane whose windows are all final; its slots are used again."""
        freed = list(self.panes.pop(pane, {}).values())
        if freed:
            self.layout.reset(self.columns, np.array(freed, dtype=np.intp))
            self._free.extend(freed)

    def load(self, pane: int, cells: Mapping[bytes, bytes]) -> None:
        """Take a pane's packed cells as they are stored."""
        self.merge([(pane, field) for field in cells], self.layout.unpack(list(cells.values())))

    def merge(self, keys: Iterable[tuple[int, bytes]], partials: Mapping[str, Column]) -> None:
        """Merge partials into the cells `keys`, in their order."""
        slots = self.slots(keys)
        if len(slots):
            for part in self.layout.accumulators:
                part.merge(self.columns, slots, partials)

    def packed(self, slots: Slots) -> list[bytes]:
        return self.layout.pack(self.columns, slots)


def cell_field(group: Sequence[Any], from_end: bytes = ALWAYS) -> bytes:
    """Return the hash field of a cell: `- ["GET",200]`."""
    return from_end + b" " + group_json(group)


def group_json(group: Sequence[Any]) -> bytes:
    """A group as compact JSON: the one spelling used in fields, blocks and `latest`."""
    return msgspec.json.encode(group)


def split_field(field: bytes) -> tuple[bytes, bytes]:
    """Return (from_end, group JSON) of a cell's field."""
    from_end, _, group = field.partition(b" ")
    return from_end, group


def pack_block(groups: Sequence[bytes], cells: Sequence[bytes]) -> bytes:
    """Pack groups and their cells as one field of a result hash."""
    return FORMAT + msgspec.msgpack.encode((groups, cells))


_BLOCK = msgspec.msgpack.Decoder(tuple[list[bytes], list[bytes]])


def unpack_block(block: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return (group JSONs, packed cells) of a block.

    Raises:
        ValueError: the block is of another format or cut off.
    """
    if block[:1] != FORMAT:
        raise ValueError(f"block starts with {block[:1]!r}, not with format {FORMAT!r}")
    return _BLOCK.decode(block[1:])
