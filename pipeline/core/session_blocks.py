"""Where Redis has each live session of a partition: in a field of its own, or in a block with many others.

    FIRST GROUPJSON   one session                #7   sessions side by side, never changed once written
    n                 how many are live          !7   which sessions of block 7 do not count any more, a bit each

Invariant: after every commit and every settling each live session is there once, wherever it is, as its present form.
So who reads the whole hash at one moment has every live session, in no order, and nothing to decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.core.accumulators import Slots
from pipeline.core.blocks import (
    BLOCK_FROM,
    BLOCK_MARK,
    LEAST_LIVE,
    MAX_REWRITTEN,
    MAX_SINGLES,
    NOWHERE,
    SINGLE,
    block_field,
    pack_names,
    steps,
    unpack_names,
)
from pipeline.core.cells import PaneChange
from pipeline.core.names import Int32, Names
from pipeline.core.sessions import SessionTable

FORMAT = b"\x01"  # first byte of every block
DEAD_MARK, COUNT = b"!", b"n"  # beside BLOCK_MARK; a session's own field begins with a digit or a minus
_DECODER = msgspec.msgpack.Decoder(tuple[bytes, bytes, bytes, bytes])

Bits = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class StoredSessions:
    """Live sessions as the hash holds them: field and value of each, as if each had a field, and where it is."""

    fields: list[bytes]
    values: list[bytes]
    homes: Int32
    places: Int32
    dead: dict[int, Bits]  # of each block

    @classmethod
    def read(cls, stored: Mapping[bytes, bytes]) -> StoredSessions:
        """Read the whole hash.

        Raises:
            ValueError: a block is cut off or of another format, or a session is there twice.
        """
        fields: list[bytes] = []
        values: list[bytes] = []
        homes, places = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
        dead: dict[int, Bits] = {}
        for name, value in stored.items():
            if name[:1] == BLOCK_MARK:
                number = int(name[1:])
                names, cells = _decoded(value)
                gone = _bits(stored.get(_dead_field(number)), len(names))
                dead[number], live = gone, np.flatnonzero(~gone)
                fields += names.taken(live).tolist()
                values += cells.taken(live).tolist()
                homes.append(np.full(len(live), number, np.int32))
                places.append(live.astype(np.int32))
            elif name != COUNT and name[:1] != DEAD_MARK:
                fields.append(name)
                values.append(value)
                homes.append(np.full(1, SINGLE, np.int32))
                places.append(np.zeros(1, np.int32))
        if len(set(fields)) < len(fields):
            raise ValueError("a live session is there twice")
        return cls(fields, values, np.concatenate(homes), np.concatenate(places), dead)

    def pairs(self) -> dict[bytes, bytes]:
        """The sessions by field."""
        return dict(zip(self.fields, self.values, strict=True))


@dataclass(slots=True)
class SessionBlocks:
    """What the hash holds of a table's sessions, by slot."""

    _home: Int32 = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    _place: Int32 = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    _singles: dict[int, bytes] = field(default_factory=dict)  # slot → its field as it was written
    _slots: dict[int, Int32] = field(default_factory=dict)  # of each block, in its order
    _dead: dict[int, Bits] = field(default_factory=dict)
    _masked: set[int] = field(default_factory=set)  # blocks whose bits are in the hash
    _next: int = 0

    @classmethod
    def of(cls, stored: StoredSessions, slots: Slots) -> SessionBlocks:
        """What was read, each session in its slot."""
        blocks = cls()
        blocks._reach(slots)
        blocks._home[slots], blocks._place[slots] = stored.homes, stored.places
        for number, dead in stored.dead.items():
            members = np.full(len(dead), -1, dtype=np.int32)
            mine = stored.homes == number
            members[stored.places[mine]] = slots[mine]
            blocks._slots[number], blocks._dead[number] = members, dead
            if dead.any():
                blocks._masked.add(number)
            blocks._next = max(blocks._next, number + 1)
        for at in np.flatnonzero(stored.homes == SINGLE).tolist():
            blocks._singles[int(slots[at])] = stored.fields[at]
        return blocks

    def change(self, table: SessionTable, changed: Slots, released: Slots) -> PaneChange:
        """What a commit writes: the sessions that changed; `released` are slots of sessions that are no more."""
        self._reach(changed)
        change = PaneChange()
        left = self._leave(np.concatenate([changed, released]), change)
        if len(changed) < BLOCK_FROM and len(self._singles) + len(changed) <= MAX_SINGLES:
            self._write_singles(table, changed, change)
        else:
            moved = np.concatenate([np.fromiter(self._singles, np.intp, len(self._singles)), self._sparse()])
            left |= self._leave(moved, change)
            self._write_blocks(table, np.concatenate([changed, moved]), change)
        return self._finished(change, left, len(table))

    def forget(self, slots: Slots, n_live: int) -> PaneChange:
        """What settling writes: these sessions are no more, and so many are left."""
        change = PaneChange()
        return self._finished(change, self._leave(slots, change), n_live)

    def _reach(self, slots: Slots) -> None:
        """Make room for these slots."""
        most = int(slots.max(initial=-1)) + 1
        if most > len(self._home):
            home, place = np.full(2 * most, NOWHERE, np.int32), np.zeros(2 * most, np.int32)
            home[: len(self._home)], place[: len(self._place)] = self._home, self._place
            self._home, self._place = home, place

    def _leave(self, slots: Slots, change: PaneChange) -> set[int]:
        """Sessions leave where they are; return the blocks that lost some."""
        slots = slots[slots < len(self._home)]
        homes = self._home[slots]
        for slot in slots[homes == SINGLE].tolist():
            change.gone.add(self._singles.pop(slot))
        numbers = np.unique(homes[homes >= 0]).tolist()
        for number in numbers:
            self._dead[number][self._place[slots[homes == number]]] = True
        self._home[slots] = NOWHERE
        return set(numbers)

    def _sparse(self) -> Slots:
        """The sessions of blocks of which most do not count any more: as many whole blocks as hold MAX_REWRITTEN."""
        most, found = MAX_REWRITTEN, [np.empty(0, dtype=np.intp)]
        for number, dead in sorted(self._dead.items()):
            n_live = len(dead) - int(np.count_nonzero(dead))
            if n_live * LEAST_LIVE < len(dead) and n_live <= most:
                most -= n_live
                found.append(self._slots[number][~dead].astype(np.intp))
        return np.concatenate(found)

    def _write_singles(self, table: SessionTable, slots: Slots, change: PaneChange) -> None:
        fields = table.fields(slots).tolist()
        change.cells.update(zip(fields, table.packed(slots), strict=True))
        self._singles.update(zip(slots.tolist(), fields, strict=True))
        self._home[slots] = SINGLE

    def _write_blocks(self, table: SessionTable, slots: Slots, change: PaneChange) -> None:
        for part in steps(len(slots)):
            number, members = self._next, slots[part]
            self._next += 1
            change.cells[block_field(number)] = _encoded(table.fields(members), table.packed(members))
            self._slots[number], self._dead[number] = members.astype(np.int32), np.zeros(len(members), np.bool_)
            self._home[members], self._place[members] = number, np.arange(len(members), dtype=np.int32)

    def _finished(self, change: PaneChange, left: set[int], n_live: int) -> PaneChange:
        """The change with what has become of the blocks that sessions left, and how many sessions are live."""
        for number in left:
            mask = _dead_field(number)
            if not self._dead[number].all():
                change.cells[mask] = np.packbits(self._dead[number]).tobytes()
                self._masked.add(number)
                continue
            change.gone.add(block_field(number))
            if number in self._masked:
                change.gone.add(mask)
                self._masked.discard(number)
            del self._slots[number], self._dead[number]
        if n_live:
            change.cells[COUNT] = b"%d" % n_live
        else:
            change.gone.add(COUNT)
        change.gone.difference_update(change.cells)
        return change


