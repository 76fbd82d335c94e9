"""Send a file to a stream, in file order, each row once.

Invariant: where batches are cut and how they are keyed follows from the file, the batch size and the speed alone.
Batches go one after the other; one in doubt is sent again under its own key: killed and resumed, a replay counts once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import msgspec

from pipeline.errors import StreamgaugeError
from pipeline.runtime.csv_files import PLAIN, CsvStyle
from pipeline.runtime.door import ERRORS_KEPT, Door, RowError, SendResult, StreamView
from pipeline.runtime.replay_files import EventTimes, FileRow, ShiftedTimes, read_rows
from pipeline.runtime.replay_state import ReplayProgress, ReplayState
from pipeline.runtime.replay_survey import Survey, begins_behind, reaches_ahead, survey_rows, time_falls_back

BATCH_BYTES = 4_000_000  # a chunk's limit, and well under the largest body the door reads
PACE_MS = 200  # of real time in one batch when time is paced: five requests a second look live


class ReplayStoppedError(StreamgaugeError):
    """Looking before sending found a reason not to; nothing was sent."""


@dataclass(frozen=True, slots=True)
class ReplayOrder:
    """What the user asked for; `speed` None is as fast as possible."""

    file: Path
    stream: str
    url: str
    speed: float | None = None
    batch_rows: int = 5_000
    end: bool = True
    resume: bool = False
    send_anyway: bool = False
    backfill: bool = False
    shift_to_now: bool = False
    style: CsvStyle = PLAIN


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one request; `first` is the index of its first row in the file."""

    first: int
    rows: tuple[FileRow, ...]
    newest_ms: int | None

    @property
    def body(self) -> bytes:
        # A body that begins with [ is read as one array: as text, such a row is refused alone and not with its batch.
        first = self.rows[0].body
        safe = msgspec.json.encode(first.decode(errors="replace")) if first.startswith(b"[") else first
        return b"\n".join((safe, *(row.body for row in self.rows[1:]))) + b"\n"


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What became of the rows; `refused` has the line in the file instead of an index."""

    result: SendResult
    refused: tuple[tuple[int, RowError], ...]
    seconds: float
    resumed_at: int

    @property
    def rows_per_s(self) -> float:
        return self.result.rows / self.seconds if self.seconds else 0.0


class Replay:
    """One run: `survey()` looks, `send()` sends what the survey let pass."""

    def __init__(
        self,
        order: ReplayOrder,
        door: Door,
        state_folder: Path,
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._door = door
        self._sleep = sleep
        self._clock = clock
        self._view = door.stream(order.stream)
        self._times = EventTimes(self._view.time_field) if self._view.time_field else None
        for option, given, use in (
            ("--speed", order.speed is not None, "to pace by"),
            ("--shift-to-now", order.shift_to_now, "to shift"),
            ("--backfill", order.backfill, "by which rows could be old"),
        ):
            if given and self._times is None:
                raise ReplayStoppedError(f"stream {order.stream} has no time field {use}: leave {option} out")
        if not order.file.is_file():
            raise StreamgaugeError(f"{order.file}: no such file")
        self._state = ReplayState.of(order.file, order.stream, order.url, state_folder, order.style.options)
        before = self._state.load()
        self._resumed = order.resume and before is not None
        self._unfinished = before if before and not before.finished else None
        self._order, self._progress = _start(order, before)
        self._now_ms = now_ms

    @property
    def shift_ms(self) -> int:
        """What is added to every event time; known after the survey."""
        return self._progress.shift_ms

    def survey(self) -> Survey:
        """Look through the file.

        Raises:
            ReplayStoppedError: it begins behind the stream's watermark, or time in it falls back by over a day.
        """
        survey = survey_rows(self._rows(), self._time_of, self._progress.rows_done)
        if self._order.shift_to_now and not self._resumed:
            survey = self._shifted_to_now(survey)
        for reason in filter(None, self._reasons(survey)):
            raise ReplayStoppedError(reason)
        return survey

    def note(self, survey: Survey) -> str | None:
        """What to know of a backfill that reaches beyond the stream's time."""
        return reaches_ahead(survey, self._view) if self._order.backfill else None

    def _reasons(self, survey: Survey) -> Iterator[str | None]:
        """Why not to send: what old rows would meet in a live stream. Backfill meets none of it."""
        if self._order.backfill:
            return
        if not self._resumed:
            yield self._begins_behind(survey, self._view)
        if not self._order.send_anyway:
            yield time_falls_back(survey)

    def _shifted_to_now(self, survey: Survey) -> Survey:
        if survey.newest_ms is None:
            raise ReplayStoppedError(f"{self._order.file}: no row has a time to shift. Nothing was sent.")
        shift_ms = self._now_ms() - survey.newest_ms
        self._progress = msgspec.structs.replace(self._progress, shift_ms=shift_ms)
        return survey_rows(self._rows(), self._time_of, self._progress.rows_done)

    def _begins_behind(self, survey: Survey, view: StreamView) -> str | None:
        reason = begins_behind(survey, view)
        if reason and self._unfinished:
            rows = self._unfinished.rows_done
            return f"{reason} A replay of this file stopped after {rows} rows: --resume goes on there."
        return reason

    def send(self, on_batch: Callable[[int], None] = lambda rows_done: None) -> ReplayReport:
        """Send the rows and the end tick; `on_batch` is told how many rows of the file are stored."""
        began, resumed_at = self._clock(), self._progress.rows_done
        result = SendResult()
        refused: list[tuple[int, RowError]] = []
        self._state.save(self._progress)  # now: killed in its first batch, it must be known that one is in doubt
        pace = Pace(self._order.speed, self._sleep, self._clock)
        on_batch(resumed_at)
        for batch in self._batches():
            pace.wait_for(batch.newest_ms)
            key, backfill = self._key(batch), self._order.backfill
            said = self._door.post_rows(self._order.stream, batch.body, len(batch.rows), key, backfill=backfill)
            if len(refused) < ERRORS_KEPT:
                refused += [(batch.rows[error.index].line, error) for error in said.errors]
            result = result.then(said)
            self._done(batch.first + len(batch.rows))
            on_batch(self._progress.rows_done)
        if self._order.end and not self._order.backfill:  # which would close the windows of the live stream
            self._door.end(self._order.stream)
        self._state.save(msgspec.structs.replace(self._progress, finished=True))
        return ReplayReport(result, tuple(refused), self._clock() - began, resumed_at)

    def _rows(self) -> Iterator[FileRow]:
        rows = read_rows(self._order.file, self._view.fields, self._order.style)
        if not self.shift_ms or self._view.time_field is None:
            return rows
        return map(ShiftedTimes(self._view.time_field, self.shift_ms).of, rows)

    def _time_of(self, row: FileRow) -> int | None:
        return self._times.of(row) if self._times else None

    def _batches(self) -> Iterator[Batch]:
        done = self._progress.rows_done
        span_ms = None if self._order.speed is None else PACE_MS * self._order.speed
        return cut_batches(islice(self._rows(), done, None), done, self._order.batch_rows, self._time_of, span_ms)

    def _key(self, batch: Batch) -> str:
        how = f"-{self.shift_ms:+d}" if self.shift_ms else ""
        how += "-backfill" if self._order.backfill else ""
        return f"replay-{self._state.content[:32]}-{batch.first}-{len(batch.rows)}{how}"

    def _done(self, rows: int) -> None:
        self._progress = msgspec.structs.replace(self._progress, rows_done=rows)
        self._state.save(self._progress)


