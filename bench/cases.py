"""What is measured: a stream, a stage over it, seeded events for it, and the rows a correct pipeline answers.

Invariant: a case says what to compute and not how it is measured, so every mode and every curve uses the same ones.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from bench.product import Product
from bench.sending import NDJSON, lead_of
from bench.window_loads import (
    EVENTS_PER_MS,
    Answer,
    Close,
    PageLoad,
    SensorLoad,
    VisitLoad,
    crowd_load,
    key_load,
    page_load,
    same,
    same_readings,
    same_users,
    same_visitors,
    sensor_load,
    visit_load,
)
from bench.yahoo_load import TABLE, WINDOW_MS, YahooLoad, ads_table, yahoo_load
from pipeline.rim import keys

METRIC = "measured"
HOP_MS, HOP_EVERY_MS = 60_000, 10_000
MINUTE_MS = 60_000
TOP = 10
GAP_MS = 30_000
WHOLE_MS = 3_600_000  # one window with every visit in it
MAX_ROWS = 100_000  # of one answer
ARROW = "application/vnd.apache.arrow.stream"

Coding = Literal["ndjson", "arrow"]
Load = SensorLoad | PageLoad | VisitLoad | YahooLoad

CONFIG = """
redis: {{url: embedded}}
default_stream: {stream}
streams:
  {stream}:
    schema: {{{time}: {{type: timestamp, unit: ms}}, {fields}}}
    # several senders at once: a batch may overtake another
    time: {{field: {time}, disorder: {disorder}, idle_after: {idle_after}}}
    partitions: {partitions}
    retention: {{time: 24h, bytes: 20GB}}
{settings}
stages:
{transform}
  measured:
    from: {reads}
    group_by: [{group}]
    {stage}
"""


@dataclass(frozen=True, slots=True)
class Source:
    """A stream: its name, its fields beside the time, what groups its events, and the transform in between."""

    stream: str
    fields: str
    group: str
    partition_by: str | None = None
    time: str = "ts"
    transform: tuple[str, str] | None = None  # name and settings


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of work: its load, its source, its stage, and the case it is compared with."""

    name: str
    baseline: str | None
    load: str
    source: Source
    stage: Sequence[str]
    partitions: int = 4
    disorder: str = "10s"
    idle_after: str = "10s"
    settings: Sequence[str] = ()  # further lines of the stream

    @property
    def is_downstream(self) -> bool:
        """Whether its rows go to a downstream stream, which is waited for."""
        return "output: none" not in self.stage

    @property
    def config(self) -> str:
        source = self.source
        settings = [*([f"partition_by: {source.partition_by}"] if source.partition_by else []), *self.settings]
        name, transform = source.transform or ("", "")
        return CONFIG.format(
            stream=source.stream,
            time=source.time,
            fields=source.fields,
            disorder=self.disorder,
            idle_after=self.idle_after,
            partitions=self.partitions,
            settings="\n".join(f"    {line}" for line in settings),
            transform=transform,
            reads=name or source.stream,
            group=source.group,
            stage="\n    ".join(self.stage),
        )


SENSORS = Source("sensors", "sensor: string, value: float, unit: string, site: string", "sensor")
PAGES = Source("pages", "page: string, user: string, agent: string", "page", "user")
VISITS = Source("visits", "user: string, page: string, agent: string", "user", "user")
ADS = Source(
    "ads",
    "user_id: string, page_id: string, ad_id: string, ad_type: string, event_type: string, ip_address: string",
    "campaign_id",
    time="event_time",
    transform=(
        "views",
        f"""  views:
    from: ads
    filter: "event_type = 'view'"
    lookup: {{campaign_id: {{table: {TABLE}, on: ad_id}}}}
""",
    ),
)
COUNT = "aggregates: {n: count}"
READINGS = 'aggregates: {n: count, mean: mean(value), low: min(value), high: max(value), p95: "quantile(value, 0.95)"}'
VISITORS = f'aggregates: {{users: distinct(user), top: "topk(user, {TOP})"}}'
WHOLE = ("window: {tumbling: 1h}", COUNT, "max_groups: 2000000")

