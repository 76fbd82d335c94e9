"""Why a window's numbers are what they are: its account from the raw log, its state, and what it waits for.

Invariant: bounded: at most MAX_BYTES of the log and MAX_SECONDS, and an answer that stopped early says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import redis

from pipeline.core.accumulators import PLACE_SHIFT, ROW_BITS
from pipeline.core.cells import CellTable
from pipeline.core.closing_time import closes_at_ms
from pipeline.core.codings import CODINGS
from pipeline.core.definitions import Config
from pipeline.core.entries import Chunk, Control, Entry, Tick, parse_entry
from pipeline.core.events import Reader
from pipeline.core.fates import Account, Matches, Place, account_of
from pipeline.core.merging import matching, merged, pieces_of, taken
from pipeline.core.ndjson import iso_time
from pipeline.core.programs import Program
from pipeline.core.steps import Step, lost_functions
from pipeline.core.twin import has_twin
from pipeline.core.windows import FOREVER_MS, Span
from pipeline.errors import BadRequestError, LogTrimmedError
from pipeline.rim import replies, store
from pipeline.rim.commit import Checkpoint
from pipeline.rim.log import log_begin, place_before, read_log
from pipeline.rim.tables import TableCache
from pipeline.runtime.closer import minimum_watermark, state_at
from pipeline.runtime.computations import AggregateComputation
from pipeline.runtime.finishing import finished_rows
from pipeline.runtime.log_batches import Killed, decode, killed_rows, time_at
from pipeline.runtime.status import StageStatus, read_status
from pipeline.runtime.stream_time import clock_of
from pipeline.runtime.time_keepers import horizons_of

MAX_BYTES = 500_000_000  # of the log, of which what lies beside the window is not decoded
MAX_SECONDS = 10.0
ATTEMPTS = 3  # when a trim overtakes us
NAMED_PARTITIONS = 5  # in a sentence


@dataclass(frozen=True, slots=True)
class PartitionShare:
    """One partition of the stream, as the window sees it. `lag_events` is None for a version that no longer runs."""

    partition: int
    watermark_ms: int | None
    holds_back: bool
    cursor: str | None
    lag_events: int | None


@dataclass(frozen=True, slots=True)
class WindowExplained:
    """A window, its groups' values together, and the account of its events.

    `groups`: how many there are. `truncated`: the account stopped before the end of the log. `log_complete`: no event
    of the window has been trimmed; `whole_from_ms`: where the first window begins of which that is so (None: all).
    """

    program: Program
    span: Span
    state: str
    revision: int | None
    groups: int
    values: Mapping[str, Any] | None
    account: Account
    partitions: Sequence[PartitionShare]
    closes_when: str
    would_close_at_ms: int | None
    log_complete: bool
    whole_from_ms: int | None
    truncated: bool


def window_of(program: Program, start_ms: int, end_ms: int | None) -> Span:
    """The window that `start` and `end` name.

    Raises:
        BadRequestError: 422, there is no such window, or `start` alone names several; the message has the nearest.
    """
    if not has_twin(program):
        raise BadRequestError(
            f"{program.name} has sessions, whose events are not accounted for yet", code="no_account", status=422
        )
    panes = program.panes
    pane_ms = int(panes.pane_starts(np.array([start_ms], dtype=np.int64))[0])
    around = list(panes.windows_of(pane_ms, -FOREVER_MS, FOREVER_MS))
    begun = [span for span in around if span[0] == start_ms]
    found = [span for span in begun if end_ms in (None, span[1])]
    if len(found) == 1:
        return found[0]
    if begun:
        ends = ", ".join(f"{end} ({iso_time(end)})" for _, end in begun[:NAMED_PARTITIONS])
        raise BadRequestError(f"end: windows that start at {start_ms} end at {ends}", code="no_window", status=422)
    start, end = min(around, key=lambda span: abs(span[0] - start_ms))
    raise BadRequestError(
        f"start: no window of {program.name} starts at {start_ms} ({iso_time(start_ms)}); the nearest is from {start} "
        f"({iso_time(start)}) to {end}",
        code="no_window",
        status=422,
    )


def explain_window(
    client: redis.Redis,
    config: Config,
    program: Program,
    span: Span,
    matches: Matches | None,
    clock: Callable[[], float] = time.monotonic,
) -> WindowExplained:
    """Account for one window; `matches` chooses groups by their JSON (None: all of them together).

    Raises:
        BadRequestError: 422, this process has not the text of a function that the metric was made with; 503 in words:
            the log is trimmed faster than it can be read.
    """
    if (why := why_not_again(program.name, program.steps)) is not None:
        raise BadRequestError(why, code="no_account", status=422)
    stream = program.stream
    checkpoints = store.load_checkpoints(client, stream.name, stream.partitions, program.group)
    watermark_ms = minimum_watermark(checkpoints, stream.time.disorder_ms)
    state = state_at(program, span[1], watermark_ms)
    result = next(iter(store.load_results(client, program.name, program.version, [span])), None)
    values, groups = _values(client, program, span, None if state == "open" else result, matches)
    reading = _Reading(client, program, span, matches, clock, clock() + MAX_SECONDS)
    account, truncated = reading.account(checkpoints)
    floors = [log_begin(client, stream.name, partition).max_ts_ms for partition in range(stream.partitions)]
    floor_ms = max((ms for ms in floors if ms is not None), default=None)
    status = read_status(client, config, [stream.name])
    waiting = _waiting(program, checkpoints, span, state)
    return WindowExplained(
        program=program,
        span=span,
        state=state,
        revision=None if result is None else result.revision,
        groups=groups,
        values=values,
        account=account,
        partitions=_partitions(program, checkpoints, waiting, status.stages.get(program.name)),
        closes_when=_sentence(program, span, state, waiting, stream.partitions),
        would_close_at_ms=closes_at_ms(
            status.now_ms,
            stream.time,
            [clock_of(partition) for partition in status.streams[stream.name].partitions],
            horizons_of(config, stream.name),
            span[1] + stream.time.disorder_ms,
        )
        if state == "open"
        else None,
        log_complete=not truncated and (floor_ms is None or span[0] > floor_ms),
        whole_from_ms=None if floor_ms is None else program.panes.begin_after(floor_ms),
        truncated=truncated,
    )


def why_not_again(stage: str, steps: Sequence[Step]) -> str | None:
    """Why a stage cannot be asked again: a registered function of its steps is another one here."""
    lost = lost_functions(steps)
    return f"{stage} was made with another text of the function '{lost[0]}' than this process has" if lost else None


@dataclass(slots=True)
class _Reading:
    """The log, as far as a window needs it, within its bounds."""

    client: redis.Redis
    program: Program
    span: Span
    matches: Matches | None
    clock: Callable[[], float]
    deadline_s: float
    bytes_left: int = MAX_BYTES
    tables: TableCache = field(init=False)

    def __post_init__(self) -> None:
        self.tables = TableCache(self.client)

    def account(self, checkpoints: Sequence[Checkpoint]) -> tuple[Account, bool]:
        """The account over all partitions, up to each one's cursor; and whether it stopped early."""
        none = Account() if self.matches is None else Account(filtered=None, dead=None)
        total, truncated = none, False
        for partition, checkpoint in enumerate(checkpoints):
            account, stopped = self._partition(partition, checkpoint, none)
            total, truncated = total + account, truncated or stopped
        return total, truncated

    def _partition(self, partition: int, checkpoint: Checkpoint, none: Account) -> tuple[Account, bool]:
        if not checkpoint.cursor:
            return none, False
        for _ in range(ATTEMPTS):
            try:
                return self._read(partition, checkpoint, none)
            except LogTrimmedError as error:
                trimmed = error
        raise BadRequestError(str(trimmed), code="trimmed", status=410)

    def _read(self, partition: int, checkpoint: Checkpoint, none: Account) -> tuple[Account, bool]:
        stream = self.program.stream
        place = place_before(self.client, stream.name, partition, time_ms=self.span[0], entry_id=checkpoint.cursor)
        before, account = time_at(place, checkpoint), none
        reader = Reader(stream, self.program.needs)
        killed = killed_rows(self.client, self.program, partition)
        compute = AggregateComputation(self.program, partition, self.tables).compute
        for entries in read_log(self.client, stream.name, partition, place, checkpoint.cursor):
            self.bytes_left -= sum(len(value) for entry in entries for value in (entry.fields or {}).values())
            kept = [self._parsed(entry, killed) for entry in entries]
            batch = decode(stream, partition, reader, kept, killed).read_by(self.program.group)
            more, before = account_of(self.program, batch, before, self.span, self.matches, compute)
            account += more
            is_last = entries[-1].id == checkpoint.cursor
            if not is_last and (self.bytes_left < 0 or self.clock() > self.deadline_s):
                return account, True
        return account, False

    def _parsed(self, entry: replies.Entry, killed: Killed) -> Entry:
        passing = None if entry.id in killed else beside(entry, self.program.stream.time.max_future_ms, self.span)
        return passing or parse_entry(entry.id, entry.fields or {})


