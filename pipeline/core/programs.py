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
from pipeline.core.definitions import Aggregate, Config, Field, FieldType, Stage, Stream, Transform, Tumbling
from pipeline.core.expressions import compile_expression
from pipeline.core.registry import aggregates as registered

PROGRAM_FORMAT = 1  # raise when the same definition would be computed or packed differently
_VERSION_LENGTH = 10  # hex digits: 40 bits tell a stage's definitions apart
_DTYPES: Mapping[FieldType, Any] = {
    "string": pl.String,
    "int": pl.Int64,
    "float": pl.Float64,
    "bool": pl.Boolean,
    "timestamp": pl.Datetime("ms"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """One transform: rows where `filter` is TRUE are kept, then all of `derive` is added to them."""

    transform: str
    filter: pl.Expr | None
    derive: tuple[pl.Expr, ...]


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


def column_type(field: Field) -> pl.DataType:
    """The canonical column type of a declared field."""
    if field.type == "list":
        assert field.item is not None
        return pl.List(_DTYPES[field.item])
    dtype: pl.DataType = _DTYPES[field.type]
    return dtype


def stream_columns(stream: Stream) -> dict[str, pl.DataType]:
    return {field.name: column_type(field) for field in stream.fields}


def compile_steps(
    config: Config, stage: Stage, wanted: frozenset[str]
) -> tuple[tuple[Step, ...], frozenset[str], dict[str, pl.DataType]]:
    """Compile the transforms above `stage` (and `stage` itself when it is one), deriving only what is read below.

    Returns:
        (steps, the stream fields they and `wanted` need, all columns after the last step).
    """
    chain = config.transforms_of(stage)
    if isinstance(stage, Transform):
        chain = (*chain, stage)
    columns = stream_columns(config.stream_of(stage))
    compiled: list[tuple[Transform, Any, dict[str, Any]]] = []
    for transform in chain:
        keep = compile_expression(transform.filter, columns) if transform.filter else None
        derived = {name: compile_expression(text, columns) for name, text in transform.derive.items()}
        compiled.append((transform, keep, derived))
        columns = columns | {name: expression.dtype for name, expression in derived.items()}
    steps: list[Step] = []
    needs = wanted
    for transform, keep, derived in reversed(compiled):
        read = {name: expression for name, expression in derived.items() if name in needs}
        names = [expression.names for expression in read.values()] + ([keep.names] if keep else [])
        needs = (needs - read.keys()).union(*names)
        derive = tuple(expression.expr.cast(expression.dtype).alias(name) for name, expression in read.items())
        if keep or derive:
            steps.append(Step(transform.name, keep.expr if keep else None, derive))
    return tuple(reversed(steps)), needs, columns


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
        "transforms": [[t.filter, dict(t.derive)] for t in chain],
    }
    if isinstance(stage, Aggregate):
        definition |= {
            "window": msgspec.to_builtins(stage.window),
            "group_by": stage.group_by,
            "aggregates": [[s.name, s.function, s.field, s.argument, s.where] for s in stage.aggregates],
            "allowed_lateness": stage.allowed_lateness_ms,
            "max_groups": stage.max_groups,
            "sources": {
                s.function: registered[s.function].source_hash for s in stage.aggregates if s.function in registered
            },
        }
    text = msgspec.json.encode(definition, order="sorted")
    return hashlib.blake2b(text).hexdigest()[:_VERSION_LENGTH]


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
