"""How an answer is cut: windows as they are, or steps that are whole panes; what cannot be exact is refused (422)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from math import gcd
from zoneinfo import ZoneInfo

import numpy as np

from pipeline.core.calendars import BEGINNING_MS, END_MS
from pipeline.core.definitions import DAY_MS, HOUR_MS, SECOND_MS, Calendar, Cumulating, Hopping, Session, Tumbling
from pipeline.core.programs import Program
from pipeline.core.times import by_units, format_duration
from pipeline.core.windows import Span, panes_of
from pipeline.errors import BadRequestError

MAX_PANES = 20_000  # of a trailing window
LONGEST_CALENDAR_MS = 32 * DAY_MS  # a month with a clock change


def natural_step_ms(program: Program) -> int | None:
    """How far apart windows are that stand side by side; None where that is not always the same."""
    match program.window:
        case Tumbling(size_ms=size_ms):
            return size_ms
        case Hopping(every_ms=every_ms) | Cumulating(every_ms=every_ms):
            return every_ms
        case _:
            return None


def longest_window_ms(program: Program) -> int:
    """No window of the metric is longer."""
    match program.window:
        case Tumbling(size_ms=size_ms) | Hopping(size_ms=size_ms) | Cumulating(size_ms=size_ms):
            return size_ms
        case _:
            return LONGEST_CALENDAR_MS


def pane_width_ms(program: Program) -> int:
    """The width of the panes of a metric whose panes are all equal."""
    match program.window:
        case Tumbling(size_ms=size_ms):
            return size_ms
        case Hopping(size_ms=size_ms, every_ms=every_ms):
            return gcd(size_ms, every_ms)
        case Cumulating(every_ms=every_ms):
            return every_ms
        case _:
            raise AssertionError(f"{program.name} has no panes of one width")


@dataclass(frozen=True, slots=True)
class Cut:
    """How an answer's rows cut time: windows as they are (neither is given), or steps side by side.

    `calendar`: the steps are days, weeks or months of a zone.
    """

    program: Program
    step_ms: int | None = None
    calendar: Calendar | None = None

    @property
    def has_steps(self) -> bool:
        return self.step_ms is not None or self.calendar is not None

    @property
    def is_wider(self) -> bool:
        """Whether a row is more than one window."""
        if self.calendar is not None:
            return self.calendar != self.program.window
        return self.step_ms is not None and self.step_ms != natural_step_ms(self.program)

    @property
    def over_panes(self) -> bool:
        """Whether rows are merged from panes: steps of a metric whose windows overlap."""
        return self.has_steps and not isinstance(self.program.window, Tumbling | Calendar)

    def row_of(self, unit: Span) -> Span:
        """The row that a window or pane belongs to: itself, or the step it lies in."""
        if not self.has_steps or unit[1] - unit[0] == self.step_ms:
            return unit
        start_ms = self.begin(unit[0])
        return start_ms, self.end(start_ms + 1)

    def begin(self, time_ms: int) -> int:
        """Where the step of a time begins; the time itself where rows are windows."""
        if self.calendar is not None:
            return panes_of(self.calendar).end_at_or_before(time_ms)
        return time_ms if self.step_ms is None else aligned(self.program, time_ms, self.step_ms)

    def end(self, time_ms: int) -> int:
        """The first boundary of steps at or after a time."""
        if self.calendar is not None:
            return panes_of(self.calendar).begin_after(time_ms - 1)
        return time_ms if self.step_ms is None else aligned_up(self.program, time_ms, self.step_ms)

    def holds(self, unit: Span) -> bool:
        """Whether a window or pane is in one row as a whole."""
        return unit[1] <= self.row_of(unit)[1]


def tiers_for(cut: Cut) -> list[int]:
    """The tiers whose windows may fill whole steps, coarsest first; whether they do in a zone, its days decide."""
    sizes = sorted((rollup.size_ms for rollup in cut.program.stage.rollups), reverse=True)
    if cut.calendar is not None:
        return sizes
    return [size_ms for size_ms in sizes if cut.step_ms is not None and cut.step_ms % size_ms == 0]


def tier_span(program: Program, window: Span, tier_ms: int) -> Span:
    """The tier's window that a window is in."""
    start_ms = aligned(program, window[0], tier_ms)
    return start_ms, start_ms + tier_ms


def settles_at_ms(program: Program, span: Span) -> int:
    """The watermark at which no more events count in the panes of a step or a trailing window, but for the lateness.

    What is late for one window of its pane may count in the next ones, so that is the end of the last of them.
    """
    starts_ms = np.array([span[1] - pane_width_ms(program)], dtype=np.int64)
    return int(program.panes.last_ends(starts_ms)[0])


def checked_cut(program: Program, step_ms: int | None, calendar: Calendar | None = None) -> Cut:
    """How an answer is cut: a step is a multiple of the pane, and its rows begin where windows begin.

    Raises:
        BadRequestError: 422, the step cannot be answered exactly.
    """
    tumbling = isinstance(program.window, Tumbling)
    if calendar is not None:
        return Cut(program, None, _checked_calendar(program, calendar))
    if step_ms is None:
        return Cut(program, natural_step_ms(program) if tumbling else None)
    if isinstance(program.window, Calendar | Session):
        window = program.window
        zone = f", or name their zone: step={window.unit}&tz={window.zone}" if isinstance(window, Calendar) else ""
        raise BadRequestError(
            f"{program.name} is answered window by window, since its windows are not all equally long; leave step out"
            f"{zone}",
            code="step_not_exact",
            status=422,
        )
    width_ms = pane_width_ms(program)
    if step_ms <= 0 or step_ms % width_ms:
        what = "window" if tumbling else "pane"
        nearest = max(width_ms, round(step_ms / width_ms) * width_ms)
        raise BadRequestError(
            f"step {format_duration(step_ms)} is not a multiple of {program.name}'s {what} of "
            f"{format_duration(width_ms)}; the nearest that answers exactly is {format_duration(nearest)}",
            code="step_not_exact",
            status=422,
        )
    return Cut(program, step_ms)


