"""Closing: when time has passed a window's end in every partition, its panes are merged and the result is published.

When a window closes is decided by the minimum of the watermarks; what is in it was decided by the log (DESIGN 6).
Publishing needs no owner: any worker may run a pass, and two that run at once publish the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import numpy as np
import redis
import structlog

from pipeline.core.definitions import Tumbling
from pipeline.core.merging import Merged, Piece, merged, pieces_of, windows_by_end
from pipeline.core.names import Names
from pipeline.core.programs import Program
from pipeline.core.windows import FOREVER_MS, Span
from pipeline.rim import publish, store
from pipeline.rim.commit import Checkpoint, Mark
from pipeline.rim.publish import Closed, Outgoing, Settled
from pipeline.rim.scripts import Scripts
from pipeline.rim.soundness import what_is_lost
from pipeline.rim.store import Due, MarkedPane, parsed_due
from pipeline.runtime.downstream import Finished, outgoing_entries
from pipeline.runtime.finishing import finished_columns, finished_result, latest_texts

WINDOWS_A_PASS = 100  # published at most, so that a worker gets back to its events
PANES_A_LOOK = 1_000  # of due panes, the oldest, for the windows to publish next: a backlog may be of a year
WINDOWS_A_READ = 20  # windows whose panes are read together
CACHED_CELLS = 100_000  # of panes kept for the next pass: some 100 MB of quantiles
UNSENT_ROWS = 10_000  # finished rows kept before they go downstream

log = structlog.get_logger(__name__)

Read = Mapping[int, list[tuple[MarkedPane, list[Piece]]] | None]  # pane start → the panes there; None: one changed
Marks = tuple[Mark, ...]  # of a window: for each partition the newest mark of its panes


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass did: the windows it published, and whether more are waiting."""

    published: int
    more: bool


def minimum_watermark(checkpoints: Sequence[Checkpoint], disorder_ms: int) -> int | None:
    """The watermark of a stage: the smallest over its partitions; None while one has seen nothing."""
    seen = [checkpoint.max_seen_ms for checkpoint in checkpoints]
    known = [ms for ms in seen if ms is not None]
    return min(known) - disorder_ms if len(known) == len(seen) else None


@dataclass(slots=True)
class PieceCache:
    """Panes as they were unpacked for the last windows, which the next ones overlap; a mark names one content.

    By (partition, pane start). Pieces are only ever merged from, never into.
    """

    panes: dict[tuple[int, int], tuple[Mark, list[Piece]]] = field(default_factory=dict)

    @property
    def marks(self) -> dict[tuple[int, int], Mark]:
        return {place: mark for place, (mark, _) in self.panes.items()}

    def keep(self, panes: Mapping[tuple[int, int], tuple[Mark, list[Piece]]]) -> None:
        """Keep the newest of these panes, and nothing else, up to CACHED_CELLS."""
        self.panes = {}
        cells = 0
        for place in sorted(panes, key=lambda place: place[1], reverse=True):
            cells += sum(len(piece.groups) for piece in panes[place][1])
            if cells > CACHED_CELLS:
                return
            self.panes[place] = panes[place]


def waiting_windows(
    program: Program, due: Sequence[Mapping[int, Due]], *, from_ms: int = -FOREVER_MS, to_ms: int = FOREVER_MS
) -> list[Span]:
    """The windows that due panes wait for and that end from `from_ms` to `to_ms`, in the order they close."""
    panes = program.panes
    return windows_by_end(
        window
        for partition in due
        for start, pane in partition.items()
        for window in panes.windows_of(start, max(from_ms, pane.from_end_ms), to_ms)
    )


def next_windows(
    program: Program, due: Sequence[Mapping[int, bytes]], to_ms: int, look: int
) -> tuple[list[Span], bool]:
    """The windows that end by `to_ms` and close first, in that order, and whether more may be waiting after them.

    Only the oldest panes are looked at (`look` at first): the windows of a later one end after it begins.
    """
    starts = sorted(set[int]().union(*due))
    while True:
        others = look < len(starts) and starts[look] < to_ms
        until_ms = starts[look] if others else to_ms
        waiting = waiting_windows(program, [parsed_due(panes, starts[:look]) for panes in due], to_ms=until_ms)
        if waiting or not others:
            return waiting, others
        look *= 4


