"""What `replay` looks at before it sends a row: where the file begins, and clock typos in it.

Invariant: nothing here sends; a survey is a function of the file and of how many of its rows are sent already.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pipeline.core.definitions import DAY_MS
from pipeline.core.ndjson import iso_time
from pipeline.core.times import format_duration
from pipeline.runtime.door import StreamView
from pipeline.runtime.replay_files import FileRow

JUMP_MS = DAY_MS  # sources that pause for a night are common, clock typos are of days and years
STEPS_KEPT = 5  # of each kind, to name: after a clock typo every row may be one


@dataclass(frozen=True, slots=True)
class Step:
    """A row whose time is more than a day from the largest time before it."""

    line: int
    from_ms: int
    to_ms: int

    def __str__(self) -> str:
        way = "ahead" if self.to_ms > self.from_ms else "back"
        size = format_duration(abs(self.to_ms - self.from_ms) // 60_000 * 60_000)
        return f"line {self.line}: {size} {way}, from {show_time(self.from_ms)} to {show_time(self.to_ms)}"


@dataclass(frozen=True, slots=True)
class Survey:
    """A file seen once from end to end."""

    rows: int
    first_ms: int | None  # event time of the first row still to send that has one
    jumps: tuple[Step, ...]  # ahead; the first STEPS_KEPT
    falls: tuple[Step, ...]  # back; the first STEPS_KEPT
    newest_ms: int | None = None  # the largest event time of all rows


def survey_rows(rows: Iterable[FileRow], time_of: Callable[[FileRow], int | None], sent: int) -> Survey:
    """Read all rows; those before `sent` count for the total and the newest time only."""
    count, first_ms, newest_ms, largest_ms = 0, None, None, None
    jumps: list[Step] = []
    falls: list[Step] = []
    for count, row in enumerate(rows, start=1):
        if (at := time_of(row)) is None:
            continue
        largest_ms = at if largest_ms is None else max(largest_ms, at)
        if count <= sent:
            continue
        if newest_ms is None:
            first_ms = newest_ms = at
        elif abs(at - newest_ms) > JUMP_MS:
            steps = jumps if at > newest_ms else falls
            if len(steps) < STEPS_KEPT:
                steps.append(Step(row.line, newest_ms, at))
        newest_ms = max(newest_ms, at)
    return Survey(count, first_ms, tuple(jumps), tuple(falls), largest_ms)


def begins_behind(survey: Survey, stream: StreamView) -> str | None:
    """Return why the file should not be sent to this stream, if it begins behind its watermark."""
    mark = stream.max_watermark_ms
    if survey.first_ms is None or mark is None or survey.first_ms >= mark:
        return None
    return (
        f"The file begins at {show_time(survey.first_ms)}, behind stream {stream.name}, whose time has reached "
        f"{show_time(mark)}: its rows would be late. Nothing was sent. There are three ways: --backfill adds it to the "
        "windows of the past that are still kept; --shift-to-now moves its times so that the newest row is now; "
        "--stream sends it to another stream, one that has not come that far."
    )


def reaches_ahead(survey: Survey, stream: StreamView) -> str | None:
    """Return what to say of a backfill with rows ahead of the stream's time, which it does not move."""
    mark = stream.max_watermark_ms
    if survey.newest_ms is None or (mark is not None and survey.newest_ms <= mark):
        return None
    reached = "no time yet" if mark is None else show_time(mark)
    return (
        f"the file ends at {show_time(survey.newest_ms)}, the stream's own events have reached {reached}: windows "
        "after that stay open until its own events, or its silence, get there"
    )


def time_falls_back(survey: Survey) -> str | None:
    """Return why the order of the file would make rows late: a clock typo, or sources one after the other."""
    if not survey.falls:
        return None
    seen = [str(step) for step in sorted((*survey.jumps, *survey.falls), key=lambda step: step.line)]
    return (
        "Time in this file falls back by more than a day, so rows after the first such line may be late:\n  "
        + "\n  ".join(seen[:STEPS_KEPT])
        + "\nNothing was sent. Correct or sort the file, or send it as it is with --yes."
    )


def show_time(time_ms: int) -> str:
    """Return `2015-05-20T21:05:59.000+00:00`, or the number where it is beyond the years datetime knows."""
    try:
        return str(iso_time(time_ms))
    except OverflowError:
        return f"{time_ms} ms"
