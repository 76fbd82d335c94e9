"""What a log says, by plain Python: an oracle that shares no line with the product, one event at a time.

Invariant: it reads only the raw streams, so whatever survived a crash is what the numbers are held against.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import redis

WINDOW_MS = 10_000
PAGE = 500  # entries read at a time

Cells = dict[tuple[int, str], tuple[int, int]]
Ledger = tuple[int, int, int, int, int]  # read accepted filtered late dead
Event = tuple[int, str, int | None]  # time, group, value: None when it is no integer
NUMBER = re.compile(r"^-?\d+$")


@dataclass
class Model:
    """The windows over all partitions; the late rows as (entry, row) and the ledger of each partition."""

    cells: Cells = field(default_factory=dict)
    late: dict[int, list[tuple[bytes, int]]] = field(default_factory=lambda: defaultdict(list))
    ledgers: dict[int, Ledger] = field(default_factory=dict)
    watermarks_ms: dict[int, int] = field(default_factory=dict)
    rare: dict[int, list[Event]] = field(default_factory=lambda: defaultdict(list))


def read_log(client: redis.Redis, stream: str, partitions: int, *, disorder_ms: int) -> Model:
    """Recount a stream's whole log."""
    model = Model()
    for partition in range(partitions):
        _read_partition(client, f"{{{stream}.{partition}}}:raw", partition, disorder_ms, model)
    return model


def _read_partition(client: redis.Redis, key: str, partition: int, disorder_ms: int, model: Model) -> None:
    newest_ms: int | None = None
    read = accepted = filtered = late = dead = 0
    for entry_id, row, arrival_ms, event in _events(client, key):
        if event is None:  # a tick
            newest_ms = max(row, newest_ms) if newest_ms is not None else row
            continue
        ts, group, value = event
        read += 1
        if value is None:
            dead += 1
            continue
        watermark_ms = None if newest_ms is None else newest_ms - disorder_ms
        seen_ms = min(ts, arrival_ms)
        newest_ms = seen_ms if newest_ms is None else max(newest_ms, seen_ms)
        if group == "g0":
            model.rare[partition].append(event)
        start_ms = ts // WINDOW_MS * WINDOW_MS
        if group == "bot":
            filtered += 1
        elif watermark_ms is not None and start_ms + WINDOW_MS <= watermark_ms:
            late += 1
            model.late[partition].append((entry_id, row))
        else:
            accepted += 1
            count, total = model.cells.get((start_ms, group), (0, 0))
            model.cells[start_ms, group] = (count + 1, total + value)
    model.ledgers[partition] = (read, accepted, filtered, late, dead)
    model.late.setdefault(partition, [])
    if newest_ms is not None:
        model.watermarks_ms[partition] = newest_ms - disorder_ms


Sessions = dict[tuple[str, int, int], tuple[int, int]]  # (user, first, last) → count, sum


@dataclass(frozen=True)
class SessionRule:
    """When events are of one session, and when one is late."""

    gap_ms: int
    allowed_lateness_ms: int
    disorder_ms: int


def read_sessions(client: redis.Redis, stream: str, partitions: int, rule: SessionRule) -> Sessions:
    """Recount the sessions of users that are no bots: the islands of their events that are not late."""
    accepted: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for partition in range(partitions):
        newest_ms = -(2**60)
        for _, number, arrival_ms, row in _rows(client, f"{{{stream}.{partition}}}:raw"):
            ts = number if row is None else int(str(row["ts"]))
            is_late = ts + rule.gap_ms + rule.allowed_lateness_ms <= newest_ms - rule.disorder_ms
            newest_ms = max(newest_ms, min(ts, arrival_ms))
            if row is not None and row["g"] != "bot" and not is_late:
                accepted[str(row["u"])].append((ts, int(str(row["k"]))))
    return {session: counts for user, events in accepted.items() for session, counts in _islands(user, events, rule)}


def _islands(
    user: str, events: list[tuple[int, int]], rule: SessionRule
) -> Iterator[tuple[tuple[str, int, int], tuple[int, int]]]:
    events = sorted(events)
    cuts = [n for n in range(1, len(events)) if events[n][0] - events[n - 1][0] > rule.gap_ms]
    for begin, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        part = events[begin:end]
        yield (user, part[0][0], part[-1][0]), (len(part), sum(value for _, value in part))


def _events(client: redis.Redis, key: str) -> Iterator[tuple[bytes, int, int, Event | None]]:
    """(entry id, row in it, arrival, event) in stream order; a tick is (id, its time, arrival, None)."""
    for entry_id, number, arrival_ms, row in _rows(client, key):
        yield entry_id, number, arrival_ms, None if row is None else _event(row)


def _rows(client: redis.Redis, key: str) -> Iterator[tuple[bytes, int, int, dict[str, object] | None]]:
    """Likewise, the event as its fields."""
    for entry_id, fields in rows_of(client, key):
        arrival_ms = int(entry_id.split(b"-")[0])
        if fields.get(b"_k") == b"tick":
            yield entry_id, min(int(fields[b"t"]), arrival_ms), arrival_ms, None
        elif fields.get(b"_k") == b"chunk":
            for row, line in enumerate(fields[b"body"].decode().splitlines()):
                yield entry_id, row, int(fields[b"at"]), json.loads(line)
        else:
            yield entry_id, 0, arrival_ms, {n.decode(): v.decode() for n, v in fields.items()}


def rows_of(client: redis.Redis, key: str) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    """Every entry of a stream, a page at a time."""
    start = "-"
    while page := cast("list[Any]", client.xrange(key, start, "+", count=PAGE)):
        yield from page
        start = f"({page[-1][0].decode()}"


def _event(row: dict[str, object]) -> Event:
    """An event's three fields; a value that is no integer makes the row a dead one."""
    value = str(row["k"])
    return int(str(row["ts"])), str(row["g"]), int(value) if NUMBER.match(value) else None
