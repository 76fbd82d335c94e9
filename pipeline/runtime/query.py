"""A metric over a range of time: published windows from their results, open ones from their panes, merged and finished.

Every answer says up to where it is complete. Partials are merged in the fixed order (window start, from_end,
partition), so a wider step gives the same bits whoever asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import msgspec
import redis

from pipeline.core.cells import CellTable, split_field
from pipeline.core.completeness import CompleteBy, least_sure, moved_by
from pipeline.core.definitions import Config
from pipeline.core.programs import Program, compile_programs, program_of_definition
from pipeline.core.spelling import did_you_mean
from pipeline.core.times import format_duration
from pipeline.core.windows import pane_start
from pipeline.errors import BadRequestError
from pipeline.rim import keys, store
from pipeline.rim.commit import Checkpoint
from pipeline.runtime.closer import finished_rows, from_end_order, minimum_watermark

NEWEST_WINDOWS = 1_000  # windows an answer covers when no start was given
MAX_ROWS = 100_000  # of one answer: some 20 MB of JSON
MAX_WINDOWS = 200_000  # looked at for one answer: over two days of one-second windows
BATCH_WINDOWS = 200  # loaded in one round trip, so that memory follows the answer and not the range
State = str  # open | final

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
    closed_only: bool = False


@dataclass(frozen=True, slots=True)
class Completeness:
    """Up to where a metric is complete: every window that ends at or before `complete_to_ms` is published.

    `complete_by`: `events` when the events alone have brought every partition's time there, `heartbeat` when they have
    together with heartbeats, else `silence`.
    `complete_from_ms`: where the answers begin, when a changed stage was rebuilt from a log whose beginning had been
    trimmed: windows before it are not there. None: nothing is known to be missing.
    """

    watermark_ms: int | None
    complete_to_ms: int | None
    complete_by: CompleteBy | None
    complete_from_ms: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """Flat rows, one per window and group, what the answer covers, and the program that made it."""

    program: Program
    rows: list[Row]
    start_ms: int | None
    end_ms: int | None
    step_ms: int
    completeness: Completeness
    truncated: bool


@dataclass(frozen=True, slots=True)
class _Partial:
    """Cells of one window in merge order: who they belong to and how final they are."""

    start_ms: int
    group: bytes
    cell: bytes
    state: State
    revision: int


@dataclass(frozen=True, slots=True)
class _Range:
    """What is read once for an answer: how complete it is, the due panes by partition, published start → end."""

    program: Program
    step_ms: int
    completeness: Completeness
    due: Sequence[set[int]]
    published: Mapping[int, int]


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
            self._older[metric, version] = program_of_definition(text)
        return self._older[metric, version]

    def completeness(self, program: Program) -> Completeness:
        """How far a metric is, from its checkpoints and what is still due."""
        return self._account(program)[0]

    def _account(self, program: Program) -> tuple[Completeness, list[set[int]]]:
        """How far a metric is, and the starts of each partition's due panes.

        The checkpoints are read before what is due: whatever had changed when the watermark was read is then either
        still due or published. The other way round, a window could be called complete and be in neither.
        """
        stream, partitions = program.stream, program.stream.partitions
        checkpoints = store.load_checkpoints(self._client, stream.name, partitions, program.group)
        due = [set(panes) for panes in store.due_panes(self._client, stream.name, partitions, program.group)]
        watermark_ms = minimum_watermark(checkpoints, stream.time.disorder_ms)
        if watermark_ms is None:
            return Completeness(None, None, None, None), due
        waiting = min((start for panes in due for start in panes), default=watermark_ms)
        complete_to_ms = min(pane_start(program.window, watermark_ms), waiting)
        by = _complete_by(checkpoints, stream.time.disorder_ms, complete_to_ms)
        return Completeness(watermark_ms, complete_to_ms, by, complete_from_ms(program, checkpoints)), due

    def query(self, query: MetricQuery, checked_against: Program | None = None) -> Answer:
        """Answer a query over windows that overlap [start, end).

        `checked_against`: the program whose fields the query's names were checked with; a rebuilt version may become
        the active one in between.

        Raises:
            BadRequestError: the step does not fit the window (422), or the range holds too many windows (400).
        """
        program = checked_against or self.program(query.metric)
        step_ms = checked_step(program, query.step_ms)
        start_ms = None if query.start_ms is None else _aligned(program, query.start_ms, step_ms)
        end_ms = None if query.end_ms is None else _aligned_up(program, query.end_ms, step_ms)
        # what is due first: a window published in between is then found twice, never not at all
        completeness, due = self._account(program)
        published = dict(self._published(program, start_ms, end_ms))
        if start_ms is None and len(published) == NEWEST_WINDOWS:
            start_ms = _aligned_up(program, min(published), step_ms)  # a step that was cut would be given as whole
        wanted = published.keys() if query.closed_only else published.keys() | set[int]().union(*due)
        starts = [start for start in sorted(wanted) if _overlaps(program, start, start_ms, end_ms)]
        rows = self._first_rows(_Range(program, step_ms, completeness, due, published), starts, query)
        truncated = len(rows) > query.limit
        return Answer(program, rows[: query.limit], start_ms, end_ms, step_ms, completeness, truncated)

    def _first_rows(self, known: _Range, starts: Sequence[int], query: MetricQuery) -> list[Row]:
        """The first rows of the answer, in its order, and at least one more than the limit where there are more."""
        program = known.program
        matches = _matching(program, query.where)
        by_window = query.order in ("window", "-window")
        rows: list[Row] = []
        for batch in _batches(program, starts, known.step_ms, descending=query.order == "-window"):
            partials = self._partials(known, batch, matches)
            found = _rows(program, partials, known.step_ms, known.completeness)
            if query.closed_only:
                found = [row for row in found if row["state"] != "open"]
            rows += _ordered(program, found, query.order) if by_window else found
            if by_window and len(rows) > query.limit:
                break
            if len(rows) > 2 * query.limit:  # by a value, any window may hold a first row: keep the best so far
                rows = _ordered(program, rows, query.order)[: query.limit + 1]
        return rows if by_window else _ordered(program, rows, query.order)

    def _published(self, program: Program, start_ms: int | None, end_ms: int | None) -> list[tuple[int, int]]:
        """(start, end) of the published windows of a range; of the newest ones when it has no start."""
        windows = store.published_windows(
            self._client,
            program.name,
            program.version,
            start_ms,
            end_ms,
            limit=NEWEST_WINDOWS if start_ms is None else None,
        )
        if len(windows) > MAX_WINDOWS:
            raise BadRequestError(
                f"the range holds {len(windows)} windows of {program.name}; an answer looks at no more than "
                f"{MAX_WINDOWS}. Ask for a shorter range",
                code="range_too_long",
            )
        return windows

    def _partials(self, known: _Range, starts: Sequence[int], matches: Callable[[bytes], bool]) -> list[_Partial]:
        """The cells of the windows that begin at `starts`, in the fixed order of merges."""
        program, published = known.program, known.published
        windows = [(start, published[start]) for start in starts if start in published]
        results = store.load_results(self._client, program.name, program.version, windows)
        wanted = [[start for start in starts if start in panes and start not in published] for panes in known.due]
        found = [*_of_results(results), *self._open(program, wanted)]
        return sorted((p for p in found if matches(p.group)), key=lambda partial: partial.start_ms)

    def _open(self, program: Program, wanted: Sequence[Sequence[int]]) -> list[_Partial]:
        """The cells of windows that are not published, by window start, from_end, then partition."""
        found: list[tuple[int, int, int, _Partial]] = []
        for partition, starts in enumerate(wanted):
            panes = store.load_panes(self._client, program.stream.name, partition, program.group, starts)
            for start, cells in panes.items():
                for name, cell in cells.items():
                    from_end, group = split_field(name)
                    partial = _Partial(start, group, cell, "open", 0)
                    found.append((start, from_end_order(from_end), partition, partial))
        return [partial for *_, partial in sorted(found, key=lambda item: item[:3])]

    def latest(self, metric: str) -> Answer:
        """The newest closed window."""
        program = self.program(metric)
        completeness = self.completeness(program)
        windows = store.published_windows(self._client, program.name, program.version, limit=1)
        results = store.load_results(self._client, program.name, program.version, windows)
        size_ms = program.window.size_ms
        rows = _ordered(program, _rows(program, _of_results(results), size_ms, completeness), "window")
        start_ms, end_ms = windows[0] if windows else (None, None)
        truncated = len(rows) > MAX_ROWS
        return Answer(program, rows[:MAX_ROWS], start_ms, end_ms, size_ms, completeness, truncated)


def _of_results(results: Iterable[store.Result]) -> list[_Partial]:
    return [
        _Partial(result.start_ms, group, cell, result.state, result.revision)
        for result in results
        for group, cell in zip(result.groups, result.cells, strict=True)
    ]


def complete_from_ms(program: Program, checkpoints: Sequence[Checkpoint]) -> int | None:
    """The first window that lost nothing to a trim this stage did not see, over all partitions."""
    floors = [checkpoint.floor_ms for checkpoint in checkpoints if checkpoint.floor_ms is not None]
    return pane_start(program.window, max(floors)) + program.window.size_ms if floors else None


def _complete_by(checkpoints: Sequence[Checkpoint], disorder_ms: int, complete_to_ms: int) -> CompleteBy:
    """What has brought every partition's time to where the answer is complete to."""
    time_ms = complete_to_ms + disorder_ms
    return least_sure(moved_by(time_ms, each.max_event_ms, each.max_beat_ms) for each in checkpoints)


