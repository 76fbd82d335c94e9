"""One reader's way through one metric: a snapshot or what followed its position, then everything as it is published.

    no position ──▶ snapshot ──▶ ring        position ──▶ Redis, until the ring has what follows ──▶ ring
    the position is gone, or the reader too slow ──▶ reset, snapshot ──▶ ring

Invariant: nothing is held for a reader but its place; what it reads is taken when it can be sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec

from api.live_hub import LOSSES, NEW_VERSION
from api.live_snapshots import Snapshot, take_snapshot
from api.live_topics import Cursor, Event, Missed, Reset, Topic, meta_json, rows_json
from pipeline.rim.row_streams import BEGINNING, EntryId
from pipeline.runtime.live_positions import Position
from pipeline.runtime.live_rows import Line, matches
from pipeline.runtime.query import Metrics

PUBLICATIONS_A_STEP = 500  # of a reader that catches up: what it holds at once
UNKNOWN = Reset("unknown_position", "the Last-Event-ID is no position of this server's")


@dataclass(frozen=True, slots=True)
class Block:
    """One event for a reader: its name, and its data as JSON on one line."""

    event: Literal["snapshot", "rows", "reset"]
    data: bytes


@dataclass(slots=True)
class Follower:
    """Where one reader is in one metric."""

    metrics: Metrics
    topic: Topic
    where: Mapping[str, Sequence[Any]]
    position: Position | None = None
    _cursor: Cursor | None = None
    _seen: dict[tuple[Any, ...], int] = field(default_factory=dict)  # sessions of the snapshot, by their revision
    _seen_until: EntryId = BEGINNING

    @property
    def metric(self) -> str:
        return self.topic.program.name

    @property
    def is_resumable(self) -> bool:
        """Whether its position says all about where it is; not while sessions of a snapshot may come as rows."""
        return self.position is not None and not self._seen

    def resume(self, position: Position | None) -> list[Block]:
        """Begin: after a position, or with a snapshot."""
        if position is None:
            return [self._snapshot()]
        if position.version != self.topic.program.version:
            return self.begin_again(NEW_VERSION)
        loss = self.topic.feed.after(position.entry, 1).loss
        if loss is not None:
            return self.begin_again(Reset(loss, LOSSES[loss]))
        self.position = position
        return []

    def begin_again(self, why: Reset) -> list[Block]:
        """Tell the reader that it missed something, and show it what there is now."""
        said = {"metric": self.metric, "reason": why.reason, "detail": why.detail}
        return [Block("reset", msgspec.json.encode(said)), self._snapshot()]

    def step(self) -> list[Block] | None:
        """Go on by what was published together; None when there is nothing yet."""
        assert self.position is not None, "a step comes after resume"
        if self._cursor is None:
            self._cursor = self.topic.cursor(self.position.entry)
        if self._cursor is None:
            return self._catch_up(self.position)
        taken = self.topic.take(self._cursor)
        if taken is None:
            return None
        if isinstance(taken, Missed):
            return self.begin_again(taken.reset)
        event, self._cursor = taken
        return self._rows(event)

    def _catch_up(self, position: Position) -> list[Block]:
        """A step of what was published between the reader's position and what is in the ring."""
        floor = self.topic.floor
        found = self.topic.feed.after(position.entry, PUBLICATIONS_A_STEP)
        if found.loss is not None:
            return self.begin_again(Reset(found.loss, LOSSES[found.loss]))
        if not found.entries:  # what was published there has been published again since, or has expired
            self.position = replace(position, entry=floor)
            return []
        completeness = self.metrics.completeness(self.topic.program)
        meta = meta_json(completeness.watermark_ms, completeness.complete_to_ms)
        lines = [line for _, found_lines in found.entries for line in found_lines]
        return self._rows(Event(lines, found.entries[-1][0], meta))

    def _rows(self, event: Event) -> list[Block]:
        assert self.position is not None
        lines = [line for line in event.lines if self._is_new(line) and self._is_wanted(line)]
        self.position = replace(self.position, entry=max(event.last, self.position.entry))
        if event.last >= self._seen_until:
            self._seen = {}
        return [Block("rows", rows_json(self.metric, lines, event.meta))] if lines else []

    def _snapshot(self) -> Block:
        snapshot = take_snapshot(self.metrics, self.topic)
        self.position, self._cursor = snapshot.position, None
        self._remember(snapshot)
        lines = [line for line in snapshot.lines if self._is_wanted(line)]
        return Block("snapshot", rows_json(self.metric, lines, snapshot.meta))

    def _remember(self, snapshot: Snapshot) -> None:
        self._seen, self._seen_until = {}, snapshot.until
        if snapshot.until > snapshot.position.entry:
            self._seen = {line.identity: line.revision for line in snapshot.lines}

    def _is_new(self, line: Line) -> bool:
        assert self.position is not None
        shown = self.position.shown
        if line.entry <= self.position.entry:
            return False
        if shown is not None and line.window == shown.window and line.revision <= shown.revision:
            return False
        return line.entry > self._seen_until or self._seen.get(line.identity, -1) < line.revision

    def _is_wanted(self, line: Line) -> bool:
        return not self.where or matches(self.topic.program, self.where, line)
