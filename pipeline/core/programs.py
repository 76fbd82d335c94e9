"""An aggregate stage with its fused transforms, compiled: the one definition of a stage's numbers.

The worker, the query and the notebooks run the same program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import polars as pl

from pipeline.core.accumulators import Accumulator
from pipeline.core.aggregates import Finisher, bind
from pipeline.core.cell_layout import Layout
from pipeline.core.column_types import type_text
from pipeline.core.definitions import Aggregate, Config, Session, Stage, Stream, Window
from pipeline.core.expressions import compile_expression
from pipeline.core.registry import RegisteredAggregate, aggregate_of_source, registered_aggregate
from pipeline.core.selection import Selection
from pipeline.core.sketch_user import UserPartials
from pipeline.core.sketches import Sketch
from pipeline.core.steps import DeriveStep, LiftStep, Step, compile_steps, where_column
from pipeline.core.versions import decode_definition, version_of
from pipeline.core.windows import Horizon, Panes, panes_of


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


def program_of_definition(text: bytes, version: str) -> Program:
    """Compile a definition kept by `encode_definition`, under the version it was kept as.

    What a function computed whose source has changed since cannot be read: such values are null.
    """
    known = decode_definition(text)
    stages: dict[str, Stage] = {transform.name: transform for transform in known.transforms}
    config = Config(streams={known.stream.name: known.stream}, stages={**stages, known.stage.name: known.stage})
    program = compile_program(config, known.stage, lambda name: aggregate_of_source(name, known.sources.get(name)))
    return replace(program, version=version)
