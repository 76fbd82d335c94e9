"""The pure core over whole logs: decode, judge, fold, and the windows merged from the panes, without Redis.

This is the one place of the oracle's tests that knows how the core is called; the rest asks for an `Answer`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from pipeline.core.cells import CellTable
from pipeline.core.definitions import Session
from pipeline.core.merging import Piece, merge_window, pieces_of
from pipeline.core.process import Ledger
from pipeline.core.programs import Program
from pipeline.core.session_form import parse_session
from pipeline.core.windows import FOREVER_MS, Span
from pipeline.runtime.finishing import finished_rows
from tests.laws.logs import Logged
from tests.laws.replaying import Committed, Fate, replay

Row = dict[str, Any]
Batches = Sequence[tuple[int, Fate]]


@dataclass(frozen=True, slots=True)
class Answer:
    """`rows` of final windows by window, then group, nulls last; `late` rows by partition, in the order of the log."""

    rows: list[Row]
    late: list[Row]
    ledger: Ledger


def run(program: Program, logs: Sequence[Sequence[Logged]], batches: Batches = ()) -> Answer:
    """Run each partition's log through the core, cut into `batches`, and merge the windows."""
    done = [replay(program, log, batches, partition) for partition, log in enumerate(logs)]
    return answer(program, done)


def answer(program: Program, done: Sequence[Committed]) -> Answer:
    """What the partitions have committed, as windows of finished values."""
    ledger = sum((each.ledger for each in done), Ledger())
    late = [{name: int(row[name]) for name in LATE} for each in done for row in each.late]
    if isinstance(program.stage.window, Session):
        return Answer(session_rows(program, program.stage.window, done), late, ledger)
    return Answer(merged_rows(program, [each.panes for each in done]), late, ledger)


def session_rows(program: Program, window: Session, done: Sequence[Committed]) -> list[Row]:
    """The sessions of all partitions; a group's are all in one."""
    found = [parse_session(*stored) for each in done for stored in each.sessions.items()]
    if not found:
        return []
    columns = program.layout.unpack([session.cell for session in found])
    ends_ms = [session.last + window.gap_ms for session in found]
    finished = finished_rows(program, columns, np.arange(len(found)), ends_ms)
    rows = [
        {"first": session.first, "last": session.last, "closes_at": session.last + window.gap_ms}
        | dict(zip(program.stage.group_by, msgspec.json.decode(session.group), strict=True))
        | values
        for session, values in zip(found, finished, strict=True)
    ]
    return sorted(rows, key=lambda row: order_of(row, program.stage.group_by))


LATE = ("time", "late_by_ms", "window_start", "window_end")


def merged_rows(
    program: Program, partitions: Sequence[Any], wanted: Callable[[int, Span], bool] = lambda pane, window: True
) -> list[Row]:
    """Merge windows' cells by pane, from_end, partition: the fixed order of float sums (DESIGN section 5).

    `partitions` are the panes of each, as committed. Only windows that are `wanted` by one of their panes are merged.
    """
    panes, pieces = program.panes, _pieces(program, partitions)
    windows = sorted({w for pane in pieces for w in panes.windows_of(pane, -FOREVER_MS, FOREVER_MS) if wanted(pane, w)})
    table = CellTable(program.layout)
    for number, window in enumerate(windows):
        of_window = (piece for pane in panes.panes_of(window) for piece in pieces.get(pane, ()))
        merge_window(table, number, window[1], of_window)
    keys = [(number, group) for number, groups in table.panes.items() for group in groups]
    ends_ms = [windows[number][1] for number, _ in keys]
    finished = finished_rows(program, table.columns, table.slots(keys), ends_ms)
    rows = [
        {"window_start": windows[number][0], "window_end": windows[number][1]}
        | dict(zip(program.stage.group_by, msgspec.json.decode(group), strict=True))
        | values
        for (number, group), values in zip(keys, finished, strict=True)
    ]
    return sorted(rows, key=lambda row: order_of(row, program.stage.group_by))


def _pieces(program: Program, partitions: Sequence[Any]) -> dict[int, list[Piece]]:
    """The cells of every pane, of all partitions."""
    pieces: dict[int, list[Piece]] = {}
    for partition, panes in enumerate(partitions):
        for start, stored in panes.items():
            pieces.setdefault(start, []).extend(pieces_of(program.layout, partition, start, stored))
    return pieces


def order_of(row: Row, groups: Sequence[str]) -> tuple[Any, ...]:
    """Rows by window, then group, nulls last: as the oracle's."""
    window = (row["first"], row["last"]) if "closes_at" in row else (row["window_start"], row["window_end"])
    return (*window, *((row[name] is None, row[name] if row[name] is not None else 0) for name in groups))


def last_end(program: Program, pane: int) -> int:
    """The end of the last window that a pane is part of."""
    return int(program.panes.last_ends(np.array([pane], dtype=np.int64))[0])
