"""The table of cells: one row per (pane, group, from_end) with the partial of every part.

The table lives in the worker's memory as numpy columns, so that a batch is folded into all its cells at once. What is
written to Redis is absolute: blocks of cells where a commit changes many of a pane (see blocks), else a few fields of
the pane's hash for each cell, which are newer than any block (see cell_layout).

A sketch may be large and change little, so it is written as what changed until that is more than the sketch itself
(DESIGN 8.4), in fields of its own beside a block as well. Pieces are never numbered twice: who reads a pane while it
changes counts none of them twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.core.accumulators import Column, Slots, Values
from pipeline.core.blocks import (
    BLOCK_FROM,
    MAX_REWRITTEN,
    MAX_SINGLES,
    NOWHERE,
    SINGLE,
    PaneBlocks,
    block_field,
    block_numbers,
    steps,
)
from pipeline.core.cell_fields import ALWAYS, FROM_ALWAYS, from_end_order
from pipeline.core.cell_keys import CellKey, CellKeys
from pipeline.core.cell_layout import COUNT_BYTES, NUL, RECORDS, Layout, sketch_pieces
from pipeline.core.names import Directory, Int32, Names

_FIRST_CAPACITY = 64
SMALL_SKETCH = 512  # bytes: below it a sketch is always written whole, one field and no deletes


@dataclass(slots=True)
class _Written:
    """How a cell's sketch stands in Redis: the last piece, the last one the base holds, the bytes of those between."""

    last: int = 0
    held: int = 0
    size: int = 0


@dataclass(slots=True)
class PaneChange:
    """What a commit writes of one pane: fields to set, fields to delete, and the end of the first window it changes."""

    from_end: bytes = b""
    cells: dict[bytes, bytes] = field(default_factory=dict)
    gone: set[bytes] = field(default_factory=set)

    def then(self, other: PaneChange) -> PaneChange:
        """This change and another one after it, as one."""
        ends = [end for end in (self.from_end, other.from_end) if end]
        return PaneChange(
            min(ends, key=from_end_order, default=b""),
            {name: value for name, value in self.cells.items() if name not in other.gone} | other.cells,
            (self.gone - other.cells.keys()) | other.gone,
        )


class PaneCells:
    """The cells of one pane: their fields by number, in the order they came, and the slot of each."""

    __slots__ = ("_room", "directory")

    def __init__(self) -> None:
        self.directory = Directory()
        self._room = np.empty(0, dtype=np.int32)

    def __len__(self) -> int:
        return len(self.directory)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.directory.names())

    @property
    def names(self) -> Names:
        return self.directory.names()

    @property
    def slots(self) -> Slots:
        return self._room[: len(self.directory)].astype(np.intp)

    def slots_of(self, numbers: Int32) -> Slots:
        return self._room[numbers].astype(np.intp)

    def append(self, slots: Int32) -> None:
        """Give the cells that were numbered last their slots."""
        size = len(self.directory)
        if size > len(self._room):
            grown = np.empty(max(size, 2 * len(self._room)), dtype=np.int32)
            grown[: len(self._room)] = self._room
            self._room = grown
        self._room[size - len(slots) : size] = slots