def _batches(program: Program, starts: Sequence[int], step_ms: int, *, descending: bool) -> Iterator[list[int]]:
    """Window starts in batches of about BATCH_WINDOWS; the windows of one step stay together."""
    steps = [list(windows) for _, windows in groupby(starts, key=lambda start: _aligned(program, start, step_ms))]
    batch: list[int] = []
    for windows in reversed(steps) if descending else steps:
        batch += windows
        if len(batch) >= BATCH_WINDOWS:
            yield sorted(batch)
            batch = []
    if batch:
        yield sorted(batch)


def checked_step(program: Program, step_ms: int | None) -> int:
    """The step of an answer: the window itself, or a multiple of it whose buckets begin where windows begin."""
    size_ms = program.window.size_ms
    if step_ms is None or step_ms == size_ms:
        return size_ms
    if step_ms <= 0 or step_ms % size_ms:
        nearest = max(size_ms, round(step_ms / size_ms) * size_ms)
        raise BadRequestError(
            f"step {format_duration(step_ms)} is not a multiple of {program.name}'s window of "
            f"{format_duration(size_ms)}; the nearest that answers exactly is {format_duration(nearest)}",
            code="step_not_exact",
            status=422,
        )
    return step_ms


def _aligned(program: Program, time_ms: int, step_ms: int) -> int:
    return time_ms - (time_ms - program.window.offset_ms) % step_ms


