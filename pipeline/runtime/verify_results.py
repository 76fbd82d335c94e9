"""Published windows against the twin's: those of a metric, and those of its rollup tiers, group by group.

Invariant: a window that differs is looked at again, after what is still to be published was read, before it is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import redis

from pipeline.core.cells import CellTable
from pipeline.core.definitions import Rollup
from pipeline.core.merging import taken
from pipeline.core.programs import Program
from pipeline.core.twin import PaneTwin, whole
from pipeline.core.windows import FOREVER_MS, Span
from pipeline.rim import keys, replies, store
from pipeline.runtime.cell_differences import cell_differences
from pipeline.runtime.steps import tier_span
from pipeline.runtime.verify_report import Difference, MetricReport, Where

WINDOWS_A_READ = 50

Cells = Mapping[bytes, bytes]  # group → its packed cell


@dataclass(frozen=True, slots=True)
class Bounds:
    """Which windows are compared: those that begin after `floor_ms` and end at `final_ms` or before."""

    floor_ms: int
    final_ms: int
    now_ms: int

    def hold(self, span: Span) -> bool:
        return span[0] > self.floor_ms and span[1] <= self.final_ms


@dataclass(frozen=True, slots=True)
class Level:
    """A metric's own windows, or those of one tier: what the twin has, and what Redis says of them.

    `arrived_ms`: when the first event of a window can have come. `is_listed`: whether Redis knows of a result that it
    should have, or still has what it was merged from.
    """

    where: Where
    spans: Iterable[Span]
    cells: Callable[[Span], Cells]
    published: Callable[[], Sequence[Span]]
    due: Callable[[], set[Span]]
    arrived_ms: Callable[[Span], int]
    is_listed: Callable[[Span], bool]
    retention_ms: int

    def may_have_expired(self, span: Span, now_ms: int) -> bool:
        """Whether a result that is not there can be one that retention removed."""
        return now_ms - self.arrived_ms(span) >= self.retention_ms and not self.is_listed(span)


def base_level(client: redis.Redis, program: Program, twin: PaneTwin, retention_ms: int) -> Level:
    """The metric's own windows."""
    name, version, stream = program.name, program.version, program.stream

    def due() -> set[Span]:
        found = store.due_panes(client, stream.name, stream.partitions, program.group)
        panes = ((start, pane.from_end_ms) for each in found for start, pane in each.items())
        return {span for start, from_ms in panes for span in program.panes.windows_of(start, from_ms, FOREVER_MS)}

    def is_listed(span: Span) -> bool:
        starts = program.panes.panes_of(span)
        pipe = client.pipeline(transaction=False)
        for partition in range(stream.partitions):
            pipe.execute_command("HMGET", keys.panes(stream.name, partition, program.group), *starts)
        pipe.execute_command("ZSCORE", keys.windows(name, version), f"{span[0]}:{span[1]}")
        *marks, listed = pipe.execute()
        has_panes = any(mark is not None for each in marks for mark in each)
        return listed is not None or (has_panes and len(starts) == 1)  # of several, other windows may keep some

    return Level(
        where="result",
        spans=twin.spans(),
        cells=lambda span: whole(twin.window(span)),
        published=lambda: store.published_windows(client, name, version),
        due=due,
        arrived_ms=lambda span: _arrived_ms(program, twin, [span]),
        is_listed=is_listed,
        retention_ms=retention_ms,
    )


def tier_level(client: redis.Redis, program: Program, twin: PaneTwin, tier: Rollup) -> Level:
    """The windows of one tier, each merged from the metric's windows in it, in their order."""
    name, version, size_ms = program.name, program.version, tier.size_ms
    parts: dict[Span, list[Span]] = {}
    for span in sorted(twin.spans()):
        parts.setdefault(tier_span(program, span, size_ms), []).append(span)

    def cells(span: Span) -> Cells:
        table = CellTable(program.layout)
        for window in twin.windows(parts[span]):
            table.merge([(span[0], group) for group in window.groups], taken(window.columns, window.slots.tolist()))
        pane = table.pane(span[0])
        return dict(sorted(zip(pane.names, table.packed(pane.slots), strict=True)))

    def due() -> set[Span]:
        stored = replies.parse_hash(client.execute_command("HGETALL", keys.tier_due(name, version, size_ms)))
        return {(int(start), int(start) + size_ms) for start in stored}

    def is_listed(span: Span) -> bool:
        member = f"{span[0]}:{span[1]}"
        return client.execute_command("ZSCORE", keys.tier(name, version, size_ms), member) is not None

    return Level(
        where="tier",
        spans=parts,
        cells=cells,
        published=lambda: store.published_windows(client, name, version, tier_ms=size_ms),
        due=due,
        arrived_ms=lambda span: _arrived_ms(program, twin, parts[span]),
        is_listed=is_listed,
        retention_ms=tier.retention_ms,
    )


