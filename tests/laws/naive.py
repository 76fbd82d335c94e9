"""What a log means, said again in plain Python, one event after the other: no columns, no batches, nothing of the core.

Floats are added from left to right, cell by cell in the order of DESIGN section 5, so even they are compared bit for
bit. Of the pipeline only the definitions are used.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import takewhile
from math import gcd, isfinite
from typing import Any, Literal, assert_never
from zoneinfo import ZoneInfo

import msgspec

from pipeline.core.definitions import (
    Aggregate,
    Calendar,
    Cumulating,
    Hopping,
    PaneWindow,
    Session,
    TimePolicy,
    Tumbling,
)
from tests.laws.logs import Logged

Event = dict[str, Any]
Group = tuple[Any, ...]
Span = tuple[int, int]
Cell = tuple[
    int, int | None, Group
]  # pane start, end of the first window it counts in where it is not the first, group
Fate = Literal["kept", "filtered", "dead"]
WHEN, WHERE = "_ms", "_position"  # an event's time, and its (partition, number in the partition's log)


@dataclass(slots=True)
class Fold:
    """Events in the order they were folded, and the sum of `v` as it is added up: partials are merged, not refolded."""

    events: list[Event] = field(default_factory=list)
    sum_v: float = 0.0

    def add(self, event: Event) -> None:
        self.events.append(event)
        if event["v"] is not None:
            self.sum_v += float(event["v"])

    def merge(self, other: Fold) -> None:
        self.events += other.events
        self.sum_v += other.sum_v


@dataclass(slots=True)
class OneSession:
    """Events of one group, each at most the gap from another."""

    first: int
    last: int
    fold: Fold = field(default_factory=Fold)


@dataclass(slots=True)
class Meaning:
    """What one partition's log is: cells or sessions of accepted events, the late ones, and the others counted."""

    cells: dict[Cell, Fold] = field(default_factory=dict)
    sessions: dict[Group, list[OneSession]] = field(default_factory=dict)
    late: list[tuple[int, int]] = field(default_factory=list)  # (time, how far behind the watermark)
    read: int = 0
    accepted: int = 0
    filtered: int = 0
    dead: int = 0
    partial: int = 0
    max_seen_ms: int | None = None


def fate_in_the_laws(event: Event) -> Fate:
    """What the transforms above the stage `m` of the laws' config make of an event."""
    if event["k"] == 13:
        return "filtered"
    return "dead" if event["key"] == "nine" else "kept"  # CAST(key AS BIGINT) cannot


def meaning(
    log: Sequence[Logged],
    stage: Aggregate,
    time: TimePolicy,
    fate: Callable[[Event], Fate] = fate_in_the_laws,
    partition: int = 0,
) -> Meaning:
    """Run a stage over a partition's log."""
    found = Meaning()
    for entry in log:
        id_ms = int(entry.id.partition("-")[0])
        if entry.fields.get(b"_k") == b"tick":
            see(found, min(int(entry.fields[b"t"]), id_ms))
        arrival_ms = int(entry.fields.get(b"at", id_ms)) if entry.fields.get(b"_k") == b"chunk" else id_ms
        for event in events_of(entry):
            found.read += 1
            if event is None or event["ts"] > arrival_ms + time.max_future_ms:
                found.dead += 1
                continue
            judge(
                found, event | {WHEN: event["ts"], WHERE: (partition, found.read)}, stage, time.disorder_ms, fate(event)
            )
            see(found, min(event["ts"], arrival_ms))
    return found


def see(found: Meaning, time_ms: int) -> None:
    found.max_seen_ms = time_ms if found.max_seen_ms is None else max(found.max_seen_ms, time_ms)


def judge(found: Meaning, event: Event, stage: Aggregate, disorder_ms: int, fate: Fate) -> None:
    if fate == "dead":
        found.dead += 1
    elif fate == "filtered":
        found.filtered += 1
    else:
        watermark_ms = None if found.max_seen_ms is None else found.max_seen_ms - disorder_ms
        group = tuple(event[name] for name in stage.group_by)
        if isinstance(stage.window, Session):
            _into_session(found, event, group, stage.window, watermark_ms, stage.allowed_lateness_ms)
        else:
            _into_cell(found, event, group, stage.window, watermark_ms, stage.allowed_lateness_ms)


def _counts(end_ms: int, watermark_ms: int | None, lateness_ms: int) -> bool:
    return watermark_ms is None or end_ms + lateness_ms > watermark_ms


def _is_late(found: Meaning, event: Event, watermark_ms: int | None) -> None:
    assert watermark_ms is not None
    found.late.append((event[WHEN], watermark_ms - event[WHEN]))


def _into_cell(
    found: Meaning, event: Event, group: Group, window: PaneWindow, watermark_ms: int | None, lateness_ms: int
) -> None:
    ends = [end for _, end in windows_of(window, event[WHEN])]
    counting = [end for end in ends if _counts(end, watermark_ms, lateness_ms)]
    if not counting:
        _is_late(found, event, watermark_ms)
        return
    found.accepted += 1
    found.partial += len(counting) < len(ends)
    from_end = counting[0] if len(counting) < len(ends) else None
    found.cells.setdefault((pane_start(window, event[WHEN]), from_end, group), Fold()).add(event)


