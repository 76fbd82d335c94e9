"""A metric over a range of time: published windows from their results, open ones from their panes, merged and finished.

Every answer says up to where it is complete. Partials are merged in the fixed order (window start, from_end,
partition), so a wider step gives the same bits whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

import numpy as np
import redis

from pipeline.core.accumulators import Slots
from pipeline.core.cells import OTHER, OTHERS, CellTable
from pipeline.core.definitions import Config, Session
from pipeline.core.merging import Piece, matching, merge_window, pieces_of
from pipeline.core.programs import Program, compile_programs, program_of_definition
from pipeline.core.spelling import did_you_mean
from pipeline.core.windows import FOREVER_MS, Span
from pipeline.errors import BadRequestError
from pipeline.rim import keys, store
from pipeline.rim.store import Due
from pipeline.runtime.closer import state_at, waiting_windows
from pipeline.runtime.finishing import finished_rows, group_order, group_values
from pipeline.runtime.metric_completeness import Completeness, account, as_kept
from pipeline.runtime.session_query import SessionReader
from pipeline.runtime.steps import (
    aligned,
    aligned_up,
    checked_step,
    longest_window_ms,
    natural_step_ms,
    pane_width_ms,
    rolling_width,
    settles_at_ms,
    steps_over_panes,
    tier_for,
    tier_span,
)

NEWEST_WINDOWS = 1_000  # windows an answer covers when no start was given
MAX_ROWS = 100_000  # of one answer: some 20 MB of JSON
MAX_WINDOWS = 200_000  # looked at for one answer: over two days of one-second windows
BATCH_WINDOWS = 200  # loaded in one round trip, so that memory follows the answer and not the range
State = str  # open | closed | final
StateFilter = Literal["all", "closed", "final", "open", "retracted"]  # only sessions are retracted

Row = dict[str, Any]


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


@dataclass(frozen=True, slots=True)
class Answer:
    """Flat rows, one per window and group, what the answer covers, and the program that made it."""

    program: Program
    rows: list[Row]
    start_ms: int | None
    end_ms: int | None
    step_ms: int | None
    completeness: Completeness
    truncated: bool
    tier_ms: int | None = None  # the tier that was merged where it has windows
    capped: frozenset[str] = frozenset()  # values that a cap kept something out of, in some row; `__other__` for groups
    failed: frozenset[str] = frozenset()  # values that are null in some row since a registered aggregate failed


@dataclass(frozen=True, slots=True)
class _Range:
    """What is read once for an answer: how it is cut, how complete it is, what is due, what is published.

    `of_panes`: its rows are merged from panes that make no window together, and hold whatever was accepted in them.
    """

    program: Program
    step_ms: int | None
    completeness: Completeness
    published: set[Span]
    of_panes: bool = False

    def settles_at_ms(self, span: Span) -> int:
        """The watermark at which a row has all its events, but for late ones that are allowed."""
        return settles_at_ms(self.program, span) if self.of_panes else span[1]

    def bucket(self, unit: Span) -> Span:
        """The row that a window or pane belongs to: itself, or the step it lies in."""
        if self.step_ms is None:
            return unit
        start_ms = aligned(self.program, unit[0], self.step_ms)
        return start_ms, start_ms + self.step_ms


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
        step_ms = checked_step(program, query.step_ms)
        start_ms, end_ms = query.start_ms, query.end_ms
        if step_ms is not None:
            start_ms = None if start_ms is None else aligned(program, start_ms, step_ms)
            end_ms = None if end_ms is None else aligned_up(program, end_ms, step_ms)
        # what is due first: a window published in between is then found twice, never not at all
        completeness, due = account(self._client, program)
        tier_ms = tier_for(program, step_ms)
        coarse = set[Span]() if tier_ms is None else self._published(program, start_ms, end_ms, tier_ms)
        fine = self._published(program, start_ms, end_ms)
        newest = coarse or fine
        if start_ms is None and len(newest) == NEWEST_WINDOWS:
            start_ms = min(start for start, _ in newest)
            start_ms = start_ms if step_ms is None else aligned_up(program, start_ms, step_ms)  # no step is cut

        def is_covered(span: Span) -> bool:
            """Whether a window of a tier that has been published answers for this one."""
            return tier_ms is not None and span not in coarse and tier_span(program, span, tier_ms) in coarse

        published = coarse | {span for span in fine if not is_covered(span)}
        known = _Range(program, step_ms, completeness, published, steps_over_panes(program, step_ms))
        units = self._panes(program) if known.of_panes else self._windows(known, due, query.state)
        # a window that waits to be revised is covered too: its tier is revised after it
        units = {unit for unit in units if _overlaps(unit, start_ms, end_ms) and not is_covered(unit)}
        rows, capped, failed = self._first_rows(known, sorted(units), query)
        return Answer(
            program=program,
            rows=rows[: query.limit],
            start_ms=start_ms,
            end_ms=end_ms,
            step_ms=step_ms if step_ms is not None else natural_step_ms(program),
            completeness=as_kept(self._client, program, completeness, tier_ms),
            truncated=len(rows) > query.limit,
            tier_ms=tier_ms,
            capped=capped,
            failed=failed,
        )

    def _sessions(self, program: Program, query: MetricQuery) -> Answer:
        found = SessionReader(self._client, program).query(query, group_filter(program, query.where))
        rows = _ordered(program, found.rows, query.order)
        truncated = len(rows) > query.limit
        start_ms, end_ms = found.start_ms, found.end_ms
        completeness = as_kept(self._client, program, found.completeness)
        return Answer(program, rows[: query.limit], start_ms, end_ms, query.step_ms, completeness, truncated)

    def _windows(self, known: _Range, due: Sequence[Mapping[int, Due]], state: StateFilter) -> set[Span]:
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

    def _first_rows(
        self, known: _Range, units: Sequence[Span], query: MetricQuery
    ) -> tuple[list[Row], frozenset[str], frozenset[str]]:
        """The first rows of the answer, in its order, one more than the limit where there are more; caps; failures."""
        program = known.program
        matches = group_filter(program, query.where)
        by_window = query.order in ("window", "-window")
        rows: list[Row] = []
        capped: set[str] = set()
        failed: set[str] = set()
        for batch in _batches(known, units, descending=query.order == "-window"):
            merging = self._merged(known, batch, matches)
            found = [row for row in merging.rows() if _is_wanted(row["state"], query.state)]
            capped |= merging.capped()
            failed |= merging.failed()
            rows += _ordered(program, found, query.order) if by_window else found
            if by_window and len(rows) > query.limit:
                break
            if len(rows) > 2 * query.limit:  # by a value, any window may hold a first row: keep the best so far
                rows = _ordered(program, rows, query.order)[: query.limit + 1]
        return (rows if by_window else _ordered(program, rows, query.order)), frozenset(capped), frozenset(failed)

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

    def _merged(self, known: _Range, units: Sequence[Span], matches: Callable[[bytes], bool]) -> _Merging:
        """Merge some windows (or panes) to the rows they belong to."""
        program = known.program
        buckets = {bucket: number for number, bucket in enumerate(sorted({known.bucket(unit) for unit in units}))}
        merging = _Merging(known, CellTable(program.layout), buckets)
        over_panes = known.of_panes
        results = [] if over_panes else [unit for unit in units if unit in known.published]
        merging.results(store.load_results(self._client, program.name, program.version, results), matches)
        rest = units if over_panes else [unit for unit in units if unit not in known.published]
        starts = (
            [unit[0] for unit in rest] if over_panes else [s for unit in rest for s in program.panes.panes_of(unit)]
        )
        pieces = self._pieces(program, sorted(set(starts)), matches)
        for unit in rest:
            panes = [unit[0]] if over_panes else program.panes.panes_of(unit)
            merging.panes(unit, (piece for start in panes for piece in pieces.get(start, ())))
        return merging

    def _pieces(
        self, program: Program, starts: Sequence[int], matches: Callable[[bytes], bool]
    ) -> dict[int, list[Piece]]:
        """The cells of panes by start, in all partitions."""
        found: dict[int, list[Piece]] = {}
        for partition in range(program.stream.partitions):
            panes = store.load_panes(self._client, program.stream.name, partition, program.group, starts)
            for start, stored in panes.items():
                pieces = pieces_of(program.layout, partition, start, stored)
                found.setdefault(start, []).extend(matching(piece, matches) for piece in pieces)
        return found

    def latest(self, metric: str) -> Answer:
        """The newest closed window."""
        program = self.program(metric)
        if isinstance(program.window, Session):
            found = SessionReader(self._client, program).latest(MAX_ROWS + 1)
            rows = _ordered(program, found.rows, "window")
            completeness = as_kept(self._client, program, found.completeness)
            return Answer(program, rows[:MAX_ROWS], None, None, None, completeness, len(rows) > MAX_ROWS)
        completeness = self.completeness(program)
        windows = store.published_windows(self._client, program.name, program.version, limit=1)
        known = _Range(program, None, completeness, set(windows))
        start_ms, end_ms = windows[0] if windows else (None, None)
        merging = self._merged(known, windows, lambda group: True)
        return self._whole_answer(merging, start_ms, end_ms, natural_step_ms(program))

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
        known = _Range(program, None, completeness, set(), of_panes=True)
        merging = _Merging(known, CellTable(program.layout), {(start_ms, end_ms): 0})
        pieces = self._pieces(program, range(start_ms, end_ms, width_ms), group_filter(program, where))
        merging.panes((start_ms, end_ms), (piece for panes in pieces.values() for piece in panes))
        return self._whole_answer(merging, start_ms, end_ms, window_ms)

    def _whole_answer(self, merging: _Merging, start_ms: int | None, end_ms: int | None, step_ms: int | None) -> Answer:
        """All rows that were merged, as an answer."""
        program = merging.known.program
        rows = _ordered(program, merging.rows(), "window")
        return Answer(
            program=program,
            rows=rows[:MAX_ROWS],
            start_ms=start_ms,
            end_ms=end_ms,
            step_ms=step_ms,
            completeness=as_kept(self._client, program, merging.known.completeness),
            truncated=len(rows) > MAX_ROWS,
            capped=merging.capped(),
            failed=merging.failed(),
        )


@dataclass(slots=True)
class _Merging:
    """Rows under way: a table with one pane for each row's span, and how final each is."""

    known: _Range
    table: CellTable
    buckets: Mapping[Span, int]
    about: dict[int, tuple[set[State], int]] = field(default_factory=dict)

    def results(self, results: Sequence[store.Result], matches: Callable[[bytes], bool]) -> None:
        """Merge published windows, in their order."""
        program = self.known.program
        cells: list[tuple[int, bytes]] = []
        packed: list[bytes] = []
        for result in results:
            number = self.buckets[self.known.bucket((result.start_ms, result.end_ms))]
            wanted = [n for n, group in enumerate(result.groups) if matches(group)]
            cells += [(number, result.groups[n]) for n in wanted]
            packed += [result.cells[n] for n in wanted]
            state = state_at(program, result.end_ms, self.known.completeness.watermark_ms)
            self._see(number, "final" if "final" in (state, result.state) else "closed", result.revision)
        if cells:
            self.table.merge(cells, program.layout.unpack(packed))

    def panes(self, unit: Span, pieces: Iterable[Piece]) -> None:
        """Merge the panes of a window (or a pane alone) into its row."""
        known = self.known
        bucket = known.bucket(unit)
        number, settles_ms = self.buckets[bucket], known.settles_at_ms(bucket)
        merge_window(self.table, number, FOREVER_MS if known.of_panes else bucket[1], pieces)
        complete_ms = known.completeness.complete_to_ms
        is_open = complete_ms is None or settles_ms > complete_ms
        self._see(number, "open" if is_open else self._state_of(settles_ms), 0)

    def _state_of(self, end_ms: int) -> State:
        return state_at(self.known.program, end_ms, self.known.completeness.watermark_ms)

    def _see(self, number: int, state: State, revision: int) -> None:
        states, newest = self.about.setdefault(number, (set(), 0))
        self.about[number] = (states | {state}, max(newest, revision))

    def rows(self) -> list[Row]:
        """One row for each span and group."""
        program = self.known.program
        cells = [
            (span, group, slot)
            for span, number in self.buckets.items()
            for group, slot in self.table.panes.get(number, {}).items()
        ]
        slots = np.array([slot for *_, slot in cells], dtype=np.intp)
        values = finished_rows(program, self.table.columns, slots, [span[1] for span, *_ in cells])
        states = {span: self._row_state(span) for span in self.buckets}
        return [
            {
                "window_start": span[0],
                "window_end": span[1],
                "state": states[span][0],
                "revision": states[span][1],
                **group_values(program, group),
                **row,
            }
            for (span, group, _), row in zip(cells, values, strict=True)
        ]

    def capped(self) -> frozenset[str]:
        """The values that a cap kept something out of, and `__other__` where it was groups."""
        slots, finishers = self._slots(), self.known.program.finishers
        names = {each.spec.name for each in finishers if any(each.truncated(self.table.columns, slots))}
        has_others = any(OTHERS in cells for cells in self.table.panes.values())
        return frozenset(names | ({OTHER} if has_others else set()))

    def failed(self) -> frozenset[str]:
        """The values that a registered aggregate could not give for some row."""
        slots, finishers = self._slots(), self.known.program.finishers
        return frozenset(each.spec.name for each in finishers if each.failed(self.table.columns, slots))

    def _slots(self) -> Slots:
        return np.array([slot for cells in self.table.panes.values() for slot in cells.values()], dtype=np.intp)

    def _row_state(self, span: Span) -> tuple[State, int]:
        """The least final state of what was merged; a step is open while it reaches beyond what is complete."""
        states, revision = self.about.get(self.buckets[span], (set[State](), 0))
        complete_ms = self.known.completeness.complete_to_ms
        is_step = self.known.step_ms is not None and self.known.step_ms != natural_step_ms(self.known.program)
        if is_step and (complete_ms is None or span[1] > complete_ms):
            return "open", revision
        return next((state for state in ("open", "closed") if state in states), "final"), revision


