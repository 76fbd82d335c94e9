"""The window cases of other systems, read from tests/data/vectors, and a small pipeline to run each of them through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from pipeline.core.definitions import (
    Aggregate,
    AggregateSpec,
    Config,
    EmitPolicy,
    Field,
    FieldType,
    Hopping,
    Stream,
    TimePolicy,
    Window,
)
from pipeline.rim import store
from pipeline.rim.scripts import Scripts
from pipeline.runtime.closer import Closer
from tests.line import Line, Row
from tests.servers import RunningServer

FOLDER = Path(__file__).parents[1] / "data" / "vectors"
STREAM = "events"
Case = dict[str, Any]


def load(name: str) -> Case:
    vectors: Case = msgspec.json.decode((FOLDER / name).read_bytes())
    return vectors


def by_name(cases: Sequence[Case]) -> dict[str, Case]:
    named = {case["name"]: case for case in cases}
    assert len(named) == len(cases)
    return named


def ms(text: str) -> int:
    """An ISO time of the vectors in epoch milliseconds."""
    return round(datetime.fromisoformat(text).timestamp() * 1_000)


@dataclass(frozen=True, slots=True)
class Question:
    """One aggregate stage: `value` is what the case calls its answer; `others` are aggregates beside it."""

    window: Window
    function: str = "count"
    group_by: tuple[str, ...] = ()
    name: str = "answer"
    allowed_lateness_ms: int = 0
    emit: EmitPolicy = "on_close"
    others: tuple[AggregateSpec, ...] = ()

    def stage(self) -> Aggregate:
        value = AggregateSpec("value", self.function, None if self.function == "count" else "value")
        aggregates = (value, AggregateSpec("newest", "max", "ts"), *self.others)
        return Aggregate(
            self.name,
            STREAM,
            self.window,
            self.group_by,
            aggregates,
            allowed_lateness_ms=self.allowed_lateness_ms,
            emit=self.emit,
        )


@dataclass(slots=True)
class Bench:
    """One partition, whose watermark is the newest event less `disorder_ms`, and the stages that are asked about."""

    server: RunningServer
    questions: Sequence[Question]
    disorder_ms: int = 0
    value: FieldType = "float"
    line: Line = field(init=False)
    _seen: int = 0

    def __post_init__(self) -> None:
        fields = (
            Field("ts", "timestamp", unit="ms"),
            Field("key", "string", nullable=True),
            Field("labels", "string", nullable=True),
            Field("value", self.value, nullable=True),
        )
        time = TimePolicy("ts", disorder_ms=self.disorder_ms)
        # a session's key has to be in one partition, so sessions want the stream partitioned by it
        stream = Stream(STREAM, fields, time, partition_by="key", partitions=1)
        self.line = Line(Config({STREAM: stream}, {q.name: q.stage() for q in self.questions}), self.server)

    def event(self, ts: int | str, value: Any = None, key: str | None = None, labels: str | None = None) -> None:
        self.line.post(STREAM, {"ts": ts, "value": value, "key": key, "labels": labels})

    def events(self, events: Sequence[Case]) -> None:
        for event in events:
            self.event(event["ts"], event.get("value"), event.get("key"))

    def tick(self, time_ms: int) -> None:
        self.line.tick(STREAM, time_ms)

    def end(self) -> None:
        """No more events: a tick past every window."""
        newest = max(row["newest"] for q in self.questions for row in self.open_and_closed(q.name))
        self.line.end(STREAM, newest)
        self.line.settle()

    def open_and_closed(self, name: str = "answer") -> list[Row]:
        self.line.settle()
        return self.rest(name)

    def closed(self, name: str = "answer") -> list[Row]:
        self.line.settle()
        return self.rest(name, state="closed")

    def rest(self, name: str, **parameters: str) -> list[Row]:
        rows: list[Row] = self.line.get(name, **parameters)["data"]
        return rows

    def newly_published(self) -> list[Row]:
        """What came out downstream since the last time this was asked."""
        self.line.settle()
        rows = self.line.downstream("answer")
        new, self._seen = rows[self._seen :], len(rows)
        return new

    def newly_updated(self) -> list[Row]:
        """What came out downstream since then, open windows too, as a worker sends them for `emit: on_update`."""
        self.line.settle()
        Closer(self.line.programs["answer"], self.line.client, Scripts(self.line.client)).update_once()
        return self.newly_published()

    def late(self) -> list[Row]:
        self.line.settle()
        return self.line.late("answer")

    def partial(self) -> int:
        """How many events were late for some of their windows only."""
        self.line.settle()
        group = self.line.programs["answer"].group
        return store.load_checkpoint(self.line.client, STREAM, 0, group).partial


def answers(rows: Sequence[Row], *columns: str) -> list[tuple[Any, ...]]:
    """(start, end, value, and the columns asked for) of rows, in order of these."""
    return sorted((int(r["window_start"]), int(r["window_end"]), r["value"], *(r[c] for c in columns)) for r in rows)


def expected(cases: Sequence[Case], *columns: str) -> list[tuple[Any, ...]]:
    """The same of a vector's expectations, whose times may be text."""
    found = ((as_ms(c["start"]), as_ms(c["end"]), c["value"], *(c[name] for name in columns)) for c in cases)
    return sorted(found)


def hopping(case: Case) -> Hopping:
    """A case's window; some systems write its lengths in seconds."""
    window = case.get("window", case)
    if "size_s" in window:
        return Hopping(window["size_s"] * 1_000, window["slide_s"] * 1_000)
    return Hopping(window["size"], window["slide"])


def as_ms(time: int | str) -> int:
    return ms(time) if isinstance(time, str) else time
