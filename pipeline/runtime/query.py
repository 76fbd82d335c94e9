"""A metric over a range of time: published windows from their results, open ones from their panes, merged and finished.

Every answer says up to where it is complete. Partials are merged in the fixed order (window start, from_end,
partition), so a wider step gives the same bits whoever asks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import redis

from pipeline.core.cell_fields import OTHER, OTHERS
from pipeline.core.definitions import SESSION_TYPES, Config, Session
from pipeline.core.programs import Program, compile_programs, program_of_definition
from pipeline.core.spelling import did_you_mean
from pipeline.core.windows import Span
from pipeline.errors import BadRequestError
from pipeline.rim import keys, store
from pipeline.runtime.answer import (
    FILLED_TYPES,
    SESSION_STEP_TYPES,
    Answer,
    AnswerColumn,
    Table,
    answer_fields,
    empty_table,
    together,
)
from pipeline.runtime.answer_groups import AnswerGroups, group_filter
from pipeline.runtime.filling import MAX_FILLED, filled, too_many_rows
from pipeline.runtime.metric_completeness import Completeness, account, as_kept
from pipeline.runtime.metric_query import MAX_ROWS, MetricQuery
from pipeline.runtime.metric_state import MetricState, read_state
from pipeline.runtime.query_checks import check_query
from pipeline.runtime.query_plan import Plan, plan_of
from pipeline.runtime.session_query import SessionAnswer, SessionReader
from pipeline.runtime.steps import (
    Cut,
    aligned_up,
    checked_cut,
    natural_step_ms,
    rolling_width,
)
from pipeline.runtime.top_groups import top_groups
from pipeline.runtime.window_cells import Known, WindowCells
from pipeline.runtime.window_rows import RowTable

_Covers = tuple[int | None, int | None, int | None]  # start, end and step of an answer


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
        plan = plan_of(self._client, program, query, self._groups(program, query))
        known = plan.known
        if query.other:
            cells = WindowCells(self._client, known)
            in_state = RowTable(known, (), state=query.state).in_state
            read = (in_state(cells.read(batch)) for batch in plan.batches())
            top = top_groups(known, read, query.order, query.limit)
            known = replace(known, groups=self._groups(program, query, top))
            query = replace(query, order="window", limit=MAX_ROWS, other=False)
            plan = replace(plan, known=known, query=query)
        rows = RowTable(known, query.computed(program), query.order, query.state, query.after)
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

    def _groups(self, program: Program, query: MetricQuery, top: Sequence[bytes] | None = None) -> AnswerGroups:
        fields = program.stage.group_by if query.group_by is None else query.group_by
        return AnswerGroups(program, fields, group_filter(program, query.where), top)

    def _sessions(self, program: Program, query: MetricQuery) -> Answer:
        groups = self._groups(program, query)
        found = SessionReader(self._client, program).query(query, groups)
        return self._of_sessions(program, groups, found, query)

    def _of_sessions(self, program: Program, groups: AnswerGroups, found: SessionAnswer, query: MetricQuery) -> Answer:
        about = SESSION_TYPES if found.step_ms is None else SESSION_STEP_TYPES
        fields = answer_fields(program, about, groups.fields, query.shown(program))
        table = found.table if len(found.table) else empty_table(fields)
        if query.after is not None:
            table = table.after(query.after, groups, query.order)
        table = table.in_order(groups, query.order, query.limit + 1)
        shown = table.head(query.limit)
        truncated = len(table) > query.limit
        return Answer(
            program,
            fields,
            shown.columns(groups, query.shown(program)),
            found.start_ms,
            found.end_ms,
            found.step_ms,
            as_kept(self._client, program, found.completeness),
            truncated,
            last=shown.last(groups, query.order) if truncated else None,
        )

    def _first_rows(self, plan: Plan, rows: RowTable) -> Table:
        """The first rows of the answer, in its order, one more than the limit where there are more."""
        query, known = plan.query, plan.known
        cells = WindowCells(self._client, known)
        count = query.limit + 1
        tables: list[Table] = []
        for batch in plan.still_to_come():
            tables.append(rows.finished(cells.read(batch), count))
            found = sum(map(len, tables))
            if query.by_window and found >= count:
                break
            if not query.by_window and found > 2 * count:  # any window may hold a first row: keep the best so far
                tables = [together(tables).in_order(known.groups, query.order, count)]
        table = together(tables) if tables else empty_table(_fields(rows, query))
        return table if query.by_window else table.in_order(known.groups, query.order, count)

    def _filled(self, plan: Plan, rows: RowTable) -> Table:
        """All rows with those of windows without events, then the first of them."""
        query, known = plan.query, plan.known
        everything = RowTable(known, rows.names, "window", query.state)
        cells = WindowCells(self._client, known)
        tables = [everything.finished(cells.read(batch)) for batch in plan.batches()]
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
    asked = query.shown(program)
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
    return answer_fields(rows.known.program, about, rows.known.groups.fields, query.shown(rows.known.program))


def _step_of(cut: Cut) -> int | None:
    if cut.calendar is not None:
        return None
    return cut.step_ms if cut.step_ms is not None else natural_step_ms(cut.program)
