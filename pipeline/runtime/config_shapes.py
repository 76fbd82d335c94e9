"""The shape of config.yaml: which settings there are, of which type, within which bounds; one pydantic model a section.

Values come out in our own units (milliseconds, bytes). What needs to look at another part of the file (names, types of
fields, expressions) is checked in `config_streams` and `config_stages`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from pipeline.core.definitions import (
    DAY_MS,
    MAX_GROUPS,
    MINUTE_MS,
    SECOND_MS,
    CalendarUnit,
    Compression,
    EmitPolicy,
    ExtraPolicy,
    OutputKind,
    TimeUnit,
)
from pipeline.core.times import format_duration, parse_duration_ms
from pipeline.core.zones import check_zone

MAX_PARTITIONS = 256  # each costs a lease, a checkpoint and a reader per stage
DEFAULT_PARTITIONS = 4
MAX_DEDUP_MS = 7 * DAY_MS  # an id takes some 100 bytes of Redis as long as it is remembered
DEFAULT_RETENTION_BYTES = 1_000_000_000
MOST_GROUPS = 10_000_000  # of a pane in a partition; a cap above it would protect nothing

_BYTE_UNITS = {"B": 1} | {
    name: base**power
    for power, letter in enumerate("KMGT", start=1)
    for name, base in ((f"{letter}B", 1_000), (f"{letter}IB", 1_024))
}
_BYTES = re.compile(r"([0-9]{1,15})\s*([KMGT]?I?B)", re.IGNORECASE)


def not_built(what: str) -> str:
    """The one sentence for what the design has and this version has not."""
    return f"`{what}` is not built yet in this version."


def duration_ms(value: object) -> int:
    """Read a duration of at least 0."""
    if isinstance(value, bool) or not isinstance(value, str):
        raise ValueError(f"must be a duration with a unit, such as 10s or 5m, not {seen(value)}.")
    return parse_duration_ms(value)


def positive_duration_ms(value: object) -> int:
    """Read a duration above 0."""
    duration = offset_ms(value)  # reads a minus sign too, to say what is wrong with it
    if duration <= 0:
        raise ValueError(f"must be longer than 0, not {value}.")
    return duration


def duration_or_none_ms(value: object) -> int | None:
    """Read a duration above 0, or `none` (or YAML's null)."""
    return None if value is None or value == "none" else positive_duration_ms(value)


def dedup_duration_ms(value: object) -> int:
    """Read how long ids are remembered: each takes memory all that time."""
    duration = positive_duration_ms(value)
    if duration > MAX_DEDUP_MS:
        raise ValueError(f"must be at most {format_duration(MAX_DEDUP_MS)}, not {value}: ids take memory so long.")
    return duration


def offset_ms(value: object) -> int:
    """Read a duration that may have a minus sign."""
    if isinstance(value, str) and value.startswith("-"):
        return -duration_ms(value[1:])
    return duration_ms(value)


def byte_count(value: object) -> int:
    """Read a positive number of bytes, plain or with a unit: 1GB is 10^9, 1GiB 2^30."""
    match = _BYTES.fullmatch(value) if isinstance(value, str) else None
    count = int(match[1]) * _BYTE_UNITS[match[2].upper()] if match else value
    if isinstance(count, bool) or not isinstance(count, int) or not 0 < count < 2**60:
        raise ValueError(f"must be a number of bytes such as 500MB, 1GB or 1GiB, not {seen(value)}.")
    return count


def partition_count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MAX_PARTITIONS:
        raise ValueError(f"must be a whole number from 1 to {MAX_PARTITIONS}, not {seen(value)}.")
    return value


def redis_url(value: object) -> str:
    """Read a Redis URL; a message names its scheme only, since a URL may hold a password."""
    if not isinstance(value, str):
        raise ValueError(f"must be a URL or `embedded`, not {seen(value)}.")
    scheme, separator, rest = value.partition("://")
    if scheme in ("redis+cluster", "redis+sentinel"):
        raise ValueError(not_built(f"{scheme}://"))
    if value == "embedded" or (separator and rest and scheme in ("redis", "rediss", "unix")):
        return value
    raise ValueError("is not a Redis URL. Write embedded, redis://host:6379/0, rediss://… or unix:///path/to.sock.")


def extra_policy(value: object) -> object:
    if value == "keep":
        raise ValueError(f"{not_built('extra: keep')} Write drop or refuse.")
    if value not in ("drop", "refuse"):
        raise ValueError(f"must be drop or refuse, not {seen(value)}.")
    return value


def one_of(words: Sequence[str]) -> Callable[[object], object]:
    """A reader of a closed list of words."""

    def read(value: object) -> object:
        if value not in words:
            raise ValueError(f"must be {either(words)}, not {seen(value)}.")
        return value

    return read


def group_count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST_GROUPS:
        raise ValueError(f"must be a whole number from 1 to {MOST_GROUPS:,}, not {seen(value)}.")
    return value


def time_zone(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"must be the name of a time zone such as Europe/Paris, not {seen(value)}.")
    check_zone(value)
    return value


def field_mapping(value: object) -> object:
    """`float?` is short for `{type: float?}`."""
    if not isinstance(value, str | dict):
        raise ValueError(f"must be a type such as float?, or a mapping with a `type`, not {seen(value)}.")
    return {"type": value} if isinstance(value, str) else value


def file_names(value: object) -> object:
    """Read one name of a file, or a list of them."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"must be the path of a Python file, or a list of them, not {seen(value)}.")
    return names


def seen(value: object) -> str:
    """Quote a value in a message, without its whole length."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _value(reader: Callable[[Any], object]) -> BeforeValidator:
    return BeforeValidator(reader)


def _written(*patterns: str, **other: Any) -> WithJsonSchema:
    """What editors are told of a value that is text in the file and a number inside: `config_schema` writes it out."""
    texts = [{"type": "string", "pattern": f"^(?:{pattern})$"} for pattern in patterns]
    shapes = [*texts, other] if other else texts
    return WithJsonSchema(shapes[0] if len(shapes) == 1 else {"anyOf": shapes})


_DURATION = r"(?:[0-9]{1,15}(?:ms|[wdhms]))+"
_POSITIVE = rf"(?=.*[1-9]){_DURATION}"
_BYTE_COUNT = r"[0-9]{1,15}\s*(?:[KMGTkmgt][iI]?)?[bB]"

Duration = Annotated[int, _value(duration_ms), _written(_DURATION)]
PositiveDuration = Annotated[int, _value(positive_duration_ms), _written(_POSITIVE)]
DedupDuration = Annotated[int, _value(dedup_duration_ms), _written(_POSITIVE)]
OptionalDuration = Annotated[int | None, _value(positive_duration_ms), _written(_POSITIVE)]
DurationOrNone = Annotated[int | None, _value(duration_or_none_ms), _written(_POSITIVE, enum=["none", None])]
Offset = Annotated[int, _value(offset_ms), _written(f"-?{_DURATION}")]
ByteCount = Annotated[int, _value(byte_count), _written(_BYTE_COUNT, type="integer", minimum=1, exclusiveMaximum=2**60)]
PartitionCount = Annotated[
    int, _value(partition_count), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MAX_PARTITIONS})
]
GroupCount = Annotated[
    int, _value(group_count), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MOST_GROUPS})
]
RedisUrl = Annotated[str, _value(redis_url), _written("embedded", r"(?:rediss?|unix)://.+")]
FileNames = Annotated[
    list[str],
    _value(file_names),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class RedisShape(Shape):
    url: RedisUrl = "embedded"


class TopShape(Shape):
    redis: RedisShape = RedisShape()
    default_stream: str | None = None
    functions: FileNames = []
    streams: dict[str, Any]
    stages: dict[str, Any] | None = None


class FieldShape(Shape):
    type: str
    unit: str | None = None
    zone: str | None = None
    description: str | None = None


class TimeShape(Shape):
    field: str | None = None
    disorder: Duration = 5 * SECOND_MS
    max_future: Duration = 5 * MINUTE_MS
    max_age: DurationOrNone = None
    idle_after: DurationOrNone = 10 * SECOND_MS


class StreamRetentionShape(Shape):
    time: PositiveDuration = DAY_MS
    bytes: ByteCount = DEFAULT_RETENTION_BYTES


class DedupShape(Shape):
    key: str | None = None  # needed where there is a `dedup` at all
    within: DedupDuration = 10 * MINUTE_MS


class StreamShape(Shape):
    fields: dict[str, Annotated[FieldShape, _value(field_mapping)]] = Field(alias="schema")
    time: TimeShape = TimeShape()
    partition_by: str | None = None
    partitions: PartitionCount = DEFAULT_PARTITIONS
    retention: StreamRetentionShape = StreamRetentionShape()
    extra: Annotated[ExtraPolicy, _value(extra_policy)] = "drop"
    compression: Annotated[Compression, _value(one_of(get_args(Compression)))] = "none"
    dedup: DedupShape = DedupShape()


class LookupShape(Shape):
    table: str
    on: str
    key: str | None = None
    column: str | None = None


class TransformShape(Shape):
    source: str = Field(alias="from")
    filter: str | None = None
    derive: dict[str, str] = {}
    lookup: dict[str, LookupShape] = {}
    explode: str | None = None
    python: str | None = None
    publish: bool = False


class WindowShape(Shape):
    """One kind and its settings; which go together is checked in `config_windows`."""

    tumbling: OptionalDuration = None
    hopping: OptionalDuration = None
    session: OptionalDuration = None
    cumulating: OptionalDuration = None
    calendar: Annotated[CalendarUnit | None, _value(one_of(get_args(CalendarUnit)))] = None
    every: OptionalDuration = None
    offset: Offset = 0
    max: OptionalDuration = None
    tz: Annotated[str | None, _value(time_zone)] = None


class AggregateShape(Shape):
    source: str = Field(alias="from")
    window: WindowShape
    group_by: list[str] = []
    aggregates: dict[str, Any]
    select: dict[str, str] = {}
    allowed_lateness: Duration = 0
    emit: Annotated[EmitPolicy, _value(one_of(get_args(EmitPolicy)))] = "on_close"
    output: Annotated[OutputKind, _value(one_of(get_args(OutputKind)))] = "rows"
    max_groups: GroupCount = MAX_GROUPS
    rollups: dict[str, PositiveDuration] = {}
    retention: PositiveDuration = DAY_MS


TIME_UNITS: tuple[TimeUnit, ...] = ("auto", "s", "ms", "us", "ns")
