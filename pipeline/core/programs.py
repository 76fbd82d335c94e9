"""An aggregate stage with its fused transforms, compiled: the one definition of a stage's numbers.

The worker, the query and the notebooks run the same program. Whatever in the config decides the numbers is hashed to
the program's version, which is part of the stage's keys: another definition is another stage (DESIGN section 4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import polars as pl

from pipeline.core.accumulators import Accumulator
from pipeline.core.aggregates import Finisher, bind
from pipeline.core.cell_layout import Layout
from pipeline.core.column_types import type_text
from pipeline.core.definitions import Aggregate, Config, Session, Stage, Stream, Transform, Window
from pipeline.core.expressions import compile_expression
from pipeline.core.registry import RegisteredAggregate, aggregate_of_source, registered_aggregate
from pipeline.core.registry import aggregates as registered
from pipeline.core.selection import Selection
from pipeline.core.sketch_user import UserPartials
from pipeline.core.sketches import Sketch
from pipeline.core.steps import DeriveStep, LiftStep, Step, compile_steps, where_column
from pipeline.core.windows import Horizon, Panes, panes_of

PROGRAM_FORMAT = 6  # raise when the same definition would be computed or packed differently
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
    selection: Selection
    layout: Layout

    @property
    def name(self) -> str:
        return self.stage.name

    @property
    def group(self) -> str:
        """The consumer group and the `sv` of keys: `<stage>@<version>`."""
        return f"{self.stage.name}@{self.version}"

    @property
    def window(self) -> Window:
        return self.stage.window

    @property
    def panes(self) -> Panes:
        """How the windows cut time; a session metric has none."""
        assert not isinstance(self.stage.window, Session), f"{self.name} has sessions, not panes"
        return panes_of(self.stage.window)

    @property
    def value_types(self) -> dict[str, str]:
        """The values of a row in order, aggregates and what is selected from them, with their types."""
        return {finisher.spec.name: finisher.type for finisher in self.finishers} | self.selection.types

    @property
    def horizon(self) -> Horizon:
        return Horizon(self.stage.window, self.stage.allowed_lateness_ms)

    @property
    def group_types(self) -> tuple[tuple[str, str], ...]:
        """(name, config type) of each group column."""
        return tuple((name, type_text(self.columns[name])) for name in self.stage.group_by)


def layout_of(finishers: Sequence[Finisher]) -> Layout:
    """The columns of a stage's cells: every part its aggregates need, once."""
    accumulators: dict[str, Accumulator] = {}
    sketches: dict[str, Sketch] = {}
    for part in (part for finisher in finishers for part in finisher.parts):
        if isinstance(part, Accumulator):
            accumulators[part.name] = part
        else:
            sketches[part.name] = part
    return Layout.of(accumulators.values(), sketches.values())


def columns_of(config: Config, stage: Stage) -> dict[str, pl.DataType]:
    """Every column that reaches a stage, with its type."""
    return compile_steps(config, stage, frozenset())[2]


def compile_program(
    config: Config, stage: Aggregate, known: Callable[[str], RegisteredAggregate] = registered_aggregate
) -> Program:
    """Compile an aggregate stage; the config loader has checked every name, type and expression."""
    columns = columns_of(config, stage)
    wheres = {spec.where: compile_expression(spec.where, columns) for spec in stage.aggregates if spec.where}
    fields = {spec.field for spec in stage.aggregates if spec.field is not None}
    wanted = fields.union(stage.group_by, *(where.names for where in wheres.values()))
    steps, needs, columns = compile_steps(config, stage, frozenset(wanted))
    if wheres:
        marks = tuple(where.expr.alias(where_column(text)) for text, where in wheres.items())
        steps = (*steps, DeriveStep(stage.name, marks))
    finishers = tuple(bind(spec, columns, known) for spec in stage.aggregates)
    layout = layout_of(finishers)
    steps += tuple(LiftStep(stage.name, sketch) for sketch in layout.sketches if isinstance(sketch, UserPartials))
    return Program(
        stage=stage,
        stream=config.stream_of(stage),
        version=version_of(config, stage.name),
        steps=steps,
        needs=needs,
        columns=columns,
        finishers=finishers,
        selection=Selection.compile(stage.select, {finisher.spec.name: finisher.type for finisher in finishers}),
        layout=layout,
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
        "transforms": [_decisive(transform) for transform in chain],
    }
    if isinstance(stage, Aggregate):
        definition |= {
            "window": msgspec.to_builtins(stage.window),
            "group_by": stage.group_by,
            "aggregates": [[s.name, s.function, s.field, s.argument, s.where] for s in stage.aggregates],
            "allowed_lateness": stage.allowed_lateness_ms,
            "max_groups": stage.max_groups,
            "sources": _sources(stage),
        }
    text = msgspec.json.encode(definition, order="sorted")
    return hashlib.blake2b(text).hexdigest()[:_VERSION_LENGTH]


def _sources(stage: Aggregate) -> dict[str, str]:
    """The hash of the source of every registered aggregate of a stage."""
    return {s.function: registered[s.function].source_hash for s in stage.aggregates if s.function in registered}


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
    return msgspec.json.encode(Definition(config.stream_of(stage), config.transforms_of(stage), stage, _sources(stage)))


def decode_definition(text: bytes) -> Definition:
    """Read a definition kept by `encode_definition`; before there were other kinds, a window did not say its own."""
    stored = msgspec.json.decode(text)
    stored["stage"]["window"].setdefault("type", "tumbling")
    return msgspec.convert(stored, Definition)


def program_of_definition(text: bytes, version: str) -> Program:
    """Compile a definition kept by `encode_definition`, under the version it was kept as.

    What a function computed whose source has changed since cannot be read: such values are null.
    """
    known = decode_definition(text)
    stages: dict[str, Stage] = {transform.name: transform for transform in known.transforms}
    config = Config(streams={known.stream.name: known.stream}, stages={**stages, known.stage.name: known.stage})
    program = compile_program(config, known.stage, lambda name: aggregate_of_source(name, known.sources.get(name)))
    return replace(program, version=version)
