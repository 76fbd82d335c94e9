"""How everything is doing at one moment, and how fast between two: what `streamgauge top` shows.

Invariant: pure; a rate is a difference of two readings of the product's own counters, and never counted here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

PREFIX = "streamgauge_"
Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """`GET /metrics` by name and label values, and `GET /v1/stages`, read at `at_s` of a clock that never jumps."""

    at_s: float
    samples: Mapping[tuple[str, Labels], float]
    stages: Sequence[Mapping[str, Any]]

    def value(self, name: str, *labels: str) -> float | None:
        return self.samples.get((PREFIX + name, labels))

    def count(self, name: str, *labels: str) -> int:
        return int(self.value(name, *labels) or 0)


@dataclass(frozen=True, slots=True)
class StreamLine:
    stream: str
    events_per_s: float
    stored: int
    duplicate: int
    rejected: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class StageLine:
    """`watermark_delay_s` is None before the first event, `lag_s` the age of the oldest event not yet committed."""

    stage: str
    events_per_s: float
    lag_events: int
    lag_s: float
    watermark_delay_s: float | None
    pending: int
    late: int
    dead: int
    books_add_up: bool


@dataclass(frozen=True, slots=True)
class Top:
    """One screen of it."""

    workers: int
    redis_memory_bytes: int
    streams: tuple[StreamLine, ...]
    stages: tuple[StageLine, ...]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_metrics(text: str) -> dict[tuple[str, Labels], float]:
    """Return the samples of a Prometheus text, by name and label values in the order they are written."""
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(text)
    return {
        (sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


def top(before: Reading, after: Reading) -> Top:
    """Compare two readings; stages that run inside others have no line of their own."""
    names = [labels[0] for name, labels in after.samples if name == f"{PREFIX}events_stored_total"]
    return Top(
        workers=after.count("workers"),
        redis_memory_bytes=after.count("redis_memory_bytes"),
        streams=tuple(_stream(name, before, after) for name in names),
        stages=tuple(_stage(stage, before, after) for stage in after.stages if stage["group"] is not None),
    )


def _stream(name: str, before: Reading, after: Reading) -> StreamLine:
    return StreamLine(
        stream=name,
        events_per_s=_rate(before, after, before.count(_STORED, name), after.count(_STORED, name)),
        stored=after.count(_STORED, name),
        duplicate=after.count("events_duplicate_total", name),
        rejected=after.count("events_rejected_total", name),
        quarantined=after.count("quarantine_entries", name),
    )


def _stage(stage: Mapping[str, Any], before: Reading, after: Reading) -> StageLine:
    name, lag, ledger = stage["stage"], stage["lag"], stage["ledger"]
    return StageLine(
        stage=name,
        events_per_s=_rate(before, after, _read(before, name), _read(after, name)),
        lag_events=lag["events"],
        lag_s=lag["seconds"],
        watermark_delay_s=after.value("watermark_delay_seconds", name),
        pending=stage["pending"],
        late=ledger["late"],
        dead=ledger["dead"],
        books_add_up=ledger["balances"],
    )


_STORED = "events_stored_total"


def _read(reading: Reading, stage: str) -> int:
    return next((each["ledger"]["read"] for each in reading.stages if each["stage"] == stage and each["ledger"]), 0)


def _rate(before: Reading, after: Reading, earlier: int, later: int) -> float:
    """Events a second; 0 where the counter fell, since then its Redis is another one."""
    return max(0.0, (later - earlier) / max(1e-9, after.at_s - before.at_s))
