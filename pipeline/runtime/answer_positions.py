"""Where a page of an answer ended: the place of its last row in the answer's order, so the next one begins after it.

Rows are told by what they are and not by their number, so windows that are revised or arrive between two pages move no
other row: each row that keeps its place in the order is in one page, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.accumulators import Int64
from pipeline.runtime.answer_groups import AnswerGroups
from pipeline.runtime.finishing import group_values, order_of_values

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Position:
    """The last row of a page: its window, its group as JSON, and the value it was ordered by, if any."""

    start_ms: int
    end_ms: int
    group: bytes
    value: Any = None


def rows_after(
    position: Position,
    groups: AnswerGroups,
    order: str,
    spans: tuple[Int64, Int64],
    numbers: Int64,
    values: Sequence[Any] | None,
) -> Mask:
    """Which rows come after a position in the order; `values` are those they are ordered by."""
    if values is None:
        return _after_in_windows(position, groups, spans, numbers, descending=order == "-window")
    tied = _after_in_windows(position, groups, spans, numbers, descending=False)
    descending = order.startswith("-")
    return np.array(
        [_after_value(value, position.value, descending, is_tied) for value, is_tied in zip(values, tied, strict=True)],
        dtype=np.bool_,
    )


def _after_value(value: Any, last: Any, descending: bool, is_tied: bool) -> bool:
    if value is None or last is None:
        return is_tied if value is last else value is None
    if value == last:
        return is_tied
    return bool(value < last) if descending else bool(value > last)


def _after_in_windows(
    position: Position, groups: AnswerGroups, spans: tuple[Int64, Int64], numbers: Int64, *, descending: bool
) -> Mask:
    starts, ends = spans
    same = (starts == position.start_ms) & (ends == position.end_ms)
    if descending:
        after: Mask = (starts < position.start_ms) | ((starts == position.start_ms) & (ends < position.end_ms))
    else:
        after = (starts > position.start_ms) | ((starts == position.start_ms) & (ends > position.end_ms))
    last = order_of_values(group_values(groups.program, position.group, groups.fields).values())
    for place in np.flatnonzero(same).tolist():
        after[place] = order_of_values(groups.values(int(numbers[place])).values()) > last
    return after