class CellTable:
    """The open panes of one stage and partition (or the windows of one merge) as columns, indexed by pane and cell."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.columns = layout.blank(_FIRST_CAPACITY)
        self.panes: dict[int, PaneCells] = {}
        self._used = 0  # slots up to here were given to cells
        self._free = np.empty(0, dtype=np.int32)  # those of them that are free again
        self._fresh: list[dict[int, Any]] = [{} for _ in layout.sketches]  # slot → what came since it was written
        self._written: list[dict[int, _Written]] = [{} for _ in layout.sketches]  # of those with fields of their own
        self._blocks: dict[int, PaneBlocks] = {}  # of the panes that were written or loaded
        self._home = np.full(_FIRST_CAPACITY, NOWHERE, dtype=np.int32)  # slot → the block it is in
        self._number = np.zeros(_FIRST_CAPACITY, dtype=np.int32)  # slot → its number in its pane

    def __len__(self) -> int:
        return sum(len(cells) for cells in self.panes.values())

    def pane(self, start: int) -> PaneCells:
        """The cells of a pane, none yet where it is new."""
        known = self.panes.get(start)
        if known is None:
            known = self.panes[start] = PaneCells()
        return known

    def slots(self, keys: Iterable[CellKey]) -> Slots:
        """Return the slot of each (pane start, cell field), making new cells of identities where there is none."""
        cells = CellKeys.of(keys)
        slots = np.empty(len(cells), dtype=np.intp)
        for start, places in cells.by_pane():
            slots[places] = self._slots_in(start, cells.fields.taken(places))
        return slots

    def _slots_in(self, start: int, names: Names) -> Slots:
        """The slots of some cells of one pane, new ones made where there is none."""
        pane = self.pane(start)
        known = len(pane)
        numbers = pane.directory.numbers(names)
        if new := len(pane) - known:
            slots = self._allocate(new)
            pane.append(slots)
            self._number[slots] = np.arange(known, known + new, dtype=np.int32)
        return pane.slots_of(numbers)

    def _allocate(self, count: int) -> Int32:
        again, self._free = self._free[:count], self._free[count:]
        first, self._used = self._used, self._used + count - len(again)
        while self._used > len(self._home):
            self._grow()
        return np.concatenate([again, np.arange(first, self._used, dtype=np.int32)])

    def _grow(self) -> None:
        old = len(self.columns[RECORDS])
        grown = self.layout.blank(2 * old)
        grown[RECORDS][:old] = self.columns[RECORDS]
        for name in (*self.layout.variable, *(sketch.name for sketch in self.layout.sketches)):
            grown[name][:old] = self.columns[name]
        self.columns = grown
        self._home = np.concatenate([self._home, np.full(old, NOWHERE, dtype=np.int32)])
        self._number = np.concatenate([self._number, np.zeros(old, dtype=np.int32)])

    def drop_pane(self, start: int) -> None:
        """Forget a pane whose windows are all final; its slots are used again."""
        pane = self.panes.pop(start, None)
        self._blocks.pop(start, None)
        if pane is None or not len(pane):
            return
        slots = pane.slots
        self.layout.reset(self.columns, slots)
        self._home[slots] = NOWHERE
        self._free = np.concatenate([slots.astype(np.int32), self._free])
        for known in (*self._written, *self._fresh):
            if known:
                for slot in slots.tolist():
                    known.pop(slot, None)

    def load(self, start: int, stored: Mapping[bytes, bytes]) -> None:
        """Take a pane's fields as they are stored."""
        content = self.layout.read(stored)
        self.merge_in(start, [(content.names, content.columns)])
        slots = self._slots_in(start, content.names)
        blocks = self._blocks[start] = PaneBlocks()
        blocks.singles.update(slots[content.homes == SINGLE].tolist())
        for number in block_numbers(stored):
            blocks.add(number, slots[content.homes == number])
        self._home[slots] = content.homes
        numbers = dict(zip(content.names, slots.tolist(), strict=True)) if self.layout.sketches else {}
        for piece in sketch_pieces(stored) if self.layout.sketches else ():
            written = self._written[piece.sketch].setdefault(numbers[piece.cell], _Written())
            written.last = piece.number
            written.held = piece.number if piece.is_base else written.held
            written.size += 0 if piece.is_base else len(piece.dump)

    def merge(self, keys: Iterable[CellKey], partials: Mapping[str, Column]) -> None:
        """Merge partials into the cells `keys`, in their order."""
        slots = self.slots(keys)
        self.layout.merge(self.columns, [(slots, partials)])

    def merge_in(self, start: int, parts: Sequence[tuple[Iterable[bytes], Mapping[str, Column]]]) -> None:
        """Merge parts, each the names of cells of a pane and their partials, in their order."""
        # before the columns are taken: they may grow
        slots = [self._slots_in(start, Names.of(names)) for names, _ in parts]
        self.layout.merge(self.columns, [(of, partials) for of, (_, partials) in zip(slots, parts, strict=True)])

    def fold_sketch(self, number: int, new: Values) -> None:
        """Fold a batch's values into one sketch of each of its cells, and remember what that added."""
        sketch, fresh = self.layout.sketches[number], self._fresh[number]
        column = self.columns[sketch.name]
        slots, lifted = sketch.lift(new)
        for slot, admitted in zip(slots.tolist(), sketch.fold_all(column, slots, lifted), strict=True):
            known = fresh.get(slot)
            fresh[slot] = admitted if known is None else sketch.merge(known, admitted)

    def packed(self, slots: Slots) -> list[bytes]:
        """The whole packed cells."""
        return self.layout.pack(self.columns, slots)

    def changes(self, keys: Iterable[CellKey], slots: Slots) -> dict[int, PaneChange]:
        """What has to be written of these cells, by pane, so that Redis has what the table has."""
        again = MAX_REWRITTEN
        changes: dict[int, PaneChange] = {}
        cells = CellKeys.of(keys)
        for start, places in cells.by_pane():
            names, written = cells.fields.taken(places), slots[places]
            change = changes[start] = PaneChange(_first_end(names))
            blocks = self._blocks.setdefault(start, PaneBlocks())
            if len(names) < BLOCK_FROM and len(blocks.singles) + len(names) <= MAX_SINGLES:
                self._write_singles(change, blocks, names.tolist(), written)
            else:
                rewritten = blocks.sparse(self._home, again)
                again -= len(rewritten)
                self._write_blocks(change, self.panes[start], blocks, written, rewritten)
        return changes

    def _write_singles(self, change: PaneChange, blocks: PaneBlocks, names: list[bytes], slots: Slots) -> None:
        """Write cells as a field each, which is newer than any block."""
        change.cells.update(zip(names, self.layout.pack_bases(self.columns, slots), strict=True))
        homes = self._home[slots]
        for number, written in enumerate(self._written):
            for name, slot, home in zip(names, slots.tolist(), homes.tolist(), strict=True):
                if slot in self._fresh[number] or (home >= 0 and slot not in written):
                    self._sketch_change(number, name, slot, change)
        blocks.leave(homes)
        blocks.singles.update(slots.tolist())
        self._home[slots] = SINGLE

    def _write_blocks(
        self, change: PaneChange, pane: PaneCells, blocks: PaneBlocks, slots: Slots, rewritten: Slots
    ) -> None:
        """Write cells as blocks, and with them those of the pane that have fields of their own.

        So no cell is anywhere but in blocks then, and who has read all blocks that there are has all cells.
        """
        singles = np.fromiter(blocks.singles, np.intp, len(blocks.singles))
        change.gone.update(self._names_of(pane, singles))
        if len(singles) or len(rewritten):
            slots = np.unique(np.concatenate([slots, singles, rewritten]))
        blocks.singles.clear()
        held = [self._held(number, pane, slots, change) for number in range(len(self.layout.sketches))]
        blocks.leave(self._home[slots])
        for part in steps(len(slots)):
            number, members = blocks.next_number(), slots[part]
            elsewhere = [np.flatnonzero(mask[part]).tolist() for mask in held]
            names = self._names_of(pane, members)
            change.cells[block_field(number)] = self.layout.pack_block(names, self.columns, members, elsewhere)
            blocks.add(number, members)
            self._home[members] = number
        change.gone.update(block_field(number) for number in blocks.take_dead())

    def _names_of(self, pane: PaneCells, slots: Slots) -> Names:
        """The fields of some cells of a pane."""
        return pane.directory.names(self._number[slots])

    def _held(self, number: int, pane: PaneCells, slots: Slots, change: PaneChange) -> Column:
        """Which of the cells have a sketch that is too large for a block: what came to those is written here."""
        sketch, written, fresh = self.layout.sketches[number], self._written[number], self._fresh[number]
        wholes = self.columns[sketch.name][slots]
        large = np.fromiter((sketch.weight(whole) > SMALL_SKETCH for whole in wholes), np.bool_, len(slots))
        if written:  # once in pieces it stays so: pieces are never numbered twice
            large |= np.fromiter((slot in written and written[slot].last > 0 for slot in slots.tolist()), np.bool_)
        if not fresh and not written:
            return large
        names = self._names_of(pane, slots)
        for name, slot, is_large in zip(names, slots.tolist(), large.tolist(), strict=True):
            if is_large and (slot in fresh or slot not in written):
                self._sketch_change(number, name, slot, change)
            elif not is_large:
                fresh.pop(slot, None)
                if written.pop(slot, None) is not None:
                    change.gone.add(_piece(name, number, 0))
        return large

    def forget_changes(self) -> None:
        """Drop what came since the last write: for who keeps the table and writes nothing."""
        for fresh in self._fresh:
            fresh.clear()

    def _sketch_change(self, number: int, name: bytes, slot: int, change: PaneChange) -> None:
        """Write what came since the last time, or the whole sketch once the pieces are larger than it is."""
        sketch, whole = self.layout.sketches[number], self.columns[self.layout.sketches[number].name][slot]
        fresh = self._fresh[number].pop(slot, None)
        is_new = slot not in self._written[number]
        written = self._written[number].setdefault(slot, _Written())
        weight = sketch.weight(whole)
        if is_new or not sketch.incremental or weight <= SMALL_SKETCH or written.size >= weight:
            change.cells[_piece(name, number, 0)] = written.last.to_bytes(COUNT_BYTES, "little") + sketch.dump(whole)
            change.gone.update(_piece(name, number, piece) for piece in range(written.held + 1, written.last + 1))
            written.held, written.size = written.last, 0
            return
        written.last += 1
        dump = sketch.dump(fresh)
        written.size += len(dump)
        change.cells[_piece(name, number, written.last)] = dump


def _piece(name: bytes, sketch: int, piece: int) -> bytes:
    return b"%b%b%d.%d" % (name, NUL, sketch, piece)


def _first_end(names: Names) -> bytes:
    """The earliest from_end of some cells: nearly always that of all windows."""
    if not len(names) or names[0].startswith(FROM_ALWAYS):
        return ALWAYS
    ends = {name.partition(b" ")[0] for name in names}
    return min(ends, key=from_end_order)