YAHOO = Case("Yahoo", None, "yahoo", ADS, ("window: {tumbling: 10s}", "aggregates: {views: count}"))
HOPPING = Case(
    "hopping 60 s / 10 s",
    "tumbling, 1,000 groups",
    "sensors",
    SENSORS,
    ("window: {hopping: 60s, every: 10s}", READINGS),
)
DISTINCT = Case(
    "distinct users per page",
    "tumbling, 100 groups",
    "pages",
    PAGES,
    ("window: {tumbling: 1m}", "aggregates: {users: distinct(user)}"),
)
SESSIONS = Case(
    "sessions, 1 M keys",
    "tumbling, 1 M groups",
    "visits",
    VISITS,
    ("window: {session: 30s}", COUNT, "output: none"),
)
CROWD = Case(
    "1 M groups in 60 s",
    None,
    "crowd",
    VISITS,
    ("window: {tumbling: 1m}", COUNT, "max_groups: 2000000", "output: none"),
)
KEYS = Case("groups", None, "keys", VISITS, (*WHOLE, "output: none"))
# The kinds of windows and what each is compared with: bench/windows.py.
KINDS = (
    Case("tumbling, 1,000 groups", None, "sensors", SENSORS, ("window: {tumbling: 10s}", COUNT)),
    HOPPING,
    Case("tumbling, 100 groups", None, "pages", PAGES, ("window: {tumbling: 1m}", COUNT)),
    Case("distinct and topk", "tumbling, 100 groups", "pages", PAGES, ("window: {tumbling: 1m}", VISITORS)),
    Case("tumbling, 1 M groups", None, "visits", VISITS, (*WHOLE, "output: none")),
    Case("tumbling, 1 M groups, rows", "tumbling, 1 M groups", "visits", VISITS, (*WHOLE, "output: rows")),
    SESSIONS,
    Case(
        "sessions, 1 M keys, rows",
        "tumbling, 1 M groups, rows",
        "visits",
        VISITS,
        ("window: {session: 30s}", COUNT, "output: rows"),
    ),
)


def write_config(case: Case, tables: Mapping[str, str], folder: Path) -> Path:
    """Write a case's config and the files beside it; return where the config is."""
    path = folder / "config.yaml"
    path.write_text(case.config)
    for name, text in tables.items():
        path.with_name(name).write_text(text)
    return path


@dataclass(frozen=True, slots=True)
class Task:
    """What a case has to do: the bodies; when it is done, and what its rows and its number of late events must be."""

    bodies: Sequence[bytes]
    content_type: str
    lead: int  # of the sender
    n_events: int
    end_ms: int
    expected: Mapping[Any, Answer]
    close: Close
    read: Callable[[Product], Mapping[Any, Answer]]
    n_late: int = 0
    tables: Mapping[str, str] = field(default_factory=dict)  # files beside the config


@dataclass(slots=True)
class Loads:
    """The loads, made once and only when a case asks for them.

    `events_per_ms` is of the Yahoo load's event time: fewer make a load longer, with more windows in it.
    """

    n_events: int
    n_users: int
    batch: int
    events_per_ms: float = EVENTS_PER_MS
    late: float = 0.0
    skew: float = 0.0
    minutes: int = 1  # of the crowd: as many windows
    older_ms: int = 0  # than just over: with a large disorder no end of time may lie ahead
    coding: Coding = "ndjson"
    _made: dict[str, tuple[Load, list[bytes]]] = field(default_factory=dict)

    def task(self, case: Case) -> Task:
        load, bodies = self._load(case.load)
        n_events = len(load.times_ms)
        per_ms = {"crowd": self.n_users / MINUTE_MS, "yahoo": self.events_per_ms}.get(case.load, EVENTS_PER_MS)
        expected, close, size_ms = _expected(case, load)
        late, tables = (load.n_late_views, {TABLE: ads_table(load.names)}) if isinstance(load, YahooLoad) else (0, {})
        if isinstance(load, VisitLoad):
            last_ms = int(load.times_ms[-1])
            end_ms = last_ms + size_ms if "session" in case.stage[0] else _whole(last_ms, size_ms)
            read: Callable[[Product], Mapping[Any, Answer]] = latest_rows
        else:
            first_ms, end_ms = min(start for start, _ in expected), max(start for start, _ in expected) + size_ms
            read = rows_from(first_ms, case.source.group)
        return Task(
            bodies=bodies,
            content_type=NDJSON if self.coding == "ndjson" else ARROW,
            lead=lead_of(self.batch, per_ms),
            n_events=n_events,
            end_ms=end_ms,
            expected=expected,
            close=close,
            read=read,
            n_late=late,
            tables=tables,
        )

    def _load(self, name: str) -> tuple[Load, list[bytes]]:
        if name not in self._made:
            self._made.clear()  # one at a time: a load of 2 M events takes 500 MB
            load = self._make(name)
            bodies = arrow_bodies(load, self.batch) if self.coding == "arrow" else load.bodies(self.batch)
            self._made[name] = (load, bodies)
        return self._made[name]

    def _make(self, name: str) -> Load:
        span_ms = self.n_events / (self.events_per_ms if name == "yahoo" else EVENTS_PER_MS)
        start_ms = started_ago(span_ms + self.older_ms)
        if name == "yahoo":
            return yahoo_load(self.n_events, start_ms, events_per_ms=self.events_per_ms, late=self.late, skew=self.skew)
        if name == "visits":
            return visit_load(self.n_users, whole_hour_ago())
        if name == "keys":
            return key_load(self.n_events, self.n_users, whole_hour_ago())
        if name == "crowd":
            return crowd_load(self.n_users, self.minutes, whole_hour_ago())  # its windows may be held open for long
        if name == "pages":
            return page_load(self.n_events, start_ms, self.n_users)
        return sensor_load(self.n_events, start_ms)


