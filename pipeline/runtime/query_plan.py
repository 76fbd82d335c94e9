"""What an answer is made of: the windows or panes in its range, which tier answers for them, and what they cover.

What is due is read before what is published: a window published in between is then found twice, never not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import redis

from pipeline.core.calendars import BEGINNING_MS, END_MS
from pipeline.core.programs import Program
from pipeline.core.windows import Span
from pipeline.errors import BadRequestError
from pipeline.rim import store
from pipeline.rim.store import Due
from pipeline.runtime.answer_groups import AnswerGroups
from pipeline.runtime.closer import waiting_windows
from pipeline.runtime.metric_completeness import account
from pipeline.runtime.metric_query import MetricQuery, StateFilter
from pipeline.runtime.steps import (
    Cut,
    check_fitting,
    checked_cut,
    longest_window_ms,
    pane_width_ms,
    tier_span,
    tiers_for,
)
from pipeline.runtime.window_cells import Known

NEWEST_WINDOWS = 1_000  # windows an answer covers when no start was given
MAX_WINDOWS = 200_000  # looked at for one answer: over two days of one-second windows
BATCH_WINDOWS = 200  # loaded in one round trip, so that memory follows the answer and not the range


@dataclass(frozen=True, slots=True)
class Plan:
    """What an answer is made of: the windows or panes in order, and what they cover."""

    query: MetricQuery
    known: Known
    units: Sequence[Span]
    start_ms: int | None
    end_ms: int | None
    tier_ms: int | None

    def batches(self) -> Iterator[list[Span]]:
        """All of it, in order; what is loaded together."""
        return _batches(self.known.cut, self.units, descending=False)

    def still_to_come(self) -> Iterator[list[Span]]:
        """What can hold rows after the page before, in the order of the answer."""
        query, cut = self.query, self.known.cut
        units = self.units
        if query.after is not None and query.by_window:  # in order of a value any window can
            last = (query.after.start_ms, query.after.end_ms)
            if query.order == "-window":
                units = [unit for unit in units if cut.row_of(unit) <= last]
            else:
                units = [unit for unit in units if cut.row_of(unit) >= last]
        return _batches(cut, units, descending=query.order == "-window")


def plan_of(client: redis.Redis, program: Program, query: MetricQuery, groups: AnswerGroups) -> Plan:
    """Find what answers a query.

    Raises:
        BadRequestError: the query cannot be answered exactly (422), or the range holds too many windows (400).
    """
    cut = checked_cut(program, query.step_ms, query.calendar)
    start_ms = None if query.start_ms is None else _dated(cut.begin(query.start_ms), query.start_ms)
    end_ms = None if query.end_ms is None else _dated(cut.end(query.end_ms), query.end_ms)
    completeness, due = account(client, program)
    tier_ms, coarse = _tier(client, cut, start_ms, end_ms)
    fine = _published(client, program, start_ms, end_ms)
    newest = coarse or fine
    if start_ms is None and len(newest) == NEWEST_WINDOWS:
        start_ms = cut.end(min(start for start, _ in newest))  # no step is cut

    def is_covered(span: Span) -> bool:
        """Whether a window of a tier that has been published answers for this one."""
        return tier_ms is not None and span not in coarse and tier_span(program, span, tier_ms) in coarse

    found = coarse | {span for span in fine if not is_covered(span)}
    known = Known(program, cut, completeness, found, groups, cut.over_panes)
    units = _panes(client, program) if known.of_panes else _windows(known, due, query.state)
    # a window that waits to be revised is covered too: its tier is revised after it
    units = {unit for unit in units if _overlaps(unit, start_ms, end_ms) and not is_covered(unit)}
    check_fitting(cut, units, (start_ms, end_ms, completeness.watermark_ms))
    return Plan(query, known, sorted(units), start_ms, end_ms, tier_ms)


def _dated(bound_ms: int, asked_ms: int) -> int:
    """The bound of a range, or what was asked for where no day begins any more to widen it to."""
    return asked_ms if bound_ms in (BEGINNING_MS, END_MS) else bound_ms


def _tier(client: redis.Redis, cut: Cut, start_ms: int | None, end_ms: int | None) -> tuple[int | None, set[Span]]:
    """The coarsest tier that answers exactly, and its published windows."""
    for tier_ms in tiers_for(cut):
        coarse = _published(client, cut.program, start_ms, end_ms, tier_ms)
        if cut.calendar is None or (coarse and all(map(cut.holds, coarse))):
            return tier_ms, coarse
    return None, set()


def _windows(known: Known, due: Sequence[Mapping[int, Due]], state: StateFilter) -> set[Span]:
    """The windows that have something to show: those published, and open ones unless they are not wanted."""
    if state in ("closed", "final"):
        return known.published
    return known.published.union(waiting_windows(known.program, due))


def _panes(client: redis.Redis, program: Program) -> set[Span]:
    """Every pane there is, in any partition."""
    stream = program.stream
    marks = [store.pane_marks(client, stream.name, partition, program.group) for partition in range(stream.partitions)]
    return {(start, start + pane_width_ms(program)) for panes in marks for start in panes}


def _published(
    client: redis.Redis, program: Program, start_ms: int | None, end_ms: int | None, tier_ms: int | None = None
) -> set[Span]:
    """The published windows (of a tier) that overlap a range; the newest ones when it has no start."""
    longest_ms = longest_window_ms(program) if tier_ms is None else tier_ms
    windows = store.published_windows(
        client,
        program.name,
        program.version,
        start_ms,
        None if end_ms is None else end_ms + longest_ms,
        limit=NEWEST_WINDOWS if start_ms is None else None,
        tier_ms=tier_ms,
    )
    if len(windows) > MAX_WINDOWS:
        raise BadRequestError(
            f"the range holds {len(windows)} windows of {program.name}; an answer looks at no more than "
            f"{MAX_WINDOWS}. Ask for a shorter range",
            code="range_too_long",
        )
    return set(windows)


def _batches(cut: Cut, units: Sequence[Span], *, descending: bool) -> Iterator[list[Span]]:
    """Windows in batches of about BATCH_WINDOWS; those of one row stay together."""
    rows = [list(spans) for _, spans in groupby(units, key=cut.row_of)]
    batch: list[Span] = []
    for spans in reversed(rows) if descending else rows:
        batch += spans
        if len(batch) >= BATCH_WINDOWS:
            yield sorted(batch)
            batch = []
    if batch:
        yield sorted(batch)


def _overlaps(span: Span, start_ms: int | None, end_ms: int | None) -> bool:
    return (start_ms is None or span[1] > start_ms) and (end_ms is None or span[0] < end_ms)
