"""Closing: when time has passed a window's end in every partition, its panes are merged and the result is published.

When a window closes is decided by the minimum of the watermarks; what is in it was decided by the log (DESIGN 6).
Publishing needs no owner: any worker may run a pass, and two that run at once publish the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import redis

from pipeline.core.cells import ALWAYS, CellTable, split_field
from pipeline.core.programs import Program
from pipeline.core.windows import is_final
from pipeline.rim import publish, store
from pipeline.rim.commit import Checkpoint, Mark
from pipeline.rim.publish import Closed, Outgoing
from pipeline.rim.scripts import Scripts

WINDOWS_A_PASS = 100  # published at most, so that a worker gets back to its events
WINDOWS_A_READ = 20  # windows whose panes are read together


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


@dataclass(frozen=True, slots=True)
class Closer:
    """Publishes the closed windows of one metric."""

    program: Program
    client: redis.Redis
    scripts: Scripts

    def close_once(self) -> Pass:
        """Publish the windows that are due and whose end the minimum watermark has passed, oldest first."""
        closed = self._closed_starts()
        published = 0
        for at in range(0, min(len(closed), WINDOWS_A_PASS), WINDOWS_A_READ):
            published += self._close(closed[at : at + WINDOWS_A_READ])
        self._emit_rest()
        return Pass(published, more=len(closed) > WINDOWS_A_PASS)

    def _closed_starts(self) -> list[int]:
        """The starts of the due windows that every partition has passed, oldest first."""
        program = self.program
        stream, partitions = program.stream, program.stream.partitions
        due = store.due_panes(self.client, stream.name, partitions, program.group)
        starts = sorted({start for panes in due for start in panes})
        if not starts:
            return []
        checkpoints = store.load_checkpoints(self.client, stream.name, partitions, program.group)
        watermark_ms = minimum_watermark(checkpoints, stream.time.disorder_ms)
        return [] if watermark_ms is None else [s for s in starts if is_final(program.window, s, watermark_ms)]

    def _close(self, starts: Sequence[int]) -> int:
        """Merge and publish some windows; a window whose pane changed under our hands stays due."""
        program = self.program
        stream = program.stream
        read = store.read_marked_panes(self.client, stream.name, stream.partitions, program.group, starts)
        done: list[dict[int, Mark]] = [{} for _ in range(stream.partitions)]
        published = 0
        for start_ms, panes in zip(starts, read, strict=True):
            if panes is None:
                continue
            window = self._window(start_ms, panes, is_newest=start_ms == starts[-1])
            revision = publish.publish(self.client, self.scripts, window)
            published += revision is not None
            # Refused: somebody published these marks, or newer ones, or ours ran out while it was staged. Only what is
            # in place is done; the rest stays due.
            in_place = window.marks if revision is not None else publish.stored_marks(self.client, window)
            for partition, (mark, stored) in enumerate(zip(window.marks, in_place, strict=False)):
                if mark != Mark() and mark == stored:
                    done[partition][start_ms] = mark
        for partition, marks in enumerate(done):
            publish.settle(self.scripts, stream.name, partition, program.group, marks)
        return published

    def _window(self, start_ms: int, panes: Sequence[store.MarkedPane], *, is_newest: bool) -> Closed:
        """Merge a window's cells by from_end, then partition: the fixed order of float sums."""
        program = self.program
        parts = [
            (*split_field(field), partition, cell)
            for partition, (_, cells) in enumerate(panes)
            for field, cell in cells.items()
        ]
        parts.sort(key=lambda part: (from_end_order(part[0]), part[2]))
        table = CellTable(program.layout)
        partials = program.layout.unpack([cell for *_, cell in parts])
        table.merge([(start_ms, group) for _, group, *_ in parts], partials)
        groups = sorted(table.panes.get(start_ms, {}))
        slots = table.slots((start_ms, group) for group in groups)
        end_ms = start_ms + program.window.size_ms
        latest = finished_rows(program, table.columns, slots) if is_newest else []
        return Closed(
            metric=program.name,
            version=program.version,
            start_ms=start_ms,
            end_ms=end_ms,
            state="final",  # without allowed lateness a window that closes cannot change any more
            marks=[mark for mark, _ in panes],
            groups=groups,
            cells=table.packed(slots),
            finished=[msgspec.json.encode(_latest(start_ms, end_ms, row)) for row in latest],
        )

    def _emit_rest(self) -> None:
        """Send downstream what is published and not out yet, ours or of a publisher that died."""
        program = self.program
        while heads := publish.outgoing(self.client, program.name, program.version):
            for head in heads:
                rows = self._outgoing_rows(head)
                if not publish.emit(self.scripts, program.name, program.version, head, rows):
                    return  # somebody else is sending

    def show_latest(self) -> None:
        """Put the newest published window of this version into the `latest` hash."""
        program = self.program
        newest = store.published_windows(self.client, program.name, program.version, limit=1)
        pairs = [
            (group, msgspec.json.encode(_latest(result.start_ms, result.end_ms, row)))
            for result in store.load_results(self.client, program.name, program.version, newest)
            for group, row in zip(result.groups, self._finished(result), strict=True)
        ]
        publish.replace_latest(self.client, program.name, pairs)

    def _finished(self, result: store.Result) -> list[dict[str, Any]]:
        """The finished values of a published window, in the order of its groups."""
        table = CellTable(self.program.layout)
        cells = [(result.start_ms, group) for group in result.groups]
        table.merge(cells, self.program.layout.unpack(result.cells))
        return finished_rows(self.program, table.columns, table.slots(cells))

    def _outgoing_rows(self, head: Outgoing) -> list[Mapping[str, bytes | str | int]]:
        program = self.program
        found = store.load_results(self.client, program.name, program.version, [(head.start_ms, head.end_ms)])
        if not found or found[0].revision != head.revision:
            return []  # expired, or a newer revision took its place and is in the list behind it
        result = found[0]
        rows = self._finished(result)
        about: dict[str, bytes | str | int] = {
            "window_start": head.start_ms,
            "window_end": head.end_ms,
            "state": result.state,
            "revision": head.revision,
            "version": program.version,
        }
        return [
            about
            | _group_texts(program, group)
            | {name: _text(value) for name, value in row.items() if value is not None}
            for group, row in zip(result.groups, rows, strict=True)
        ]


def from_end_order(from_end: bytes) -> int:
    """Order cells by the end of the first window they count in; `-` is before all."""
    return -(2**63) if from_end == ALWAYS else int(from_end)


def finished_rows(program: Program, columns: Mapping[str, Any], slots: Any) -> list[dict[str, Any]]:
    """The finished values of cells, one mapping a cell."""
    values = [finisher.finish(columns, slots) for finisher in program.finishers]
    names = [finisher.spec.name for finisher in program.finishers]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _latest(start_ms: int, end_ms: int, row: Mapping[str, Any]) -> dict[str, Any]:
    return {"window_start": start_ms, "window_end": end_ms, **row}


def _group_texts(program: Program, group: bytes) -> dict[str, bytes | str | int]:
    values = msgspec.json.decode(group)
    pairs = zip(program.stage.group_by, values, strict=True)
    return {name: _text(value) for name, value in pairs if value is not None}


def _text(value: Any) -> str:
    """A value as text in a row: strings as they are, everything else as JSON."""
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
