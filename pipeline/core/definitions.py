"""What a config file says, as frozen values: the streams, the stages, and nothing that runs.

Everything downstream (programs, worker, query, docs) reads these and never the YAML. All times are milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import msgspec

FieldType = Literal["string", "int", "float", "bool", "timestamp", "list"]
ScalarType = Literal["string", "int", "float", "bool", "timestamp"]
TimeUnit = Literal["auto", "s", "ms", "us", "ns"]
ExtraPolicy = Literal["drop", "refuse"]
Compression = Literal["none", "lz4", "zstd"]
CalendarUnit = Literal["day", "week", "month"]
EmitPolicy = Literal["on_close", "on_update"]
OutputKind = Literal["rows", "chunks", "none"]
Engine = Literal["polars", "pandas"]
BuiltInFunction = Literal[
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "first",
    "last",
    "var",
    "stddev",
    "quantile",
    "histogram",
    "distinct",
    "distinct_exact",
    "topk",
    "increase",
    "rate",
    "time_weighted_mean",
]

AGGREGATE_FUNCTIONS: tuple[BuiltInFunction, ...] = get_args(BuiltInFunction)

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS


@dataclass(frozen=True, slots=True)
class Field:
    """One declared field of an event."""

    name: str
    type: FieldType
    nullable: bool = False
    item: ScalarType | None = None  # of a list
    unit: TimeUnit = "auto"  # of a timestamp given as a number
    zone: str = "UTC"  # of a timestamp given as a string without one
    measure: str | None = None  # unit of the value, such as °C, for people and charts
    description: str | None = None


@dataclass(frozen=True, slots=True)
class TimePolicy:
    """Where event time comes from and how far it may be trusted; `field` None means arrival time."""

    field: str | None = None
    disorder_ms: int = 5 * SECOND_MS
    max_future_ms: int = 5 * MINUTE_MS
    max_age_ms: int | None = None
    idle_after_ms: int | None = 10 * SECOND_MS  # None: silence never moves time


@dataclass(frozen=True, slots=True)
class Dedup:
    """An event whose `key` was stored within the last `within_ms`, by Redis's clock, is the same event sent again."""

    key: str
    within_ms: int


@dataclass(frozen=True, slots=True)
class Stream:
    """A source: events of one schema, in `partitions` ordered logs."""

    name: str
    fields: tuple[Field, ...]
    time: TimePolicy = TimePolicy()
    partition_by: str | None = None  # None: spread evenly
    partitions: int = 4
    retention_ms: int = DAY_MS
    retention_bytes: int = 1_000_000_000
    extra: ExtraPolicy = "drop"
    compression: Compression = "none"  # of the chunks that are written from now on
    dedup: Dedup | None = None  # then `partition_by` is set: events of one id meet in one partition

    def field(self, name: str) -> Field | None:
        return next((f for f in self.fields if f.name == name), None)


@dataclass(frozen=True, slots=True)
class Lookup:
    """A column from a table: of the row whose `key` equals the event's `on`; null where there is none.

    The types are those the file had when the config was loaded; a later content is read as them.
    """

    table: str  # the file, as config.yaml writes it: the name of the table
    on: str
    key: str
    column: str
    type: ScalarType
    key_type: ScalarType


@dataclass(frozen=True, slots=True)
class PythonFunction:
    """A registered function as a stage uses it: the columns it adds, by config type, and the hash of its source."""

    name: str
    returns: Mapping[str, str]
    source_hash: str
    engine: Engine = "polars"


@dataclass(frozen=True, slots=True)
class Transform:
    """A stage that keeps and changes rows, in this order: filter, derive, lookup, explode, python.

    Fused into the stages that read it. `lookup` is by the column it adds; `explode` is a list column.
    """

    name: str
    source: str  # a stream or another transform
    filter: str | None = None
    derive: Mapping[str, str] = field(default_factory=dict)
    publish: bool = False
    lookup: Mapping[str, Lookup] = field(default_factory=dict)
    explode: str | None = None
    python: PythonFunction | None = None


class Tumbling(msgspec.Struct, frozen=True, tag="tumbling"):
    """Windows [k·size + offset, (k+1)·size + offset), aligned to the epoch; negative times work."""

    size_ms: int
    offset_ms: int = 0


