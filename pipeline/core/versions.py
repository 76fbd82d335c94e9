"""What decides a stage's numbers, as the hash that is part of its keys and as the definition kept beside its results.

Invariant: another definition is another stage (DESIGN section 4). Nothing is compiled here.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from pipeline.core.definitions import Aggregate, Config, Stream, Transform
from pipeline.core.registry import registered_sources

PROGRAM_FORMAT = 6  # raise when the same definition would be computed or packed differently
_VERSION_LENGTH = 10  # hex digits: 40 bits tell a stage's definitions apart


def version_of(config: Config, stage_name: str) -> str:
    """Hash what decides a stage's numbers: schema, time, partitions, transforms, window, lateness and values.

    Descriptions, units of measure, retention, rollups, and what is made of finished aggregates (`select`, `emit`,
    `output`) are not part of it: changing them keeps the results.
    """
    stage = config.stages[stage_name]
    stream = config.stream_of(stage)
    chain = [*config.transforms_of(stage), *([stage] if isinstance(stage, Transform) else [])]
    definition: dict[str, Any] = {
        "format": PROGRAM_FORMAT,
        "stream": stream.name,
        "fields": sorted([f.name, f.type, f.item or "", f.nullable, f.unit, f.zone] for f in stream.fields),
        "time": [stream.time.field, stream.time.disorder_ms, stream.time.max_future_ms, stream.time.max_age_ms or 0],
        "partitions": [stream.partition_by, stream.partitions],
        "transforms": [_decisive(transform) for transform in chain],
    }
    if isinstance(stage, Aggregate):
        definition |= {
            "window": msgspec.to_builtins(stage.window),
            "group_by": stage.group_by,
            "aggregates": [[s.name, s.function, s.field, s.argument, s.where] for s in stage.aggregates],
            "allowed_lateness": stage.allowed_lateness_ms,
            "max_groups": stage.max_groups,
            "sources": _sources(config, stage),
        }
    text = msgspec.json.encode(definition, order="sorted")
    return hashlib.blake2b(text).hexdigest()[:_VERSION_LENGTH]


def _sources(config: Config, stage: Aggregate) -> dict[str, str]:
    """The hash of the source of every registered aggregate of a stage.

    A config that was read in another process names them; of one made here they are those that are registered here.
    """
    known = registered_sources() | dict(config.sources)
    return {spec.function: known[spec.function] for spec in stage.aggregates if spec.function in known}


def _decisive(transform: Transform) -> list[Any]:
    """What of a transform decides numbers: of a table how it is joined, since its contents are in the log."""
    more = {
        "lookup": {name: msgspec.to_builtins(lookup) for name, lookup in transform.lookup.items()},
        "explode": transform.explode,
        "python": msgspec.to_builtins(transform.python),
    }
    return [transform.filter, dict(transform.derive), *([more] if any(more.values()) else [])]


class Definition(msgspec.Struct):
    """A stage with everything that decides its numbers, as kept beside its results."""

    stream: Stream
    transforms: tuple[Transform, ...]
    stage: Aggregate
    sources: dict[str, str] = {}  # hash of the source of each registered aggregate


def encode_definition(config: Config, stage: Aggregate) -> bytes:
    """A stage's definition as JSON: what an older version's results are read with after the config has changed."""
    known = Definition(config.stream_of(stage), config.transforms_of(stage), stage, _sources(config, stage))
    return msgspec.json.encode(known)


def decode_definition(text: bytes) -> Definition:
    """Read a definition kept by `encode_definition`; before there were other kinds, a window did not say its own."""
    stored = msgspec.json.decode(text)
    stored["stage"]["window"].setdefault("type", "tumbling")
    return msgspec.convert(stored, Definition)