@dataclass(frozen=True, slots=True)
class Closer:
    """Publishes the closed windows of one metric; `cache` lives from pass to pass, `unsent` within one: the rows of
    what was just published, by start, end and revision."""

    program: Program
    client: redis.Redis
    scripts: Scripts
    cache: PieceCache = field(default_factory=PieceCache)
    unsent: dict[tuple[int, int, int], Finished] = field(default_factory=dict)

    def close_once(self) -> Pass:
        """Publish the windows that are due and whose end the minimum watermark has passed, oldest first."""
        began_s = time.monotonic()
        self.unsent.clear()
        due, watermark_ms = self._due()
        if watermark_ms is None:
            self._emit_rest()
            return Pass(0, more=False)
        waiting, others = next_windows(self.program, due, watermark_ms, PANES_A_LOOK)
        until_s = 2 * time.monotonic() - began_s  # as long as it took to find them: a long list is not read for a few
        published, done, in_place = 0, 0, set[Span]()
        while done < len(waiting) and (done < WINDOWS_A_PASS or time.monotonic() < until_s):
            spans = waiting[done : done + WINDOWS_A_READ]
            done += len(spans)
            read = self._read(spans, due)
            for span in spans:
                is_ours = self._publish(span, read, watermark_ms, is_newest=span == spans[-1])
                published += is_ours is True
                if is_ours is not None:
                    in_place.add(span)
            self._emit_rest()
        self._settle(due, in_place, watermark_ms)
        self._emit_rest()
        return Pass(published, more=others or done < len(waiting))

    def update_once(self) -> int:
        """Publish the open windows that changed, for `emit: on_update`; return how many."""
        self.unsent.clear()
        due, watermark_ms = self._due()
        from_ms = -FOREVER_MS if watermark_ms is None else watermark_ms + 1
        spans = waiting_windows(self.program, [parsed_due(panes) for panes in due], from_ms=from_ms)[:WINDOWS_A_PASS]
        read = self._read(spans, due)
        changed = self._changed(spans, read)
        published = sum(self._publish(span, read, None, is_newest=False) is True for span in changed)
        self._emit_rest()
        return published

    def _due(self) -> tuple[list[dict[int, bytes]], int | None]:
        """The due panes by partition, and the minimum watermark; None while no window can have closed."""
        program = self.program
        stream, partitions = program.stream, program.stream.partitions
        due = store.due_texts(self.client, stream.name, partitions, program.group)
        if not any(due):
            return due, None
        checkpoints = store.load_checkpoints(self.client, stream.name, partitions, program.group)
        return due, minimum_watermark(checkpoints, stream.time.disorder_ms)

    def _read(self, spans: Sequence[Span], due: Sequence[Mapping[int, bytes]]) -> Read:
        """The panes of some windows by start, each read and unpacked once; None where one changed meanwhile, or is
        gone although it is due: a window is not published without what was counted in it."""
        program, stream = self.program, self.program.stream
        starts = sorted({start for span in spans for start in program.panes.panes_of(span)})
        if not starts:
            return {}
        known = self.cache.panes
        read = store.read_marked_panes(
            self.client, stream.name, stream.partitions, program.group, starts, self.cache.marks
        )
        found = {
            start: None
            if panes is None or self._lacks(start, panes, due)
            else [
                (pane, known[pane.partition, start][1])
                if pane.stored is None
                else (pane, pieces_of(program.layout, pane.partition, start, pane.stored))
                for pane in panes
            ]
            for start, panes in read.items()
        }
        if len(starts) > len(spans):  # else every window has panes of its own
            used = [each for panes in found.values() for each in panes or ()]
            self.cache.keep({(pane.partition, pane.start_ms): (pane.mark, pieces) for pane, pieces in used})
        return found

    def _lacks(self, start: int, panes: Sequence[MarkedPane], due: Sequence[Mapping[int, bytes]]) -> bool:
        """Whether a pane at `start` was lost in some partition; it is marked torn then, and its worker rebuilds it."""
        there = {pane.partition for pane in panes if pane.stored is None or pane.stored}
        marked = {pane.partition for pane in panes}
        missing = {partition for partition, of in enumerate(due) if start in of} | marked
        stream, group = self.program.stream.name, self.program.group
        for partition in sorted(missing - there):
            if lost := what_is_lost(self.scripts, stream, partition, group, [start]):
                log.error("a pane is gone", stage=self.program.name, stream=stream, partition=partition, why=lost)
        return not missing <= there

    def _publish(self, span: Span, read: Read, watermark_ms: int | None, *, is_newest: bool) -> bool | None:
        """Merge and publish one window: True when it is in place now, False when what is in place is as good.

        None when a pane changed under our hands, or when another publisher's result is newer: it stays due.
        """
        panes = self._panes_of(span, read)
        if panes is None:
            return None
        marks = self._marks(pane for pane, _ in panes)
        window = merged(self.program.layout, span, (piece for _, pieces in panes for piece in pieces))
        is_shown = is_newest or self.program.stage.output != "none"
        values = self._values(window) if is_shown else {}
        latest = latest_texts(span, values, len(window.groups)) if is_newest else Names.of(())
        closed = self._closed(window, marks, watermark_ms, latest)
        revision = publish.publish(self.client, self.scripts, closed)
        if revision is not None:
            self._send_later(Finished(*span, closed.state, revision, window.groups, values))
            return True
        # Refused: somebody published these marks, or newer ones, or ours ran out while it was staged.
        [stored] = store.stored_marks(self.client, self.program.name, self.program.version, [span])
        return False if tuple(stored) == marks else None

    def _changed(self, spans: Sequence[Span], read: Read) -> list[Span]:
        """Those of the windows whose result in place was merged from other marks."""
        stored = store.stored_marks(self.client, self.program.name, self.program.version, spans)
        return [
            span
            for span, marks in zip(spans, stored, strict=True)
            if (panes := self._panes_of(span, read)) is not None
            and self._marks(pane for pane, _ in panes) != tuple(marks)
        ]

    def _panes_of(self, span: Span, read: Read) -> list[tuple[MarkedPane, list[Piece]]] | None:
        """The panes of a window; None when one changed under our hands."""
        found = [read[start] for start in self.program.panes.panes_of(span)]
        if any(each is None for each in found):
            return None
        return [pane for each in found if each is not None for pane in each]

    def _marks(self, panes: Iterable[MarkedPane]) -> Marks:
        newest = [Mark()] * self.program.stream.partitions
        for pane in panes:
            newest[pane.partition] = max(newest[pane.partition], pane.mark, key=lambda mark: mark.order)
        return tuple(newest)

    def _settle(self, due: Sequence[Mapping[int, bytes]], in_place: set[Span], watermark_ms: int) -> None:
        """Note on the list what is published: each pane's windows up to the first that is not."""
        if not in_place:
            return
        program = self.program
        starts = {start for span in in_place for start in program.panes.panes_of(span)}
        for partition, panes in enumerate(due):
            settled = []
            for start in sorted(starts & panes.keys()):
                pane = Due.parse(panes[start])
                windows = list(program.panes.windows_of(start, pane.from_end_ms, watermark_ms))
                out = list(takewhile(lambda window: window in in_place, windows))
                if out:
                    settled.append(Settled(start, pane.mark, self._next_end(start, out[-1][1])))
            publish.settle(self.scripts, program.stream.name, partition, program.group, settled)

    def _next_end(self, start_ms: int, end_ms: int) -> int | None:
        """The end of a pane's next window after the one that ends at `end_ms`."""
        panes = self.program.panes
        starts = np.array([start_ms])
        next_ms = int(panes.ends_after(starts, np.array([end_ms]))[0])
        return next_ms if next_ms <= int(panes.last_ends(starts)[0]) else None

    def _values(self, window: Merged) -> dict[str, list[Any]]:
        return finished_columns(self.program, window.columns, window.slots, [window.span[1]] * len(window.groups))

    def _closed(self, window: Merged, marks: Marks, watermark_ms: int | None, latest: Names) -> Closed:
        program, (start_ms, end_ms) = self.program, window.span
        return Closed(
            metric=program.name,
            version=program.version,
            start_ms=start_ms,
            end_ms=end_ms,
            state=state_at(program, end_ms, watermark_ms),
            marks=marks,
            groups=window.groups,
            blocks=window.blocks,
            finished=latest,
            emits=program.stage.output != "none",
            tiers={rollup.size_ms: tier_start(program, start_ms, rollup.size_ms) for rollup in program.stage.rollups},
        )

    def _send_later(self, window: Finished) -> None:
        """Keep the rows of a window just published until the next few are: they go downstream together."""
        if self.program.stage.output == "none":
            return
        self.unsent[window.start_ms, window.end_ms, window.revision] = window
        if sum(len(each.groups) for each in self.unsent.values()) >= UNSENT_ROWS:
            self._emit_rest()

    def _emit_rest(self) -> None:
        """Send downstream what is published and not out yet, ours or of a publisher that died."""
        program = self.program
        while heads := publish.outgoing(self.client, program.name, program.version):
            for head in heads:
                window = self.unsent.pop(head.window, None) or self._result(head)
                if not publish.emit(
                    self.scripts, program.name, program.version, head, outgoing_entries(program, window)
                ):
                    return  # somebody else is sending

    def _result(self, head: Outgoing) -> Finished | None:
        """The result that is to be sent; None when it expired, or a newer revision is in the list behind it."""
        span = (head.start_ms, head.end_ms)
        found = store.load_results(self.client, self.program.name, self.program.version, [span])
        return Finished.of(self.program, found[0]) if found and found[0].revision == head.revision else None

    def show_latest(self) -> None:
        """Put the newest published window of this version into the `latest` hash."""
        program = self.program
        newest = store.published_windows(self.client, program.name, program.version, limit=1)
        pairs = [
            pair
            for result in store.load_results(self.client, program.name, program.version, newest)
            for pair in zip(
                result.groups,
                latest_texts((result.start_ms, result.end_ms), finished_result(program, result), len(result.groups)),
                strict=True,
            )
        ]
        publish.replace_latest(self.client, program.name, pairs)


def tier_start(program: Program, start_ms: int, size_ms: int) -> int:
    """The start of a tier's window that a window is part of; tiers are aligned as their metric is."""
    window = program.window
    assert isinstance(window, Tumbling), f"{program.name} has tiers and is not tumbling"
    return start_ms - (start_ms - window.offset_ms) % size_ms


def state_at(program: Program, end_ms: int, watermark_ms: int | None) -> str:
    """The state of a window at a watermark: open, closed (may be revised) or final (DESIGN section 6)."""
    if watermark_ms is None or watermark_ms < end_ms:
        return "open"
    return "final" if watermark_ms >= end_ms + program.stage.allowed_lateness_ms else "closed"
