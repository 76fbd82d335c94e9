"""How an answer is cut: windows as they are, or steps that are whole panes; what cannot be exact is refused (422)."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np

from pipeline.core.definitions import DAY_MS, Calendar, Cumulating, Hopping, Session, Tumbling
from pipeline.core.programs import Program
from pipeline.core.times import format_duration
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
        if not self.has_steps:
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


def tier_for(cut: Cut) -> int | None:
    """The coarsest tier whose windows fill whole steps."""
    sizes = (rollup.size_ms for rollup in cut.program.stage.rollups)
    step_ms = cut.step_ms
    return max((size_ms for size_ms in sizes if step_ms is not None and step_ms % size_ms == 0), default=None)


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


def checked_cut(program: Program, step_ms: int | None) -> Cut:
    """How an answer is cut: a step is a multiple of the pane, and its rows begin where windows begin.

    Raises:
        BadRequestError: 422, the step cannot be answered exactly.
    """
    tumbling = isinstance(program.window, Tumbling)
    if step_ms is None:
        return Cut(program, natural_step_ms(program) if tumbling else None)
    if isinstance(program.window, Calendar | Session):
        raise BadRequestError(
            f"{program.name} is answered window by window, since its windows are not all equally long; leave step out",
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
            f"window {format_duration(window_ms)} is not a multiple of {program.name}'s pane of "
            f"{format_duration(width_ms)}, or of more than {MAX_PANES} of them; the nearest that answers exactly is "
            f"{format_duration(nearest)}",
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