def _start(order: ReplayOrder, before: ReplayProgress | None) -> tuple[ReplayOrder, ReplayProgress]:
    """Return the order to follow: a resumed replay cuts and changes its batches as the one it continues did."""
    if order.resume and before is not None:
        return replace(order, batch_rows=before.batch_rows, speed=before.speed, backfill=before.backfill), before
    progress = ReplayProgress(str(order.file), order.stream, order.url, order.batch_rows, order.speed)
    return order, msgspec.structs.replace(progress, backfill=order.backfill)


def cut_batches(
    rows: Iterable[FileRow],
    first: int,
    most_rows: int,
    time_of: Callable[[FileRow], int | None],
    span_ms: float | None,
) -> Iterator[Batch]:
    """Cut rows into batches of at most `most_rows`, `BATCH_BYTES`, and (where paced) `span_ms` of event time."""
    part: list[FileRow] = []
    size, start_ms, newest_ms = 0, None, None
    for row in rows:
        at = None if span_ms is None else time_of(row)
        too_long = span_ms is not None and at is not None and start_ms is not None and at - start_ms > span_ms
        if part and (len(part) == most_rows or size + len(row.body) > BATCH_BYTES or too_long):
            yield Batch(first, tuple(part), newest_ms)
            first += len(part)
            part, size, start_ms = [], 0, None
        part.append(row)
        size += len(row.body) + 1
        if at is not None:
            start_ms = at if start_ms is None else start_ms
            newest_ms = at if newest_ms is None else max(newest_ms, at)
    if part:
        yield Batch(first, tuple(part), newest_ms)


class Pace:
    """Holds a batch back until its newest event is due; event time runs `speed` times as fast as the clock."""

    def __init__(self, speed: float | None, sleep: Callable[[float], None], clock: Callable[[], float]) -> None:
        self._speed = speed
        self._sleep = sleep
        self._clock = clock
        self._start: tuple[int, float] | None = None  # event time and clock of the first batch

    def wait_for(self, newest_ms: int | None) -> None:
        if self._speed is None or newest_ms is None:
            return
        if self._start is None:
            self._start = newest_ms, self._clock()
        start_ms, began = self._start
        ahead_s = (newest_ms - start_ms) / 1000 / self._speed - (self._clock() - began)
        if ahead_s > 0:
            self._sleep(ahead_s)
