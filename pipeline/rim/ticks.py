"""Moving time without events: a tick is an entry of the log, so a replay of the log moves time at the same places.

A tick is appended only if the partition's last entry is still the one its writer saw; otherwise an event has come, and
whether time must be moved is asked again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import redis

from pipeline.core.definitions import Stream
from pipeline.core.entry_header import TickCause, split_id
from pipeline.core.times import about_duration, format_duration
from pipeline.core.watermarks import SETTLE_MS, PartitionClock, Tick, end_tick_time, idle_ticks
from pipeline.core.windows import Horizon
from pipeline.errors import BackpressureError, BadRequestError
from pipeline.rim import keys
from pipeline.rim.clocks import Look, look
from pipeline.rim.scripts import Scripts

ATTEMPTS = 20  # to write an asked-for tick behind a partition that is being written to
STEPS_A_REQUEST = 1_000  # of rows past the door an end tick reads: a million


@dataclass(frozen=True, slots=True)
class Ticked:
    """The ticks written for a request, one for each partition in order, and their time; no time, no ticks."""

    ids: tuple[str, ...]
    time_ms: int | None

    @property
    def reached_ms(self) -> int | None:
        """How far every partition has come by them: a tick moves time no further than its arrival."""
        return None if self.time_ms is None else min(self.time_ms, *(split_id(each.encode())[0] for each in self.ids))


@dataclass(frozen=True, slots=True)
class TimeKeeper:
    """Writes the ticks of one stream.

    `horizons` and `groups` are those of the stages of the running config that read it.
    """

    client: redis.Redis
    scripts: Scripts
    stream: Stream
    horizons: Sequence[Horizon]
    groups: Sequence[str]
    _looks: deque[tuple[int, tuple[PartitionClock, ...]]] = field(default_factory=deque)

    def tick_idle(self, now_ms: int, watched_since_ms: int | None = None) -> list[str]:
        """Look at the stream and write the ticks that are due; return their ids. Called a few times a second.

        `watched_since_ms` is that of `idle_ticks`.
        """
        seen = self._look()
        clocks = self._settled(now_ms, seen.clocks)
        if not seen.complete:
            return []
        ticks = idle_ticks(now_ms, self.stream.time, clocks, self.horizons, watched_since_ms)
        return [entry_id for tick in ticks if (entry_id := self._append(tick)) is not None]

    def end(self) -> Ticked:
        """Close every window that has an event, in every partition.

        Raises:
            BackpressureError: a partition was written to so fast that no tick could follow its last entry.
        """

        def time_of(seen: Look) -> int | None:
            newest = [clock.max_ts_ms for clock in seen.clocks if clock.max_ts_ms is not None]
            return end_tick_time(max(newest), self.horizons, self.stream.time.disorder_ms) if newest else None

        return self._tick_all(time_of, "end")

    def heartbeat(self, time_ms: int, now_ms: int) -> Ticked:
        """Say that nothing older than `time_ms`, less the disorder bound, will come in any partition.

        Raises:
            BadRequestError: the time is further ahead of Redis's clock than the stream's `max_future`.
            BackpressureError: as for `end`.
        """
        ahead_ms = time_ms - now_ms
        max_future_ms = self.stream.time.max_future_ms
        if ahead_ms > max_future_ms:
            raise BadRequestError(
                f"the heartbeat {time_ms} is {about_duration(ahead_ms)} ahead of the server's clock, stream"
                f" {self.stream.name} takes at most {format_duration(max_future_ms)} (max_future);"
                " check the clock it comes from",
                code="too_far_ahead",
                status=422,
            )
        return self._tick_all(lambda seen: time_ms, "heartbeat")

    def _tick_all(self, time_of: Callable[[Look], int | None], by: TickCause) -> Ticked:
        """One tick in every partition, of one time. A partition that gets an entry meanwhile is looked at again."""
        seen = self._look(STEPS_A_REQUEST)
        time_ms = time_of(seen)
        if time_ms is None:
            return Ticked((), None)
        ids: dict[int, str] = {}
        for _ in range(ATTEMPTS):
            # An event that came since may need a later time; ticks already written then come before it, and are kept.
            newer_ms = time_of(seen)
            if newer_ms is not None and newer_ms > time_ms:
                time_ms, ids = newer_ms, {}
            for clock in seen.clocks:
                if clock.partition not in ids:
                    entry_id = self._append(Tick(clock.partition, clock.last_id, time_ms, by))
                    ids |= {clock.partition: entry_id} if entry_id is not None else {}
            if len(ids) == self.stream.partitions:
                return Ticked(tuple(ids[partition] for partition in sorted(ids)), time_ms)
            seen = self._look(STEPS_A_REQUEST)
        raise BackpressureError(
            f"stream {self.stream.name} is being written to: no tick could follow the last entry of every partition in"
            f" {ATTEMPTS} attempts; stop sending to it first",
            retry_after_s=1,
        )

    def _look(self, steps: int | None = None) -> Look:
        if steps is None:
            return look(self.client, self.scripts, self.stream, self.groups)
        return look(self.client, self.scripts, self.stream, self.groups, steps=steps)

    def _append(self, tick: Tick) -> str | None:
        """Write one tick; None when another entry came first."""
        entry_id = self.scripts.run(
            "tick",
            keys=[keys.raw(self.stream.name, tick.partition), keys.door(self.stream.name, tick.partition)],
            args=[tick.last_id, tick.time_ms, tick.by],
        )
        return entry_id.decode() if entry_id else None

    def _settled(self, now_ms: int, clocks: tuple[PartitionClock, ...]) -> tuple[PartitionClock, ...]:
        """The clocks with their running maximum of the newest look that is at least SETTLE_MS old."""
        self._looks.append((now_ms, clocks))
        while len(self._looks) > 1 and self._looks[1][0] <= now_ms - SETTLE_MS:
            self._looks.popleft()
        taken_ms, before = self._looks[0]
        if taken_ms > now_ms - SETTLE_MS:
            return clocks
        return tuple(replace(c, settled_ms=b.max_seen_ms) for c, b in zip(clocks, before, strict=True))