def beside(entry: replies.Entry, max_future_ms: int, span: Span | None) -> Tick | Control | None:
    """A chunk none of whose events is in a window, as all it does to the others: it moves time.

    The newest effective time of a chunk is min(hi, its arrival), by its header; one with rows too far ahead of their
    arrival is not taken so, since those do not move time. `span` None: whatever its events are.
    """
    fields = entry.fields or {}
    try:
        low_ms, high_ms, arrival_ms = int(fields[b"lo"]), int(fields[b"hi"]), int(fields[b"at"])
    except (KeyError, ValueError):
        return None
    overlaps = span is not None and low_ms < span[1] and high_ms >= span[0]
    if fields.get(b"_k") != b"chunk" or overlaps or high_ms > arrival_ms + max_future_ms:
        return None
    parsed = parse_entry(entry.id, fields)
    if not isinstance(parsed, Chunk) or parsed.coding not in CODINGS:
        return None
    return Control(entry.id) if parsed.backfill else Tick(entry.id, arrival_ms, high_ms)  # old data moves no time


def _values(
    client: redis.Redis, program: Program, span: Span, result: store.Result | None, matches: Matches | None
) -> tuple[Mapping[str, Any] | None, int]:
    """The finished values of the chosen groups together, and how many groups that is."""
    if result is not None:
        names, columns = result.groups, program.layout.unpack(result.cells)
        chosen = [number for number, group in enumerate(names) if matches is None or matches(group)]
    else:
        pieces = [
            piece if matches is None else matching(piece, matches)
            for partition in range(program.stream.partitions)
            for start, stored in store.load_panes(
                client, program.stream.name, partition, program.group, program.panes.panes_of(span)
            ).items()
            for piece in pieces_of(program.layout, partition, start, stored)
        ]
        window = merged(program.layout, span, pieces)
        chosen, columns = window.slots.tolist(), dict(window.columns)
    if not chosen:
        return None, 0
    table = CellTable(program.layout)
    table.merge([(0, b"")] * len(chosen), taken(columns, chosen))
    [row] = finished_rows(program, table.columns, table.slots([(0, b"")]), [span[1]])
    return row, len(chosen)


