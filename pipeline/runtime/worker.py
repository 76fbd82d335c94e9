"""The worker: takes entries of the partitions it holds, runs every stage that reads them, and closes windows.

`run` is a thin shell round `poll_once`, which returns what it did; tests and notebooks call `poll_once`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

import redis
import structlog

from pipeline.core.batches import Batch, read_batch
from pipeline.core.definitions import Config, Stream, Transform
from pipeline.core.entries import Entry
from pipeline.core.events import Reader
from pipeline.core.programs import Program, compile_programs, compile_steps, version_of
from pipeline.errors import FenceError, ForeignKeyError, TornError
from pipeline.rim import connection, groups, keys
from pipeline.rim.rebuild import rebuild_partition
from pipeline.rim.scripts import Scripts
from pipeline.runtime.closer import Closer
from pipeline.runtime.computations import AggregateComputation, Computation, PublishComputation
from pipeline.runtime.leases import Leases, Partition
from pipeline.runtime.runner import Loaded, Runner
from pipeline.runtime.setup import activate_when_caught_up, set_up

BLOCK_MS = 200  # how long an idle worker sleeps in Redis; also how late it notices a lease or a window due
CLOSE_EVERY_S = 0.05  # a pass over what is due, while events come in
CLOSE_IDLE_S = 1.0  # and while none do: what another worker's commit or a tick made due
TIDY_EVERY_S = 5.0
REST_S = 5.0  # between tries on a partition whose keys something else has overwritten; the others go on
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
class PartitionWork:
    """All groups that read one partition; those at the same entries share one decoding."""

    stream: Stream
    partition: int
    runners: Sequence[Runner]
    reader: Reader
    cursor: bytes = b""  # the last id we know of: an entry behind it wakes us
    again: bool = False  # a group lost its state and has to load before anything new comes
    resting_until_s: float = 0.0
    _decoded: tuple[tuple[bytes, ...], Batch] | None = None

    @property
    def key(self) -> str:
        return keys.raw(self.stream.name, self.partition)

    def decode(self, entries: Sequence[Entry]) -> Batch:
        ids = tuple(entry.id for entry in entries)
        if self._decoded is None or self._decoded[0] != ids:
            max_future_ms = self.stream.time.max_future_ms
            batch = read_batch(entries, self.reader, partition=self.partition, max_future_ms=max_future_ms)
            self._decoded = (ids, batch)
        return self._decoded[1]

    def poll(self, client: redis.Redis) -> int:
        """Load what has no state, read for every group, compute and commit; return the events of the busiest group."""
        self.again = False
        announced = self.cursor
        fresh = {runner.group for runner in self.runners if runner.state is None}
        loaded = {runner.group: runner.state or runner.load() for runner in self.runners}
        for state in loaded.values():
            self._see(state.checkpoint.cursor)
        wanted = {
            runner.group: (loaded[runner.group].consumer, runner.read_count)
            for runner in self.runners
            if not loaded[runner.group].pending
        }
        found = groups.read_new(client, self.stream.name, self.partition, wanted) if wanted else {}
        events = 0
        for runner in self.runners:
            runner.take(found.get(runner.group, []))
            if not loaded[runner.group].pending:
                self._doubt(runner, announced, runner.group in fresh)
            events = max(events, self._process(runner, loaded[runner.group]))
        self._decoded = None
        return events

    def announce(self, entry_id: bytes) -> None:
        """An entry was seen in the log: the next poll has to bring every group at least there."""
        self._see(entry_id)

    def _see(self, entry_id: bytes) -> None:
        self.cursor = max(self.cursor, entry_id, key=groups.id_order)

    def _doubt(self, runner: Runner, announced: bytes, fresh: bool) -> None:
        """Nothing came although the log has more: it went to another consumer. Load again, and with that claim it.

        When it does not come after a load either, it is in nobody's hands: a rollback of Redis took it.
        """
        state = runner.state
        if state is None or groups.id_order(state.checkpoint.cursor) >= groups.id_order(announced):
            return
        if fresh:
            self.cursor = state.checkpoint.cursor
            return
        log.info("another worker holds entries of ours", group=runner.group, partition=self.partition)
        runner.state = None
        self.again = True

    def _process(self, runner: Runner, loaded: Loaded) -> int:
        if not loaded.pending:
            return 0
        last = loaded.pending[-1].id
        try:
            events = runner.process(self.decode)
        except FenceError as error:
            log.info("fenced off", group=runner.group, partition=self.partition, why=str(error))
            self.again = True
            return 0
        except TornError as error:
            log.error("rebuilding a torn partition", group=runner.group, partition=self.partition, why=str(error))
            rebuild_partition(runner.client, runner.scripts, self.stream.name, self.partition, runner.group)
            self.again = True
            return 0
        except ForeignKeyError as error:
            log.error("partition rests", group=runner.group, partition=self.partition, seconds=REST_S, why=str(error))
            self.resting_until_s = time.monotonic() + REST_S
            return 0
        self._see(last)
        return max(events, 1)  # a tick alone is work done as well

    @property
    def is_resting(self) -> bool:
        return time.monotonic() < self.resting_until_s

    def is_elsewhere(self) -> bool:
        """Whether a group is not where we left it: a rollback of Redis, or another worker."""
        return any(runner.is_elsewhere() for runner in self.runners)

    def forget(self) -> None:
        for runner in self.runners:
            runner.state = None


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
    _work: dict[Partition, PartitionWork] = field(default_factory=dict)
    _hot: set[Partition] = field(default_factory=set)
    _next_close_s: float = 0.0
    _next_tidy_s: float = 0.0
    _committed: bool = False

    def __post_init__(self) -> None:
        self.scripts = Scripts(self.client)
        self.programs = compile_programs(self.config)
        read = {self.config.stream_of(stage).name for stage in self.config.stages.values() if reads_log(stage)}
        partitions = [(name, p) for name in sorted(read) for p in range(self.config.streams[name].partitions)]
        self.leases = Leases(self.name, partitions, self.client, self.scripts)

    def poll_once(self, block_ms: int | None = None) -> Polled:
        """Do what there is to do; when there is nothing, wait up to `block_ms` for an entry."""
        if self.leases.beat():
            self._follow_leases()
            self._check_places()
        events = 0
        for partition in self._ready():
            work = self._work[partition]
            done = 0 if work.is_resting else work.poll(self.client)
            (self._hot.add if done or work.again else self._hot.discard)(partition)
            events += done
        self._committed |= events > 0
        polled = Polled(events, self._close())
        if polled.idle and block_ms:
            self._wait(block_ms)
        return polled

    def drain(self) -> None:
        """Give the leases back; what was read and not committed is claimed by whoever comes next."""
        self.leases.release()

    def forget(self) -> None:
        """Drop every state in memory, as after a lost connection."""
        for work in self._work.values():
            work.forget()
        self.leases.forget()
        self._hot = set(self._work)

    def _follow_leases(self) -> None:
        for partition in [p for p in self._work if p not in self.leases.held]:
            del self._work[partition]
            self._hot.discard(partition)
        for partition in sorted(self.leases.held - self._work.keys()):
            self._work[partition] = self._new_work(*partition)
            self._hot.add(partition)

    def _check_places(self) -> None:
        """Once a second look whether the state in memory still is Redis's: after a rollback nothing new may come."""
        for partition, work in self._work.items():
            if work.is_elsewhere():
                log.info("not where we left it; loading again", stream=partition[0], partition=partition[1])
                work.forget()
                self._hot.add(partition)

    def _new_work(self, stream_name: str, partition: int) -> PartitionWork:
        stream = self.config.streams[stream_name]
        computations = computations_of(self.config, self.programs, stream, partition)
        runners = [Runner(stream, partition, c, self.client, self.scripts, self.name) for c in computations]
        needs = frozenset[str]().union(*(c.needs for c in computations))
        return PartitionWork(stream, partition, runners, Reader(stream, needs))

    def _ready(self) -> list[Partition]:
        """Partitions that brought events last time, and those that have new entries."""
        self._look({p: work for p, work in self._work.items() if p not in self._hot}, None)
        return sorted(self._hot)

    def _wait(self, block_ms: int) -> None:
        if not self._look(self._work, block_ms):
            time.sleep(block_ms / 1000)  # holding nothing that could wake us: until the next beat

    def _look(self, among: Mapping[Partition, PartitionWork], block_ms: int | None) -> bool:
        """Make those hot that have an entry we do not know; False when there was nothing to look at."""
        awake = {partition: work for partition, work in among.items() if not work.is_resting}
        cursors = {work.key: work.cursor or b"0" for work in awake.values()}
        by_key = {work.key: partition for partition, work in awake.items()}
        for key, entry_id in groups.wait_for_entries(self.waiter, cursors, block_ms).items():
            self._work[by_key[key]].announce(entry_id)
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
            if everybody or (program.stream.name, 0) in self.leases.held:
                done = Closer(program, self.client, self.scripts).close_once()
                published += done.published
                more |= done.more
                if everybody and not done.more:  # else windows that were final would be shown open again
                    activate_when_caught_up(self.client, self.config, program.name, program.group)
        self._committed = more
        return published


def reads_log(stage: object) -> bool:
    """Whether a stage has a consumer group of its own."""
    return not isinstance(stage, Transform) or stage.publish


def computations_of(
    config: Config, programs: Mapping[str, Program], stream: Stream, partition: int
) -> list[Computation]:
    """Everything that reads one partition of a stream."""
    found: list[Computation] = []
    for stage in config.stages.values():
        if config.stream_of(stage).name != stream.name or not reads_log(stage):
            continue
        if isinstance(stage, Transform):
            found.append(_publish_computation(config, stage, stream, partition))
        else:
            found.append(AggregateComputation(programs[stage.name], partition))
    return found


def _publish_computation(config: Config, stage: Transform, stream: Stream, partition: int) -> PublishComputation:
    derived = [name for transform in (*config.transforms_of(stage), stage) for name in transform.derive]
    columns = (*(f.name for f in stream.fields), *derived)
    steps, needs, _ = compile_steps(config, stage, frozenset(columns))
    group = f"{stage.name}@{version_of(config, stage.name)}"
    return PublishComputation(stage.name, group, stream, partition, steps, columns, needs)


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
    client = connection.writer(redis_url)
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
