"""The cells of windows or panes as they are read for an answer: published ones from their results, others from panes.

Cells go to the row they belong to in the fixed order (window start, from_end, partition), so a wider step gives the
same bits whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import redis

from pipeline.core.accumulators import Int64, Slots
from pipeline.core.cell_columns import CellColumns, cells_in_one_window, merged_cells
from pipeline.core.merging import Piece, pieces_of_all
from pipeline.core.programs import Program
from pipeline.core.windows import FOREVER_MS, Span
from pipeline.rim import store
from pipeline.runtime.answer_groups import AnswerGroups
from pipeline.runtime.closer import state_at
from pipeline.runtime.metric_completeness import Completeness
from pipeline.runtime.steps import Cut, settles_at_ms

State = str  # open | closed | final


@dataclass(frozen=True, slots=True)
class Known:
    """What is read once for an answer: how it is cut, how complete it is, what is published, and its groups.

    `of_panes`: its rows are merged from panes that make no window together, and hold whatever was accepted in them.
    """

    program: Program
    cut: Cut
    completeness: Completeness
    published: set[Span]
    groups: AnswerGroups
    of_panes: bool = False

    def settles_at_ms(self, span: Span) -> int:
        """The watermark at which a row has all its events, but for late ones that are allowed."""
        return settles_at_ms(self.program, span) if self.of_panes else span[1]

    def state_at(self, end_ms: int) -> State:
        return state_at(self.program, end_ms, self.completeness.watermark_ms)


@dataclass(slots=True)
class RowCells:
    """Cells merged to rows: the rows' spans by number, how final each is, and its revision."""

    spans: Sequence[Span]
    states: list[State]
    revisions: list[int]
    cells: CellColumns

    def taken(self, places: Slots) -> RowCells:
        """Some of the rows, in the order of `places`."""
        if np.array_equal(places, self.cells.slots):
            return self
        return RowCells(self.spans, self.states, self.revisions, self.cells.taken(places))

    @property
    def starts(self) -> Int64:
        return np.array([start for start, _ in self.spans], dtype=np.int64)[self.cells.windows]

    @property
    def ends(self) -> Int64:
        return np.array([end for _, end in self.spans], dtype=np.int64)[self.cells.windows]


