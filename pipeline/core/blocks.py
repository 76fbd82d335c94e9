"""Blocks: many cells in one field, column by column, as panes and results keep them in Redis.

A field of its own for each cell costs Redis, the commit script and Python some microseconds a cell, and 50 bytes; a
block of 2,000 cells costs about as much as one field. What is in it is absolute: a cell of a later block of the same
hash takes the place of that of an earlier one, and a block is never changed after it was written.

    format byte, msgpack of (ends, names, fixed columns, variable columns, sketches)
                             uint32      record array   list of lists     for each sketch: places held elsewhere,
                             a name                                       and all others together
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from pipeline.core.accumulators import Slots
from pipeline.core.names import Int32, Names

BLOCK_FORMAT = b"\x03"  # first byte of every block
BLOCK_CELLS = 2_000  # cells of a block: some 80 kB, a step of well under 2 ms of the server's time
BLOCK_FROM = 64  # changed cells of a pane from which they are written as a block, and not a field each
MAX_SINGLES = 2_000  # cells of a pane that have a field each; then they are put together in a block
LEAST_LIVE = 2  # a block of which less than one in so many cells still counts is written again, and deleted
MAX_REWRITTEN = 8_000  # cells a commit writes again so that a block can go: with its own, a few hundred kB
BLOCK_MARK = b"#"  # begins the name of a block's field in a pane; a cell's begins with its from_end
NOWHERE, SINGLE = -2, -1  # where a cell is in Redis, if in no block


@dataclass(frozen=True, slots=True)
class Packed:
    """The decoded parts of a block, its columns still packed: see Layout.unpack_blocks.

    `sketches`: for each sketch the places of the cells whose sketch has fields of its own, and all others together.
    """

    names: Names
    records: bytes
    variable: list[list[Any]]
    sketches: list[tuple[list[int], Any]]


_DECODER = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes, list[list[Any]], list[tuple[list[int], Any]]])
_ENDS = np.dtype("<u4")


def encode_block(block: Packed) -> bytes:
    """The block as one field's value."""
    packed = (*pack_names(block.names), block.records, block.variable, block.sketches)
    return BLOCK_FORMAT + msgspec.msgpack.encode(packed)


KnownNames = dict[tuple[bytes, bytes], Names]  # by their packed ends and bytes: those of other blocks


def decode_block(data: bytes, known: KnownNames | None = None) -> Packed:
    """Read a block up to its packed columns.

    `known`: the names of blocks read before, which this one adds its own to. One window after the other has the same
    groups, and to check and count their names again took longer than everything else in a block.

    Raises:
        ValueError: the block is of another format or cut off.
    """
    if data[:1] != BLOCK_FORMAT:
        raise ValueError(f"block starts with {data[:1]!r}, not with format {BLOCK_FORMAT!r}")
    try:
        packed_ends, names, records, variable, sketches = _DECODER.decode(memoryview(data)[1:])
        found = None if known is None else known.get((packed_ends, names))
        if found is None:
            found = unpack_names(packed_ends, names)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"{len(data)} bytes are not a block: {error}") from error
    if known is not None:
        known[packed_ends, names] = found
    return Packed(found, records, variable, sketches)


def pack_names(names: Names) -> tuple[bytes, bytes]:
    """The names as a block holds them: their packed ends, and their bytes one after the other."""
    data, ends = names.packed()
    return ends.astype(_ENDS).tobytes(), data


def unpack_names(packed_ends: bytes, names: bytes) -> Names:
    """Read what `pack_names` made.

    Raises:
        ValueError: ends and bytes do not fit together.
    """
    ends = np.frombuffer(packed_ends, dtype=_ENDS).astype(np.int64)
    if (ends[1:] < ends[:-1]).any() or (len(ends) and ends[-1] != len(names)):
        raise ValueError(f"{len(ends)} names have {len(names)} bytes, which do not fit together")
    return Names.one_after_the_other(names, ends)


def block_field(number: int) -> bytes:
    """The field of a pane's hash that holds a block."""
    return b"%b%d" % (BLOCK_MARK, number)


def block_numbers(fields: Iterable[bytes]) -> list[int]:
    """The numbers of the blocks among the fields of a pane's hash, in the order they were written.

    Raises:
        ValueError: a field looks like a block's and is none.
    """
    return sorted(int(field[1:]) for field in fields if field[:1] == BLOCK_MARK)


class PaneBlocks:
    """What Redis has of one pane: which cells have a field each, and of each block how many cells still count.

    A block is deleted only by a commit that writes another one. So numbers only rise, and who loads a pane goes on
    after its greatest; and a reader that has every block there is at some moment has every cell that was there when
    the last of them was written.
    """

    __slots__ = ("_live", "_next", "_slots", "_sparse", "singles")

    def __init__(self) -> None:
        self.singles: set[int] = set()
        self._next = 0
        self._slots: dict[int, Int32] = {}  # of every cell that was written into a block
        self._live: dict[int, int] = {}  # how many of them are nowhere else
        self._sparse: set[int] = set()  # blocks that are mostly out of date, or altogether

    def add(self, number: int, slots: Slots) -> None:
        """A block of that number holds the newest of these cells."""
        self._next = max(self._next, number + 1)
        self._slots[number] = slots.astype(np.int32)
        self._live[number] = len(slots)
        if not len(slots):
            self._sparse.add(number)

    def next_number(self) -> int:
        return self._next

    def leave(self, homes: Int32) -> None:
        """Cells have left these places, one a cell, for newer ones."""
        numbers, counts = np.unique(homes[homes >= 0], return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            self._live[number] -= count
            if self._live[number] * LEAST_LIVE < len(self._slots[number]):
                self._sparse.add(number)

    def sparse(self, home: Int32, most: int) -> Slots:
        """The cells that count of blocks that are mostly out of date: as many whole blocks as hold up to `most`."""
        found: list[Slots] = []
        for number in sorted(self._sparse):
            if 0 < self._live[number] <= most:
                most -= self._live[number]
                slots = self._slots[number]
                found.append(slots[home[slots] == number].astype(np.intp))
        return np.concatenate(found) if found else np.empty(0, dtype=np.intp)

    def take_dead(self) -> list[int]:
        """The blocks of which no cell counts any more, once."""
        dead = sorted(number for number in self._sparse if not self._live[number])
        self._sparse.difference_update(dead)
        for number in dead:
            del self._live[number], self._slots[number]
        return dead


def steps(size: int) -> Sequence[slice]:
    """Cut so many cells into blocks."""
    return [slice(at, at + BLOCK_CELLS) for at in range(0, size, BLOCK_CELLS)]
