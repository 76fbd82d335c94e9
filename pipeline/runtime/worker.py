"""The worker: takes entries of the partitions it holds, runs every stage that reads them, and closes windows.

`run` is a thin shell round `poll_once`, which returns what it did; tests and notebooks call `poll_once`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from types import FrameType

import redis
import structlog

from pipeline.core.definitions import Config, Session
from pipeline.core.programs import Program, compile_programs
from pipeline.rim import connection, groups
from pipeline.rim.scripts import Scripts
from pipeline.rim.store import load_checkpoints
from pipeline.rim.table_cache import TableCache
from pipeline.runtime.assignments import reads_log
from pipeline.runtime.closer import Closer, Pass, PieceCache
from pipeline.runtime.leases import Leases, Partition
from pipeline.runtime.memory import keep_freed_memory
from pipeline.runtime.metric_completeness import complete_from_ms
from pipeline.runtime.partition_work import PartitionWork, partition_work
from pipeline.runtime.session_closer import SessionCloser
from pipeline.runtime.session_computation import SessionComputation
from pipeline.runtime.setup import activate_when_caught_up, set_up
from pipeline.runtime.tiers import TierCloser

BLOCK_MS = 200  # how long an idle worker sleeps in Redis; also how late it notices a lease or a window due
GATHER_S = 0.02  # between two reads of a partition that left nothing behind: a batch costs milliseconds, however small
CLOSE_EVERY_S = 0.05  # a pass over what is due, while events come in
CLOSE_IDLE_S = 1.0  # and while none do: what another worker's commit or a tick made due
UPDATE_EVERY_S = 1.0  # between two publications of open windows (`emit: on_update`)
TIDY_EVERY_S = 5.0
AWAY_PAUSE_S = 0.5  # between tries while Redis is away

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Polled:
    """What one poll did, in events read and windows published."""

    events: int = 0
    published: int = 0

    @property
    def idle(self) -> bool:
        return self.events == 0 and self.published == 0


@dataclass(slots=True)
class Worker:
    """One worker process: its leases, its partitions, its closers."""

    config: Config
    client: redis.Redis
    waiter: redis.Redis
    name: str
    scripts: Scripts = field(init=False)
    programs: Mapping[str, Program] = field(init=False)
    leases: Leases = field(init=False)
    tables: TableCache = field(init=False)
    _work: dict[Partition, PartitionWork] = field(default_factory=dict)
    _hot: set[Partition] = field(default_factory=set)
    _gathers_until_s: dict[Partition, float] = field(default_factory=dict)
    _next_close_s: float = 0.0
    _next_tidy_s: float = 0.0
    _next_update_s: dict[str, float] = field(default_factory=dict)
    _panes: dict[str, PieceCache] = field(default_factory=dict)
    _committed: bool = False

    def __post_init__(self) -> None:
        self.scripts = Scripts(self.client)
        self.tables = TableCache(self.client)
        self.programs = compile_programs(self.config)
        read = {self.config.stream_of(stage).name for stage in self.config.stages.values() if reads_log(stage)}
        partitions = [(name, p) for name in sorted(read) for p in range(self.config.streams[name].partitions)]
        self.leases = Leases(self.name, partitions, self.client, self.scripts)

    def poll_once(self, block_ms: int | None = None) -> Polled:
        """Do what there is to do; when there is nothing, wait up to `block_ms` for an entry.

        Who may wait also leaves a partition that brought events alone for a moment: what comes alone is counted at
        once, and what comes after it in batches.
        """
        if self.leases.beat():
            self._follow_leases()
            self._check_places()
        events = 0
        gathering = self._gathering() if block_ms else {}
        for partition in self._ready():
            if partition in gathering:
                continue
            work = self._work[partition]
            done = self._poll(work)
            (self._hot.add if done or work.again else self._hot.discard)(partition)
            if done and not work.is_behind:
                self._gathers_until_s[partition] = time.monotonic() + GATHER_S
            events += done
        if events:
            self._committed = True
            self._next_close_s = min(self._next_close_s, time.monotonic() + CLOSE_EVERY_S)
        polled = Polled(events, self._close())
        if polled.idle and block_ms:
            self._wait(block_ms)
        return polled

    def _poll(self, work: PartitionWork) -> int:
        """Poll one partition, unless it rests: a log that something else has overwritten makes it rest."""
        if work.is_resting:
            return 0
        try:
            return work.poll(self.client)
        except redis.ResponseError as error:
            if connection.is_away(error):
                raise
            work.rest(error)
        return 0

    def drain(self) -> None:
        """Give the leases back; what was read and not committed is claimed by whoever comes next."""
        self.leases.release()

    def forget(self) -> None:
        """Drop every state in memory, as after a lost connection."""
        for work in self._work.values():
            work.forget()
        self.leases.forget()
        self._panes.clear()
        self._hot = set(self._work)

    def _follow_leases(self) -> None:
        for partition in [p for p in self._work if p not in self.leases.held]:
            del self._work[partition]
            self._hot.discard(partition)
            self._gathers_until_s.pop(partition, None)
        for partition in sorted(self.leases.held - self._work.keys()):
            self._work[partition] = partition_work(
                self.config,
                self.programs,
                *partition,
                client=self.client,
                scripts=self.scripts,
                worker=self.name,
                tables=self.tables,
            )
            self._hot.add(partition)

    def _check_places(self) -> None:
        """Once a second look whether the state in memory still is Redis's: after a rollback nothing new may come."""
        for partition, work in self._work.items():
            if work.is_elsewhere():
                log.info("not where we left it; loading again", stream=partition[0], partition=partition[1])
                work.forget()
                self._hot.add(partition)
            elif work.again:
                self._hot.add(partition)

    def _ready(self) -> list[Partition]:
        """Partitions that brought events last time, and those that have new entries."""
        self._look({p: work for p, work in self._work.items() if p not in self._hot}, None)
        return sorted(self._hot)

    def _gathering(self) -> dict[Partition, float]:
        """The partitions that gather entries for their next batch, and for how many seconds yet."""
        now_s = time.monotonic()
        return {partition: until_s - now_s for partition, until_s in self._gathers_until_s.items() if until_s > now_s}

    def _wait(self, block_ms: int) -> None:
        gathering = self._gathering()
        for left_s in gathering.values():
            block_ms = max(1, min(block_ms, int(left_s * 1000)))  # 0 would be for ever
        if not self._look({p: work for p, work in self._work.items() if p not in gathering}, block_ms):
            time.sleep(block_ms / 1000)  # holding nothing that could wake us: until the next beat

    def _look(self, among: Mapping[Partition, PartitionWork], block_ms: int | None) -> bool:
        """Make those hot that have an entry we do not know; False when there was nothing to look at."""
        awake = {partition: work for partition, work in among.items() if not work.is_resting}
        cursors = {work.key: work.cursor or b"0" for work in awake.values()}
        by_key = {work.key: partition for partition, work in awake.items()}
        try:
            found = groups.wait_for_entries(self.waiter, cursors, block_ms)
        except redis.ResponseError as error:
            if connection.is_away(error):
                raise
            self._hot.update(awake)  # one of the logs cannot be read: polling each by itself finds out which
            return True
        for key, entry_id in found.items():
            self._work[by_key[key]].see(entry_id)
            self._hot.add(by_key[key])
        return bool(cursors)

    def _close(self) -> int:
        """Publish what is due: the holder of a stream's first partition at once, everybody now and then."""
        now_s = time.monotonic()
        if now_s < self._next_close_s:
            return 0
        self._next_close_s = now_s + (CLOSE_EVERY_S if self._committed else CLOSE_IDLE_S)
        everybody = now_s >= self._next_tidy_s
        if everybody:
            self._next_tidy_s = now_s + TIDY_EVERY_S
        published = 0
        more = False
        for program in self.programs.values():
            done = self._guarded(program, partial(self._close_stage, program, now_s, everybody=everybody))
            published += done.published
            more |= done.more
        self._committed = more
        return published

    def _close_stage(self, program: Program, now_s: float, *, everybody: bool) -> Pass:
        """Everything there is to publish of one stage."""
        if isinstance(program.window, Session):
            done = self.close_sessions(program)
        elif everybody or (program.stream.name, 0) in self.leases.held:
            closed = self._closer(program).close_once()
            published = closed.published + self._update(program, now_s)
            published += 0 if closed.more else TierCloser(program, self.client, self.scripts).close_once()
            done = Pass(published, closed.more)
        else:
            return Pass(0, more=False)
        if everybody and not done.more:  # else windows that were final would be shown open again
            self._activate(program)
        return done

    def _update(self, program: Program, now_s: float) -> int:
        """Publish open windows where `emit: on_update` asks for it, once in a while: each time is a whole window."""
        if program.stage.emit != "on_update" or now_s < self._next_update_s.get(program.name, 0.0):
            return 0
        self._next_update_s[program.name] = now_s + UPDATE_EVERY_S
        return self._closer(program).update_once()

    def _activate(self, program: Program) -> None:
        if activate_when_caught_up(self.client, self.config, program.name, program.group):
            stream = program.stream
            checkpoints = load_checkpoints(self.client, stream.name, stream.partitions, program.group)
            begins_ms = complete_from_ms(program, checkpoints)
            begins = None if begins_ms is None else datetime.fromtimestamp(begins_ms / 1000, UTC).isoformat()
            log.info("a changed stage answers now", stage=program.name, version=program.version, begins=begins)
            of = SessionCloser if isinstance(program.window, Session) else Closer
            of(program, self.client, self.scripts).show_latest()

    def close_sessions(self, program: Program) -> Pass:
        """Publish the sessions of the partitions we hold: only their holder has them in memory."""
        closer = SessionCloser(program, self.client, self.scripts)
        published, more = 0, False
        for work in self._work.values():
            for runner in work.runners:
                if runner.state is None or runner.group != program.group:
                    continue
                assert isinstance(runner.computation, SessionComputation), f"{program.group} has sessions"
                done = closer.close_once(runner.computation, runner.state.checkpoint)
                published, more = published + done.published, more | done.more
        return Pass(published, more)

    def _closer(self, program: Program) -> Closer:
        return Closer(program, self.client, self.scripts, self._panes.setdefault(program.name, PieceCache()))

    def _guarded(self, program: Program, close: Callable[[], Pass]) -> Pass:
        """Close, unless a key has been overwritten by somebody: that is said, and the other metrics go on."""
        try:
            return close()
        except redis.ResponseError as error:
            if connection.is_away(error):
                raise
            log.error(
                "cannot close windows",
                stage=program.name,
                why=str(error),
                next="something else writes to this stage's keys; windows are closed when they are right again",
            )
            return Pass(0, more=False)


def run(worker: Worker, stopping: Callable[[], bool]) -> None:
    """Poll until told to stop. Redis away: everything in memory is dropped and loaded again when it is back."""
    while not stopping():
        try:
            worker.poll_once(block_ms=BLOCK_MS)
        except redis.RedisError as error:
            if not connection.is_away(error):
                raise
            log.warning("redis is away; trying again", error=str(error))
            worker.forget()
            time.sleep(AWAY_PAUSE_S)
    try:
        worker.drain()
    except redis.RedisError as error:
        log.warning("leases could not be given back; they run out by themselves", error=str(error))


def run_worker(*, config: Config, redis_url: str, name: str) -> None:
    """The worker process: set up, run until SIGTERM or SIGINT, drain."""
    stop = threading.Event()

    def on_signal(signum: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    keep_freed_memory()
    client = connection.owner(redis_url)
    waiter = connection.reader(redis_url, block_ms=BLOCK_MS)
    while not stop.is_set():
        try:
            set_up(client, config)
            break
        except redis.RedisError as error:
            if not connection.is_away(error):
                raise
            stop.wait(AWAY_PAUSE_S)
    run(Worker(config, client, waiter, name), stop.is_set)
