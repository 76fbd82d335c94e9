"""The newest closed window of a metric for readers who begin, and the place in what is published that it belongs to.

    ── published ──┬────────────┬──▶        position  everything after it is still to be handed out
                 before       until         until     what a snapshot of sessions may have shown before its rows came

Rows that a snapshot showed are not repeated: a window is known by its revision, sessions one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING

import msgspec

from api.answers import meta
from pipeline.core.definitions import Session
from pipeline.rim.row_streams import EntryId
from pipeline.runtime.live_positions import Position, Shown
from pipeline.runtime.live_rows import Line, line_of_row
from pipeline.runtime.query import Metrics

if TYPE_CHECKING:
    from api.live_topics import Topic

SHARED_S = 1.0  # readers who come at once share one snapshot
SHARED_LINES = 10_000  # some 5 MB; a larger one is not kept


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The rows of a snapshot and its `meta` as JSON."""

    position: Position
    until: EntryId
    lines: Sequence[Line]
    meta: bytes
    made_s: float

    def is_current(self, version: str, last: EntryId) -> bool:
        fresh = monotonic() - self.made_s < SHARED_S
        return fresh and self.position.version == version and self.position.entry == last


def take_snapshot(metrics: Metrics, topic: Topic) -> Snapshot:
    """The newest closed window as /latest answers it; shared by readers who come within a second."""
    with topic.making:
        last = topic.feed.last()
        if topic.snapshot is not None and topic.snapshot.is_current(topic.program.version, last):
            return topic.snapshot
        topic.snapshot = None
        made = _taken(metrics, topic, last)
        if len(made.lines) <= SHARED_LINES:
            topic.snapshot = made
        return made


def _taken(metrics: Metrics, topic: Topic, before: EntryId) -> Snapshot:
    answer = metrics.latest(topic.program.name)
    program = answer.program
    lines = [line_of_row(program, row, before) for row in answer.rows]
    is_session = isinstance(program.window, Session)
    shown = None
    if lines and not is_session:
        shown = Shown(lines[0].window, max(line.revision for line in lines))
    return Snapshot(
        position=Position(program.version, before, shown),
        until=topic.feed.last() if is_session else before,
        lines=lines,
        meta=msgspec.json.encode(meta(answer)),
        made_s=monotonic(),
    )
