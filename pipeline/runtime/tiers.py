"""Rollup tiers: coarser windows of a metric, merged from its published windows and kept longer (DESIGN section 5).

A tier never sees an event: what was late for the metric is late for its tiers, and a revised window revises the tier
windows it is part of. A tier window is published when every window in it is, and again when one of them was revised.
"""

from __future__ import annotations

from dataclasses import dataclass

import redis

from pipeline.core.cells import CellTable
from pipeline.core.definitions import Rollup
from pipeline.core.merging import packed_blocks
from pipeline.core.programs import Program
from pipeline.rim import keys, publish, replies, store
from pipeline.rim.commit import Mark
from pipeline.rim.publish import Settled, TierWindow
from pipeline.rim.scripts import Scripts
from pipeline.runtime.metric_completeness import account

WINDOWS_A_PASS = 20  # of one tier; each may be merged from hundreds of windows


@dataclass(frozen=True, slots=True)
class TierCloser:
    """Publishes the windows of a metric's tiers."""

    program: Program
    client: redis.Redis
    scripts: Scripts

    def close_once(self) -> int:
        """Publish the tier windows that are due and complete; return how many."""
        due = {rollup: self._due(rollup) for rollup in self.program.stage.rollups}
        if not any(due.values()):
            return 0
        completeness, _ = account(self.client, self.program)
        if completeness.complete_to_ms is None:
            return 0
        published = 0
        for rollup, windows in due.items():
            ready = [start for start in sorted(windows) if start + rollup.size_ms <= completeness.complete_to_ms]
            for start_ms in ready[:WINDOWS_A_PASS]:
                published += self._publish(rollup, start_ms, windows[start_ms])
        return published

    def _due(self, rollup: Rollup) -> dict[int, Mark]:
        key = keys.tier_due(self.program.name, self.program.version, rollup.size_ms)
        stored = replies.parse_hash(self.client.execute_command("HGETALL", key))
        return {int(start): Mark.parse(due.partition(b" ")[0]) for start, due in stored.items()}

    def _publish(self, rollup: Rollup, start_ms: int, due: Mark) -> bool:
        """Merge the windows of one tier window in their order, and put it in place."""
        program, end_ms = self.program, start_ms + rollup.size_ms
        spans = store.published_windows(self.client, program.name, program.version, start_ms, end_ms)
        results = store.load_results(self.client, program.name, program.version, spans)
        table = CellTable(program.layout)
        for result in results:
            table.merge_in(start_ms, [(result.groups, result.columns(program.layout))])
        pane = table.pane(start_ms)
        order = pane.names.order()
        groups, slots = pane.names.taken(order), pane.slots[order]
        window = TierWindow(
            metric=program.name,
            version=program.version,
            size_ms=rollup.size_ms,
            start_ms=start_ms,
            seq=max((result.seq for result in results), default=0),
            windows=len(results),
            groups=groups,
            blocks=packed_blocks(program.layout, groups, table.columns, slots),
        )
        revision = publish.publish_tier(self.client, self.scripts, window)
        if window.seq >= due.commit:
            done = [Settled(start_ms, due, None)]
            publish.settle_key(self.scripts, keys.tier_due(program.name, program.version, rollup.size_ms), done)
        return revision is not None
