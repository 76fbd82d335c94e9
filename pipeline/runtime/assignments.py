"""What reads one partition of a stream: a computation for each consumer group of the config."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.core.definitions import Config, Session, Stream, Transform
from pipeline.core.programs import Program
from pipeline.core.steps import compile_steps
from pipeline.core.versions import version_of
from pipeline.rim.table_cache import TableCache
from pipeline.runtime.computations import AggregateComputation, Computation, PublishComputation
from pipeline.runtime.session_computation import SessionComputation


def reads_log(stage: object) -> bool:
    """Whether a stage has a consumer group of its own."""
    return not isinstance(stage, Transform) or stage.publish


def computations_of(
    config: Config, programs: Mapping[str, Program], stream: Stream, partition: int, tables: TableCache
) -> list[Computation]:
    """Everything that reads one partition of a stream; `tables` serves all of them."""
    found: list[Computation] = []
    for stage in config.stages.values():
        if config.stream_of(stage).name != stream.name or not reads_log(stage):
            continue
        if isinstance(stage, Transform):
            found.append(_publish_computation(config, stage, stream, partition, tables))
        else:
            found.append(aggregate_computation(programs[stage.name], partition, tables))
    return found


def aggregate_computation(
    program: Program, partition: int, tables: TableCache
) -> AggregateComputation | SessionComputation:
    """What aggregates one partition of a metric: panes or sessions."""
    if isinstance(program.window, Session):
        return SessionComputation(program, partition, tables)
    return AggregateComputation(program, partition, tables)


def _publish_computation(
    config: Config, stage: Transform, stream: Stream, partition: int, tables: TableCache
) -> PublishComputation:
    steps, needs, columns = compile_steps(config, stage, None)
    group = f"{stage.name}@{version_of(config, stage.name)}"
    return PublishComputation(stage.name, group, stream, partition, steps, tuple(columns), needs, tables)