def _waiting(program: Program, checkpoints: Sequence[Checkpoint], span: Span, state: str) -> list[int]:
    """The partitions whose watermark the window waits for."""
    if state == "final":
        return []
    needed_ms = span[1] + (program.stage.allowed_lateness_ms if state == "closed" else 0)
    seen_ms = needed_ms + program.stream.time.disorder_ms
    return [n for n, c in enumerate(checkpoints) if c.max_seen_ms is None or c.max_seen_ms < seen_ms]


def _partitions(
    program: Program, checkpoints: Sequence[Checkpoint], waiting: Sequence[int], stage: StageStatus | None
) -> list[PartitionShare]:
    running = stage.partitions if stage is not None and stage.version == program.version else ()
    lags = {each.partition: each.lag.events for each in running}
    return [
        PartitionShare(
            partition=number,
            watermark_ms=None if c.max_seen_ms is None else c.max_seen_ms - program.stream.time.disorder_ms,
            holds_back=number in waiting,
            cursor=c.cursor.decode() or None,
            lag_events=lags.get(number),
        )
        for number, c in enumerate(checkpoints)
    ]


def _sentence(program: Program, span: Span, state: str, waiting: Sequence[int], partitions: int) -> str:
    disorder_ms, lateness_ms = program.stream.time.disorder_ms, program.stage.allowed_lateness_ms
    if state == "final":
        return f"It is final: every partition's watermark has passed {iso_time(span[1] + lateness_ms)}."
    mark_ms = span[1] if state == "open" else span[1] + lateness_ms
    what = "It closes" if state == "open" else "It is closed, and becomes final,"
    named = ", ".join(map(str, waiting[:NAMED_PARTITIONS])) + (", …" if len(waiting) > NAMED_PARTITIONS else "")
    where = "every partition" if len(waiting) == partitions else f"partition {named}"
    return (
        f"{what} when the watermark of {where} reaches {iso_time(mark_ms)}: an event (or a tick) of "
        f"{iso_time(mark_ms + disorder_ms)} or later there."
    )


def entry_of(place: Place) -> tuple[int, str, int]:
    """(partition, entry id, row in it) of a place."""
    where, row = place
    entry_id = f"{where & ((1 << PLACE_SHIFT) - 1)}-{row >> ROW_BITS}"
    return where >> PLACE_SHIFT, entry_id, row & ((1 << ROW_BITS) - 1)
