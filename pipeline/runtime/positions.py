"""Where a group is in the door's count of events, and what that says about events that never came.

A chunk says how many events the door had stored before it (`seq`); a row says nothing. `position` goes by what chunks
say; `offset` takes every jump that makes, so that `position = read + offset` at all times:

    log        chunk seq 0 n 3    row    row by XADD    chunk seq 4 n 2    chunk seq 9 n 1
    position   3                  4      5              6                  10
    read       3                  4      5              7                  8
    offset     0                  0      0              -1                 2
                                                        └ a row past the   └ 3 events the door stored before it are not
                                                          door               in the log: `missing`

A row past the door between two chunks may hide a lost event: `missing` is what was lost at least. Events that were
replayed for another group are stored and not read: they go into the offset, and are not missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.core.entries import Chunk, Entry, Row
from pipeline.rim.commit import Checkpoint


@dataclass(frozen=True, slots=True)
class Position:
    """Values of a checkpoint: see the module; `offset` is None until a group that began after a trim meets a chunk.

    `arrival_ms` is of the last live event: old data is no sign of life.
    """

    position: int
    arrival_ms: int
    offset: int | None
    missing: int


def position_after(before: Checkpoint, entries: Sequence[Entry], group: str) -> Position:
    """The position of a group after `entries`, the next ones of the log after `before`."""
    position, arrival_ms, missing = before.position, before.arrival_ms, before.missing
    begins = before.commit == 0 and not before.cursor  # at the first entry there ever was
    offset = 0 if begins else before.offset
    read = before.read
    for entry in entries:
        if isinstance(entry, Chunk) and entry.n:
            position, arrival_ms = entry.position, arrival_ms if entry.backfill else entry.arrival_ms
            jump = entry.position - entry.n - read - (offset or 0)
            if offset is not None:
                missing += max(0, jump)
            offset = (offset or 0) + jump
            if entry.is_for(group):
                read += entry.n
            else:
                offset += entry.n
        elif isinstance(entry, Row):
            position, arrival_ms = position + 1, entry.arrival_ms
            read += 1
    return Position(position, arrival_ms, offset, missing)
