"""The whole line on a clock that the test turns: minutes of a stream in a second, and nothing about it is a stand-in.

Events arrive by entries with ids of the test's choosing (an id is the arrival). The scheduler's ticks are decided by
`Housekeeping.tick_once(now)` and written by `tick.lua` itself, whose one read of Redis's clock, the `*` of its XADD, is
given instead. Workers, closers and answers are the real ones; none of them asks what time it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from pipeline.core.definitions import Tumbling
from pipeline.rim.scripts import Argument, Scripts, all_scripts, script
from pipeline.runtime.scheduler import Housekeeping
from pipeline.runtime.time_keepers import time_keepers
from pipeline.runtime.worker import Worker
from tests.line import Line, chunk_fields

STEP_MS = 500  # how often the scheduler looks


@dataclass(slots=True)
class Simulation:
    """A line with one stream `readings` (time field `ts`), read by the stage `counts` in tumbling windows."""

    line: Line
    now_ms: int
    sent: list[int] = field(default_factory=list)  # event times, of all partitions
    housekeeping: Housekeeping = field(init=False)
    worker: Worker = field(init=False)
    _stored: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.worker = self.line.worker()
        self.housekeeping = Housekeeping(self.line.config, self.line.client)
        keepers = time_keepers(self.line.client, self.line.config, _OnTime(self.line.client, lambda: self.now_ms))
        self.housekeeping._time_keepers = keepers

    def upload(self, partition: int, times_ms: Sequence[int]) -> None:
        """Events that arrive together, now."""
        events = [{"ts": time_ms} for time_ms in times_ms]
        fields = chunk_fields(events, times_ms, position=self._stored[partition], at_ms=self.now_ms)
        self.line.entry("readings", fields, partition=partition, entry_id=f"{self.now_ms}-*")
        self._stored[partition] += len(events)
        self.sent += times_ms

    def event(self, partition: int, *, behind_ms: int = 0) -> None:
        self.upload(partition, [self.now_ms - behind_ms])

    def run(self, ms: int, each_step: Callable[[], None] = lambda: None) -> None:
        """Let time pass; before each look of the scheduler, `each_step` may send."""
        for _ in range(ms // STEP_MS):
            self.now_ms += STEP_MS
            each_step()
            self.housekeeping.tick_once(self.now_ms)

    def end(self) -> None:
        """What a replay says when its file is at its end."""
        self.housekeeping._time_keepers["readings"].end()

    def closed(self) -> dict[int, int]:
        """Window start → events, of the windows that have closed by now."""
        self.line.settle(self.worker)
        return {row["window_start"]: row["n"] for row in self.line.closed("counts")}

    def closed_to_ms(self) -> int:
        """Every window that ends at or before it has closed."""
        self.line.settle(self.worker)
        to_ms = self.line.get("counts")["meta"]["complete_to"]
        assert to_ms is not None, "nothing has closed yet"
        return int(to_ms)

    def expected(self, to_ms: int | None = None) -> dict[int, int]:
        """The same, counted here from what was sent; up to the windows that end by `to_ms`."""
        window = self.line.programs["counts"].stage.window
        assert isinstance(window, Tumbling)
        counts = Counter(time_ms // window.size_ms * window.size_ms for time_ms in self.sent)
        return {start: n for start, n in counts.items() if to_ms is None or start + window.size_ms <= to_ms}

    def late(self) -> list[dict[str, Any]]:
        partitions = self.line.config.streams["readings"].partitions
        return [row for partition in range(partitions) for row in self.line.late("counts", partition)]


class _OnTime(Scripts):
    """The scripts, with the clock of the tick's entry id given."""

    def __init__(self, client: redis.Redis, now_ms: Callable[[], int]) -> None:
        tick = all_scripts()["tick"].source
        assert tick.count(b"KEYS[1], '*'") == 1, "tick.lua has changed: its entry id is given here"
        given = script("tick", tick.replace(b"KEYS[1], '*'", b"KEYS[1], ARGV[4]"))
        super().__init__(client, {**all_scripts(), "tick": given})
        self._now_ms = now_ms

    def run(self, name: str, *, keys: Sequence[str | bytes], args: Sequence[Argument] = ()) -> Any:
        more = (f"{self._now_ms()}-*",) if name == "tick" else ()
        return super().run(name, keys=keys, args=(*args, *more))
