"""The columns of cells and their packed forms: a cell by itself, many as a block, and the fields of a pane's hash.

    '#' number                                        a block (see blocks)
    FROM_END ' ' JSON array of the group's values     format byte, fixed 8-byte columns, msgpack of the variable ones
        - ["GET",200]
    the same, NUL, sketch number '.' 0                number of pieces in it, dump of the sketch as it was then
    the same, NUL, sketch number '.' n                the n-th piece: what a later commit added to it

A cell with a field of its own is newer than any block, and of a cell in several blocks the last counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from pipeline.core.accumulators import Accumulator, Column, Slots
from pipeline.core.blocks import BLOCK_MARK, SINGLE, Packed, block_field, block_numbers, decode_block, encode_block
from pipeline.core.names import Directory, Names
from pipeline.core.sketches import Sketch, as_column

FORMAT = b"\x01"  # first byte of every packed cell
RECORDS = ""  # the record array behind the fixed columns stands beside them under this name
COUNT_BYTES = 4  # of the number of pieces that a sketch's base holds
NUL = b"\x00"  # JSON text never holds one


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
            columns[sketch.name][slots] = as_column([sketch.empty() for _ in range(len(slots))])

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

    def pack_names(self, columns: Mapping[str, Column], slots: Slots) -> Names:
        """The same as a column of names: of nothing but fixed columns it is one array."""
        if self.variable or self.sketches:
            return Names.of(self.pack(columns, slots))
        cells = np.empty(len(slots), dtype=np.dtype([("format", "S1"), ("cell", self.record)]))
        cells["format"], cells["cell"] = FORMAT, columns[RECORDS][slots]
        return Names.of_width(cells.tobytes(), cells.itemsize)

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
        self, names: Iterable[bytes], columns: Mapping[str, Column], slots: Slots, held: Sequence[list[int]] = ()
    ) -> bytes:
        """Return one block of the cells at `slots`; `held`: of each sketch the places whose sketch is elsewhere."""
        sketches = []
        for number, sketch in enumerate(self.sketches):
            places = held[number] if held else []
            partials = columns[sketch.name][np.delete(slots, places) if places else slots]
            sketches.append((places, sketch.pack_all(partials)))
        variable = [columns[name][slots].tolist() for name in self.variable]
        return encode_block(Packed(Names.of(names), columns[RECORDS][slots].tobytes(), variable, sketches))

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
        singles = [name for name in stored if name[:1] != BLOCK_MARK and NUL not in name]
        if not blocks:
            columns = self._unpacked([stored[name] for name in singles], ())
            content = Content(Names.of(singles), columns, np.full(len(singles), SINGLE))
        else:
            columns = self.unpack_blocks(blocks)
            names = [block.names for block in blocks]
            if singles:
                columns = _joined(columns, self._unpacked([stored[name] for name in singles], ()))
                names.append(Names.of(singles))
            homes = np.repeat([*numbers, SINGLE][: len(names)], [len(each) for each in names])
            content = _newest(Content(Names.together(names), columns, homes))
        if self.sketches:
            self._gather_pieces(content, stored)
        return content

    def gather(self, stored: Mapping[bytes, bytes]) -> tuple[Names, dict[str, Column]]:
        """Read the fields of a pane's hash: the cells in it, and their columns in that order.

        Raises:
            ValueError: a block, a cell or a sketch is of another format or cut off.
        """
        content = self.read(stored)
        return content.names, content.columns

    def gather_all(self, panes: Sequence[Mapping[bytes, bytes]]) -> list[tuple[Names, dict[str, Column]]]:
        """Read the fields of several panes' hashes: what `gather` says of each.

        The cells of small panes, which have a field each, are unpacked together: with a few dozen cells in a pane, to
        make its arrays took longer than everything else in it.
        """
        if self.sketches:
            return [self.gather(stored) for stored in panes]
        has_blocks = [any(name[:1] == BLOCK_MARK for name in stored) for stored in panes]
        small = [stored for stored, blocks in zip(panes, has_blocks, strict=True) if not blocks]
        names = Names.of([name for stored in small for name in stored])
        columns = self._unpacked([cell for stored in small for cell in stored.values()], ())
        ends = np.cumsum([0, *map(len, small)]).tolist()
        parts = map(slice, ends[:-1], ends[1:])
        cut = ((names[part], {name: column[part] for name, column in columns.items()}) for part in parts)
        return [self.gather(stored) if blocks else next(cut) for stored, blocks in zip(panes, has_blocks, strict=True)]

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

    names: Names
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
    found = Directory()
    numbers = found.numbers(content.names)
    if len(found) == len(content.names):
        return content
    rows = np.empty(len(found), dtype=np.intp)
    rows[numbers] = np.arange(len(numbers))  # numpy assigns repeated numbers in order: the last one stays
    records = content.columns[RECORDS][rows]
    columns = {RECORDS: records} | {name: records[name] for name in records.dtype.names or ()}
    columns |= {name: column[rows] for name, column in content.columns.items() if name not in columns}
    return Content(found.names(), columns, content.homes[rows])


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
        cell, nul, place = field_name.partition(NUL)
        if not nul:
            continue
        sketch, _, number = place.partition(b".")
        if number == b"0":
            held, dump = int.from_bytes(value[:COUNT_BYTES], "little"), value[COUNT_BYTES:]
            bases[cell, int(sketch)] = SketchPiece(cell, int(sketch), held, dump, is_base=True)
        else:
            pieces.append(SketchPiece(cell, int(sketch), int(number), value, is_base=False))
    added = [p for p in pieces if (p.cell, p.sketch) not in bases or p.number > bases[p.cell, p.sketch].number]
    return [*bases.values(), *sorted(added, key=lambda piece: piece.number)]
