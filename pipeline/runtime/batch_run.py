"""A config over a DataFrame or a file, without Redis: the numbers the pipeline would give, computed by the same core.

Invariant: given the columns of `client.raw`, every final window, late row and ledger is the pipeline's, bit for bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pipeline.core.definitions import SESSION_TYPES, Config, Stream
from pipeline.core.events import ChunkError, Reader
from pipeline.core.frame_log import FrameBatch, FrameLog
from pipeline.core.process import Ledger, Prepared
from pipeline.core.programs import Program, compile_programs
from pipeline.core.session_form import StoredSession
from pipeline.core.session_process import session_ends, session_window
from pipeline.core.session_twin import PartitionSessions, SessionTwin, twin_of
from pipeline.core.spelling import did_you_mean
from pipeline.core.steps import lost_functions
from pipeline.core.twin import PaneTwin
from pipeline.core.windows import FOREVER_MS, Span
from pipeline.errors import FrameError
from pipeline.runtime.answer_frames import TIME_DTYPE, answer_frame, typed_frame
from pipeline.runtime.closer import state_at
from pipeline.runtime.config import load_config
from pipeline.runtime.finishing import finished_rows, group_order, group_values
from pipeline.runtime.frame_tables import Joined
from pipeline.runtime.replay_files import FileRow, file_format, read_rows

if TYPE_CHECKING:
    import pandas as pd

READ_ROWS = 10_000  # rows of a file decoded together
LATE_DTYPES = {
    "row": "Int64",
    "time": TIME_DTYPE,
    "late_by_ms": "Int64",
    "window_start": TIME_DTYPE,
    "window_end": TIME_DTYPE,
    "reason": "str",
}
DEAD_DTYPES = {"row": "Int64", "events": "Int64", "code": "str", "error": "str"}
Row = dict[str, Any]


@dataclass(slots=True)
class _Recomputed:
    """One metric: its twin, and the rows that counted nowhere."""

    twin: PaneTwin | SessionTwin
    late: list[Row] = field(default_factory=list)
    dead: list[Row] = field(default_factory=list)

    def take(self, partition: int, taken: FrameBatch) -> None:
        taken = taken.read_by(self.twin.program.group)
        prepared = self.twin.partitions[partition].take(taken.batch)
        self.late += _late_rows(taken, prepared)
        self.dead += _dead_rows(taken, prepared)


@dataclass(frozen=True, slots=True)
class BatchResult:
    """What a config makes of a DataFrame: every metric as the API gives it, and what counted nowhere.

    `row` columns are rows of the DataFrame, counted from 0.
    """

    _metrics: Mapping[str, _Recomputed]
    _is_final: bool

    @property
    def metrics(self) -> tuple[str, ...]:
        return tuple(self._metrics)

    def metric(self, name: str) -> pd.DataFrame:
        """One row per window and group, with the columns of `client.metric`; `revision` is missing: nothing was."""
        twin = self._of(name).twin
        program = twin.program
        watermark_ms = FOREVER_MS if self._is_final else twin.watermark_ms
        types = dict(program.group_types) | dict(program.value_types)
        types = SESSION_TYPES | types if isinstance(twin, SessionTwin) else types
        rows = _session_rows(twin, watermark_ms) if isinstance(twin, SessionTwin) else _rows(twin, watermark_ms)
        return answer_frame(list(rows), types)

    def late(self, name: str) -> pd.DataFrame:
        """The events that counted in no window: row, time, late_by_ms, the last window they missed, reason."""
        return typed_frame(self._of(name).late, LATE_DTYPES)

    def dead(self, name: str) -> pd.DataFrame:
        """What could not be computed: row, events (how many it stands for), code, error."""
        return typed_frame(self._of(name).dead, DEAD_DTYPES)

    def ledger(self, name: str) -> Ledger:
        """read = accepted + filtered + late + dead, over all partitions."""
        return self._of(name).twin.ledger

    def _of(self, name: str) -> _Recomputed:
        if name not in self._metrics:
            raise FrameError(f"there is no metric '{name}' here.{did_you_mean(name, self._metrics)}")
        return self._metrics[name]


def batch(
    config: Config | str | os.PathLike[str], df: Any, *, stages: Sequence[str] | None = None, stream: str | None = None
) -> BatchResult:
    """Compute the metrics of one stream over a DataFrame (pandas or polars), or a Parquet, CSV or NDJSON file.

    `stages`: the metrics wanted, by default all of the stream. `stream`: which, where the config has several.
    With the columns of `client.raw` lateness is exact; without them the rows count in their order, in one partition,
    and all windows are final at the end. A lookup joins with what the log says its table was, else with its file as it
    is now.

    Raises:
        FrameError: a column, a row or a name does not fit; the message says which.
        ConfigError: the config file cannot be used.
    """
    known = config if isinstance(config, Config) else load_config(Path(config), os.environ)
    programs = _programs(known, stages, stream)
    source = next(iter(programs.values())).stream
    log = FrameLog.of(source, _read_file(source, Path(df)) if isinstance(df, str | os.PathLike) else df)
    joined = Joined.of(known, programs.values(), log)
    numbers = log.partition_numbers()
    begins = {number: log.begin(number, joined.files) for number in numbers}
    done = {}
    for name, program in programs.items():
        found = _Recomputed(twin_of(program, begins, joined.computing(program)))
        reader = Reader(source, program.needs)
        for number in numbers:
            for taken in log.batches(number, reader):
                found.take(number, taken)
        done[name] = found
    return BatchResult(done, not log.is_placed)


def _programs(config: Config, stages: Sequence[str] | None, stream: str | None) -> dict[str, Program]:
    """The programs to run, all of one stream."""
    programs = compile_programs(config)
    for name in stages or ():
        if name not in programs:
            raise FrameError(f"there is no metric '{name}' in the config.{did_you_mean(name, programs)}")
    if stream is not None and stream not in config.streams:
        raise FrameError(f"there is no stream '{stream}' in the config.{did_you_mean(stream, config.streams)}")
    wanted = {
        name: program
        for name, program in programs.items()
        if (stages is None or name in stages) and stream in (None, program.stream.name)
    }
    streams = sorted({program.stream.name for program in wanted.values()})
    if len(streams) > 1:
        raise FrameError(
            f"the config has metrics of several streams ({', '.join(streams)}); say whose events these are: stream="
        )
    for name, program in wanted.items():
        if lost := lost_functions(program.steps):
            raise FrameError(f"{name} calls the function '{lost[0]}', of which this process has another text, or none")
    if not wanted:
        raise FrameError("no metric is left to compute: stages= and stream= leave none")
    return wanted


def _rows(twin: PaneTwin, watermark_ms: int | None) -> Iterator[Row]:
    """The rows of every window by window, then group, as the API orders them."""
    program = twin.program
    for window in sorted(twin.windows(twin.spans()), key=lambda window: window.span):
        ends_ms = [window.span[1]] * len(window.groups)
        values = finished_rows(program, window.columns, window.slots, ends_ms)
        state = state_at(program, window.span[1], watermark_ms)
        rows = [_row(program, window.span, state, *each) for each in zip(window.groups, values, strict=True)]
        yield from sorted(rows, key=lambda row: _place(program, row))


def _session_rows(twin: SessionTwin, watermark_ms: int | None) -> list[Row]:
    """Likewise of sessions, each of them a window."""
    program = twin.program
    found = [(part, session) for part in twin.partitions.values() for session in part.sessions()]
    if not found:
        return []
    columns = program.layout.unpack([session.cell for _, session in found])
    ends_ms = session_ends(program, (session.last for _, session in found))
    values = finished_rows(program, columns, np.arange(len(found)), ends_ms)
    rows = [
        _row(program, (session.first, end_ms), _state(part, session, watermark_ms), session.group, row)
        | {"first": session.first, "last": session.last, "closes_at": end_ms}
        for (part, session), end_ms, row in zip(found, ends_ms, values, strict=True)
    ]
    return sorted(rows, key=lambda row: _place(program, row))


def _state(part: PartitionSessions, session: StoredSession, watermark_ms: int | None) -> str:
    """`watermark_ms` is the least over the partitions; how long events may join is its own partition's matter."""
    if watermark_ms is None or watermark_ms < session.last + session_window(part.program).gap_ms:
        return "open"
    return "final" if watermark_ms == FOREVER_MS or part.is_final(session.last) else "closed"


