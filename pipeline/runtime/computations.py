"""What a consumer group does with a batch: aggregate it into panes, or publish its rows.

State is in memory and nothing is written to Redis here: `compute` is pure and may fail on the data; `apply` changes the
state and returns what the commit has to write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec
import numpy as np
import polars as pl
import redis

from pipeline.core.batches import ROW, Batch, split_id
from pipeline.core.cells import CellTable
from pipeline.core.definitions import Config, Stream, Transform
from pipeline.core.process import Ledger, Prepared, TimeState, fold, ledger_of, prepare
from pipeline.core.programs import Program, version_of
from pipeline.core.steps import DeadRow, Joins, Step, apply_steps, compile_steps, hashes_in, tables_after
from pipeline.core.windows import is_final
from pipeline.rim import keys, store
from pipeline.rim.tables import TableCache

RowFields = Mapping[str, bytes | str | int]


@dataclass(frozen=True, slots=True)
class Changes:
    """What a batch changes: cells by pane, rows by stream key, the counters and the time state after it."""

    panes: Mapping[int, Sequence[tuple[bytes, bytes]]]
    rows: Mapping[str, Sequence[RowFields]]
    ledger: Ledger
    time: TimeState


class Computation(Protocol):
    """One consumer group's work on one partition."""

    @property
    def group(self) -> str: ...
    @property
    def needs(self) -> frozenset[str]: ...
    def load(self, client: redis.Redis, time: TimeState) -> None: ...
    def compute(self, batch: Batch, before: TimeState) -> Any: ...
    def size(self, computed: Any) -> int: ...
    def apply(self, batch: Batch, computed: Any) -> Changes: ...
    def forget(self, time: TimeState) -> None: ...
    def fresh(self) -> Computation: ...


@dataclass(slots=True)
class AggregateComputation:
    """A metric's panes on one partition."""

    program: Program
    partition: int
    tables: TableCache = field(default_factory=TableCache)
    table: CellTable = field(init=False)

    def __post_init__(self) -> None:
        self.table = CellTable(self.program.layout)

    @property
    def group(self) -> str:
        return self.program.group

    @property
    def needs(self) -> frozenset[str]:
        return self.program.needs

    @property
    def stream(self) -> Stream:
        return self.program.stream

    def load(self, client: redis.Redis, time: TimeState) -> None:
        """Load the panes that can still change."""
        self.table = CellTable(self.program.layout)
        marks = store.pane_marks(client, self.stream.name, self.partition, self.group)
        starts = [start for start in sorted(marks) if not self._is_final(start, time)]
        for start, cells in store.load_panes(client, self.stream.name, self.partition, self.group, starts).items():
            self.table.load(start, cells)

    def compute(self, batch: Batch, before: TimeState) -> Prepared:
        contents = self.tables.contents(hashes_in(self.program.steps, before.tables, batch.reloads))
        return prepare(self.program, batch, before, contents)

    def size(self, computed: Prepared) -> int:
        return len(computed.cells) + len(computed.late)

    def apply(self, batch: Batch, computed: Prepared) -> Changes:
        slots = fold(self.program, batch, computed, self.table)
        panes: dict[int, list[tuple[bytes, bytes]]] = {}
        for (start, cell), packed in zip(computed.cells, self.table.packed(slots), strict=True):
            panes.setdefault(start, []).append((cell, packed))
        rows: dict[str, Sequence[RowFields]] = {}
        if len(computed.late):
            rows[keys.late(self.stream.name, self.partition, self.group)] = _late_rows(batch, computed)
        rows |= dead_letters(self.stream, self.partition, self.group, batch, computed.dead)
        return Changes(panes, rows, computed.ledger, computed.time)

    def forget(self, time: TimeState) -> None:
        for start in [start for start in self.table.panes if self._is_final(start, time)]:
            self.table.drop_pane(start)

    def fresh(self) -> AggregateComputation:
        """The same work without any state: for trying what may kill."""
        return AggregateComputation(self.program, self.partition, self.tables)

    def _is_final(self, start_ms: int, time: TimeState) -> bool:
        if time.max_seen_ms is None:
            return False
        return is_final(self.program.window, start_ms, time.max_seen_ms - self.stream.time.disorder_ms)


def _late_rows(batch: Batch, computed: Prepared) -> list[RowFields]:
    late = computed.late
    bodies = batch.raw_rows(late.rows.tolist())
    return [
        {
            "entry": batch.entry_id(int(row)),
            "row": batch.row_in_entry(int(row)),
            "time": int(time_ms),
            "late_by_ms": int(watermark_ms - time_ms),
            "window_start": int(start_ms),
            "window_end": int(end_ms),
            "reason": "late" if end_ms <= watermark_ms else "before_log",
            "event": body,
        }
        for row, time_ms, start_ms, end_ms, watermark_ms, body in zip(
            late.rows, late.times_ms, late.starts_ms, late.ends_ms, late.watermarks_ms, bodies, strict=True
        )
    ]