def _encoded(names: Names, cells: Names) -> bytes:
    return FORMAT + msgspec.msgpack.encode((*pack_names(names), *pack_names(cells)))


def _decoded(data: bytes) -> tuple[Names, Names]:
    if data[:1] != FORMAT:
        raise ValueError(f"a block of live sessions starts with {data[:1]!r}, not with format {FORMAT!r}")
    try:
        ends, names, cell_ends, cells = _DECODER.decode(memoryview(data)[1:])
        return unpack_names(ends, names), unpack_names(cell_ends, cells)
    except (msgspec.MsgspecError, ValueError) as error:
        raise ValueError(f"{len(data)} bytes are not a block of live sessions: {error}") from error


def _dead_field(number: int) -> bytes:
    """The field beside a block that says which of its sessions do not count any more."""
    return b"%b%d" % (DEAD_MARK, number)


def _bits(packed: bytes | None, count: int) -> Bits:
    if packed is None:
        return np.zeros(count, dtype=np.bool_)
    if len(packed) * 8 < count:
        raise ValueError(f"{len(packed)} bytes do not say of {count} sessions whether they count")
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=count).astype(np.bool_)


def live_sessions(stored: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The live sessions of a hash by field, `FIRST GROUPJSON`.

    Raises:
        ValueError: as `StoredSessions.read`.
    """
    return StoredSessions.read(stored).pairs()
