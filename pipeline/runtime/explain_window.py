"""Why a window's numbers are what they are: its account from the raw log, its state, and what it waits for.

Invariant: bounded: at most MAX_BYTES of the log and MAX_SECONDS, and an answer that stopped early says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis

from pipeline.core.accumulators import PLACE_SHIFT, ROW_BITS
from pipeline.core.closing_time import closes_at_ms
from pipeline.core.codings import CODINGS
from pipeline.core.definitions import Config, Session
from pipeline.core.entries import Chunk, Control, Entry, Tick, parse_entry
from pipeline.core.events import Reader
from pipeline.core.fates import Account, Place, Side, account_of
from pipeline.core.ndjson import iso_time
from pipeline.core.programs import Program
from pipeline.core.session_twin import SessionTwin, twin_of
from pipeline.core.steps import Step, lost_functions
from pipeline.core.twin import PaneTwin, PartitionTwin
from pipeline.core.windows import Span
from pipeline.errors import BadRequestError, LogTrimmedError
from pipeline.rim import replies, store
from pipeline.rim.commit import Checkpoint
from pipeline.rim.log import LogPlace, log_begin, place_before, read_log
from pipeline.rim.table_cache import TableCache
from pipeline.runtime.answer_groups import group_filter
from pipeline.runtime.closer import minimum_watermark
from pipeline.runtime.computations import AggregateComputation
from pipeline.runtime.explain_session import session_named
from pipeline.runtime.explain_subject import Subject, window_named
from pipeline.runtime.log_batches import Killed, decode, killed_rows, time_at
from pipeline.runtime.metric_completeness import whole_from_ms
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

    `values`: as they are stored. `recomputed`: as the log up to the cursors makes them; None where it is not whole.
    `groups`: how many there are. `truncated`: the account stopped before the end of the log. `log_complete`: no event
    of the window has been trimmed; `whole_from_ms`: where the first window begins of which that is so (None: all).
    """

    program: Program
    span: Span
    state: str
    revision: int | None
    groups: int
    values: Mapping[str, Any] | None
    recomputed: Mapping[str, Any] | None
    account: Account
    partitions: Sequence[PartitionShare]
    closes_when: str
    would_close_at_ms: int | None
    log_complete: bool
    whole_from_ms: int | None
    truncated: bool


def subject_of(
    client: redis.Redis, program: Program, start_ms: int, end_ms: int | None, where: Mapping[str, Sequence[Any]]
) -> Subject:
    """What `start`, `end` and the group fields of `where` name.

    Raises:
        BadRequestError: 422, there is no such window, or `start` alone names several; the message has the nearest.
    """
    if isinstance(program.window, Session):
        return session_named(client, program, start_ms, end_ms, where)
    return window_named(program, start_ms, end_ms, group_filter(program, where) if where else None)


def explain_window(
    client: redis.Redis, config: Config, subject: Subject, clock: Callable[[], float] = time.monotonic
) -> WindowExplained:
    """Account for one window.

    Raises:
        BadRequestError: 422, this process has not the text of a function that the metric was made with; 410, the log
            is trimmed faster than it can be read.
    """
    side, program = subject.side, subject.side.program
    if (why := why_not_again(program.name, program.steps)) is not None:
        raise BadRequestError(why, code="no_account", status=422)
    stream, span = program.stream, side.span
    checkpoints = store.load_checkpoints(client, stream.name, stream.partitions, program.group)
    state = _state(subject, checkpoints)
    stored = subject.stored(client, state)
    reading = _Reading(client, side, subject.partitions, clock, clock() + MAX_SECONDS)
    account, twin, truncated = reading.account(checkpoints)
    floors = [log_begin(client, stream.name, partition).max_ts_ms for partition in range(stream.partitions)]
    is_whole = not truncated and subject.is_whole(floors)
    status = read_status(client, config, [stream.name])
    waiting = _waiting(subject, checkpoints, state)
    return WindowExplained(
        program=program,
        span=span,
        state=state,
        revision=stored.revision,
        groups=stored.groups,
        values=stored.values,
        recomputed=subject.recomputed(twin) if is_whole else None,
        account=account,
        partitions=_partitions(program, checkpoints, waiting, status.stages.get(program.name)),
        closes_when=_sentence(subject, state, waiting),
        would_close_at_ms=closes_at_ms(
            status.now_ms,
            stream.time,
            [clock_of(partition) for partition in status.streams[stream.name].partitions],
            horizons_of(config, stream.name),
            span[1] + stream.time.disorder_ms,
        )
        if state == "open"
        else None,
        log_complete=is_whole,
        whole_from_ms=whole_from_ms(program, floors),
        truncated=truncated,
    )


def why_not_again(stage: str, steps: Sequence[Step]) -> str | None:
    """Why a stage cannot be asked again: a registered function of its steps is another one here."""
    lost = lost_functions(steps)
    return f"{stage} was made with another text of the function '{lost[0]}' than this process has" if lost else None


