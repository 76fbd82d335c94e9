"""What sessions are, said in plain Python: one event after the other, floats added from left to right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pipeline.core.definitions import Session
from pipeline.core.watermarks import NO_TIME_MS

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Event:
    key: str | None
    time_ms: int
    v: float
    position: int = 0
    watermark_ms: int = NO_TIME_MS  # before it

    @property
    def word(self) -> str:
        return f"{self.key}{self.position}"


@dataclass(slots=True)
class Model:
    """One session in plain Python."""

    first: int
    last: int
    n: int = 0
    total: float = 0.0
    events: list[Event] = field(default_factory=list)
    forebears: list[Span] = field(default_factory=list)


Forms = dict[str | None, list[Model]]


def touches(session: Model, event: Event, window: Session) -> bool:
    if window.max_ms is not None and session.first // window.max_ms != event.time_ms // window.max_ms:
        return False
    return session.first - window.gap_ms <= event.time_ms <= session.last + window.gap_ms


def add(forms: Forms, event: Event, window: Session) -> None:
    own = forms.setdefault(event.key, [])
    touched = sorted((s for s in own if touches(s, event, window)), key=lambda s: s.first)
    if not touched:
        own.append(Model(event.time_ms, event.time_ms, 1, 0.0 + event.v, [event]))
        return
    heir = touched[0]
    grows = not heir.first <= event.time_ms <= heir.last
    for before in [heir] * grows + touched[1:]:
        if before.last + window.gap_ms <= event.watermark_ms:
            heir.forebears.append((before.first, before.last))
        if before is not heir:
            heir.forebears += before.forebears
    heir.first, heir.last = min(heir.first, event.time_ms), max(heir.last, event.time_ms)
    heir.n, heir.total = heir.n + 1, heir.total + event.v
    heir.events.append(event)
    for other in touched[1:]:
        heir.last = max(heir.last, other.last)
        heir.n, heir.total = heir.n + other.n, heir.total + other.total
        heir.events += other.events
        own.remove(other)


def sessions_of(log: Sequence[Event], window: Session) -> Forms:
    """The sessions of each key after a log of events that are all in time."""
    forms: Forms = {}
    for event in log:
        add(forms, event, window)
    return forms


@dataclass(frozen=True, slots=True)
class Lateness:
    disorder_ms: int
    allowed_ms: int


def in_time(log: Sequence[Event], window: Session, late: Lateness) -> list[Event]:
    """The log with the watermark before each event, without the late ones."""
    newest, kept = NO_TIME_MS, []
    for position, event in enumerate(log):
        watermark_ms = newest - late.disorder_ms
        if event.time_ms + window.gap_ms + late.allowed_ms > watermark_ms:
            kept.append(replace(event, position=position, watermark_ms=watermark_ms))
        newest = max(newest, event.time_ms)
    return kept