def _into_session(
    found: Meaning, event: Event, group: Group, window: Session, watermark_ms: int | None, lateness_ms: int
) -> None:
    """The event joins the earliest session it touches, and those it bridges are merged into that by their first."""
    time_ms = event[WHEN]
    if not _counts(time_ms + window.gap_ms, watermark_ms, lateness_ms):
        _is_late(found, event, watermark_ms)
        return
    found.accepted += 1
    sessions = found.sessions.setdefault(group, [])
    touched = sorted((s for s in sessions if _touches(s, time_ms, window)), key=lambda session: session.first)
    if not touched:
        touched = [OneSession(time_ms, time_ms)]
        sessions += touched
    joined, *bridged = touched
    joined.fold.add(event)
    for other in bridged:
        joined.fold.merge(other.fold)
        sessions.remove(other)
    joined.first = min(time_ms, *(session.first for session in touched))
    joined.last = max(time_ms, *(session.last for session in touched))


def _touches(session: OneSession, time_ms: int, window: Session) -> bool:
    if window.max_ms is not None and session.first // window.max_ms != time_ms // window.max_ms:
        return False
    return session.first - window.gap_ms <= time_ms <= session.last + window.gap_ms


def windows_of(window: PaneWindow, time_ms: int) -> list[Span]:
    """The windows a time is in, by their ends."""
    match window:
        case Tumbling():
            return windows_of(Hopping(window.size_ms, window.size_ms, window.offset_ms), time_ms)
        case Hopping():
            newest = (time_ms - window.offset_ms) // window.every_ms * window.every_ms + window.offset_ms
            starts = takewhile(
                lambda start: time_ms < start + window.size_ms, (newest - n * window.every_ms for n in range(10**6))
            )
            return [(start, start + window.size_ms) for start in reversed(list(starts))]
        case Cumulating():
            start = (time_ms - window.offset_ms) // window.size_ms * window.size_ms + window.offset_ms
            ends = range(start + window.every_ms, start + window.size_ms + 1, window.every_ms)
            return [(start, end) for end in ends if time_ms < end]
        case Calendar():
            return [_local(window, time_ms)]
        case _ as unreachable:
            assert_never(unreachable)


def _local(window: Calendar, time_ms: int) -> Span:
    zone = ZoneInfo(window.zone)
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=time_ms)).astimezone(zone)
    day = local.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
    match window.unit:
        case "day":
            first, after = day, day + timedelta(days=1)
        case "week":
            first = day - timedelta(days=day.weekday())
            after = first + timedelta(weeks=1)
        case "month":
            first = day.replace(day=1)
            after = (first + timedelta(days=31)).replace(day=1)
    return _instant(first, zone), _instant(after, zone)


def _instant(local: datetime, zone: ZoneInfo) -> int:
    return round(local.replace(tzinfo=zone).timestamp()) * 1_000


def pane_start(window: PaneWindow, time_ms: int) -> int:
    """The start of the slice of time that is in the same windows as this time."""
    if isinstance(window, Calendar):
        return _local(window, time_ms)[0]
    width = window.size_ms if isinstance(window, Tumbling) else gcd(window.size_ms, window.every_ms)
    return (time_ms - window.offset_ms) // width * width + window.offset_ms


def windows(window: PaneWindow, partitions: Sequence[Meaning]) -> dict[tuple[Span, Group], Fold]:
    """Every window and group that has events: its cells merged by pane, then from_end, then partition."""
    cells = [(*cell, number, fold) for number, found in enumerate(partitions) for cell, fold in found.cells.items()]
    merged: dict[tuple[Span, Group], Fold] = {}
    for pane, from_end, group, _, fold in sorted(
        cells, key=lambda cell: (cell[0], cell[1] is not None, cell[1] or 0, cell[3])
    ):
        for span in windows_of(window, pane):
            if from_end is None or from_end <= span[1]:
                merged.setdefault((span, group), Fold()).merge(fold)
    return merged


def sessions(partitions: Sequence[Meaning]) -> dict[tuple[Span, Group], Fold]:
    """Every session by its first and last, and its group; a group's events are all in one partition."""
    return {
        ((session.first, session.last), group): session.fold
        for found in partitions
        for group, each in found.sessions.items()
        for session in each
    }


def answers(stage: Aggregate, partitions: Sequence[Meaning]) -> dict[tuple[Span, Group], Fold]:
    """The final windows, or sessions, of a stage."""
    return sessions(partitions) if isinstance(stage.window, Session) else windows(stage.window, partitions)


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


def values(fold: Fold) -> dict[str, Any]:
    """The finished values of the laws' stage, for the aggregates that have one obvious answer."""
    v = [float(event["v"]) for event in fold.events if event["v"] is not None]
    k = [event["k"] for event in fold.events if event["k"] is not None]
    in_time = sorted(fold.events, key=lambda event: (event[WHEN], event[WHERE]))
    last_k = [event["k"] for event in in_time if event["k"] is not None]
    first_v = [event["v"] for event in in_time if event["v"] is not None]
    return {
        "n": len(fold.events),
        "n_v": len(v),
        "sum_v": fold.sum_v if isfinite(fold.sum_v) else None,
        "max_v": max(v, default=None),
        "first_v": first_v[0] if first_v else None,
        "sum_k": sum(k),
        "min_k": min(k, default=None),
        "last_k": last_k[-1] if last_k else None,
    }
