"""The four kinds of entries of a raw stream, and how each is told from the others: a row is what has no `_k`.

chunk    _k v n seq crc at lo hi coding body     many events, validated at the door; and, where they are old data,
         mode only                               `backfill`, and the one consumer group they were replayed for
row      field value …                           one event, as any Redis client writes it
tick     _k t by                                 moves time without data; `by` says who: see TickCause
control  _k kind table hash                      from here on a lookup table has another content (kind `table`)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from isal.isal_zlib import crc32  # zlib's crc32, 18 times as fast: 50 ns less for an event of 240 bytes, twice

from pipeline.core.codings import CODINGS, known
from pipeline.core.entry_header import BACKFILL, KIND, TickCause

CHUNK_FORMAT = b"1"
_CAUSES: Mapping[bytes, TickCause] = {cause.encode(): cause for cause in get_args(TickCause)}


class EntryError(ValueError):
    """An entry of ours that is damaged: nothing of it can be counted."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Many events in one entry; `position` is the number of events stored in the partition up to its last one.

    `backfill`: old data put into a live stream, which moves no time and is never late. `only`: the one consumer group
    that counts it, for rows replayed out of what that group had put aside; empty for every group.
    """

    id: bytes
    n: int
    position: int
    crc: int
    arrival_ms: int
    coding: bytes
    body: bytes
    backfill: bool = False
    only: str = ""

    def is_for(self, group: str) -> bool:
        """Whether a consumer group counts these events; the others acknowledge the entry."""
        return self.only in ("", group)

    def check(self) -> None:
        """Raise EntryError unless the body is whole and of a coding we read."""
        if self.coding not in CODINGS:
            raise EntryError(f"chunk {self.id.decode()} is coded {self.coding!r}; this version reads {known()}")
        found = crc32(self.body)
        if found != self.crc:
            raise EntryError(f"chunk {self.id.decode()} has crc32 {found}, its header says {self.crc}: damaged")


@dataclass(frozen=True, slots=True)
class Row:
    """One event as flat fields; it arrived when its entry id was given."""

    id: bytes
    arrival_ms: int
    fields: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Tick:
    """An entry that moves time to `time_ms`, never past its arrival."""

    id: bytes
    arrival_ms: int
    time_ms: int
    by: TickCause = "silence"


@dataclass(frozen=True, slots=True)
class Control:
    """An entry that says what holds from here on; one of a kind we do not know is acknowledged and says nothing.

    kind `table`: rows after it are joined with the content `hash` of the lookup table `table`.
    """

    id: bytes
    kind: str = ""
    table: str = ""
    hash: str = ""


Entry = Chunk | Row | Tick | Control


def parse_entry(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Entry:
    """Tell what an entry is. A header of ours that cannot be read makes a damaged chunk of no events: a dead letter."""
    kind = fields.get(KIND)
    arrival_ms = int(entry_id.partition(b"-")[0])
    if kind is None:
        return Row(entry_id, arrival_ms, fields)
    if kind == b"control":
        said = [fields.get(name, b"").decode(errors="replace") for name in (b"kind", b"table", b"hash")]
        return Control(entry_id, *said) if all(said) else Control(entry_id)
    try:
        if kind == b"tick":
            by = _CAUSES.get(fields.get(b"by", b""), "silence")  # one without it was written before there was one
            return Tick(entry_id, arrival_ms, int(fields[b"t"]), by)
        if kind == b"chunk" and fields[b"v"] == CHUNK_FORMAT:
            return _parse_chunk(entry_id, fields)
    except (KeyError, ValueError):
        pass  # falls through to the damaged chunk: the entry is kept whole in its dead letter
    return Chunk(entry_id, 0, 0, -1, arrival_ms, b"unknown:" + kind, repr(dict(fields)).encode())


def _parse_chunk(entry_id: bytes, fields: Mapping[bytes, bytes]) -> Chunk:
    n = int(fields[b"n"])
    mode = fields.get(b"mode", b"")
    if mode not in (b"", BACKFILL):
        raise ValueError(f"a chunk of mode {mode!r}: it must not be counted as another one")
    return Chunk(
        id=entry_id,
        n=n,
        position=int(fields[b"seq"]) + n,
        crc=int(fields[b"crc"]),
        arrival_ms=int(fields[b"at"]),
        coding=fields[b"coding"],
        body=fields[b"body"],
        backfill=mode == BACKFILL,
        only=fields.get(b"only", b"").decode(),
    )
