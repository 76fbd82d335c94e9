"""An aggregate stage with its fused transforms, compiled: the one definition of a stage's numbers.

The worker, the query and the notebooks run the same program. Whatever in the config decides the numbers is hashed to
the program's version, which is part of the stage's keys: another definition is another stage (DESIGN section 4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import polars as pl

from pipeline.core.aggregates import Finisher, bind
from pipeline.core.cells import Layout
from pipeline.core.column_types import type_text
from pipeline.core.definitions import Aggregate, Config, Stage, Stream, Transform, Tumbling
from pipeline.core.steps import Step, compile_steps

PROGRAM_FORMAT = 1  # raise when the same definition would be computed or packed differently
_VERSION_LENGTH = 10  # hex digits: 40 bits tell a stage's definitions apart


@dataclass(frozen=True, slots=True)
class Program:
    """What turns a stream's rows into a metric's cells.

    `needs`: the stream's fields that have to be decoded. `columns`: every column after the last step, with its type.
    """

    stage: Aggregate
    stream: Stream
    version: str
    steps: tuple[Step, ...]
    needs: frozenset[str]
    columns: Mapping[str, pl.DataType]
    finishers: tuple[Finisher, ...]
    layout: Layout

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def group(self) -> str:
        """The consumer group and the `sv` of keys: `<stage>@<version>`."""
        return f"{self.stage.name}@{self.version}"

    @property
    def window(self) -> Tumbling:
        return self.stage.window

    @property
    def group_types(self) -> tuple[tuple[str, str], ...]:
        """(name, config type) of each group column."""
        return tuple((name, type_text(self.columns[name])) for name in self.stage.group_by)


def compile_program(config: Config, stage: Aggregate) -> Program:
    """Compile an aggregate stage; the config loader has checked every name, type and expression."""
    wanted = frozenset(stage.group_by) | {spec.field for spec in stage.aggregates if spec.field is not None}
    steps, needs, columns = compile_steps(config, stage, wanted)
    finishers = tuple(bind(spec, columns) for spec in stage.aggregates)
    parts = {part.name: part for finisher in finishers for part in finisher.parts}
    return Program(
        stage=stage,
        stream=config.stream_of(stage),
        version=version_of(config, stage.name),
        steps=steps,
        needs=needs,
        columns=columns,
        finishers=finishers,
        layout=Layout.of(parts.values()),
    )


def compile_programs(config: Config) -> dict[str, Program]:
    """All programs of a config by stage name."""
    return {stage.name: compile_program(config, stage) for stage in config.aggregates()}


def version_of(config: Config, stage_name: str) -> str:
    """Hash what decides a stage's numbers: schema, time, partitions, transforms, window, groups and aggregates.

    Descriptions, units of measure and retention are not part of it: changing them keeps the results.
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
            "aggregates": [[s.name, s.function, s.field] for s in stage.aggregates],
        }
    text = msgspec.json.encode(definition, order="sorted")
    return hashlib.blake2b(text).hexdigest()[:_VERSION_LENGTH]


def _decisive(transform: Transform) -> list[Any]:
    """What of a transform decides numbers: of a table how it is joined, since its contents are in the log."""
    more = {
        "lookup": {name: msgspec.to_builtins(lookup) for name, lookup in transform.lookup.items()},
        "explode": transform.explode,
        "python": msgspec.to_builtins(transform.python),
    }
    return [transform.filter, dict(transform.derive), *([more] if any(more.values()) else [])]


class _Definition(msgspec.Struct):
    """A stage with everything that decides its numbers, as kept beside its results."""

    stream: Stream
    transforms: tuple[Transform, ...]
    stage: Aggregate


def encode_definition(config: Config, stage: Aggregate) -> bytes:
    """A stage's definition as JSON: what an older version's results are read with after the config has changed."""
    return msgspec.json.encode(_Definition(config.stream_of(stage), config.transforms_of(stage), stage))


def program_of_definition(text: bytes) -> Program:
    """Compile a definition kept by `encode_definition`."""
    known = msgspec.json.decode(text, type=_Definition)
    stages: dict[str, Stage] = {transform.name: transform for transform in known.transforms}
    config = Config(streams={known.stream.name: known.stream}, stages={**stages, known.stage.name: known.stage})
    return compile_program(config, known.stage)