def _arrived_ms(program: Program, twin: PaneTwin, spans: Sequence[Span]) -> int:
    starts = {start for span in spans for start in program.panes.panes_of(span)}
    firsts = [partition.first_arrivals_ms for partition in twin.partitions.values()]
    return min(arrivals[start] for arrivals in firsts for start in starts & arrivals.keys())


@dataclass(frozen=True, slots=True)
class _Compared:
    """A final window against its result."""

    span: Span
    groups: int
    differences: list[Difference] = field(default_factory=list)
    is_missing: bool = False


def compare_results(client: redis.Redis, program: Program, level: Level, bounds: Bounds, report: MetricReport) -> None:
    """Compare every final window of a level with its result, and note it in the report."""
    again = {span for span in level.spans if bounds.hold(span)}
    spans = sorted(again.union(filter(bounds.hold, level.published())))
    doubtful: list[Span] = []
    for at in range(0, len(spans), WINDOWS_A_READ):
        for compared in _compared(client, program, level, again, spans[at : at + WINDOWS_A_READ]):
            if compared.differences:
                doubtful.append(compared.span)
            else:
                _count(report, compared)
    due = level.due() if doubtful else set()
    for compared in _compared(client, program, level, again, doubtful):
        if compared.span in due:
            report.pending += 1
        elif compared.is_missing and level.may_have_expired(compared.span, bounds.now_ms):
            report.expired += 1
        else:
            _count(report, compared)


def _count(report: MetricReport, compared: _Compared) -> None:
    report.windows += 1
    report.groups += compared.groups
    report.differ(compared.differences)


def _compared(
    client: redis.Redis, program: Program, level: Level, again: set[Span], spans: Sequence[Span]
) -> Iterator[_Compared]:
    """Each window against its result."""
    name, where = program.name, level.where
    found = _results(client, program, spans)
    for span in spans:
        result = found.get(span)
        if span not in again:
            yield _Compared(span, 0, [Difference(name, where, "window", "published", None, None, span)])
            continue
        cells = level.cells(span)
        if result is None:
            missing = Difference(name, where, "window", None, "published", None, span)
            yield _Compared(span, len(cells), [missing], is_missing=True)
        elif isinstance(result, str):
            yield _Compared(span, len(cells), [Difference(name, where, "block", result, "readable", None, span)])
        else:
            yield _Compared(span, len(cells), group_differences(program, where, None, span, result, cells))


def _results(client: redis.Redis, program: Program, spans: Sequence[Span]) -> dict[Span, Cells | str]:
    """The cells of the results of windows; of one that cannot be read, why."""
    try:
        loaded = store.load_results(client, program.name, program.version, spans)
        return {
            (result.start_ms, result.end_ms): dict(zip(result.groups, result.cells(program.layout), strict=True))
            for result in loaded
        }
    except (ValueError, KeyError) as error:
        if len(spans) == 1:
            return {spans[0]: f"unreadable: {error}"}
    found: dict[Span, Cells | str] = {}
    for span in spans:
        found |= _results(client, program, [span])
    return found


def group_differences(
    program: Program, where: Where, partition: int | None, span: Span, stored: Cells, again: Cells
) -> list[Difference]:
    """Where the cells of two windows, panes or sessions differ, field by field."""
    return [
        Difference(
            program.name,
            where,
            each.field,
            each.stored,
            each.recomputed,
            partition,
            span,
            name.decode(errors="replace"),
        )
        for name in sorted(stored.keys() | again.keys())
        if stored.get(name) != again.get(name)
        for each in cell_differences(program, stored.get(name), again.get(name), span[1])
    ]