@dataclass(slots=True)
class WindowCells:
    """Reads the cells of an answer's windows, some at a time."""

    client: redis.Redis
    known: Known
    _seen: dict[int, tuple[set[State], int]] = field(default_factory=dict)

    def read(self, units: Sequence[Span]) -> RowCells:
        """The rows that some windows (or panes) make, which are in order."""
        known = self.known
        spans = sorted({known.cut.row_of(unit) for unit in units})
        numbers = {span: number for number, span in enumerate(spans)}
        return self._rows(spans, [(unit, numbers[known.cut.row_of(unit)]) for unit in units])

    def read_as(self, span: Span, units: Sequence[Span]) -> RowCells:
        """One row of all of some panes."""
        return self._rows([span], [(unit, 0) for unit in units])

    def _rows(self, spans: Sequence[Span], units: Sequence[tuple[Span, int]]) -> RowCells:
        known = self.known
        self._seen = {}
        parts: list[CellColumns] = []
        for is_published, grouped in groupby(units, key=lambda pair: not known.of_panes and pair[0] in known.published):
            run = list(grouped)
            parts += self._results(run) if is_published else self._panes(spans, run)
        cells = merged_cells(known.program.layout, parts)
        if known.groups.merges_groups and len(cells):
            # by the groups' JSON, as published windows have them: else a float sum would depend on who was read first
            ordered = cells.taken(np.lexsort((known.groups.stored_order(cells.groups), cells.windows)))
            shown = ordered.renumbered(groups=known.groups.shown_as(ordered.groups))
            cells = merged_cells(known.program.layout, [shown])
        elif len(cells):
            cells = cells.renumbered(groups=known.groups.shown_as(cells.groups))
        about = [self._row_state(spans[number], number) for number in range(len(spans))]
        return RowCells(spans, [state for state, _ in about], [revision for _, revision in about], cells)

    def _results(self, units: Sequence[tuple[Span, int]]) -> list[CellColumns]:
        """Published windows, in their order."""
        known, program, groups = self.known, self.known.program, self.known.groups
        rows = dict(units)
        results = store.load_results(self.client, program.name, program.version, [unit for unit, _ in units])
        numbers: list[Int64] = []
        windows: list[int] = []
        for result in results:
            number = rows[result.start_ms, result.end_ms]
            numbers.append(groups.stored.numbers(result.groups))
            windows.append(number)
            state = known.state_at(result.end_ms)
            self._see(number, "final" if "final" in (state, result.state) else "closed", result.revision)
        if not results:
            return []
        stored = np.concatenate(numbers)
        places = np.repeat(np.array(windows, dtype=np.int64), [len(each) for each in numbers])
        # all at once: a thousand small windows would be a thousand times a dozen numpy calls
        columns = program.layout.unpack_blocks([block for result in results for block in result.blocks])
        cells = CellColumns(places, stored, columns)
        wanted = groups.wanted(stored)
        return [cells if wanted is None else cells.taken(wanted)]

    def _panes(self, spans: Sequence[Span], units: Sequence[tuple[Span, int]]) -> list[CellColumns]:
        """Windows merged from their panes, or panes that are rows or parts of rows themselves."""
        known, program = self.known, self.known.program
        panes = {unit: [unit[0]] if known.of_panes else program.panes.panes_of(unit) for unit, _ in units}
        pieces = self._pieces(sorted({start for starts in panes.values() for start in starts}))
        parts: list[CellColumns] = []
        for unit, number in units:
            end_ms = FOREVER_MS if known.of_panes else spans[number][1]
            found = (piece for start in panes[unit] for piece in pieces.get(start, ()))
            parts += self._counted(number, end_ms, found)
            settles_ms = known.settles_at_ms(spans[number])
            complete_ms = known.completeness.complete_to_ms
            is_open = complete_ms is None or settles_ms > complete_ms
            self._see(number, "open" if is_open else known.state_at(settles_ms), 0)
        return parts

    def _counted(self, number: int, end_ms: int, pieces: Iterable[Piece]) -> list[CellColumns]:
        """The pieces that count in a window, in their fixed order."""
        groups = self.known.groups
        parts = []
        for piece in sorted(
            (p for p in pieces if p.from_end <= end_ms and len(p.groups)), key=lambda piece: piece.place
        ):
            stored = groups.stored.numbers(piece.groups.tolist())
            part = cells_in_one_window(number, stored, piece.columns)
            wanted = groups.wanted(stored)
            parts.append(part if wanted is None else part.taken(wanted))
        return parts

    def _pieces(self, starts: Sequence[int]) -> Mapping[int, list[Piece]]:
        """The cells of panes by start, in all partitions."""
        program = self.known.program
        found: dict[int, list[Piece]] = {}
        partitions = range(program.stream.partitions)
        panes = store.load_panes_of_all(self.client, program.stream.name, partitions, program.group, starts)
        filled = {place: stored for place, stored in panes.items() if stored}  # many have events in few partitions
        for piece in pieces_of_all(program.layout, filled):
            found.setdefault(piece.start_ms, []).append(piece)
        return found

    def _see(self, number: int, state: State, revision: int) -> None:
        states, newest = self._seen.setdefault(number, (set(), 0))
        self._seen[number] = (states | {state}, max(newest, revision))

    def _row_state(self, span: Span, number: int) -> tuple[State, int]:
        """The least final state of what was merged; a step is open while it reaches beyond what is complete."""
        states, revision = self._seen.get(number, (set[State](), 0))
        complete_ms = self.known.completeness.complete_to_ms
        if self.known.cut.is_wider and (complete_ms is None or span[1] > complete_ms):
            return "open", revision
        return next((state for state in ("open", "closed") if state in states), "final"), revision
