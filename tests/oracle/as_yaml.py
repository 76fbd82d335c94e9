"""A config as the text of a config.yaml: how a test hands the definitions it compares with to the product.

JSON is YAML 1.2. What comes back from the loader must be the same definitions (test_as_yaml.py), so a stage is compared
with what was meant and not with what was read.
"""

from __future__ import annotations

from typing import Any, assert_never

import msgspec

from pipeline.core.definitions import (
    Aggregate,
    AggregateSpec,
    Calendar,
    Config,
    Cumulating,
    Field,
    Hopping,
    Session,
    Stream,
    Transform,
    Tumbling,
    Window,
)


def as_yaml(config: Config) -> str:
    """The text; of streams and stages all that the oracle's tests set."""
    stages = {name: _transform(s) if isinstance(s, Transform) else _aggregate(s) for name, s in config.stages.items()}
    streams = {name: _stream(stream) for name, stream in config.streams.items()}
    return msgspec.json.encode({"streams": streams, "stages": stages}).decode()


def _ms(duration_ms: int) -> str:
    return f"{duration_ms}ms"


def _stream(stream: Stream) -> dict[str, Any]:
    time = stream.time
    idle = "none" if time.idle_after_ms is None else _ms(time.idle_after_ms)
    by = {} if stream.partition_by is None else {"partition_by": stream.partition_by}
    return by | {
        "schema": {field.name: _field(field) for field in stream.fields},
        "time": {
            "field": time.field,
            "disorder": _ms(time.disorder_ms),
            "max_future": _ms(time.max_future_ms),
            "idle_after": idle,
        },
        "partitions": stream.partitions,
    }


def _field(field: Field) -> dict[str, str]:
    written = {"type": field.type + "?" * field.nullable}
    return written | ({"unit": field.unit, "zone": field.zone} if field.type == "timestamp" else {})


def _transform(transform: Transform) -> dict[str, Any]:
    written: dict[str, Any] = {"from": transform.source}
    if transform.filter is not None:
        written["filter"] = transform.filter
    return written | ({"derive": dict(transform.derive)} if transform.derive else {})


def _aggregate(stage: Aggregate) -> dict[str, Any]:
    written: dict[str, Any] = {
        "from": stage.source,
        "window": _window(stage.window),
        "aggregates": {spec.name: _spec(spec) for spec in stage.aggregates},
        "allowed_lateness": _ms(stage.allowed_lateness_ms),
    }
    if stage.group_by:
        written["group_by"] = list(stage.group_by)
    return written | ({"select": dict(stage.select)} if stage.select else {})


def _window(window: Window) -> dict[str, str]:
    match window:
        case Tumbling():
            return {"tumbling": _ms(window.size_ms), "offset": _ms(window.offset_ms)}
        case Hopping():
            return {"hopping": _ms(window.size_ms), "every": _ms(window.every_ms), "offset": _ms(window.offset_ms)}
        case Cumulating():
            return {"cumulating": _ms(window.size_ms), "every": _ms(window.every_ms), "offset": _ms(window.offset_ms)}
        case Calendar():
            return {"calendar": window.unit, "tz": window.zone}
        case Session():
            longest = {} if window.max_ms is None else {"max": _ms(window.max_ms)}
            return {"session": _ms(window.gap_ms)} | longest
        case _ as unreachable:
            assert_never(unreachable)


def _spec(spec: AggregateSpec) -> str:
    read = [] if spec.field is None else [spec.field]
    read += [] if spec.argument is None else [str(spec.argument)]
    call = f"{spec.function}({', '.join(read)})" if read else spec.function
    return call if spec.where is None else f"{call} where {spec.where}"
