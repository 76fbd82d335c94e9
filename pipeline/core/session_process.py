"""A prepared batch into live sessions: `arrivals` is pure, `fold_sessions` changes the table and cannot fail."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from pipeline.core.accumulators import Int64, Slots
from pipeline.core.batches import Batch
from pipeline.core.definitions import Session
from pipeline.core.process import Prepared, fold_values
from pipeline.core.programs import Program
from pipeline.core.session_runs import Mask
from pipeline.core.sessions import Arrivals, Changed, SessionTable


def session_window(program: Program) -> Session:
    """The window of a session metric."""
    assert isinstance(program.window, Session), f"{program.name} has no sessions"
    return program.window


def arrivals(program: Program, batch: Batch, prepared: Prepared) -> Arrivals:
    """The accepted rows of a batch as sessions meet them."""
    return Arrivals.of(
        prepared.cells,
        prepared.cell_of,
        batch.times_ms[prepared.rows],
        prepared.watermarks_ms,
        session_window(program),
    )


def fold_sessions(program: Program, batch: Batch, prepared: Prepared, new: Arrivals, table: SessionTable) -> Changed:
    """Fold the accepted rows into their sessions, as if each came alone."""

    def fold_some(rows: Slots | None, slots: Slots) -> None:
        some = prepared
        if rows is not None:
            some = replace(prepared, rows=prepared.rows[rows], frame=prepared.frame[rows])
        fold_values(program, batch, some, table, slots)

    return table.fold(new, fold_some)


def session_ends(program: Program, lasts_ms: Iterable[int]) -> list[int]:
    """Where sessions end, by their last events: `window_end` of their rows."""
    gap_ms = session_window(program).gap_ms
    return [last_ms + gap_ms for last_ms in lasts_ms]


def doubtful(window: Session, firsts: Int64, floor_ms: int | None) -> Mask:
    """Whether sessions may have lost their beginning to a trim of the log: followed, and never published.

    `floor_ms`: the largest event time that was trimmed before this stage saw it. With `max`, the slice cuts the doubt.
    """
    if floor_ms is None:
        return np.zeros(len(firsts), dtype=np.bool_)
    doubt: Mask = firsts - window.gap_ms <= floor_ms
    if window.max_ms is not None:
        doubt &= firsts - firsts % window.max_ms <= floor_ms
    return doubt
