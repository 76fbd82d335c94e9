"""A metric over a range of time: published windows from their results, open ones from their panes, merged and finished.

Every answer says up to where it is complete. Partials are merged in the fixed order (window start, from_end,
partition), so a wider step gives the same bits whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Literal

import numpy as np
import redis

from pipeline.core.cell_fields import OTHER, OTHERS
from pipeline.core.definitions import Calendar, Config, Session
from pipeline.core.programs import Program, compile_programs, program_of_definition
from pipeline.core.spelling import did_you_mean
from pipeline.core.windows import Span
from pipeline.errors import BadRequestError
from pipeline.rim import keys, store
from pipeline.rim.store import Due
from pipeline.runtime.answer import (
    FILLED_TYPES,
    SESSION_STEP_TYPES,
    SESSION_TYPES,
    Answer,
    AnswerColumn,
    Row,
    Table,
    answer_fields,
    empty_table,
    together,
)
from pipeline.runtime.answer_groups import AnswerGroups, group_filter
from pipeline.runtime.answer_positions import Position
from pipeline.runtime.closer import waiting_windows
from pipeline.runtime.filling import MAX_FILLED, Fill, filled, too_many_rows
from pipeline.runtime.metric_completeness import Completeness, account, as_kept
from pipeline.runtime.metric_state import MetricState, read_state
from pipeline.runtime.query_checks import check_query
from pipeline.runtime.session_query import SessionAnswer, SessionReader
from pipeline.runtime.steps import (
    Cut,
    aligned_up,
    check_fitting,
    checked_cut,
    longest_window_ms,
    natural_step_ms,
    pane_width_ms,
    rolling_width,
    tier_span,
    tiers_for,
)
from pipeline.runtime.top_groups import top_groups
from pipeline.runtime.window_cells import Known, WindowCells
from pipeline.runtime.window_rows import RowTable

__all__ = ["Answer", "MetricQuery", "Metrics", "Row", "StateFilter"]

NEWEST_WINDOWS = 1_000  # windows an answer covers when no start was given
MAX_ROWS = 100_000  # of one answer: some 20 MB of JSON
MAX_WINDOWS = 200_000  # looked at for one answer: over two days of one-second windows
BATCH_WINDOWS = 200  # loaded in one round trip, so that memory follows the answer and not the range
_Covers = tuple[int | None, int | None, int | None]  # start, end and step of an answer
StateFilter = Literal["all", "closed", "final", "open", "retracted"]  # only sessions are retracted


@dataclass(frozen=True, slots=True)
class MetricQuery:
    """What was asked, checked and in milliseconds; `where` maps group fields to the values that are kept.

    `calendar`: the steps are its units. `group_by`: the fields that are told apart, None for all of the metric's.
    `values`: those that are shown, None for all. `other`: `limit` counts groups, and the rest of them are one row of
    each window. `after`: the last row of the page before.
    """

    metric: str
    start_ms: int | None = None
    end_ms: int | None = None
    step_ms: int | None = None
    where: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    order: str = "window"  # `window` or a value's name, `-` before it for descending
    limit: int = 10_000
    state: StateFilter = "all"
    calendar: Calendar | None = None
    group_by: tuple[str, ...] | None = None
    values: tuple[str, ...] | None = None
    fill: Fill = "none"
    other: bool = False
    after: Position | None = None

    @property
    def by_window(self) -> bool:
        return self.order in ("window", "-window")


@dataclass(frozen=True, slots=True)
class _Plan:
    """What an answer is made of: the windows or panes in order, and what they cover."""

    query: MetricQuery
    known: Known
    units: Sequence[Span]
    start_ms: int | None
    end_ms: int | None
    tier_ms: int | None


class Metrics:
    """The reading side of all metrics of a config."""

    def __init__(self, config: Config, client: redis.Redis) -> None:
        self._client = client
        self.programs = compile_programs(config)
        self._older: dict[tuple[str, str], Program] = {}

    def program(self, metric: str) -> Program:
        """The program of the version that answers now: an older one while a changed stage rebuilds.

        Raises:
            BadRequestError: 404, there is no such metric.
        """
        current = self.programs.get(metric)
        if current is None:
            known = did_you_mean(metric, sorted(self.programs))
            raise BadRequestError(f"there is no metric '{metric:.60}'.{known}", code="unknown_metric", status=404)
        active = self._client.execute_command("HGET", keys.versions(metric), "active")
        if active is None or active.decode() == current.version:
            return current
        return self._older_program(metric, active.decode())

    def _older_program(self, metric: str, version: str) -> Program:
        if (metric, version) not in self._older:
            text = self._client.execute_command("HGET", keys.versions(metric), f"definition:{version}")
            assert text is not None, f"{metric}@{version} answers and has no definition"
            self._older[metric, version] = program_of_definition(text, version)
        return self._older[metric, version]

    def completeness(self, program: Program) -> Completeness:
        """How far a metric is, from its checkpoints and what is still due."""
        if isinstance(program.window, Session):
            return SessionReader(self._client, program).completeness()
        return account(self._client, program)[0]

    def query(self, query: MetricQuery, checked_against: Program | None = None) -> Answer:
        """Answer a query over windows that overlap [start, end).

        `checked_against`: the program whose fields the query's names were checked with; a rebuilt version may become
        the active one in between.

        Raises:
            BadRequestError: the query cannot be answered exactly (422), or the range holds too many windows (400).
        """
        program = checked_against or self.program(query.metric)
        check_query(program, query)
        if isinstance(program.window, Session):
            return self._sessions(program, query)
        plan = self._plan(program, query)
        known = plan.known
        if query.other:
            batches = _batches(known.cut, plan.units, descending=False)
            cells = WindowCells(self._client, known)
            in_state = RowTable(known, (), state=query.state).in_state
            top = top_groups(known, (in_state(cells.read(batch)) for batch in batches), query.order, query.limit)
            known = replace(known, groups=self._groups(program, query, top))
            query = replace(query, order="window", limit=MAX_ROWS, other=False)
            plan = replace(plan, known=known, query=query)
        rows = RowTable(known, _computed(program, query), query.order, query.state, query.after)
        table = self._filled(plan, rows) if query.fill != "none" else self._first_rows(plan, rows)
        covers = (plan.start_ms, plan.end_ms, _step_of(known.cut))
        completeness = as_kept(self._client, program, known.completeness, plan.tier_ms)
        return _answer(query, rows, table, covers, completeness, plan.tier_ms)

    def question(self, query: MetricQuery, program: Program) -> tuple[Any, ...]:
        """What of a query decides its answer, with the range as it will be answered.

        Raises:
            BadRequestError: 422, the query cannot be answered exactly.
        """
        check_query(program, query)
        if isinstance(program.window, Session):
            return (query,)
        cut = checked_cut(program, query.step_ms, query.calendar)
        start_ms = None if query.start_ms is None else cut.begin(query.start_ms)
        end_ms = None if query.end_ms is None else cut.end(query.end_ms)
        return (replace(query, start_ms=start_ms, end_ms=end_ms),)

    def state(self, program: Program) -> MetricState:
        """What an answer depends on; to be read before it."""
        return read_state(self._client, program)

    def _plan(self, program: Program, query: MetricQuery) -> _Plan:
        cut = checked_cut(program, query.step_ms, query.calendar)
        start_ms = None if query.start_ms is None else cut.begin(query.start_ms)
        end_ms = None if query.end_ms is None else cut.end(query.end_ms)
        # what is due first: a window published in between is then found twice, never not at all
        completeness, due = account(self._client, program)
        tier_ms, coarse = self._tier(cut, start_ms, end_ms)
        fine = self._published(program, start_ms, end_ms)
        newest = coarse or fine
        if start_ms is None and len(newest) == NEWEST_WINDOWS:
            start_ms = cut.end(min(start for start, _ in newest))  # no step is cut

        def is_covered(span: Span) -> bool:
            """Whether a window of a tier that has been published answers for this one."""
            return tier_ms is not None and span not in coarse and tier_span(program, span, tier_ms) in coarse

        published = coarse | {span for span in fine if not is_covered(span)}
        known = Known(program, cut, completeness, published, self._groups(program, query), cut.over_panes)
        units = self._panes(program) if known.of_panes else self._windows(known, due, query.state)
        # a window that waits to be revised is covered too: its tier is revised after it
        units = {unit for unit in units if _overlaps(unit, start_ms, end_ms) and not is_covered(unit)}
        check_fitting(cut, units, (start_ms, end_ms, completeness.watermark_ms))
        return _Plan(query, known, sorted(units), start_ms, end_ms, tier_ms)

    def _tier(self, cut: Cut, start_ms: int | None, end_ms: int | None) -> tuple[int | None, set[Span]]:
        """The coarsest tier that answers exactly, and its published windows."""
        for tier_ms in tiers_for(cut):
            coarse = self._published(cut.program, start_ms, end_ms, tier_ms)
            if cut.calendar is None or (coarse and all(map(cut.holds, coarse))):
                return tier_ms, coarse
        return None, set()

    def _groups(self, program: Program, query: MetricQuery, top: Sequence[bytes] | None = None) -> AnswerGroups:
        fields = program.stage.group_by if query.group_by is None else query.group_by
        return AnswerGroups(program, fields, group_filter(program, query.where), top)

    def _sessions(self, program: Program, query: MetricQuery) -> Answer:
        groups = self._groups(program, query)
        found = SessionReader(self._client, program).query(query, groups)
        return self._of_sessions(program, groups, found, query)

    def _of_sessions(self, program: Program, groups: AnswerGroups, found: SessionAnswer, query: MetricQuery) -> Answer:
        about = SESSION_TYPES if found.step_ms is None else SESSION_STEP_TYPES
        fields = answer_fields(program, about, groups.fields, _shown(program, query))
        table = found.table if len(found.table) else empty_table(fields)
        if query.after is not None:
            table = table.after(query.after, groups, query.order)
        table = table.in_order(groups, query.order, query.limit + 1)
        shown = table.head(query.limit)
        truncated = len(table) > query.limit
        return Answer(
            program,
            fields,
            shown.columns(groups, _shown(program, query)),
            found.start_ms,
            found.end_ms,
            found.step_ms,
            as_kept(self._client, program, found.completeness),
            truncated,
            last=shown.last(groups, query.order) if truncated else None,
        )

    def _windows(self, known: Known, due: Sequence[Mapping[int, Due]], state: StateFilter) -> set[Span]:
        """The windows that have something to show: those published, and open ones unless they are not wanted."""
        if state in ("closed", "final"):
            return known.published
        return known.published.union(waiting_windows(known.program, due))

    def _panes(self, program: Program) -> set[Span]:
        """Every pane there is, in any partition."""
        stream = program.stream
        marks = [
            store.pane_marks(self._client, stream.name, partition, program.group)
            for partition in range(stream.partitions)
        ]
        return {(start, start + pane_width_ms(program)) for panes in marks for start in panes}

    def _first_rows(self, plan: _Plan, rows: RowTable) -> Table:
        """The first rows of the answer, in its order, one more than the limit where there are more."""
        query, known = plan.query, plan.known
        cells = WindowCells(self._client, known)
        count = query.limit + 1
        tables: list[Table] = []
        for batch in _batches(known.cut, _still_to_come(plan), descending=query.order == "-window"):
            tables.append(rows.finished(cells.read(batch), count))
            found = sum(map(len, tables))
            if query.by_window and found >= count:
                break
            if not query.by_window and found > 2 * count:  # any window may hold a first row: keep the best so far
                tables = [together(tables).in_order(known.groups, query.order, count)]
        table = together(tables) if tables else empty_table(_fields(rows, query))
        return table if query.by_window else table.in_order(known.groups, query.order, count)

    def _filled(self, plan: _Plan, rows: RowTable) -> Table:
        """All rows with those of windows without events, then the first of them."""
        query, known = plan.query, plan.known
        everything = RowTable(known, rows.names, "window", query.state)
        cells = WindowCells(self._client, known)
        tables = [everything.finished(cells.read(batch)) for batch in _batches(known.cut, plan.units, descending=False)]
        if sum(map(len, tables)) > MAX_FILLED:
            raise too_many_rows(sum(map(len, tables)))
        table = together(tables) if tables else empty_table(_fields(rows, query))
        table = filled(table, known, query.fill, plan.start_ms, plan.end_ms)
        rows.capped, rows.failed = everything.capped, everything.failed
        if query.state != "all":
            wanted = {"closed": ("closed", "final")}.get(query.state, (query.state,))
            table = table.where(np.array([state in wanted for state in table.about["state"]], dtype=np.bool_))
        if query.after is not None:
            table = table.after(query.after, known.groups, query.order)
        return table.in_order(known.groups, query.order, query.limit + 1)

    def _published(
        self, program: Program, start_ms: int | None, end_ms: int | None, tier_ms: int | None = None
    ) -> set[Span]:
        """The published windows (of a tier) that overlap a range; the newest ones when it has no start."""
        longest_ms = longest_window_ms(program) if tier_ms is None else tier_ms
        windows = store.published_windows(
            self._client,
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

    def latest(self, metric: str, checked_against: Program | None = None) -> Answer:
        """The newest closed window."""
        program = checked_against or self.program(metric)
        query = MetricQuery(metric, limit=MAX_ROWS)
        groups = self._groups(program, query)
        if isinstance(program.window, Session):
            found = SessionReader(self._client, program).latest(MAX_ROWS + 1, groups)
            return replace(self._of_sessions(program, groups, found, query), last=None)
        completeness = self.completeness(program)
        windows = store.published_windows(self._client, program.name, program.version, limit=1)
        known = Known(program, Cut(program), completeness, set(windows), groups)
        rows = RowTable(known, list(program.value_types))
        table = rows.finished(WindowCells(self._client, known).read(windows), MAX_ROWS + 1)
        start_ms, end_ms = windows[0] if windows else (None, None)
        return self._whole_answer(query, rows, table, (start_ms, end_ms, natural_step_ms(program)))

    def rolling(
        self,
        metric: str,
        window_ms: int,
        at_ms: int,
        where: Mapping[str, Sequence[Any]],
        checked_against: Program | None = None,
    ) -> Answer:
        """The values over the window that ends at `at_ms`, or with the pane it is within; empty when nothing came.

        Raises:
            BadRequestError: 422, the window is not a multiple of the metric's pane, or it has no panes.
        """
        program = checked_against or self.program(metric)
        start_ms, end_ms = rolling_span(program, window_ms, at_ms)
        width_ms = rolling_width(program, window_ms)
        query = MetricQuery(metric, where=where, limit=MAX_ROWS)
        completeness = self.completeness(program)
        known = Known(program, Cut(program), completeness, set(), self._groups(program, query), of_panes=True)
        rows = RowTable(known, list(program.value_types))
        panes = [(start, start + width_ms) for start in range(start_ms, end_ms, width_ms)]
        table = rows.finished(WindowCells(self._client, known).read_as((start_ms, end_ms), panes), MAX_ROWS + 1)
        return self._whole_answer(query, rows, table, (start_ms, end_ms, window_ms))

    def _whole_answer(self, query: MetricQuery, rows: RowTable, table: Table, covers: _Covers) -> Answer:
        """All rows that were merged, as an answer."""
        completeness = as_kept(self._client, rows.known.program, rows.known.completeness)
        return replace(_answer(query, rows, table, covers, completeness), last=None)


def rolling_span(program: Program, window_ms: int, at_ms: int) -> Span:
    """Where a trailing window begins and ends.

    Raises:
        BadRequestError: 422, the window is not a multiple of the metric's pane, or it has no panes.
    """
    end_ms = aligned_up(program, at_ms, rolling_width(program, window_ms))
    return end_ms - window_ms, end_ms


def _answer(
    query: MetricQuery,
    rows: RowTable,
    table: Table,
    covers: _Covers,
    completeness: Completeness,
    tier_ms: int | None = None,
) -> Answer:
    """The rows up to the limit, and what they cover."""
    known = rows.known
    groups, program = known.groups, known.program
    truncated = len(table) > query.limit
    shown = table.head(query.limit)
    others = {OTHER} if OTHERS in {groups.shown.names[number] for number in set(shown.groups.tolist())} else set()
    asked = _shown(program, query)
    return Answer(
        program,
        _fields(rows, query),
        shown.columns(groups, asked),
        *covers,
        completeness,
        truncated,
        tier_ms,
        frozenset((rows.capped & asked.keys()) | (others if groups.top is None else set())),
        frozenset(rows.failed & asked.keys()),
        known.cut.calendar,
        shown.last(groups, query.order) if truncated else None,
    )


def _fields(rows: RowTable, query: MetricQuery) -> tuple[AnswerColumn, ...]:
    about = {} if query.fill == "none" else FILLED_TYPES
    return answer_fields(rows.known.program, about, rows.known.groups.fields, _shown(rows.known.program, query))


def _shown(program: Program, query: MetricQuery) -> dict[str, str]:
    """The values of rows with their types; on a line between two counts there are numbers that are no counts."""
    types = {n: kind for n, kind in program.value_types.items() if query.values is None or n in query.values}
    return {n: "float" if query.fill == "linear" and kind == "int" else kind for n, kind in types.items()}


def _computed(program: Program, query: MetricQuery) -> list[str]:
    """The values that have to be finished: those that are shown, and what orders or fills them."""
    wanted = {*_shown(program, query), query.order.removeprefix("-")}
    if query.fill == "auto":
        wanted |= program.selection.needs(wanted)
    return [name for name in program.value_types if name in wanted]


def _step_of(cut: Cut) -> int | None:
    if cut.calendar is not None:
        return None
    return cut.step_ms if cut.step_ms is not None else natural_step_ms(cut.program)


def _still_to_come(plan: _Plan) -> Sequence[Span]:
    """The windows that can hold rows after the page before; in order of a value any can."""
    query, cut = plan.query, plan.known.cut
    if query.after is None or not query.by_window:
        return plan.units
    last = (query.after.start_ms, query.after.end_ms)
    if query.order == "-window":
        return [unit for unit in plan.units if cut.row_of(unit) <= last]
    return [unit for unit in plan.units if cut.row_of(unit) >= last]


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
