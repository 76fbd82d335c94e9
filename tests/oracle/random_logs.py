"""Random logs of the stages in `every_kind`, as entries of a raw stream and as a table for DuckDB.

An event is made of nine bytes, one a choice, and a log of hypothesis' bytes in one draw: a draw for each choice takes
30 times as long, and this shrinks as well, to fewer events and to each choice's first alternative.

    entry    a new one begins where a byte says so, before it perhaps a tick; some arrive while their events are ahead
    time     steps forward or stays, with events far behind and exactly on, or 1 ms before, an edge of a window
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from hypothesis import strategies as st

from tests.laws.logs import Logged, as_bytes, chunk
from tests.oracle import duck
from tests.oracle.every_kind import FIELDS, FUTURE_UNITS, PARTITIONS, Case

MAX_EVENTS = 40
_CHOICES = 9  # bytes an event
ARRIVAL_MS = 2**45  # of entries that arrive long after their events
_FIRST_ID = 1_700_000_000_000
_BEHIND = (0, 0, 0, 0, 1, 2, 3, 5, 8, 13, 25)  # units that an event comes after its time
_KEYS = ("a", "d", 'ü "q"', "e f")
_POLARS = {"string": pl.String, "bool": pl.Boolean, "float": pl.Float64, "int": pl.Int64, "timestamp": pl.Int64}
_SENT = tuple(each.name for each in FIELDS)
_SCHEMA = {each.name: _POLARS[each.type] for each in FIELDS} | {
    "event_ms": pl.Int64,
    "arrival_ms": pl.Int64,
    "part": pl.Int64,
    "position": pl.Int64,
    "is_tick": pl.Boolean,
}


@dataclass(slots=True)
class RandomLog:
    """The entries of each partition, the rows of DuckDB's table, and how many events are too far ahead to count."""

    entries: list[list[Logged]] = field(default_factory=lambda: [[] for _ in range(PARTITIONS)])
    rows: list[dict[str, Any]] = field(default_factory=list)
    too_far: int = 0
    _stored: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    _placed: list[int] = field(default_factory=lambda: [0] * PARTITIONS)
    _entries: int = 0

    def table(self) -> duck.Events:
        return duck.table(pl.DataFrame(self.rows, schema=_SCHEMA))

    def sent(self) -> list[dict[str, Any]]:
        """Its events, as a client sends them now: long after their times, and without ticks between them."""
        return [{name: row[name] for name in _SENT if name in row} for row in self.rows if not row["is_tick"]]

    def sent_table(self) -> duck.Events:
        """The same as a table: what a fresh stream that was sent them holds."""
        placed, numbers = [], [0] * PARTITIONS
        for row in self.rows:
            if not row["is_tick"]:
                placed.append(row | {"arrival_ms": ARRIVAL_MS, "position": numbers[row["part"]]})
                numbers[row["part"]] += 1
        return duck.table(pl.DataFrame(placed, schema=_SCHEMA))

    def tick(self, part: int, time_ms: int) -> None:
        arrival_ms = self._append(part, {"_k": "tick", "t": time_ms})
        self._place(part, time_ms, arrival_ms, is_tick=True)

    def chunk(self, part: int, events: Sequence[dict[str, Any]], arrival_ms: int, max_future_ms: int) -> None:
        self._append(part, chunk(events, self._stored[part], arrival_ms))
        self._stored[part] += len(events)
        for event in events:
            if event["ts"] > arrival_ms + max_future_ms:
                self.too_far += 1
            else:
                self._place(part, event["ts"], arrival_ms, event)

    def _append(self, part: int, fields: dict[str, Any]) -> int:
        """Append an entry; return the time in its id, at which a tick arrives."""
        self._entries += 1
        self.entries[part].append(Logged(f"{_FIRST_ID + self._entries}-0", as_bytes(fields)))
        return _FIRST_ID + self._entries

    def _place(
        self, part: int, event_ms: int, arrival_ms: int, event: dict[str, Any] | None = None, *, is_tick: bool = False
    ) -> None:
        row = {"event_ms": event_ms, "arrival_ms": arrival_ms, "part": part, "position": self._placed[part]}
        self.rows.append((event or {}) | row | {"is_tick": is_tick})
        self._placed[part] += 1


@st.composite
def random_logs(draw: st.DrawFn, case: Case) -> RandomLog:
    """A log of up to MAX_EVENTS events."""
    count = draw(st.integers(1, MAX_EVENTS))
    return log_of(draw(st.binary(min_size=count * _CHOICES, max_size=count * _CHOICES)), case)


def part_of(key: str) -> int:
    """The partition of a key: sessions stay in one."""
    return zlib.crc32(key.encode()) % PARTITIONS


def log_of(choices: bytes, case: Case) -> RandomLog:
    log, now_ms = RandomLog(), case.base_ms
    waiting: list[list[dict[str, Any]]] = [[] for _ in range(PARTITIONS)]
    for at in range(0, len(choices), _CHOICES):
        entry, step, *values = choices[at : at + _CHOICES]
        now_ms += step % 3 * case.unit_ms
        key = _KEYS[values[0] % len(_KEYS)]
        part = part_of(key)
        if entry % 4 == 0:
            _send(log, part, waiting[part], entry, now_ms, case.unit_ms)
        if entry % 16 == 1:
            _send(log, part, waiting[part], entry, now_ms, case.unit_ms)
            log.tick(part, now_ms + step % 7 * case.unit_ms)
        behind_ms = _BEHIND[values[1] % len(_BEHIND)] * case.unit_ms + values[1] // 128
        waiting[part].append({"ts": now_ms - behind_ms, "key": key} | _fields(values[2:]))
    for part in range(PARTITIONS):
        _send(log, part, waiting[part], 0, now_ms, case.unit_ms)
    return log


def _send(log: RandomLog, part: int, events: list[dict[str, Any]], choice: int, now_ms: int, unit_ms: int) -> None:
    """One chunk of what waits; one in eight arrives while its newest events are still ahead, some of them too far."""
    if not events:
        return
    arrival_ms = now_ms - choice % 5 * FUTURE_UNITS // 3 * unit_ms if choice >= 224 else ARRIVAL_MS
    log.chunk(part, events, arrival_ms, FUTURE_UNITS * unit_ms)
    events.clear()


def _fields(values: Sequence[int]) -> dict[str, Any]:
    """The fields of an event: floats are eighths, so that their sums are exact in any order."""
    on, v, k, counter, visitor = values
    return {
        "on": (True, True, False, None)[on % 4],
        "v": None if v % 8 == 7 else (v - 100) / 8,
        "k": None if k % 8 == 7 else k % 21 - 4,
        "counter": None if counter % 8 == 7 else counter % 32 / 4,
        "visitor": None if visitor % 8 == 7 else f"u{visitor % 11}",
    }