def dead_letters(
    stream: Stream, partition: int, group: str, batch: Batch, dead: Sequence[DeadRow]
) -> dict[str, Sequence[RowFields]]:
    """The rows for the dead-letter stream, in stream order: what could not be decoded, and what not be computed."""
    refused = [(d.entry_id, d.row, d.n, d.code, d.message, d.body) for d in batch.dead]
    bodies = batch.raw_rows([d.row for d in dead])
    refused += [
        (batch.entry_id(d.row), batch.row_in_entry(d.row), 1, d.code, d.message, body)
        for d, body in zip(dead, bodies, strict=True)
    ]
    refused.sort(key=lambda letter: (split_id(letter[0]), letter[1]))
    names = ("entry", "row", "n", "code", "error", "body")
    letters: list[RowFields] = [dict(zip(names, letter, strict=True)) for letter in refused]
    return {keys.dead(stream.name, partition, group): letters} if letters else {}


@dataclass(frozen=True, slots=True)
class Published:
    """A batch after a transform: the rows for outside readers, and what became of the others."""

    frame: pl.DataFrame
    dead: tuple[DeadRow, ...]
    ledger: Ledger
    time: TimeState


@dataclass(slots=True)
class PublishComputation:
    """A transform with `publish: true`: its rows go to a stream of their own, for outside readers."""

    name: str
    group: str
    stream: Stream
    partition: int
    steps: tuple[Step, ...]
    columns: tuple[str, ...]
    needs: frozenset[str]
    tables: TableCache = field(default_factory=TableCache)

    def load(self, client: redis.Redis, time: TimeState) -> None:
        """A transform keeps no state."""

    def compute(self, batch: Batch, before: TimeState) -> Published:
        _, max_seen_ms = batch.prefix_watermarks(before.max_seen_ms, self.stream.time.disorder_ms)
        numbered = pl.DataFrame({ROW: np.arange(len(batch.times_ms))}).hstack(batch.frame.select(sorted(self.needs)))
        contents = self.tables.contents(hashes_in(self.steps, before.tables, batch.reloads))
        frame, dead = apply_steps(self.steps, numbered, Joins(before.tables, batch.reloads, contents))
        ledger = ledger_of(batch, frame[ROW].to_numpy(), np.zeros(len(frame), dtype=np.bool_), len(dead))
        newest = [int(batch.times_ms.max())] if len(batch.times_ms) else []
        max_ts_ms = max([*newest, *([] if before.max_ts_ms is None else [before.max_ts_ms])], default=None)
        tables = tables_after(before.tables, batch.reloads)
        time = TimeState(max_seen_ms, max_ts_ms, before.floor_ms, tables)
        return Published(frame.select(self.columns), dead, ledger, time)

    def size(self, computed: Published) -> int:
        return len(computed.frame)

    def apply(self, batch: Batch, computed: Published) -> Changes:
        rows: dict[str, Sequence[RowFields]] = {}
        if len(computed.frame):
            key = keys.published_transform(self.stream.name, self.partition, self.name)
            rows[key] = flat_rows(computed.frame)
        rows |= dead_letters(self.stream, self.partition, self.group, batch, computed.dead)
        return Changes({}, rows, computed.ledger, computed.time)

    def forget(self, time: TimeState) -> None:
        """Nothing to forget."""

    def fresh(self) -> PublishComputation:
        return self


def flat_rows(frame: pl.DataFrame) -> list[RowFields]:
    """A frame as rows of flat fields, spelled as `POST /publish` spells them: nulls left out, times in ms."""
    as_text = frame.select(
        (pl.col(name).cast(pl.Int64) if isinstance(dtype, pl.Datetime) else pl.col(name))
        for name, dtype in frame.schema.items()
    )
    return [
        {name: _text(value) for name, value in row.items() if value is not None} or {"_empty": "1"}
        for row in as_text.iter_rows(named=True)
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


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
            found.append(AggregateComputation(programs[stage.name], partition, tables))
    return found


def _publish_computation(
    config: Config, stage: Transform, stream: Stream, partition: int, tables: TableCache
) -> PublishComputation:
    steps, needs, columns = compile_steps(config, stage, None)
    group = f"{stage.name}@{version_of(config, stage.name)}"
    return PublishComputation(stage.name, group, stream, partition, steps, tuple(columns), needs, tables)
