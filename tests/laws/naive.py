"""What a log means, said again in plain Python, one event after the other: no columns, no batches, nothing of the core.

Floats are added from left to right, so even they are compared bit for bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from pipeline.core.definitions import Aggregate, TimePolicy
from tests.laws.logs import Logged

Event = dict[str, Any]
Group = tuple[Any, ...]


@dataclass(slots=True)
class Meaning:
    """Accepted events by (window start, group), in stream order; the others counted."""

    cells: dict[tuple[int, Group], list[Event]] = field(default_factory=dict)
    read: int = 0
    filtered: int = 0
    late: int = 0
    dead: int = 0
    max_seen_ms: int | None = None


def meaning(log: Sequence[Logged], stage: Aggregate, time: TimePolicy) -> Meaning:
    """Run the stage `m` of the laws' config over a partition's log."""
    found = Meaning()
    for entry in log:
        arrival_ms = int(entry.id.partition("-")[0])
        if entry.fields.get(b"_k") == b"tick":
            see(found, min(int(entry.fields[b"t"]), arrival_ms))
        for event in events_of(entry):
            found.read += 1
            if event is None or event["ts"] > arrival_ms + time.max_future_ms:
                found.dead += 1
                continue
            judge(found, event, stage, time.disorder_ms)
            see(found, min(event["ts"], arrival_ms))
    return found


def see(found: Meaning, time_ms: int) -> None:
    found.max_seen_ms = time_ms if found.max_seen_ms is None else max(found.max_seen_ms, time_ms)


def judge(found: Meaning, event: Event, stage: Aggregate, disorder_ms: int) -> None:
    if event["k"] == 13:
        found.filtered += 1
        return
    if event["key"] == "nine":  # CAST(key AS BIGINT) cannot
        found.dead += 1
        return
    start = (event["ts"] - stage.window.offset_ms) // stage.window.size_ms * stage.window.size_ms
    start += stage.window.offset_ms
    if found.max_seen_ms is not None and start + stage.window.size_ms <= found.max_seen_ms - disorder_ms:
        found.late += 1
        return
    found.cells.setdefault((start, (event["key"], event["on"])), []).append(event)


def events_of(entry: Logged) -> Iterator[Event | None]:
    """The events of an entry; None for each that cannot be read."""
    fields = entry.fields
    if b"_k" not in fields:
        yield row(fields)
    elif fields[b"_k"] == b"chunk":
        body = fields[b"body"]
        whole = zlib.crc32(body) == int(fields[b"crc"])
        for line in body.split(b"\n"):
            yield {"at": None} | msgspec.json.decode(line) if whole else None


def row(fields: Any) -> Event | None:
    event: Event = {"key": None, "v": None, "k": None, "on": None, "at": None}
    try:
        for name, text in fields.items():
            event[name.decode()] = text.decode() if name == b"key" else msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
    return event if "ts" in event and isinstance(event["k"], int | None) else None


def values(events: Sequence[Event]) -> dict[str, Any]:
    """The finished values of a cell, for the aggregates that have one obvious answer."""
    v = [float(event["v"]) for event in events if event["v"] is not None]
    k = [event["k"] for event in events if event["k"] is not None]
    in_time = sorted(events, key=lambda event: event["ts"])  # stable: ties stay in stream order
    last_k = [event["k"] for event in in_time if event["k"] is not None]
    first_v = [event["v"] for event in in_time if event["v"] is not None]
    return {
        "n": len(events),
        "n_v": len(v),
        "sum_v": left_fold(v),
        "max_v": max(v, default=None),
        "first_v": first_v[0] if first_v else None,
        "sum_k": sum(k),
        "min_k": min(k, default=None),
        "last_k": last_k[-1] if last_k else None,
        "sum_number": sum(int(event["key"]) for event in events if event["key"] is not None),
    }


def left_fold(values: Sequence[float]) -> float | None:
    total = 0.0
    for value in values:
        total += value
    return total if abs(total) != float("inf") and total == total else None