def _expected(case: Case, load: Load) -> tuple[Mapping[Any, Answer], Close, int]:
    """What the rows of a case must be, how close, and the length of its windows (of sessions: the gap)."""
    if isinstance(load, YahooLoad):
        return load.counts(), same, WINDOW_MS
    if isinstance(load, VisitLoad):
        if "session" in case.stage[0]:
            return load.sessions(), same, GAP_MS
        return load.counts(), same, MINUTE_MS if case.load == "crowd" else WHOLE_MS
    if isinstance(load, SensorLoad):
        if case.baseline is None:
            return load.counts(HOP_EVERY_MS), same, HOP_EVERY_MS
        return load.hops(HOP_MS, HOP_EVERY_MS), same_readings, HOP_MS
    if case.baseline is None:
        return load.counts(MINUTE_MS), same, MINUTE_MS
    return load.visitors(MINUTE_MS, TOP), same_users if case is DISTINCT else same_visitors, MINUTE_MS


def arrow_bodies(load: Load, batch: int) -> list[bytes]:
    """The events as Arrow IPC streams.

    Raises:
        SystemExit: only the Yahoo load has columns of its own.
    """
    if not isinstance(load, YahooLoad):
        raise SystemExit("Arrow bodies are made of the Yahoo load alone: leave out the coding, or take that case")
    frame: pl.DataFrame = load.frame()
    bodies = []
    for first in range(0, len(frame), batch):
        body = io.BytesIO()
        frame.slice(first, batch).write_ipc_stream(body)
        bodies.append(body.getvalue())
    return bodies


def started_ago(span_ms: float) -> int:
    """A start on a whole minute, so that every window ends in the past: no tick closes one that lies ahead."""
    return (int(time.time() * 1000 - span_ms) - max(HOP_MS, MINUTE_MS)) // MINUTE_MS * MINUTE_MS


def whole_hour_ago() -> int:
    """The beginning of the last hour that is over."""
    return (int(time.time() * 1000) // WHOLE_MS - 1) * WHOLE_MS


def _whole(last_ms: int, size_ms: int) -> int:
    """The end of the window that `last_ms` is in."""
    return (last_ms // size_ms + 1) * size_ms


def rows_from(first_ms: int, group: str) -> Callable[[Product], Mapping[tuple[int, str], Answer]]:
    """Reads every closed window from `first_ms` on."""

    def read(running: Product) -> dict[tuple[int, str], Answer]:
        rows = running.get(f"/v1/metrics/{METRIC}?start={first_ms}&state=closed&limit={MAX_ROWS}")["data"]
        return {(row["window_start"], row[group]): row for row in rows}

    return read


def latest_rows(running: Product) -> dict[str, Answer]:
    """The newest row of every group: of a million, the API would take ten answers that each read all."""
    client = running.redis()
    found: dict[str, Answer] = {}
    cursor = 0
    while True:
        cursor, page = client.execute_command("HSCAN", keys.latest(METRIC), cursor, "COUNT", 10_000)
        pairs = page.items() if isinstance(page, dict) else zip(page[::2], page[1::2], strict=True)
        found.update((json.loads(group)[0], json.loads(row)) for group, row in pairs)
        cursor = int(cursor)
        if not cursor:
            client.close()
            return found