def _row(program: Program, span: Span, state: str, group: bytes, values: Row) -> Row:
    return {"window_start": span[0], "window_end": span[1], "state": state} | group_values(program, group) | values


def _place(program: Program, row: Row) -> tuple[Any, ...]:
    """A row's place among the others: by window, then group."""
    return (row["window_start"], row["window_end"], *group_order(program, row))


def _late_rows(taken: FrameBatch, prepared: Prepared) -> list[Row]:
    late = prepared.late
    columns = {
        "row": taken.numbers[late.rows],
        "time": late.times_ms,
        "late_by_ms": late.watermarks_ms - late.times_ms,
        "window_start": late.starts_ms,
        "window_end": late.ends_ms,
        "reason": np.where(late.before_log, "before_log", np.where(late.expired, "expired", "late")),
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*(c.tolist() for c in columns.values()), strict=True)]


def _dead_rows(taken: FrameBatch, prepared: Prepared) -> list[Row]:
    refused = [
        {"row": number, "events": dead.n, "code": dead.code, "error": dead.message}
        for number, dead in zip(taken.dead_numbers, taken.batch.dead, strict=True)
    ]
    failed = [
        {"row": int(taken.numbers[dead.row]), "events": 1, "code": dead.code, "error": dead.message}
        for dead in prepared.dead
    ]
    return sorted([*refused, *failed], key=lambda row: row["row"])


def _read_file(stream: Stream, path: Path) -> pl.DataFrame:
    """A file's rows, decoded as the door decodes them; a Parquet file as its columns are.

    Raises:
        FrameError: a row does not fit the schema; the message names its line.
        StreamgaugeError: the file is of no known format, or damaged.
    """
    if file_format(path) == "parquet":
        return pl.read_parquet(path)
    reader = Reader(stream, [f.name for f in stream.fields])
    rows = read_rows(path, {f.name: f.type for f in stream.fields})
    frames = [reader.frame([])]
    while part := list(islice(rows, READ_ROWS)):
        frames.append(reader.frame(_decoded(path, reader, part)))
    return pl.concat(frames)


def _decoded(path: Path, reader: Reader, rows: Sequence[FileRow]) -> list[Any]:
    try:
        return reader.chunk(b"\n".join(row.body for row in rows), len(rows))
    except ChunkError:
        pass  # which row it is, is found below
    structs = []
    for row in rows:
        try:
            structs += reader.chunk(row.body, 1)
        except ChunkError as error:
            raise FrameError(f"{path}: line {row.line}: {error}") from None
    return structs
