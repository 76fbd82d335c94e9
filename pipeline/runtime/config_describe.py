"""What `streamgauge check` prints: the graph of a config as a tree, stream by stream, with the keys it will use.

Read from the checked `Config`, so it shows what was understood and not what was written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.core.definitions import (
    MAX_GROUPS,
    Aggregate,
    AggregateSpec,
    Calendar,
    Config,
    Cumulating,
    Field,
    Hopping,
    Session,
    Stage,
    Stream,
    Transform,
    Tumbling,
    Window,
)
from pipeline.core.times import format_duration

_PASSWORD = re.compile(r"(://)[^@/]*@")
_BYTE_UNITS = (("GB", 10**9), ("MB", 10**6), ("KB", 10**3))


def describe(config: Config) -> str:
    """Return the graph as lines of text, without a newline at the end and without the password of the Redis URL."""
    url = _PASSWORD.sub(r"\1***@", config.redis_url)
    lines = [f"redis {url}"]
    for stream in config.streams.values():
        lines.extend(("", *_stream_lines(config, stream)))
    return "\n".join(lines)


def _stream_lines(config: Config, stream: Stream) -> Iterator[str]:
    default = " (POST /publish writes here)" if stream.name == config.default_stream else ""
    yield f"{stream.name}{default}"
    yield f"  fields      {', '.join(_field_text(each) for each in stream.fields)}"
    yield f"  time        {_time_text(stream)}"
    yield f"  partitions  {stream.partitions}, {_spread(stream)}: {key_range(stream)}:raw"
    if stream.dedup is not None:
        yield f"  dedup       by {stream.dedup.key}, within {format_duration(stream.dedup.within_ms)}"
    packed = "" if stream.compression == "none" else f", chunks compressed with {stream.compression}"
    yield f"  kept        {format_duration(stream.retention_ms)} or {_bytes_text(stream.retention_bytes)}{packed}"
    yield from _tree(config, stream.name, "  ")


def key_range(stream: Stream) -> str:
    """`{pageviews.0..3}`, the common part of the keys of all partitions."""
    numbers = "0" if stream.partitions == 1 else f"0..{stream.partitions - 1}"
    return f"{{{stream.name}.{numbers}}}"


def _tree(config: Config, source: str, indent: str) -> Iterator[str]:
    readers = [stage for stage in config.stages.values() if stage.source == source]
    for stage in readers:
        is_last = stage is readers[-1]
        yield f"{indent}{'└─' if is_last else '├─'} {stage.name}"
        below = f"{indent}{'   ' if is_last else '│  '}"
        is_read = any(each.source == stage.name for each in config.stages.values())
        yield from (f"{below}{'│' if is_read else ' '} {line}" for line in _stage_lines(config, stage))
        yield from _tree(config, stage.name, below)


def _stage_lines(config: Config, stage: Stage) -> Iterator[str]:
    if isinstance(stage, Aggregate):
        yield from _aggregate_lines(stage)
    else:
        yield from _transform_lines(config, stage)


def _aggregate_lines(stage: Aggregate) -> Iterator[str]:
    yield f"window    {window_text(stage.window)}"
    if stage.group_by:
        capped = f", at most {stage.max_groups:,} in a partition" if stage.max_groups != MAX_GROUPS else ""
        yield f"group by  {', '.join(stage.group_by)}{capped}"
    yield f"values    {', '.join(_aggregate_text(each) for each in stage.aggregates)}"
    for name, text in stage.select.items():
        yield f"select    {name} = {text}"
    if stage.allowed_lateness_ms:
        yield f"late      counted up to {format_duration(stage.allowed_lateness_ms)} after the end, as a revision"
    if stage.emit == "on_update":
        yield "emit      open windows too, whenever they change"
    if stage.rollups:
        tiers = (f"{format_duration(each.size_ms)} kept {format_duration(each.retention_ms)}" for each in stage.rollups)
        yield f"rollups   {', '.join(tiers)}"
    yield f"kept      {format_duration(stage.retention_ms)}: {_outputs(stage)}"


def _outputs(stage: Aggregate) -> str:
    rows = {"rows": f"{{{stage.name}}}:rows, ", "chunks": f"{{{stage.name}}}:rows in chunks, ", "none": ""}
    return f"{rows[stage.output]}{{{stage.name}}}:latest"


def _transform_lines(config: Config, stage: Transform) -> Iterator[str]:
    if stage.filter is not None:
        yield f"filter    {stage.filter}"
    for name, text in stage.derive.items():
        yield f"derive    {name} = {text}"
    for name, lookup in stage.lookup.items():
        yield f"lookup    {name} = {lookup.column} of {lookup.table} where {lookup.key} = {lookup.on}"
    if stage.explode is not None:
        yield f"explode   {stage.explode}"
    if stage.python is not None:
        returns = ", ".join(f"{name} {kind}" for name, kind in stage.python.returns.items())
        yield f"python    {stage.python.name}: {returns}" if returns else f"python    {stage.python.name}"
    if stage.publish:
        yield f"publish   {key_range(config.stream_of(stage))}:{stage.name}"


def _field_text(field: Field) -> str:
    kind = f"list[{field.item}]" if field.item else field.type
    measure = f" {field.measure}" if field.measure else ""
    return f"{field.name} {kind}{'?' if field.nullable else ''}{measure}"


def _time_text(stream: Stream) -> str:
    time = stream.time
    source = f"of {time.field}" if time.field else "of arrival"
    age = f", at most {format_duration(time.max_age_ms)} old" if time.max_age_ms is not None else ""
    idle = f"idle after {format_duration(time.idle_after_ms)}" if time.idle_after_ms else "silence never moves it"
    ahead = f"at most {format_duration(time.max_future_ms)} ahead"
    return f"{source}, disorder {format_duration(time.disorder_ms)}, {ahead}{age}, {idle}"


def _spread(stream: Stream) -> str:
    return f"by {stream.partition_by}" if stream.partition_by else "spread evenly"


def window_text(window: Window) -> str:
    """A window in one line, as `hopping 1m every 10s`."""
    match window:
        case Tumbling():
            return f"tumbling {format_duration(window.size_ms)}{_offset_text(window.offset_ms)}"
        case Hopping():
            return f"hopping {_steps_text(window)}"
        case Cumulating():
            return f"cumulating {_steps_text(window)}"
        case Calendar():
            return f"calendar {window.unit} in {window.zone}"
        case Session():
            longest = f", at most {format_duration(window.max_ms)} long" if window.max_ms is not None else ""
            return f"session, events at most {format_duration(window.gap_ms)} apart{longest}"


def _steps_text(window: Hopping | Cumulating) -> str:
    size, every = format_duration(window.size_ms), format_duration(window.every_ms)
    return f"{size} every {every}{_offset_text(window.offset_ms)}"


def _offset_text(offset_ms: int) -> str:
    return f", offset {format_duration(offset_ms)}" if offset_ms else ""


def _aggregate_text(spec: AggregateSpec) -> str:
    arguments = [str(each) for each in (spec.field, spec.argument) if each is not None]
    call = f"{spec.function}({', '.join(arguments)})" if arguments else spec.function
    return f"{spec.name} = {call}" + (f" where {spec.where}" if spec.where else "")


def _bytes_text(count: int) -> str:
    return next((f"{count // size}{unit}" for unit, size in _BYTE_UNITS if count % size == 0), f"{count} bytes")
