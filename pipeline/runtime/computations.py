"""What a consumer group does with a batch: aggregate it into panes, or publish its rows.

State is in memory and nothing is written to Redis here: `compute` is pure and may fail on the data; `apply` changes the
state and returns what the commit has to write.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import msgspec
import numpy as np
import polars as pl
import redis

from pipeline.core.batches import ROW, Batch
from pipeline.core.blocks import BLOCK_FROM
from pipeline.core.cells import CellTable, PaneChange
from pipeline.core.codings import NDJSON
from pipeline.core.definitions import PaneWindow, Session, Stream
from pipeline.core.entries import Row
from pipeline.core.entry_header import split_id
from pipeline.core.process import Ledger, Prepared, Rows, TimeState, fold, ledger_of, prepare
from pipeline.core.programs import Program
from pipeline.core.steps import DeadRow, Joins, Step, apply_steps, hashes_in
from pipeline.core.windows import final_panes
from pipeline.rim import keys, replies, store
from pipeline.rim.table_cache import TableCache
from pipeline.runtime.user_failures import say_failures

RowFields = Mapping[str, bytes | str | int]
CELLS_A_FIELD = 3  # of some 60 bytes each, in a block: 30,000 in a commit are 2 MB, and a millisecond of the server
FLAT: RowFields = {"form": "flat"}  # of a row put aside that was a row entry: its texts are to be read as such an entry


@dataclass(frozen=True, slots=True)
class Changes:
    """What a batch changes: cells by pane, rows by stream key, the counters and the time state after it."""

    panes: Mapping[int, PaneChange]
    rows: Mapping[str, Sequence[RowFields]]
    ledger: Ledger
    time: TimeState
    hashes: Mapping[str, PaneChange] = field(default_factory=dict)  # by key: fields set and deleted


class Computation(Protocol):
    """One consumer group's work on one partition."""

    @property
    def group(self) -> str: ...
    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def open_panes(self) -> Collection[int]: ...
    @property
    def window(self) -> PaneWindow | None: ...
    def load(self, client: redis.Redis, time: TimeState) -> None: ...
    def recall(self, client: redis.Redis, computed: Any) -> None: ...
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

    @property
    def window(self) -> PaneWindow | None:
        return None if isinstance(self.program.window, Session) else self.program.window

    @property
    def open_panes(self) -> Collection[int]:
        """The panes in memory: in Redis there is a mark and a hash of each."""
        return self.table.panes.keys()

    def load(self, client: redis.Redis, time: TimeState) -> None:
        """Load the panes that can still change; one whose hash is gone is here without cells, for a look to find."""
        self.table = CellTable(self.program.layout)
        marks = store.pane_marks(client, self.stream.name, self.partition, self.group)
        starts = sorted(marks.keys() - set(self._final(marks, time)))
        for start, cells in store.load_panes(client, self.stream.name, self.partition, self.group, starts).items():
            self.table.load(start, cells)
            self.table.pane(start)

    def recall(self, client: redis.Redis, computed: Prepared) -> None:
        """Load those panes of a backfill again that were forgotten because no live event counts in them any more."""
        starts = sorted(set(computed.cells.panes.tolist()) - self.table.panes.keys())
        for start, cells in store.load_panes(client, self.stream.name, self.partition, self.group, starts).items():
            if cells:
                self.table.load(start, cells)

    def compute(self, batch: Batch, before: TimeState) -> Prepared:
        return prepared_with(self.tables, self.program, batch, before)

    def size(self, computed: Prepared) -> int:
        """What the batch weighs in a commit, in fields of a cell each; in blocks, cells of known size weigh less."""
        cells, layout = len(computed.cells), self.program.layout
        if cells > BLOCK_FROM and not layout.sketches and not layout.variable:
            panes = len(np.unique(computed.cells.panes))
            cells = min(cells, BLOCK_FROM * panes + cells // CELLS_A_FIELD)
        return cells + len(computed.late)

    def apply(self, batch: Batch, computed: Prepared) -> Changes:
        folded = fold(self.program, batch, computed, self.table)
        panes = self.table.changes(folded.cells, folded.slots)
        say_failures(self.program)
        rows = aside_rows(self.program, self.partition, batch, computed)
        return Changes(panes, rows, replace(computed.ledger, others=folded.others), computed.time)

    def forget(self, time: TimeState) -> None:
        for start in self._final(self.table.panes, time):
            self.table.drop_pane(start)

    def fresh(self) -> AggregateComputation:
        """The same work without any state: for trying what may kill."""
        return AggregateComputation(self.program, self.partition, self.tables)

    def _final(self, starts_ms: Iterable[int], time: TimeState) -> list[int]:
        """Those of the panes that can no longer change."""
        if time.max_seen_ms is None:
            return []
        watermark_ms = time.max_seen_ms - self.stream.time.disorder_ms
        return final_panes(self.program.panes, starts_ms, self.program.stage.allowed_lateness_ms, watermark_ms)


def prepared_with(tables: TableCache, program: Program, batch: Batch, before: TimeState) -> Prepared:
    """Compute a batch up to its cells, with the contents of the tables that its rows are joined with."""
    contents = tables.contents(hashes_in(program.steps, before.tables, batch.reloads))
    return prepare(program, batch, before, contents)


def aside_rows(program: Program, partition: int, batch: Batch, computed: Prepared) -> dict[str, Sequence[RowFields]]:
    """What a metric puts aside of a batch, by stream key: its late rows and its dead letters."""
    stream, group = program.stream, program.group
    rows: dict[str, Sequence[RowFields]] = {}
    if len(computed.late):
        rows[keys.late(stream.name, partition, group)] = late_rows(batch, computed)
    return rows | dead_letters(stream, partition, group, batch, computed.dead)


def late_rows(batch: Batch, computed: Prepared) -> list[RowFields]:
    """The rows for the late stream, in stream order."""
    late = computed.late
    numbers = late.rows.tolist()
    ids, in_entry = batch.places_of(numbers)
    reasons = np.where(late.before_log, "before_log", np.where(late.expired, "expired", "late")).tolist()
    columns = {
        "entry": ids,
        "row": in_entry,
        "time": late.times_ms.tolist(),
        "late_by_ms": (late.watermarks_ms - late.times_ms).tolist(),
        "window_start": late.starts_ms.tolist(),
        "window_end": late.ends_ms.tolist(),
        "reason": reasons,
        "event": batch.raw_rows(numbers),
    }
    rows: list[RowFields] = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    flat = {entry.id for entry in batch.entries if isinstance(entry, Row)}
    return [{**row, **FLAT} if entry in flat else row for entry, row in zip(ids, rows, strict=True)] if flat else rows


def dead_letters(
    stream: Stream, partition: int, group: str, batch: Batch, dead: Sequence[DeadRow]
) -> dict[str, Sequence[RowFields]]:
    """The rows for the dead-letter stream, in stream order: what could not be decoded, and what not be computed."""
    refused = [(d.entry_id, d.row, d.n, d.code, d.message, d.body, d.coding) for d in batch.dead]
    bodies = batch.raw_rows([d.row for d in dead])
    refused += [
        (batch.entry_id(d.row), batch.row_in_entry(d.row), 1, d.code, d.message, body, NDJSON)
        for d, body in zip(dead, bodies, strict=True)
    ]
    refused.sort(key=lambda letter: (split_id(letter[0]), letter[1]))
    names = ("entry", "row", "n", "code", "error", "body")  # and the coding, where the body is not NDJSON
    flat = {entry.id for entry in batch.entries if isinstance(entry, Row)}
    letters: list[RowFields] = [
        {**dict(zip(names, letter, strict=False)), **_form(letter[-1], letter[0] in flat)} for letter in refused
    ]
    return {keys.dead(stream.name, partition, group): letters} if letters else {}


def _form(coding: bytes, flat: bool) -> RowFields:
    """How the body of a letter is to be read, where it is not JSON."""
    return FLAT if flat else {} if coding == NDJSON else {"coding": coding}


@dataclass(frozen=True, slots=True)
class Published:
    """A batch after a transform: the rows for outside readers, and what became of the others."""

    frame: pl.DataFrame
    rows: Rows  # numbers of the input rows that those of the frame were made from
    dead: tuple[DeadRow, ...]
    ledger: Ledger
    time: TimeState


@dataclass(slots=True)
class PublishComputation:
    """A transform with `publish: true`: its rows go to a stream of their own, for outside readers.

    `sent`: the place in the log up to which this version's rows are in that stream. They go there once, also when the
    log is counted again because the stage's own keys were lost.
    """

    name: str
    group: str
    stream: Stream
    partition: int
    steps: tuple[Step, ...]
    columns: tuple[str, ...]
    needs: frozenset[str]
    tables: TableCache = field(default_factory=TableCache)
    sent: RowPlace | None = None

    @property
    def window(self) -> None:
        return None

    @property
    def open_panes(self) -> Collection[int]:
        return ()

    @property
    def version(self) -> str:
        return self.group.partition("@")[2]

    @property
    def key(self) -> str:
        return keys.published_transform(self.stream.name, self.partition, self.name)

    def load(self, client: redis.Redis, time: TimeState) -> None:
        """Look how far the rows have gone; a transform keeps no other state."""
        self.sent = last_sent(client, self.key, self.version, own_names(self.columns))

    def recall(self, client: redis.Redis, computed: Published) -> None:
        """Nor is there any to load again."""

    def compute(self, batch: Batch, before: TimeState) -> Published:
        _, max_seen_ms = batch.prefix_watermarks(before.max_seen_ms, self.stream.time.disorder_ms)
        numbered = batch.numbered(self.needs)
        contents = self.tables.contents(hashes_in(self.steps, before.tables, batch.reloads))
        frame, dead = apply_steps(self.steps, numbered, Joins(before.tables, batch.reloads, contents))
        rows = frame[ROW].to_numpy()
        ledger = ledger_of(batch, rows, np.zeros(len(frame), dtype=np.bool_), len(dead))
        return Published(frame.select(self.columns), rows, dead, ledger, before.after(batch, max_seen_ms))

    def size(self, computed: Published) -> int:
        return len(computed.frame)

    def apply(self, batch: Batch, computed: Published) -> Changes:
        rows: dict[str, Sequence[RowFields]] = {}
        if len(computed.frame) and (sent := self._unsent(batch, computed)):
            rows[self.key] = sent
        rows |= dead_letters(self.stream, self.partition, self.group, batch, computed.dead)
        return Changes({}, rows, computed.ledger, computed.time)

    def _unsent(self, batch: Batch, computed: Published) -> list[RowFields]:
        """The rows as they go out, each with its version and where in the log it is from; not those that are out."""
        names = own_names(self.columns)
        places = [(batch.entry_id(row), batch.row_in_entry(row)) for row in computed.rows.tolist()]
        return [
            {**dict(zip(names, (self.version, *place), strict=True)), **fields}
            for place, fields in zip(places, flat_rows(computed.frame), strict=True)
            if self.sent is None or (split_id(place[0]), place[1]) > self.sent
        ]

    def forget(self, time: TimeState) -> None:
        """Nothing to forget."""

    def fresh(self) -> PublishComputation:
        return self


RowPlace = tuple[tuple[int, int], int]  # of a row in the log: the id of its entry, and its number there
ROWS_A_LOOK = 1_000  # of a transform's stream, newest first


def own_names(columns: Sequence[str]) -> list[str]:
    """The fields of a published row that say what made it and of what; `_` before one that is a column's name."""
    return [f"_{name}" if name in columns else name for name in ("version", "entry", "row")]


def last_sent(client: redis.Redis, key: str, version: str, names: Sequence[str]) -> RowPlace | None:
    """Where in the log the newest published row of a version is from; None where there is none."""
    of_version, of_entry, of_row = (name.encode() for name in names)
    before = b"+"
    while True:
        reply = client.execute_command("XREVRANGE", key, before, "-", "COUNT", ROWS_A_LOOK)
        page = replies.parse_entries(reply)
        for entry in page:
            fields = entry.fields or {}
            if fields.get(of_version) == version.encode() and of_entry in fields:
                return split_id(fields[of_entry]), int(fields[of_row])
        if len(page) < ROWS_A_LOOK:
            return None
        before = b"(" + page[-1].id


def flat_rows(frame: pl.DataFrame) -> list[RowFields]:
    """A frame as rows of flat fields, spelled as `POST /publish` spells them: nulls left out, times in ms."""
    as_text = frame.select(
        (pl.col(name).cast(pl.Int64) if isinstance(dtype, pl.Datetime) else pl.col(name))
        for name, dtype in frame.schema.items()
    )
    return [
        {name: _text(value) for name, value in row.items() if value is not None}
        for row in as_text.iter_rows(named=True)
    ]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
