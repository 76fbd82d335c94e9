"""Where a live reader is, as text that a client keeps and hands back: `Last-Event-ID`.

views_by_section=2e991b59bb~1763928012400-0~1763928000000:1763928010000:0,other_metric=…
metric           version    entry           window and revision that a snapshot showed, whose rows are not repeated
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.rim.row_streams import EntryId, id_text, parse_id

_POSITION = re.compile(
    r"(?P<metric>[a-z][a-z0-9_]{0,47})=(?P<version>[0-9a-f]{1,64})~(?P<entry>\d{1,19}-\d{1,19})"
    r"(?:~(?P<start>-?\d{1,16}):(?P<end>-?\d{1,16}):(?P<revision>\d{1,16}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A window that a snapshot has shown, up to a revision: its rows may still be on their way downstream."""

    window: tuple[int, int]
    revision: int


@dataclass(frozen=True, slots=True)
class Position:
    """Everything up to `entry` of a metric's version has been handed out, and what was `shown` besides."""

    version: str
    entry: EntryId
    shown: Shown | None = None

    def text(self, metric: str) -> str:
        head = f"{metric}={self.version}~{id_text(self.entry)}"
        if self.shown is None:
            return head
        return f"{head}~{self.shown.window[0]}:{self.shown.window[1]}:{self.shown.revision}"


def positions_text(positions: Iterable[tuple[str, Position]]) -> str:
    return ",".join(position.text(metric) for metric, position in positions)


def parse_positions(text: str) -> Mapping[str, Position] | None:
    """The position in each metric that a text names; None when it is none of ours."""
    found: dict[str, Position] = {}
    for part in text.split(","):
        match = _POSITION.fullmatch(part)
        if match is None:
            return None
        shown = None
        if match["start"] is not None:
            shown = Shown((int(match["start"]), int(match["end"])), int(match["revision"]))
        found[match["metric"]] = Position(match["version"], parse_id(match["entry"].encode()), shown)
    return found