def _checked_calendar(program: Program, calendar: Calendar) -> Calendar:
    """Of a calendar metric, steps are its windows or made of its days; of others the panes say (`check_fitting`)."""
    window = program.window
    if isinstance(window, Session):
        raise BadRequestError(
            f"{program.name} has sessions, which are no parts of local days; leave tz out, or ask with step=24h",
            code="step_not_exact",
            status=422,
        )
    if isinstance(window, Calendar):
        fits = window.zone == calendar.zone and (calendar.unit == window.unit or window.unit == "day")
        if not fits:
            units = "day, week or month" if window.unit == "day" else window.unit
            raise BadRequestError(
                f"{program.name} has windows of one {window.unit} in {window.zone}; a {calendar.unit} in "
                f"{calendar.zone} is not made of them. The nearest that answers exactly is step={units} "
                f"with tz={window.zone}",
                code="zone_not_exact",
                status=422,
            )
    return calendar


def check_fitting(cut: Cut, units: Iterable[Span], times_ms: Iterable[int | None]) -> None:
    """Refuse a zone whose days begin within a window (or pane) of the answer.

    Raises:
        BadRequestError: 422, with the nearest zone whose days do not.
    """
    if cut.calendar is None or isinstance(cut.program.window, Calendar):
        return
    program, width_ms = cut.program, pane_width_ms(cut.program)
    rows = {cut.row_of(unit) for unit in units} | {cut.row_of((ms, ms + 1)) for ms in times_ms if ms is not None}
    # where the dates end, no day begins: a range may go there ("until 9999-12-31"), no window is cut by it
    for bound_ms in sorted({ms for row in rows for ms in row} - {BEGINNING_MS, END_MS}):
        if aligned(program, bound_ms, width_ms) != bound_ms:
            raise BadRequestError(
                f"a {cut.calendar.unit} in {cut.calendar.zone} begins at {_clock(bound_ms)} UTC, within a window of "
                f"{format_duration(width_ms)} of {program.name}; "
                f"{_nearest_zone(program, cut.calendar.zone, bound_ms, width_ms)}",
                code="zone_not_exact",
                status=422,
            )


def _clock(time_ms: int) -> str:
    minutes, seconds = divmod(time_ms % DAY_MS // SECOND_MS, 60)
    return f"{minutes // 60:02}:{minutes % 60:02}" + (f":{seconds:02}" if seconds else "")  # local mean time has them


def _nearest_zone(program: Program, zone: str, time_ms: int, width_ms: int) -> str:
    """Names the zone of whole hours nearest to another whose days begin where windows do, where there is one."""
    offset = datetime.fromtimestamp(time_ms / 1_000, ZoneInfo(zone)).utcoffset()
    assert offset is not None
    hours = sorted(range(-12, 15), key=lambda hour: abs(hour * HOUR_MS - offset.total_seconds() * 1_000))
    fitting = (hour for hour in hours if aligned(program, -hour * HOUR_MS, width_ms) == -hour * HOUR_MS)
    hour = next((hour for hour in fitting if DAY_MS % width_ms == 0), None)
    if hour is None:
        return "no zone's days all begin where such windows do: leave tz out, and give step as a length"
    zone_there = "UTC" if hour == 0 else f"Etc/GMT{-hour:+d} (UTC{hour:+03d}:00)"
    return f"the nearest zone that answers exactly is {zone_there}"


def rolling_width(program: Program, window_ms: int) -> int:
    """The pane that a trailing window is made of."""
    if isinstance(program.window, Calendar | Session):
        raise BadRequestError(
            f"{program.name} has no panes of one width, so no trailing window can be made of them; "
            "ask a tumbling or hopping metric",
            code="no_rolling",
            status=422,
        )
    width_ms = pane_width_ms(program)
    if window_ms <= 0 or window_ms % width_ms or window_ms // width_ms > MAX_PANES:
        nearest = min(max(width_ms, round(window_ms / width_ms) * width_ms), MAX_PANES * width_ms)
        raise BadRequestError(
            f"window {by_units(window_ms)} is not a multiple of {program.name}'s pane of "
            f"{by_units(width_ms)}, or of more than {MAX_PANES} of them; the nearest that answers exactly is "
            f"{by_units(nearest)}",
            code="window_not_exact",
            status=422,
        )
    return width_ms


def _offset_ms(program: Program) -> int:
    match program.window:
        case Tumbling(offset_ms=offset_ms) | Hopping(offset_ms=offset_ms) | Cumulating(offset_ms=offset_ms):
            return offset_ms
        case _:
            raise AssertionError(f"{program.name} is not aligned to the epoch")


def aligned(program: Program, time_ms: int, step_ms: int) -> int:
    return time_ms - (time_ms - _offset_ms(program)) % step_ms


def aligned_up(program: Program, time_ms: int, step_ms: int) -> int:
    """The first boundary at or after `time_ms`."""
    return time_ms + (_offset_ms(program) - time_ms) % step_ms
