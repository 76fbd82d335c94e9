"""The table of cells: one row per (pane, group, from_end) with the partial of every part, and its packed forms.

The table lives in the worker's memory as numpy columns, so that a batch is folded into all its cells at once. What is
written to Redis is absolute: blocks of cells where a commit changes many of a pane (see blocks), else a few fields of
the pane's hash for each cell, which are newer than any block:

    '#' number                                        a block
    FROM_END ' ' JSON array of the group's values     format byte, fixed 8-byte columns, msgpack of the variable ones
        - ["GET",200]
    the same, NUL, sketch number '.' 0                number of pieces in it, dump of the sketch as it was then
    the same, NUL, sketch number '.' n                the n-th piece: what a later commit added to it

A sketch may be large and change little, so it is written as what changed until that is more than the sketch itself
(DESIGN 8.4), in fields of its own beside a block as well. Pieces are never numbered twice: who reads a pane while it
changes counts none of them twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from pipeline.core.accumulators import Accumulator, Column, Slots, Values
from pipeline.core.blocks import (
    BLOCK_FROM,
    BLOCK_MARK,
    MAX_REWRITTEN,
    MAX_SINGLES,
    NOWHERE,
    SINGLE,
    Packed,
    PaneBlocks,
    block_field,
    block_numbers,
    decode_block,
    encode_block,
    steps,
)
from pipeline.core.sketches import Sketch, as_column

FORMAT = b"\x01"  # first byte of every packed cell and block
ALWAYS = b"-"  # from_end of events that are late for none of their windows
FROM_ALWAYS = ALWAYS + b" "  # as a cell's field begins
OTHER = "__other__"  # what every field of the groups above a stage's cap is said to be
OTHERS = b'"__other__"'  # where a group's JSON array stands: those groups, counted together
RECORDS = ""  # the record array behind the fixed columns stands beside them under this name
_FIRST_CAPACITY = 64
_COUNT_BYTES = 4
_NUL = b"\x00"  # JSON text never holds one
SMALL_SKETCH = 512  # bytes: below it a sketch is always written whole, one field and no deletes


@dataclass(frozen=True, slots=True)
class Layout:
    """The columns of a table of cells, in packed order."""

    accumulators: tuple[Accumulator, ...]
    sketches: tuple[Sketch, ...]
    fixed: tuple[tuple[str, str], ...]
    variable: tuple[str, ...]

    @classmethod
    def of(cls, accumulators: Iterable[Accumulator], sketches: Iterable[Sketch] = ()) -> Layout:
        parts = tuple(accumulators)
        columns = [column for part in parts for column in part.columns]
        return cls(
            parts,
            tuple(sketches),
            tuple((name, dtype) for name, dtype in columns if dtype != "O"),
            tuple(name for name, dtype in columns if dtype == "O"),
        )

    @property
    def record(self) -> np.dtype[Any]:
        return np.dtype(list(self.fixed))

    def blank(self, size: int) -> dict[str, Column]:
        """Return `size` cells of identities: columns over one record array, kept under RECORDS."""
        records = np.zeros(size, dtype=self.record)
        columns: dict[str, Column] = {RECORDS: records}
        columns.update({name: records[name] for name, _ in self.fixed})
        columns.update({name: np.empty(size, dtype=object) for name in self.variable})
        columns.update({sketch.name: np.empty(size, dtype=object) for sketch in self.sketches})
        self.reset(columns, np.arange(size))
        return columns

    def reset(self, columns: Mapping[str, Column], slots: Slots) -> None:
        for part in self.accumulators:
            for (name, _), value in zip(part.columns, part.identity(), strict=True):
                columns[name][slots] = value
        for sketch in self.sketches:
            column = columns[sketch.name]
            for slot in slots.tolist():
                column[slot] = sketch.empty()

    def merge(self, columns: Mapping[str, Column], parts: Sequence[tuple[Slots, Mapping[str, Column]]]) -> None:
        """Merge parts, each the slots of cells and their partials, in their order."""
        parts = [(slots, partials) for slots, partials in parts if len(slots)]
        if not parts:
            return
        for part in self.accumulators:
            for slots, partials in parts:
                part.merge(columns, slots, partials)
        together = np.concatenate([slots for slots, _ in parts])
        for sketch in self.sketches:
            merging = np.concatenate([partials[sketch.name] for _, partials in parts])
            sketch.merge_all(columns[sketch.name], together, merging)

    def pack(self, columns: Mapping[str, Column], slots: Slots) -> list[bytes]:
        """Return the whole packed cell of each slot, sketches in it."""
        dumps = [sketch.dump_all(columns[sketch.name][slots]) for sketch in self.sketches]
        return self._packed(columns, slots, dumps)

    def pack_bases(self, columns: Mapping[str, Column], slots: Slots) -> list[bytes]:
        """Return the cell of each slot as a pane's hash holds it: its sketches have fields of their own."""
        return self._packed(columns, slots, [])

    def _packed(self, columns: Mapping[str, Column], slots: Slots, dumps: Sequence[list[bytes]]) -> list[bytes]:
        width = self.record.itemsize
        packed = columns[RECORDS][slots].tobytes()
        cells = [FORMAT + packed[at : at + width] for at in range(0, len(packed), width)]
        if not self.variable and not dumps:
            return cells
        tails = zip(*(columns[name][slots].tolist() for name in self.variable), *dumps, strict=True)
        return [cell + msgspec.msgpack.encode(tail) for cell, tail in zip(cells, tails, strict=True)]

    def unpack(self, cells: Sequence[bytes]) -> dict[str, Column]:
        """Return the columns of whole packed cells, in their order.

        Raises:
            ValueError: a cell is of another format or cut off.
        """
        return self._unpacked(cells, self.sketches) if cells else self.blank(0)

    def _unpacked(self, cells: Sequence[bytes], sketches: Sequence[Sketch]) -> dict[str, Column]:
        width = self.record.itemsize
        if not self.variable and not self.sketches and set(map(len, cells)) == {1 + width}:
            return self._unpacked_fixed(cells)
        for cell in cells:
            if cell[:1] != FORMAT or len(cell) < 1 + width:
                raise self._damaged(cell)
        columns = self.blank(len(cells))
        columns[RECORDS][:] = np.frombuffer(b"".join(cell[1 : 1 + width] for cell in cells), dtype=self.record)
        if self.variable or sketches:
            tails = [msgspec.msgpack.decode(cell[1 + width :]) for cell in cells]
            for index, name in enumerate(self.variable):
                columns[name][:] = [tail[index] for tail in tails]
            for index, sketch in enumerate(sketches, start=len(self.variable)):
                columns[sketch.name] = as_column(sketch.restore_all([tail[index] for tail in tails]))
        return columns

    def _unpacked_fixed(self, cells: Sequence[bytes]) -> dict[str, Column]:
        """Cells of nothing but fixed columns: one array, whatever their number."""
        stored = np.frombuffer(b"".join(cells), dtype=np.dtype([("format", "S1"), ("cell", self.record)]))
        for number in np.flatnonzero(stored["format"] != FORMAT)[:1]:
            raise self._damaged(cells[number])
        records = stored["cell"].copy()
        return {RECORDS: records, **{name: records[name] for name, _ in self.fixed}}

    def _damaged(self, cell: bytes) -> ValueError:
        width = self.record.itemsize
        return ValueError(f"cell of {len(cell)} bytes is not of format {FORMAT!r} with {width} fixed bytes")

    def pack_block(
        self, names: list[bytes], columns: Mapping[str, Column], slots: Slots, held: Sequence[list[int]] = ()
    ) -> bytes:
        """Return one block of the cells at `slots`; `held`: of each sketch the places whose sketch is elsewhere."""
        sketches = []
        for number, sketch in enumerate(self.sketches):
            places = held[number] if held else []
            partials = columns[sketch.name][np.delete(slots, places) if places else slots]
            sketches.append((places, sketch.pack_all(partials)))
        variable = [columns[name][slots].tolist() for name in self.variable]
        return encode_block(Packed(names, columns[RECORDS][slots].tobytes(), variable, sketches))

    def unpack_blocks(self, blocks: Sequence[Packed]) -> dict[str, Column]:
        """Return the columns of the cells of some blocks, one block after the other; sketches held elsewhere are empty.

        Raises:
            ValueError: a block is of other columns than these.
        """
        if not blocks:
            return self.blank(0)
        width = self.record.itemsize
        for block in blocks:
            sizes = [len(block.records) // width if width else len(block.names), *map(len, block.variable)]
            if {*sizes} != {len(block.names)} or len(block.records) != len(block.names) * width:
                raise ValueError(f"block of {len(block.names)} cells has {sizes} values in its columns")
            if (len(block.variable), len(block.sketches)) != (len(self.variable), len(self.sketches)):
                raise ValueError("block has other columns than this stage")
        records = np.frombuffer(bytearray().join(block.records for block in blocks), dtype=self.record)
        columns: dict[str, Column] = {RECORDS: records}
        columns.update({name: records[name] for name, _ in self.fixed})
        for number, name in enumerate(self.variable):
            columns[name] = as_column([value for block in blocks for value in block.variable[number]])
        for number, sketch in enumerate(self.sketches):
            columns[sketch.name] = np.concatenate(
                [_unheld(sketch, len(block.names), *block.sketches[number]) for block in blocks]
            )
        return columns

    def read(self, stored: Mapping[bytes, bytes]) -> Content:
        """Read the fields of a pane's hash.

        Raises:
            ValueError: a block, a cell or a sketch is of another format or cut off.
        """
        numbers = block_numbers(stored)
        blocks = [decode_block(stored[block_field(number)]) for number in numbers]
        singles = [name for name in stored if name[:1] != BLOCK_MARK and _NUL not in name]
        if not blocks:
            columns = self._unpacked([stored[name] for name in singles], ())
            content = Content(singles, columns, np.full(len(singles), SINGLE))
        else:
            columns = self.unpack_blocks(blocks)
            names = [name for block in blocks for name in block.names]
            if singles:
                columns = _joined(columns, self._unpacked([stored[name] for name in singles], ()))
                names += singles
            sizes = [*(len(block.names) for block in blocks), len(singles)]
            content = _newest(Content(names, columns, np.repeat([*numbers, SINGLE], sizes)))
        if self.sketches:
            self._gather_pieces(content, stored)
        return content

    def gather(self, stored: Mapping[bytes, bytes]) -> tuple[list[bytes], dict[str, Column]]:
        """Read the fields of a pane's hash: the cells in it, and their columns in that order.

        Raises:
            ValueError: a block, a cell or a sketch is of another format or cut off.
        """
        content = self.read(stored)
        return content.names, content.columns

    def _gather_pieces(self, content: Content, stored: Mapping[bytes, bytes]) -> None:
        """Put the sketches that have fields of their own into their cells."""
        pieces = sketch_pieces(stored)
        found: list[tuple[list[int], list[bytes]]] = [([], []) for _ in self.sketches]
        numbers = {name: slot for slot, name in enumerate(content.names)} if pieces else {}
        for piece in pieces:
            if piece.cell in numbers:  # who reads a large pane while it changes may meet a sketch and not its cell
                slots, dumps = found[piece.sketch]
                slots.append(numbers[piece.cell])
                dumps.append(piece.dump)
        for kind, (slots, dumps) in zip(self.sketches, found, strict=True):
            column = content.columns[kind.name]
            if not slots:
                continue
            partials = kind.restore_all(dumps)
            if len(set(slots)) == len(slots):  # nearly always: each has its base and nothing more
                column[slots] = as_column(partials)
            else:
                kind.merge_all(column, np.array(slots, dtype=np.intp), partials)


@dataclass(frozen=True, slots=True)
class Content:
    """A pane's hash, read: its cells, their columns in that order, and where each is: in which block, or SINGLE."""

    names: list[bytes]
    columns: dict[str, Column]
    homes: Slots


def _unheld(sketch: Sketch, size: int, held: list[int], packed: Any) -> Column:
    """The sketches of a block's cells; empty where they have fields of their own."""
    partials = as_column(sketch.unpack_all(packed))
    if not held:
        if len(partials) != size:
            raise ValueError(f"block of {size} cells has {len(partials)} of {sketch.name}")
        return partials
    if len(partials) + len(held) != size or not 0 <= min(held) <= max(held) < size:
        raise ValueError(f"block of {size} cells has {len(partials)} of {sketch.name} and {len(held)} elsewhere")
    column = np.empty(size, dtype=object)
    column[held] = as_column([sketch.empty() for _ in held])
    column[np.delete(np.arange(size), held)] = partials
    return column


def _joined(first: Mapping[str, Column], second: Mapping[str, Column]) -> dict[str, Column]:
    """The columns of some cells, and of others behind them."""
    records = np.concatenate([first[RECORDS], second[RECORDS]])
    columns = {RECORDS: records} | {name: records[name] for name in records.dtype.names or ()}
    return columns | {name: np.concatenate([first[name], second[name]]) for name in first.keys() - columns.keys()}


def _newest(content: Content) -> Content:
    """The last of every cell that is there several times."""
    last = dict(zip(content.names, range(len(content.names)), strict=True))
    if len(last) == len(content.names):
        return content
    rows = np.fromiter(last.values(), np.intp, len(last))
    records = content.columns[RECORDS][rows]
    columns = {RECORDS: records} | {name: records[name] for name in records.dtype.names or ()}
    columns |= {name: column[rows] for name, column in content.columns.items() if name not in columns}
    return Content(list(last), columns, content.homes[rows])


@dataclass(frozen=True, slots=True)
class SketchPiece:
    """One field of a sketch in a pane's hash: its base, with the number of the last piece in it, or a piece."""

    cell: bytes
    sketch: int
    number: int
    dump: bytes
    is_base: bool


def sketch_pieces(stored: Mapping[bytes, bytes]) -> list[SketchPiece]:
    """The sketch fields of a pane's hash: bases, then the pieces in no base, in the order they were written."""
    bases: dict[tuple[bytes, int], SketchPiece] = {}
    pieces: list[SketchPiece] = []
    for field_name, value in stored.items():
        cell, nul, place = field_name.partition(_NUL)
        if not nul:
            continue
        sketch, _, number = place.partition(b".")
        if number == b"0":
            held, dump = int.from_bytes(value[:_COUNT_BYTES], "little"), value[_COUNT_BYTES:]
            bases[cell, int(sketch)] = SketchPiece(cell, int(sketch), held, dump, is_base=True)
        else:
            pieces.append(SketchPiece(cell, int(sketch), int(number), value, is_base=False))
    added = [p for p in pieces if (p.cell, p.sketch) not in bases or p.number > bases[p.cell, p.sketch].number]
    return [*bases.values(), *sorted(added, key=lambda piece: piece.number)]


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


class CellTable:
    """The open panes of one stage and partition (or the windows of one merge) as columns, indexed by pane and cell."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.columns = layout.blank(_FIRST_CAPACITY)
        self.panes: dict[int, dict[bytes, int]] = {}
        self._free: list[int] = list(range(_FIRST_CAPACITY - 1, -1, -1))
        self._fresh: list[dict[int, Any]] = [{} for _ in layout.sketches]  # slot → what came since it was written
        self._written: list[dict[int, _Written]] = [{} for _ in layout.sketches]  # of those with fields of their own
        self._blocks: dict[int, PaneBlocks] = {}  # of the panes that were written or loaded
        self._home = np.full(_FIRST_CAPACITY, NOWHERE)  # slot → the block it is in
        self._names = np.empty(_FIRST_CAPACITY, dtype=object)  # slot → the name it was written under

    def __len__(self) -> int:
        return sum(len(cells) for cells in self.panes.values())

    def slots(self, keys: Iterable[tuple[int, bytes]]) -> Slots:
        """Return the slot of each (pane start, cell field), making new cells of identities where there is none."""
        found = list(keys)
        if not found:
            return np.empty(0, dtype=np.intp)
        panes, names = zip(*found, strict=True)
        if panes.count(panes[0]) == len(panes):  # nearly always one pane, or a few
            return self._slots_in(panes[0], names)
        starts = np.array(panes, dtype=np.int64)
        slots = np.empty(len(found), dtype=np.intp)
        for pane in dict.fromkeys(panes):
            places = np.flatnonzero(starts == pane)
            slots[places] = self._slots_in(pane, [names[place] for place in places.tolist()])
        return slots

    def _grow(self) -> None:
        old_size = len(self.columns[RECORDS])
        grown = self.layout.blank(2 * old_size)
        grown[RECORDS][:old_size] = self.columns[RECORDS]
        for name in (*self.layout.variable, *(sketch.name for sketch in self.layout.sketches)):
            grown[name][:old_size] = self.columns[name]
        self.columns = grown
        self._home = np.concatenate([self._home, np.full(old_size, NOWHERE)])
        self._names = np.concatenate([self._names, np.empty(old_size, dtype=object)])
        self._free = [*range(2 * old_size - 1, old_size - 1, -1), *self._free]

    def drop_pane(self, pane: int) -> None:
        """Forget a pane whose windows are all final; its slots are used again."""
        freed = list(self.panes.pop(pane, {}).values())
        self._blocks.pop(pane, None)
        if freed:
            slots = np.array(freed, dtype=np.intp)
            self.layout.reset(self.columns, slots)
            self._home[slots], self._names[slots] = NOWHERE, None
            self._free.extend(freed)
            for known in (*self._written, *self._fresh):
                if known:
                    for slot in freed:
                        known.pop(slot, None)

    def load(self, pane: int, stored: Mapping[bytes, bytes]) -> None:
        """Take a pane's fields as they are stored."""
        content = self.layout.read(stored)
        self.merge_in(pane, [(content.names, content.columns)])
        slots = self._slots_in(pane, content.names)
        blocks = self._blocks[pane] = PaneBlocks()
        blocks.singles.update(slots[content.homes == SINGLE].tolist())
        for number in block_numbers(stored):
            blocks.add(number, slots[content.homes == number])
        self._home[slots], self._names[slots] = content.homes, as_column(content.names)
        numbers = dict(zip(content.names, slots.tolist(), strict=True)) if self.layout.sketches else {}
        for piece in sketch_pieces(stored) if self.layout.sketches else ():
            written = self._written[piece.sketch].setdefault(numbers[piece.cell], _Written())
            written.last = piece.number
            written.held = piece.number if piece.is_base else written.held
            written.size += 0 if piece.is_base else len(piece.dump)

    def merge(self, keys: Iterable[tuple[int, bytes]], partials: Mapping[str, Column]) -> None:
        """Merge partials into the cells `keys`, in their order."""
        slots = self.slots(keys)
        self.layout.merge(self.columns, [(slots, partials)])

    def merge_in(self, pane: int, parts: Sequence[tuple[Sequence[bytes], Mapping[str, Column]]]) -> None:
        """Merge parts, each the names of cells of a pane and their partials, in their order."""
        slots = [self._slots_in(pane, names) for names, _ in parts]  # before the columns are taken: they may grow
        self.layout.merge(self.columns, [(of, partials) for of, (_, partials) in zip(slots, parts, strict=True)])

    def _slots_in(self, pane: int, names: Sequence[bytes]) -> Slots:
        """The slots of some cells of one pane, new ones made where there is none."""
        cells = self.panes.setdefault(pane, {})
        found = list(map(cells.get, names))
        if None in found:
            new = list(dict.fromkeys(name for name, slot in zip(names, found, strict=True) if slot is None))
            while len(self._free) < len(new):
                self._grow()
            taken, self._free = self._free[: -len(new) - 1 : -1], self._free[: -len(new)]
            cells.update(zip(new, taken, strict=True))
            found = list(map(cells.__getitem__, names))
        return np.array(found, dtype=np.intp)

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

    def changes(self, keys: Sequence[tuple[int, bytes]], slots: Slots) -> dict[int, PaneChange]:
        """What has to be written of these cells, by pane, so that Redis has what the table has."""
        again = MAX_REWRITTEN
        changes: dict[int, PaneChange] = {}
        for pane, names, written in _by_pane(keys, slots):
            change = changes[pane] = PaneChange(_first_end(names))
            blocks = self._blocks.setdefault(pane, PaneBlocks())
            self._names[written] = as_column(names)
            if len(names) < BLOCK_FROM and len(blocks.singles) + len(names) <= MAX_SINGLES:
                self._write_singles(change, blocks, names, written)
            else:
                rewritten = blocks.sparse(self._home, again)
                again -= len(rewritten)
                self._write_blocks(change, blocks, written, rewritten)
        return changes

    def _write_singles(self, change: PaneChange, blocks: PaneBlocks, names: list[bytes], slots: Slots) -> None:
        """Write cells as a field each, which is newer than any block."""
        change.cells.update(zip(names, self.layout.pack_bases(self.columns, slots), strict=True))
        homes = self._home[slots]
        for number, written in enumerate(self._written):
            for slot, home in zip(slots.tolist(), homes.tolist(), strict=True):
                if slot in self._fresh[number] or (home >= 0 and slot not in written):
                    self._sketch_change(number, slot, change)
        blocks.leave(homes)
        blocks.singles.update(slots.tolist())
        self._home[slots] = SINGLE

    def _write_blocks(self, change: PaneChange, blocks: PaneBlocks, slots: Slots, rewritten: Slots) -> None:
        """Write cells as blocks, and with them those of the pane that have fields of their own.

        So no cell is anywhere but in blocks then, and who has read all blocks that there are has all cells.
        """
        singles = np.fromiter(blocks.singles, np.intp, len(blocks.singles))
        change.gone.update(self._names[singles].tolist())
        if len(singles) or len(rewritten):
            slots = np.unique(np.concatenate([slots, singles, rewritten]))
        blocks.singles.clear()
        held = [self._held(number, slots, change) for number in range(len(self.layout.sketches))]
        blocks.leave(self._home[slots])
        for part in steps(len(slots)):
            number, members = blocks.next_number(), slots[part]
            elsewhere = [np.flatnonzero(mask[part]).tolist() for mask in held]
            names = self._names[members].tolist()
            change.cells[block_field(number)] = self.layout.pack_block(names, self.columns, members, elsewhere)
            blocks.add(number, members)
            self._home[members] = number
        change.gone.update(block_field(number) for number in blocks.take_dead())

    def _held(self, number: int, slots: Slots, change: PaneChange) -> Column:
        """Which of the cells have a sketch that is too large for a block: what came to those is written here."""
        sketch, written, fresh = self.layout.sketches[number], self._written[number], self._fresh[number]
        wholes = self.columns[sketch.name][slots]
        large = np.fromiter((sketch.weight(whole) > SMALL_SKETCH for whole in wholes), np.bool_, len(slots))
        if written:  # once in pieces it stays so: pieces are never numbered twice
            large |= np.fromiter((slot in written and written[slot].last > 0 for slot in slots.tolist()), np.bool_)
        for slot, is_large in zip(slots.tolist(), large.tolist(), strict=True) if fresh or written else ():
            if is_large and (slot in fresh or slot not in written):
                self._sketch_change(number, slot, change)
            elif not is_large:
                fresh.pop(slot, None)
                if written.pop(slot, None) is not None:
                    change.gone.add(_piece(self._names[slot], number, 0))
        return large

    def forget_changes(self) -> None:
        """Drop what came since the last write: for who keeps the table and writes nothing."""
        for fresh in self._fresh:
            fresh.clear()

    def _sketch_change(self, number: int, slot: int, change: PaneChange) -> None:
        """Write what came since the last time, or the whole sketch once the pieces are larger than it is."""
        sketch, whole = self.layout.sketches[number], self.columns[self.layout.sketches[number].name][slot]
        name, fresh = self._names[slot], self._fresh[number].pop(slot, None)
        is_new = slot not in self._written[number]
        written = self._written[number].setdefault(slot, _Written())
        weight = sketch.weight(whole)
        if is_new or not sketch.incremental or weight <= SMALL_SKETCH or written.size >= weight:
            change.cells[_piece(name, number, 0)] = written.last.to_bytes(_COUNT_BYTES, "little") + sketch.dump(whole)
            change.gone.update(_piece(name, number, piece) for piece in range(written.held + 1, written.last + 1))
            written.held, written.size = written.last, 0
            return
        written.last += 1
        dump = sketch.dump(fresh)
        written.size += len(dump)
        change.cells[_piece(name, number, written.last)] = dump


def _piece(name: bytes, sketch: int, piece: int) -> bytes:
    return b"%b%b%d.%d" % (name, _NUL, sketch, piece)


def _by_pane(keys: Sequence[tuple[int, bytes]], slots: Slots) -> Iterator[tuple[int, list[bytes], Slots]]:
    """The names and slots of some cells, pane by pane."""
    starts = np.fromiter((pane for pane, _ in keys), np.int64, len(keys))
    names = [name for _, name in keys]
    for pane in dict.fromkeys(starts.tolist()):
        places = np.flatnonzero(starts == pane)
        whole = len(places) == len(names)
        yield pane, names if whole else [names[place] for place in places.tolist()], slots[places]


def _first_end(names: Sequence[bytes]) -> bytes:
    """The earliest from_end of some cells: nearly always that of all windows."""
    if names and names[0].startswith(FROM_ALWAYS):
        return ALWAYS
    ends = {name.partition(b" ")[0] for name in names}
    return min(ends, key=from_end_order)


def from_end_order(from_end: bytes) -> int:
    """Order cells by the end of the first window they count in; `-` is before all."""
    return -(2**63) if from_end == ALWAYS else int(from_end)


def cell_field(group: Sequence[Any], from_end: bytes = ALWAYS) -> bytes:
    """Return the hash field of a cell: `- ["GET",200]`."""
    return from_end + b" " + group_json(group)


def cell_fields(groups: Sequence[Sequence[Any]]) -> list[bytes]:
    """The fields of many cells of events that are late for none of their windows.

    All are written as one JSON text and cut between two arrays, which is a tenth of the time. A string with such a
    place in it makes a part too many: then one by one. JSON text has no line break in it.
    """
    text = msgspec.json.encode(groups)[1:-1]
    fields = (FROM_ALWAYS + text.replace(b"],[", b"]\n" + FROM_ALWAYS + b"[")).split(b"\n")
    return fields if len(fields) == len(groups) else [cell_field(group) for group in groups]


def group_json(group: Sequence[Any]) -> bytes:
    """A group as compact JSON: the one spelling used in fields, blocks and `latest`."""
    return msgspec.json.encode(group)


def split_field(field: bytes) -> tuple[bytes, bytes]:
    """Return (from_end, group JSON) of a cell's field."""
    from_end, _, group = field.partition(b" ")
    return from_end, group