def _aligned_up(program: Program, time_ms: int, step_ms: int) -> int:
    """The first boundary at or after `time_ms`."""
    return time_ms + (program.window.offset_ms - time_ms) % step_ms


def _overlaps(program: Program, start: int, start_ms: int | None, end_ms: int | None) -> bool:
    after = start_ms is None or start + program.window.size_ms > start_ms
    return after and (end_ms is None or start < end_ms)


def _matching(program: Program, where: Mapping[str, Sequence[Any]]) -> Callable[[bytes], bool]:
    """A test of groups; each is looked at once, however many windows it is in."""
    known: dict[bytes, bool] = {}

    def matches(group: bytes) -> bool:
        if group not in known:
            values = dict(zip(program.stage.group_by, msgspec.json.decode(group), strict=True))
            known[group] = all(values[name] in wanted for name, wanted in where.items())
        return known[group]

    return matches


def _rows(program: Program, partials: Sequence[_Partial], step_ms: int, completeness: Completeness) -> list[Row]:
    """Merge partials by step and group, and finish them; in order of first appearance."""
    table = CellTable(program.layout)
    buckets = [_aligned(program, partial.start_ms, step_ms) for partial in partials]
    cells = list(zip(buckets, (partial.group for partial in partials), strict=True))
    table.merge(cells, program.layout.unpack([partial.cell for partial in partials]))
    about: dict[tuple[int, bytes], tuple[State, int]] = {}
    for cell, partial in zip(cells, partials, strict=True):
        state, revision = about.get(cell, (partial.state, 0))
        about[cell] = ("open" if partial.state == "open" else state, max(revision, partial.revision))
    values = finished_rows(program, table.columns, table.slots(about))

    def state_of(bucket_ms: int, state: State) -> State:
        return state if step_ms == program.window.size_ms else _state(bucket_ms + step_ms, state, completeness)

    return [
        _row(program, bucket, step_ms, group, state_of(bucket, state), revision, row)
        for ((bucket, group), (state, revision)), row in zip(about.items(), values, strict=True)
    ]


def _state(end_ms: int, state: State, completeness: Completeness) -> State:
    """A step is open while one of its windows is, or while it reaches beyond what is complete."""
    complete = completeness.complete_to_ms
    return state if complete is not None and end_ms <= complete else "open"


def _row(program: Program, start_ms: int, step_ms: int, group: bytes, state: State, revision: int, values: Row) -> Row:
    names = zip(program.stage.group_by, msgspec.json.decode(group), strict=True)
    return {
        "window_start": start_ms,
        "window_end": start_ms + step_ms,
        "state": state,
        "revision": revision,
        **dict(names),
        **values,
    }


def _ordered(program: Program, rows: list[Row], order: str) -> list[Row]:
    """Rows by window then group; or by a value first, nulls last either way."""
    by_window = sorted(
        rows, key=lambda row: (row["window_start"], *_sortable(row[name] for name in program.stage.group_by))
    )
    name = order.removeprefix("-")
    descending = order.startswith("-")
    if name == "window":
        return sorted(by_window, key=lambda row: row["window_start"], reverse=True) if descending else by_window
    known = [row for row in by_window if row[name] is not None]
    unknown = [row for row in by_window if row[name] is None]
    return [*sorted(known, key=lambda row: row[name], reverse=descending), *unknown]


def _sortable(values: Iterator[Any]) -> Iterator[tuple[bool, Any]]:
    """Nulls after everything; a column has one type, so the rest compares."""
    return ((value is None, "" if value is None else value) for value in values)
