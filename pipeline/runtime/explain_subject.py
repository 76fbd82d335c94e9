"""What `explain` is asked about: a window of a metric, what is stored of it, and the same from the twin.

Invariant: what is stored and what is recomputed are merged and finished in the same way, so they may be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import redis

from pipeline.core.cells import CellTable
from pipeline.core.fates import Matches, Side
from pipeline.core.merging import Merged, matching, merged, pieces_of, taken
from pipeline.core.ndjson import iso_time
from pipeline.core.programs import Program
from pipeline.core.session_twin import SessionTwin
from pipeline.core.twin import PaneTwin
from pipeline.core.windows import FOREVER_MS, Span
from pipeline.errors import BadRequestError
from pipeline.rim import store
from pipeline.runtime.finishing import finished_rows

NAMED_ENDS = 5  # in a sentence

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """The chosen groups as Redis has them: their values together, how many they are, and the newest revision."""

    values: Values | None
    groups: int
    revision: int | None


class Subject(Protocol):
    """A window that is explained.

    `partitions`: where its events are. It is final when the watermark of each of them has passed `final_ms`.
    """

    @property
    def side(self) -> Side: ...
    @property
    def final_ms(self) -> int: ...
    @property
    def partitions(self) -> Sequence[int]: ...
    def stored(self, client: redis.Redis, state: str) -> Stored: ...
    def recomputed(self, twin: PaneTwin | SessionTwin) -> Values | None: ...
    def is_whole(self, floors_ms: Sequence[int | None]) -> bool:
        """Whether no event of it is among those that were trimmed: of each partition, up to `floors_ms`."""


@dataclass(frozen=True, slots=True)
class PaneSubject:
    """A window that is a merge of panes."""

    side: Side

    @property
    def final_ms(self) -> int:
        return self.side.span[1] + self.side.program.stage.allowed_lateness_ms

    @property
    def partitions(self) -> Sequence[int]:
        return range(self.side.program.stream.partitions)

    def stored(self, client: redis.Redis, state: str) -> Stored:
        program, span = self.side.program, self.side.span
        result = next(iter(store.load_results(client, program.name, program.version, [span])), None)
        revision = None if result is None else result.revision
        if result is None or state == "open":
            window = merged(program.layout, span, self._pieces(client))
            return Stored(self._values(window), len(window.groups), revision)
        chosen = [number for number, group in enumerate(result.groups) if self.side.takes(group)]
        columns = taken(result.columns(program.layout), chosen)
        return Stored(together(program, columns, len(chosen), span[1]), len(chosen), revision)

    def _pieces(self, client: redis.Redis) -> list[Any]:
        program, stream = self.side.program, self.side.program.stream
        starts = program.panes.panes_of(self.side.span)
        return [
            matching(piece, self.side.takes)
            for partition in self.partitions
            for start, stored in store.load_panes(client, stream.name, partition, program.group, starts).items()
            for piece in pieces_of(program.layout, partition, start, stored)
        ]

    def recomputed(self, twin: PaneTwin | SessionTwin) -> Values | None:
        assert isinstance(twin, PaneTwin)
        return self._values(twin.window(self.side.span))

    def _values(self, window: Merged) -> Values | None:
        chosen = [
            slot for slot, group in zip(window.slots.tolist(), window.groups, strict=True) if self.side.takes(group)
        ]
        return together(self.side.program, taken(window.columns, chosen), len(chosen), self.side.span[1])

    def is_whole(self, floors_ms: Sequence[int | None]) -> bool:
        return all(floor_ms is None or self.side.span[0] > floor_ms for floor_ms in floors_ms)


def together(program: Program, columns: Mapping[str, Any], count: int, end_ms: int) -> Values | None:
    """The finished values of some groups' cells merged into one, which ends at `end_ms`; None where there is none."""
    if not count:
        return None
    table = CellTable(program.layout)
    table.merge([(0, b"")] * count, columns)
    [row] = finished_rows(program, table.columns, table.slots([(0, b"")]), [end_ms])
    return row


def window_named(program: Program, start_ms: int, end_ms: int | None, matches: Matches | None) -> PaneSubject:
    """The window that `start` and `end` name.

    Raises:
        BadRequestError: 422, there is no such window, or `start` alone names several; the message has the nearest.
    """
    panes = program.panes
    pane_ms = int(panes.pane_starts(np.array([start_ms], dtype=np.int64))[0])
    around = list(panes.windows_of(pane_ms, -FOREVER_MS, FOREVER_MS))
    begun = [span for span in around if span[0] == start_ms]
    if begun:
        return PaneSubject(Side(program, one_ending(begun, end_ms), matches))
    start, end = min(around, key=lambda span: abs(span[0] - start_ms))
    raise BadRequestError(
        f"start: no window of {program.name} starts at {start_ms} ({iso_time(start_ms)}); the nearest is from {start} "
        f"({iso_time(start)}) to {end} ({iso_time(end)})",
        code="no_window",
        status=422,
    )


def one_ending(begun: Sequence[Span], end_ms: int | None) -> Span:
    """The one of the windows that begin together that `end` names.

    Raises:
        BadRequestError: 422, none of them ends there, or several are meant.
    """
    found = [span for span in begun if end_ms in (None, span[1])]
    if len(found) == 1:
        return found[0]
    ends = ", ".join(f"{end} ({iso_time(end)})" for _, end in begun[:NAMED_ENDS])
    raise BadRequestError(f"end: windows that start at {begun[0][0]} end at {ends}", code="no_window", status=422)
