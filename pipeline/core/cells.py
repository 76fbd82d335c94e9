"""The table of cells: one row per (pane, group, from_end) with the partial of every part, and its packed forms.

The table lives in the worker's memory as numpy columns, so that a batch is folded into all its cells at once. What is
written to Redis is absolute, a few fields of the pane's hash for each cell:

    FROM_END ' ' JSON array of the group's values     format byte, fixed 8-byte columns, msgpack of the variable ones
        - ["GET",200]
    the same, NUL, sketch number '.' 0                number of pieces in it, dump of the sketch as it was then
    the same, NUL, sketch number '.' n                the n-th piece: what a later commit added to it

A sketch may be large and change little, so it is written as what changed until that is more than the sketch itself
(DESIGN 8.4). Pieces are never numbered twice: who reads a pane while it changes counts none of them twice. A result
is one row of a numpy record array, so packing a thousand changed cells is one `tobytes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from pipeline.core.accumulators import Accumulator, Column, Slots, Values
from pipeline.core.sketches import Sketch, as_column

FORMAT = b"\x01"  # first byte of every packed cell and block
ALWAYS = b"-"  # from_end of events that are late for none of their windows
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

    def gather(self, stored: Mapping[bytes, bytes]) -> tuple[list[bytes], dict[str, Column]]:
        """Read the fields of a pane's hash: the cells in it, and their columns in that order.

        Raises:
            ValueError: a cell or a sketch is of another format or cut off.
        """
        if not self.sketches:
            return list(stored), self.unpack(list(stored.values()))
        names = [name for name in stored if _NUL not in name]
        columns = self._unpacked([stored[name] for name in names], ())
        numbers = {name: slot for slot, name in enumerate(names)}
        found: list[tuple[list[int], list[bytes]]] = [([], []) for _ in self.sketches]
        for piece in sketch_pieces(stored):
            if piece.cell in numbers:  # who reads a large pane while it changes may meet a sketch and not its cell
                slots, dumps = found[piece.sketch]
                slots.append(numbers[piece.cell])
                dumps.append(piece.dump)
        for kind, (slots, dumps) in zip(self.sketches, found, strict=True):
            partials = kind.restore_all(dumps)
            if len(set(slots)) == len(slots):  # nearly always: each has its base and nothing more
                columns[kind.name][slots] = as_column(partials)
            else:
                kind.merge_all(columns[kind.name], np.array(slots, dtype=np.intp), partials)
        return names, columns


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
        self._written: list[dict[int, _Written]] = [{} for _ in layout.sketches]

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
        for name in (*self.layout.variable, *(sketch.name for sketch in self.layout.sketches)):
            grown[name][:old_size] = self.columns[name]
        self.columns = grown
        self._free = list(range(2 * old_size - 1, old_size - 1, -1))

    def drop_pane(self, pane: int) -> None:
        """Forget a pane whose windows are all final; its slots are used again."""
        freed = list(self.panes.pop(pane, {}).values())
        if freed:
            self.layout.reset(self.columns, np.array(freed, dtype=np.intp))
            self._free.extend(freed)
            for slot in freed:
                for written, fresh in zip(self._written, self._fresh, strict=True):
                    written.pop(slot, None)
                    fresh.pop(slot, None)

    def load(self, pane: int, stored: Mapping[bytes, bytes]) -> None:
        """Take a pane's fields as they are stored."""
        names, columns = self.layout.gather(stored)
        keys = [(pane, name) for name in names]
        self.merge(keys, columns)
        slots = dict(zip(names, self.slots(keys).tolist(), strict=True))
        for piece in sketch_pieces(stored):
            written = self._written[piece.sketch].setdefault(slots[piece.cell], _Written())
            written.last = piece.number
            written.held = piece.number if piece.is_base else written.held
            written.size += 0 if piece.is_base else len(piece.dump)

    def merge(self, keys: Iterable[tuple[int, bytes]], partials: Mapping[str, Column]) -> None:
        """Merge partials into the cells `keys`, in their order."""
        self._merge([(self.slots(keys), partials)])

    def merge_in(self, pane: int, parts: Sequence[tuple[Sequence[bytes], Mapping[str, Column]]]) -> None:
        """Merge parts, each the names of cells of a pane and their partials, in their order."""
        self._merge([(self._slots_in(pane, names), partials) for names, partials in parts])

    def _slots_in(self, pane: int, names: Sequence[bytes]) -> Slots:
        found = list(map(self.panes.setdefault(pane, {}).get, names))
        if None in found:
            found = [self._slot(pane, name) if slot is None else slot for name, slot in zip(names, found, strict=True)]
        return np.array(found, dtype=np.intp)

    def _merge(self, parts: Sequence[tuple[Slots, Mapping[str, Column]]]) -> None:
        parts = [(slots, partials) for slots, partials in parts if len(slots)]
        if not parts:
            return
        for part in self.layout.accumulators:
            for slots, partials in parts:
                part.merge(self.columns, slots, partials)
        together = np.concatenate([slots for slots, _ in parts])
        for sketch in self.layout.sketches:
            merging = np.concatenate([partials[sketch.name] for _, partials in parts])
            sketch.merge_all(self.columns[sketch.name], together, merging)

    def fold_sketch(self, number: int, new: Values) -> None:
        """Fold a batch's values into one sketch of each of its cells, and remember what that added."""
        sketch, fresh = self.layout.sketches[number], self._fresh[number]
        column = self.columns[sketch.name]
        slots, lifted = sketch.lift(new)
        for slot, partial in zip(slots.tolist(), lifted, strict=True):
            column[slot], admitted = sketch.fold(column[slot], partial)
            known = fresh.get(slot)
            fresh[slot] = admitted if known is None else sketch.merge(known, admitted)

    def packed(self, slots: Slots) -> list[bytes]:
        """The whole packed cells."""
        return self.layout.pack(self.columns, slots)

    def changes(self, keys: Sequence[tuple[int, bytes]], slots: Slots) -> dict[int, PaneChange]:
        """What has to be written of these cells, by pane, so that Redis has what the table has."""
        changes: dict[int, PaneChange] = {}
        for (pane, name), base in zip(keys, self.layout.pack_bases(self.columns, slots), strict=True):
            change = changes.get(pane)
            if change is None:
                change = changes[pane] = PaneChange()
            change.cells[name] = base
        for change in changes.values():
            change.from_end = _first_end(change.cells)
        for number in range(len(self.layout.sketches)):
            for (pane, name), slot in zip(keys, slots.tolist(), strict=True):
                if slot in self._fresh[number]:
                    self._sketch_change(number, slot, name, changes[pane])
        return changes

    def forget_changes(self) -> None:
        """Drop what came since the last write: for who keeps the table and writes nothing."""
        for fresh in self._fresh:
            fresh.clear()

    def _sketch_change(self, number: int, slot: int, name: bytes, change: PaneChange) -> None:
        """Write what came since the last time, or the whole sketch once the pieces are larger than it is."""
        sketch, whole = self.layout.sketches[number], self.columns[self.layout.sketches[number].name][slot]
        fresh = self._fresh[number].pop(slot)
        written = self._written[number].setdefault(slot, _Written())
        weight = sketch.weight(whole)
        if not sketch.incremental or weight <= SMALL_SKETCH or written.size >= weight:
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


def _first_end(names: Iterable[bytes]) -> bytes:
    """The earliest from_end of some cells: nearly always that of all windows."""
    ends = {name.partition(b" ")[0] for name in names}
    return min(ends, key=from_end_order)


def from_end_order(from_end: bytes) -> int:
    """Order cells by the end of the first window they count in; `-` is before all."""
    return -(2**63) if from_end == ALWAYS else int(from_end)


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