class Hopping(msgspec.Struct, frozen=True, tag="hopping"):
    """Windows [k·every + offset, k·every + offset + size); `every` <= `size`, which need not be a multiple of it."""

    size_ms: int
    every_ms: int
    offset_ms: int = 0


class Cumulating(msgspec.Struct, frozen=True, tag="cumulating"):
    """Windows that share a start: [D, D + every), [D, D + 2·every) … [D, D + size), D = k·size + offset.

    `every` divides `size`, as in Flink's CUMULATE.
    """

    size_ms: int
    every_ms: int
    offset_ms: int = 0


class Calendar(msgspec.Struct, frozen=True, tag="calendar"):
    """Local days, ISO weeks (from Monday) or months of an IANA time zone; a day has 23 to 25 hours."""

    unit: CalendarUnit
    zone: str


class Session(msgspec.Struct, frozen=True, tag="session"):
    """Events of one group at most `gap` apart; with `max`, a session never crosses a multiple of it."""

    gap_ms: int
    max_ms: int | None = None


SESSION_TYPES = {"first": "timestamp", "last": "timestamp", "closes_at": "timestamp"}  # of its rows, besides its values

PaneWindow = Tumbling | Hopping | Cumulating | Calendar
Window = PaneWindow | Session


@dataclass(frozen=True, slots=True)
class AggregateSpec:
    """One named value of a metric: `clicks: count where event = 'click'`, `p95: quantile(load_ms, 0.95)`.

    `function` is built in or a registered one's name. `field` None is `count` of events. `argument` is quantile's q
    (0 to 1) or topk's k. `where` is an SQL expression over the columns that reach the stage; rows where it is not TRUE
    are left out of this value.
    """

    name: str
    function: str
    field: str | None = None
    argument: float | int | None = None
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Rollup:
    """A tier of a metric: windows of `size_ms` merged from the base's, kept for `retention_ms`."""

    size_ms: int
    retention_ms: int


MAX_GROUPS = 100_000


@dataclass(frozen=True, slots=True)
class Aggregate:
    """A stage that turns a stream into a metric: one row per window and group."""

    name: str
    source: str  # a stream or a transform
    window: Window
    group_by: tuple[str, ...]
    aggregates: tuple[AggregateSpec, ...]
    retention_ms: int = DAY_MS
    select: Mapping[str, str] = field(default_factory=dict)  # name → SQL over the finished aggregates
    allowed_lateness_ms: int = 0
    emit: EmitPolicy = "on_close"
    output: OutputKind = "rows"
    max_groups: int = MAX_GROUPS  # of a pane in a partition; the ones after go to `__other__` (not for sessions)
    rollups: tuple[Rollup, ...] = ()  # by size


Stage = Transform | Aggregate


@dataclass(frozen=True, slots=True)
class Config:
    """A whole config file, checked."""

    streams: Mapping[str, Stream]
    stages: Mapping[str, Stage]
    default_stream: str | None = None
    redis_url: str = "embedded"
    path: str | None = None
    folder: str | None = None  # where the paths of tables start; None: the current one
    functions: tuple[str, ...] = ()  # Python files beside the config file, as it names them
    sources: Mapping[str, str] = field(default_factory=dict)  # of registered aggregates: name → hash of the source
    kept_tables: str | None = None  # of a process that `up` started: the tables as `up` checked them

    def transforms_of(self, stage: Stage) -> tuple[Transform, ...]:
        """The chain of transforms above `stage` (without itself), in the order events meet them."""
        chain: list[Transform] = []
        source = stage.source
        while source in self.stages:
            above = self.stages[source]
            assert isinstance(above, Transform), f"{stage.name} reads {source}, which is not a transform"
            chain.append(above)
            source = above.source
        return tuple(reversed(chain))

    def stream_of(self, stage: Stage) -> Stream:
        """The stream at the head of a stage's chain."""
        chain = self.transforms_of(stage)
        return self.streams[chain[0].source if chain else stage.source]

    def tables_of(self, stage: Stage) -> frozenset[str]:
        """The lookup tables that a stage's numbers depend on."""
        chain = (*self.transforms_of(stage), *((stage,) if isinstance(stage, Transform) else ()))
        return frozenset(lookup.table for transform in chain for lookup in transform.lookup.values())

    def aggregates(self) -> tuple[Aggregate, ...]:
        return tuple(s for s in self.stages.values() if isinstance(s, Aggregate))
