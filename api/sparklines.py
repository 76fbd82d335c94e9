"""A metric's rows as one line of blocks for each group, oldest window first.

Invariant: a window without a row of the group is a space and never a low block, so a gap is seen as a gap.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

BLOCKS = "▁▂▃▄▅▆▇█"
GAP = " "
FEWEST_WINDOWS = 3  # of fewer, the table says it all
MOST_WINDOWS = 60  # newest ones; more would not fit beside a group's name in 100 columns
OF_EVERY_ROW = ("window_start", "window_end", "state", "revision", "first", "last", "closes_at", "sessions")


@dataclass(frozen=True, slots=True)
class Line:
    """One group and value: `drawn` has a character a window, the numbers are of those windows."""

    group: str
    value: str
    drawn: str
    least: float
    most: float
    last: float


def sparklines(rows: Sequence[Mapping[str, Any]], values: Sequence[str], step_ms: int | None) -> list[Line]:
    """Return a line for each group and value that has numbers, groups in the order they come in.

    `values` are the names of a metric's values: what is neither one of them nor of every row is the group.
    """
    starts = _axis({row["window_start"] for row in rows}, step_ms)
    if len(starts) < FEWEST_WINDOWS:
        return []
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        group = _group(row, values)
        for value in values:
            number = row.get(value)
            if isinstance(number, (int, float)) and not isinstance(number, bool) and row["window_start"] in starts:
                found.setdefault((group, value), {})[row["window_start"]] = number
    return [_line(group, value, points, starts) for (group, value), points in found.items()]


def _axis(starts: set[int], step_ms: int | None) -> dict[int, None]:
    """The newest windows, in order; those without any row too, where windows are a step apart."""
    if not starts:
        return {}
    if step_ms:
        last = max(starts)
        first = max(min(starts), last - (MOST_WINDOWS - 1) * step_ms)
        starts = starts | set(range(last, first - 1, -step_ms))
        starts = {start for start in starts if start >= first}
    return dict.fromkeys(sorted(starts)[-MOST_WINDOWS:])


def _group(row: Mapping[str, Any], values: Sequence[str]) -> str:
    parts = {name: value for name, value in row.items() if name not in OF_EVERY_ROW and name not in values}
    texts = (value if isinstance(value, str) and value else json.dumps(value) for value in parts.values())
    return ", ".join(texts) or "all"


def _line(group: str, value: str, points: Mapping[int, float], starts: Mapping[int, None]) -> Line:
    least, most = min(points.values()), max(points.values())
    drawn = "".join(_block(points[start], least, most) if start in points else GAP for start in starts)
    return Line(group, value, drawn, least, most, points[max(points)])


def _block(number: float, least: float, most: float) -> str:
    if most == least:
        return BLOCKS[0]
    return BLOCKS[min(len(BLOCKS) - 1, int((number - least) / (most - least) * len(BLOCKS)))]