@dataclass(slots=True)
class _Reading:
    """The log of some partitions, as far as a window needs it, within its bounds."""

    client: redis.Redis
    side: Side
    partitions: Sequence[int]
    clock: Callable[[], float]
    deadline_s: float
    bytes_left: int = MAX_BYTES

    def account(self, checkpoints: Sequence[Checkpoint]) -> tuple[Account, PaneTwin | SessionTwin, bool]:
        """The account over the partitions, up to each one's cursor, and the twin; and whether it stopped early."""
        for _ in range(ATTEMPTS):
            try:
                return self._attempt(checkpoints)
            except LogTrimmedError as error:
                trimmed = error
        raise BadRequestError(str(trimmed), code="trimmed", status=410)

    def _attempt(self, checkpoints: Sequence[Checkpoint]) -> tuple[Account, PaneTwin | SessionTwin, bool]:
        program, name = self.side.program, self.side.program.stream.name
        self.bytes_left = MAX_BYTES
        cursors = {number: checkpoints[number].cursor for number in self.partitions if checkpoints[number].cursor}
        places = {
            number: place_before(self.client, name, number, time_ms=self.side.span[0], entry_id=cursor)
            for number, cursor in cursors.items()
        }
        times = {number: time_at(place, checkpoints[number]) for number, place in places.items()}
        twin = twin_of(program, times, AggregateComputation(program, 0, TableCache(self.client)).compute)
        total, truncated = self._nothing(), False
        for number, place in places.items():
            account, stopped = self._read(twin.partitions[number], place, cursors[number])
            total, truncated = total + account, truncated or stopped
        return total, twin, truncated

    def _nothing(self) -> Account:
        return Account() if self.side.matches is None else Account(filtered=None, dead=None)

    def _read(self, twin: PartitionTwin, place: LogPlace, cursor: bytes) -> tuple[Account, bool]:
        """Take one partition's log; return its part of the account, and whether it stopped early."""
        program, stream, account = self.side.program, self.side.program.stream, self._nothing()
        reader = Reader(stream, program.needs)
        killed = killed_rows(self.client, program, twin.partition)
        for entries in read_log(self.client, stream.name, twin.partition, place, cursor):
            self.bytes_left -= sum(len(value) for entry in entries for value in (entry.fields or {}).values())
            kept = [self._parsed(entry, killed) for entry in entries]
            batch = decode(stream, twin.partition, reader, kept, killed).read_by(program.group)
            before = twin.time
            account += account_of(self.side, batch, before, twin.take(batch), twin.judged)
            is_last = entries[-1].id == cursor
            if not is_last and (self.bytes_left < 0 or self.clock() > self.deadline_s):
                return account, True
        return account, False

    def _parsed(self, entry: replies.Entry, killed: Killed) -> Entry:
        side = self.side
        passing = None if entry.id in killed else beside(entry, side.program.stream.time.max_future_ms, side.span)
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


def _state(subject: Subject, checkpoints: Sequence[Checkpoint]) -> str:
    """Open until the watermark of every partition has passed its end; final when nothing can join it any more."""
    side = subject.side
    watermark_ms = minimum_watermark(checkpoints, side.program.stream.time.disorder_ms)
    if watermark_ms is None or watermark_ms < side.span[1]:
        return "open"
    return "closed" if _behind(subject, checkpoints, subject.partitions, subject.final_ms) else "final"


def _waiting(subject: Subject, checkpoints: Sequence[Checkpoint], state: str) -> list[int]:
    """The partitions whose watermark the window waits for."""
    if state == "final":
        return []
    if state == "open":
        return _behind(subject, checkpoints, range(len(checkpoints)), subject.side.span[1])
    return _behind(subject, checkpoints, subject.partitions, subject.final_ms)


def _behind(subject: Subject, checkpoints: Sequence[Checkpoint], partitions: Sequence[int], mark_ms: int) -> list[int]:
    """Those of the partitions whose watermark has not reached `mark_ms`."""
    seen_ms = mark_ms + subject.side.program.stream.time.disorder_ms
    seen = {number: checkpoints[number].max_seen_ms for number in partitions}
    return [number for number, at_ms in seen.items() if at_ms is None or at_ms < seen_ms]


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


def _sentence(subject: Subject, state: str, waiting: Sequence[int]) -> str:
    stream = subject.side.program.stream
    if state == "final":
        where = _named(subject.partitions, stream.partitions)
        return f"It is final: {where}'s watermark has passed {iso_time(subject.final_ms)}."
    mark_ms = subject.side.span[1] if state == "open" else subject.final_ms
    what = "It closes" if state == "open" else "It is closed, late events may still revise it, and it becomes final"
    return (
        f"{what} when the watermark of {_named(waiting, stream.partitions)} reaches {iso_time(mark_ms)}: an event (or "
        f"a tick) of {iso_time(mark_ms + stream.time.disorder_ms)} or later there."
    )


def _named(partitions: Sequence[int], of: int) -> str:
    if len(partitions) == of:
        return "every partition"
    shown = ", ".join(map(str, partitions[:NAMED_PARTITIONS]))
    return f"partition {shown}{', …' if len(partitions) > NAMED_PARTITIONS else ''}"


def entry_of(place: Place) -> tuple[int, str, int]:
    """(partition, entry id, row in it) of a place."""
    where, row = place
    entry_id = f"{where & ((1 << PLACE_SHIFT) - 1)}-{row >> ROW_BITS}"
    return where >> PLACE_SHIFT, entry_id, row & ((1 << ROW_BITS) - 1)
