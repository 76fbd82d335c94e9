"""Sends simulated events as they become due, and keeps going while the API is away.

Invariant: a batch is posted under one key, so a lost answer does not double it; what falls due while the API is away is
dropped and counted, as by a sensor without memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.core.ndjson import encode_rows
from pipeline.runtime.door import Door, SendResult, UnavailableError
from pipeline.runtime.simulate import Row, Simulated, simulate_stream

BEAT_S = 0.1  # ten requests a second and stream: live on a dashboard, and cheap
BATCH_ROWS = 5_000


@dataclass(slots=True)
class _Source:
    """One stream's events; the first one not yet due waits in `ahead`."""

    stream: str
    events: Iterator[Simulated]
    ahead: Simulated | None = None
    batches: int = 0

    def due(self, now_ms: int) -> list[Row]:
        rows: list[Row] = []
        self.ahead = self.ahead or next(self.events)
        while self.ahead.at_ms <= now_ms and len(rows) < BATCH_ROWS:
            rows.append(self.ahead.row)
            self.ahead = next(self.events)
        return rows


@dataclass(slots=True)
class Simulation:
    """Simulated streams on their way to a door; `poll_once` sends what is due."""

    door: Door
    streams: Sequence[str]
    rate: float  # events a second, over all streams
    seed: int
    start_ms: int
    say: Callable[[str], None]
    result: SendResult = field(default_factory=SendResult)
    dropped: int = 0
    _away: bool = False
    _sources: list[_Source] = field(default_factory=list)

    def __post_init__(self) -> None:
        rate = self.rate / len(self.streams)
        self._sources = [_Source(s, simulate_stream(s, self.seed, self.start_ms, rate)) for s in self.streams]

    def poll_once(self, now_ms: int) -> int:
        """Send what is due by `now_ms` and return how many rows that were."""
        return sum(self._send(source, rows) for source in self._sources if (rows := source.due(now_ms)))

    def _send(self, source: _Source, rows: list[Row]) -> int:
        key = f"simulate-{source.stream}-{self.seed}-{self.start_ms}-{source.batches}"
        source.batches += 1
        try:
            said = self.door.post_rows(source.stream, encode_rows(rows), len(rows), key)
        except UnavailableError as error:
            self._lost(len(rows), error)
            return 0
        if self._away:
            self.say(f"The API is back; {self.dropped} events were dropped so far.")
            self._away = False
        self.result = self.result.then(said)
        return len(rows)

    def _lost(self, rows: int, error: UnavailableError) -> None:
        self.dropped += rows
        if not self._away:
            self.say(f"{error} Going on; events are dropped until it is back.")
        self._away = True


def wait_for_streams(
    door: Door, streams: Sequence[str], say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> None:
    """Return when the API answers and has every stream.

    Raises:
        StreamgaugeError: it answers, and a stream is not in its config.
    """
    waiting = False
    while True:
        try:
            for stream in streams:
                door.stream(stream)
        except UnavailableError:
            if not waiting:
                say("Waiting for the API to answer.")
            waiting = True
            sleep(BEAT_S * 5)
        else:
            return


def run_simulation(
    simulation: Simulation,
    seconds: float | None,
    *,
    clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Send in real time for `seconds`, or for ever."""
    end_ms = None if seconds is None else simulation.start_ms + int(seconds * 1000)
    while (now_ms := clock_ms()) and (end_ms is None or now_ms < end_ms):
        simulation.poll_once(now_ms)
        sleep(BEAT_S)
    if end_ms is not None:
        simulation.poll_once(end_ms - 1)
