"""A metric over a range of time: published windows from their results, open ones from their panes, merged and finished.

Every answer says up to where it is complete. Partials are merged in the fixed order (window start, from_end,
partition), so a wider step gives the same bits whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import redis

from pipeline.core.cells import OTHER, OTHERS
from pipeline.core.definitions import Config, Session
from pipeline.core.programs import Program, compile_programs, program_of_definition
from pipeline.core.spelling import did_you_mean
from pipeline.core.windows import Span
from pipeline.errors import BadRequestError
from pipeline.rim import keys, store
from pipeline.rim.store import Due
from pipeline.runtime.answer import Answer, Row, Table, answer_fields, empty_table, together
from pipeline.runtime.answer_groups import AnswerGroups, group_filter
from pipeline.runtime.closer import waiting_windows
from pipeline.runtime.metric_completeness import Completeness, account, as_kept
from pipeline.runtime.session_query import SessionAnswer, SessionReader
from pipeline.runtime.steps import (
    Cut,
    aligned_up,
    checked_cut,
    longest_window_ms,
    natural_step_ms,
    pane_width_ms,
    rolling_width,
    tier_for,
    tier_span,
)
from pipeline.runtime.window_cells import Known, WindowCells
from pipeline.runtime.window_rows import RowTable

__all__ = ["Answer", "MetricQuery", "Metrics", "Row", "StateFilter"]

NEWEST_WINDOWS = 1_000  # windows an answer covers when no start was given
MAX_ROWS = 100_000  # of one answer: some 20 MB of JSON
MAX_WINDOWS = 200_000  # looked at for one answer: over two days of one-second windows
BATCH_WINDOWS = 200  # loaded in one round trip, so that memory follows the answer and not the range
StateFilter = Literal["all", "closed", "final", "open", "retracted"]  # only sessions are retracted


@dataclass(frozen=True, slots=True)
class MetricQuery:
    """What was asked, checked and in milliseconds; `where` maps group fields to the values that are kept."""

    metric: str
    start_ms: int | None = None
    end_ms: int | None = None
    step_ms: int | None = None
    where: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    order: str = "window"  # `window` or a value's name, `-` before it for descending
    limit: int = 10_000
    state: StateFilter = "all"


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
            BadRequestError: the step does not fit the window (422), or the range holds too many windows (400).
        """
        program = checked_against or self.program(query.metric)
        if isinstance(program.window, Session):
            return self._sessions(program, query)
        if query.state == "retracted":
            raise BadRequestError(
                f"state=retracted: {program.name} has no sessions, and only they are retracted", code="bad_state"
            )
        cut = checked_cut(program, query.step_ms)
        start_ms = None if query.start_ms is None else cut.begin(query.start_ms)
        end_ms = None if query.end_ms is None else cut.end(query.end_ms)
        # what is due first: a window published in between is then found twice, never not at all
        completeness, due = account(self._client, program)
        tier_ms = tier_for(cut)
        coarse = set[Span]() if tier_ms is None else self._published(program, start_ms, end_ms, tier_ms)
        fine = self._published(program, start_ms, end_ms)
        newest = coarse or fine
        if start_ms is None and len(newest) == NEWEST_WINDOWS:
            start_ms = cut.end(min(start for start, _ in newest))  # no step is cut

        def is_covered(span: Span) -> bool:
            """Whether a window of a tier that has been published answers for this one."""
            return tier_ms is not None and span not in coarse and tier_span(program, span, tier_ms) in coarse

        published = coarse | {span for span in fine if not is_covered(span)}
        known = Known(program, cut, completeness, published, self._groups(program, query.where), cut.over_panes)
        units = self._panes(program) if known.of_panes else self._windows(known, due, query.state)
        # a window that waits to be revised is covered too: its tier is revised after it
        units = {unit for unit in units if _overlaps(unit, start_ms, end_ms) and not is_covered(unit)}
        rows, table = self._first_rows(known, sorted(units), query)
        return self._answer(
            rows,
            table.head(query.limit),
            (start_ms, end_ms, cut.step_ms if cut.step_ms is not None else natural_step_ms(program)),
            as_kept(self._client, program, completeness, tier_ms),
            truncated=len(table) > query.limit,
            tier_ms=tier_ms,
        )

    def _groups(self, program: Program, where: Mapping[str, Sequence[Any]]) -> AnswerGroups:
        return AnswerGroups(program, program.stage.group_by, group_filter(program, where))

    def _answer(
        self,
        rows: RowTable,
        table: Table,
        covers: tuple[int | None, int | None, int | None],
        completeness: Completeness,
        *,
        truncated: bool,
        tier_ms: int | None = None,
    ) -> Answer:
        groups, program = rows.known.groups, rows.known.program
        others = (
            {OTHER} if any(groups.shown.names[number] == OTHERS for number in set(table.groups.tolist())) else set()
        )
        return Answer(
            program,
            rows.fields,
            table.columns(groups),
            *covers,
            completeness,
            truncated,
            tier_ms,
            frozenset(rows.capped | others),
            frozenset(rows.failed),
        )

    def _sessions(self, program: Program, query: MetricQuery) -> Answer:
        groups = self._groups(program, query.where)
        found = SessionReader(self._client, program).query(query, groups)
        return self._of_sessions(program, groups, found, query.order, query.limit)

    def _of_sessions(
        self, program: Program, groups: AnswerGroups, found: SessionAnswer, order: str, limit: int
    ) -> Answer:
        fields = answer_fields(
            program, is_step=found.step_ms is not None, group_by=groups.fields, values=list(program.value_types)
        )
        table = found.table if len(found.table) else empty_table(fields)
        shown = table.in_order(groups, order, limit + 1)
        completeness = as_kept(self._client, program, found.completeness)
        covers = (found.start_ms, found.end_ms, found.step_ms)
        return Answer(program, fields, shown.head(limit).columns(groups), *covers, completeness, len(shown) > limit)

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

    def _first_rows(self, known: Known, units: Sequence[Span], query: MetricQuery) -> tuple[RowTable, Table]:
        """The first rows of the answer, in its order, one more than the limit where there are more."""
        cells = WindowCells(self._client, known)
        rows = RowTable(known, query.order, query.state)
        by_window = query.order in ("window", "-window")
        count = query.limit + 1
        tables: list[Table] = []
        for batch in _batches(known.cut, units, descending=query.order == "-window"):
            tables.append(rows.finished(cells.read(batch), count))
            found = sum(map(len, tables))
            if by_window and found >= count:
                break
            if not by_window and found > 2 * count:  # any window may hold a first row: keep the best so far
                tables = [together(tables).in_order(known.groups, query.order, count)]
        table = together(tables) if tables else empty_table(rows.fields)
        return rows, table if by_window else table.in_order(known.groups, query.order, count)

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

    def latest(self, metric: str) -> Answer:
        """The newest closed window."""
        program = self.program(metric)
        groups = self._groups(program, {})
        if isinstance(program.window, Session):
            found = SessionReader(self._client, program).latest(MAX_ROWS + 1, groups)
            return self._of_sessions(program, groups, found, "window", MAX_ROWS)
        completeness = self.completeness(program)
        windows = store.published_windows(self._client, program.name, program.version, limit=1)
        known = Known(program, Cut(program), completeness, set(windows), groups)
        rows = RowTable(known)
        table = rows.finished(WindowCells(self._client, known).read(windows), MAX_ROWS + 1)
        start_ms, end_ms = windows[0] if windows else (None, None)
        return self._whole_answer(rows, table, (start_ms, end_ms, natural_step_ms(program)))

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
        width_ms = rolling_width(program, window_ms)
        end_ms = aligned_up(program, at_ms, width_ms)
        start_ms = end_ms - window_ms
        completeness = self.completeness(program)
        known = Known(program, Cut(program), completeness, set(), self._groups(program, where), of_panes=True)
        rows = RowTable(known)
        panes = [(start, start + width_ms) for start in range(start_ms, end_ms, width_ms)]
        table = rows.finished(WindowCells(self._client, known).read_as((start_ms, end_ms), panes), MAX_ROWS + 1)
        return self._whole_answer(rows, table, (start_ms, end_ms, window_ms))

    def _whole_answer(self, rows: RowTable, table: Table, covers: tuple[int | None, int | None, int | None]) -> Answer:
        """All rows that were merged, as an answer."""
        completeness = as_kept(self._client, rows.known.program, rows.known.completeness)
        return self._answer(rows, table.head(MAX_ROWS), covers, completeness, truncated=len(table) > MAX_ROWS)


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