def _is_wanted(state: State, wanted: StateFilter) -> bool:
    return wanted == "all" or state == wanted or (wanted == "closed" and state == "final")


def _batches(known: _Range, units: Sequence[Span], *, descending: bool) -> Iterator[list[Span]]:
    """Windows in batches of about BATCH_WINDOWS; those of one row stay together."""
    rows = [list(spans) for _, spans in groupby(units, key=known.bucket)]
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


def group_filter(program: Program, where: Mapping[str, Sequence[Any]]) -> Callable[[bytes], bool]:
    """A test of groups; each is looked at once, however many windows it is in."""
    if not where:
        return lambda group: True
    known: dict[bytes, bool] = {}

    def matches(group: bytes) -> bool:
        if group not in known:
            values = group_values(program, group)
            known[group] = all(values[name] in wanted for name, wanted in where.items())
        return known[group]

    return matches


def _ordered(program: Program, rows: list[Row], order: str) -> list[Row]:
    """Rows by window then group; or by a value first, nulls last either way."""
    by_window = sorted(rows, key=lambda row: (row["window_start"], row["window_end"], *group_order(program, row)))
    name = order.removeprefix("-")
    descending = order.startswith("-")
    if name == "window":
        if not descending:
            return by_window
        return sorted(by_window, key=lambda row: (row["window_start"], row["window_end"]), reverse=True)
    known = [row for row in by_window if row[name] is not None]
    unknown = [row for row in by_window if row[name] is None]
    return [*sorted(known, key=lambda row: row[name], reverse=descending), *unknown]
