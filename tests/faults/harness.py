"""Real worker processes, a real server and a producer that remembers: what the fault suite kills, pauses and recounts.

Invariant: the producer's own record is the only thing believed about what was sent; the raw log is the only thing
believed about what survived. Only processes started here are signalled, by their id.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import redis

from pipeline.core.definitions import Config
from pipeline.core.partitioning import Chunk, partition_of
from pipeline.core.programs import compile_programs
from pipeline.rim import connection, keys, store
from pipeline.rim.lifeline import die_with_parent
from pipeline.rim.scripts import Scripts
from pipeline.rim.streams import IdempotencyKey, Step, append
from pipeline.runtime.config import load_config
from pipeline.runtime.leases import LEASE_MS
from pipeline.runtime.setup import set_up
from pipeline.runtime.stage_groups import stage_groups
from pipeline.runtime.verify import verify
from pipeline.runtime.verify_report import MetricReport
from tests.faults.logs import cut_log, written
from tests.faults.model import SessionRule
from tests.servers import RunningServer, wait_for

STREAM, METRIC, RARE, STAYS = "s", "m", "rare", "stays"
DISORDER_MS = 1_000
BASE_MS = 1_700_000_000_000
STEP_MS = 1  # event time goes on by this much an event: at 20,000 events/s two windows close a second
GROUPS = 20
USERS = 20  # over all partitions: each of them has half a second of events, and then a pause
STAYS_RULE = SessionRule(gap_ms=3_000, allowed_lateness_ms=20_000, disorder_ms=DISORDER_MS)
BATCH = 500
RETRY_S = 0.05
PAUSED_S = LEASE_MS / 1_000 + 1.0  # longer than a lease: somebody else has the partition when a paused worker wakes up
ANSWERED_S = 20.0  # for one batch, whatever happens to the server meanwhile
SETTLE_POLL_S = 0.2
SETTLED_S = 90.0  # for everything sent to be published

CONFIG = """\
streams:
  s:
    time: {{field: ts, disorder: 1s}}
    schema: {{ts: {{type: timestamp, unit: ms}}, g: string, u: string, k: int}}
    partition_by: u
    partitions: {partitions}
stages:
  kept: {{from: s, filter: "g <> 'bot'"}}
  rare: {{from: s, filter: "g = 'g0'", publish: true}}
  m:
    from: kept
    window: {{tumbling: 10s}}
    group_by: [g]
    aggregates: {{n: count, sum_k: sum(k), last_k: last(k)}}
  stays:
    from: kept
    window: {{session: 3s}}
    group_by: [u]
    aggregates: {{n: count, sum_k: sum(k), last_k: last(k)}}
    allowed_lateness: 20s
"""


def users(partitions: int) -> list[list[str]]:
    """The users of each partition."""
    names = [f"u{number}" for number in range(100 * partitions)]
    of = [[name for name in names if partition_of(name, partitions) == number] for number in range(partitions)]
    return [mine[: USERS // partitions] for mine in of]


def event(number: int, chance: random.Random, user: str) -> dict[str, object]:
    """Event `number`, whose value is its number: out of order within the bound, sometimes late, sometimes a bot's."""
    behind_ms = chance.randrange(10_000, 40_000) if chance.random() < 0.01 else chance.randrange(DISORDER_MS)
    group = "bot" if chance.random() < 0.05 else f"g{number * 7 % GROUPS}"
    return {"ts": BASE_MS + number * STEP_MS - behind_ms, "g": group, "u": user, "k": number}


@dataclass
class Producer:
    """Sends numbered events at a rate, each batch under an idempotency key, again and again until it is answered."""

    url: str
    partitions: int
    rate: int
    seed: int
    sent: int = 0  # events of batches that were answered
    retries: int = 0
    seconds: float = 0.0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="producer", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(timeout=30)
        assert not self._thread.is_alive(), "the producer did not stop"

    def _run(self) -> None:
        client = connection.writer(self.url)
        chance = random.Random(self.seed)
        names = users(self.partitions)
        begin_s = time.monotonic()
        number = 0
        while not self._stop.is_set():
            mine = names[number % self.partitions]
            user = mine[number // self.partitions % len(mine)]
            self._send(client, number, [event(number * BATCH + i, chance, user) for i in range(BATCH)])
            number += 1
            self.sent = number * BATCH
            self.seconds = time.monotonic() - begin_s
            self._stop.wait(max(0.0, self.sent / self.rate - self.seconds))
        client.close()

    def _send(self, client: redis.Redis, number: int, rows: list[dict[str, object]]) -> None:
        body = "\n".join(json.dumps(row) for row in rows).encode()
        step = Step([Chunk(body, len(rows), BASE_MS, BASE_MS)], [], undeclared=0, judged_ms=0)
        deadline_s = time.monotonic() + ANSWERED_S
        while True:
            try:
                append(Scripts(client), STREAM, number % self.partitions, step, IdempotencyKey(f"{number}", "same"))
                return
            except redis.RedisError as error:
                if not connection.is_away(error) or time.monotonic() > deadline_s:
                    raise
                self.retries += 1
                time.sleep(RETRY_S)


@dataclass
class Process:
    """One life of a worker."""

    name: str
    popen: subprocess.Popen[bytes]
    paused: bool = False


@dataclass
class Fleet:
    """Worker processes, started again under a new name when they are killed."""

    folder: Path
    config_path: Path
    url: str
    size: int
    workers: list[Process] = field(default_factory=list)
    kills: int = 0
    started: int = 0

    def start(self) -> None:
        self.workers = [self._spawn() for _ in range(self.size)]

    def _spawn(self) -> Process:
        name = f"w{self.started}"
        self.started += 1
        command = [sys.executable, "-m", "pipeline.runtime.cli", "worker", "--config", str(self.config_path)]
        with (self.folder / f"{name}.log").open("wb") as log:
            popen = subprocess.Popen(
                [*command, "--redis-url", self.url, "--name", name],
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=die_with_parent(),
            )
        return Process(name, popen)

    def kill(self, worker: Process) -> None:
        """kill -9, and a new one in its place."""
        self.check()
        worker.popen.kill()
        worker.popen.wait()
        self.kills += 1
        self.workers[self.workers.index(worker)] = self._spawn()

    def pause(self, worker: Process) -> None:
        worker.paused = True
        os.kill(worker.popen.pid, signal.SIGSTOP)

    def wake(self, worker: Process) -> None:
        os.kill(worker.popen.pid, signal.SIGCONT)
        worker.paused = False

    def check(self) -> None:
        """No worker may end by itself, whatever happens around it."""
        for worker in self.workers:
            ended = worker.popen.poll()
            assert ended is None, f"{worker.name} ended by itself with {ended}:\n{self.log(worker.name)[-3_000:]}"

    def close(self) -> None:
        for worker in self.workers:
            worker.popen.kill()  # SIGKILL ends a stopped process too
            worker.popen.wait()

    def drain(self) -> None:
        """SIGTERM: each gives its leases back and ends with 0."""
        for worker in self.workers:
            worker.popen.terminate()
        for worker in self.workers:
            assert worker.popen.wait(timeout=20) == 0, self.log(worker.name)[-3_000:]

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def count(self, text: str) -> int:
        """How often a text stands in the logs of all lives."""
        return sum(self.log(f"w{number}").count(text) for number in range(self.started))


@dataclass
class Storm:
    """A server, its workers and a producer, and what is done to them; the main thread of the test drives it."""

    server: RunningServer
    folder: Path
    partitions: int
    rate: int
    seed: int = 1
    n_workers: int = 4
    server_kills: int = 0
    pauses: int = 0
    log_cut_bytes: list[int] = field(default_factory=list)
    config: Config = field(init=False)
    fleet: Fleet = field(init=False)
    producer: Producer = field(init=False)
    chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        path = self.folder / "config.yaml"
        path.write_text(CONFIG.format(partitions=self.partitions))
        self.config = load_config(path, {})
        self.chance = random.Random(self.seed)
        set_up(self.client, self.config)
        self.fleet = Fleet(self.folder, path, self.server.url, self.n_workers)
        self.producer = Producer(self.server.url, self.partitions, self.rate, self.seed)

    @property
    def client(self) -> redis.Redis:
        return self.server.client

    @property
    def group(self) -> str:
        return compile_programs(self.config)[METRIC].group

    @property
    def groups(self) -> tuple[str, ...]:
        return tuple(stage_groups(self.config).values())

    def __enter__(self) -> Storm:
        try:
            self.fleet.start()
            wait_for(lambda: len(self._holders()) > 0, "a worker to hold a lease")
            self.producer.start()
        except BaseException:
            self.fleet.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self.producer.stop()
        finally:
            self.fleet.close()

    # --- what happens to it

    def kill_worker(self) -> None:
        """kill -9 of a worker that holds a lease: one that works."""
        self.fleet.kill(self._victim())

    def pause_worker(self) -> Callable[[], None]:
        """SIGSTOP of a worker that holds a lease; return what wakes it up."""
        worker = self._victim()
        self.fleet.pause(worker)
        self.pauses += 1
        return lambda: self.fleet.wake(worker)

    def kill_server(self) -> None:
        """kill -9, at a moment when the disk keeps up: what a slow disk may lose is the durability class's matter.

        Without fsync no answer waits for one that is under way, so none is lost between the look and the kill.
        """
        self.server.client.config_set("appendfsync", "no")
        written(self.client)
        self.server.kill()
        self.server.restart()
        self.server_kills += 1

    def roll_back_server(self) -> None:
        """kill -9, then 1 to 200 kB of the log are gone."""
        self.server.kill()
        cut_bytes = self.chance.randrange(1_000, 200_000)
        cut_log(self.server, cut_bytes)
        self.server.restart()
        self.log_cut_bytes.append(cut_bytes)

    def _victim(self) -> Process:
        awake = [worker for worker in self.fleet.workers if not worker.paused]
        assert awake, "the plan pauses more workers at once than there are"
        holders = self._holders()
        return self.chance.choice([worker for worker in awake if worker.name in holders] or awake)

    def _holders(self) -> set[str]:
        names = (self.client.execute_command("GET", keys.lease(STREAM, p)) for p in range(self.partitions))
        return {name.decode() for name in names if name is not None}

    def run(self, plan: list[tuple[float, Callable[[], object]]]) -> None:
        """Do each action of the plan at its second; what an action returns is done PAUSED_S later."""
        begin_s = time.monotonic()
        todo = sorted(plan, key=lambda item: item[0])
        while todo:
            at_s, action = todo.pop(0)
            time.sleep(max(0.0, begin_s + at_s - time.monotonic()))
            then = action()
            if callable(then):
                todo = sorted([*todo, (time.monotonic() - begin_s + PAUSED_S, then)], key=lambda item: item[0])

    # --- afterwards

    def settle(self) -> None:
        """Stop sending, close every window with a tick in each partition, wait until all of it is published, drain."""
        self.producer.stop()
        end_ms = BASE_MS + self.producer.sent * STEP_MS + 60_000
        for partition in range(self.partitions):
            self.client.execute_command("XADD", keys.raw(STREAM, partition), "*", "_k", "tick", "t", end_ms)
        deadline_s = time.monotonic() + SETTLED_S
        while waiting := list(self._unsettled()):
            self.fleet.check()
            assert time.monotonic() < deadline_s, f"after {SETTLED_S} s:\n" + "\n".join(waiting)
            time.sleep(SETTLE_POLL_S)
        wait_for(self._all_work, "every worker to be there: one that still starts has no way to drain yet")
        self.fleet.drain()

    def verified(self) -> list[MetricReport]:
        """What `streamgauge verify` says of everything that is left."""
        return list(verify(self.client, self.config))

    def _all_work(self) -> bool:
        heard_of = {name.decode() for name in self.client.execute_command("ZRANGE", keys.workers(), 0, -1)}
        return {worker.name for worker in self.fleet.workers} <= heard_of

    def _unsettled(self) -> Iterator[str]:
        for partition in range(self.partitions):
            last = self.client.execute_command("XREVRANGE", keys.raw(STREAM, partition), "+", "-", "COUNT", 1)[0][0]
            for group in self.groups:
                checkpoint = store.load_checkpoint(self.client, STREAM, partition, group)
                if checkpoint.cursor != last:
                    yield f"{group} on {partition} is at {checkpoint.cursor!r}, the log ends at {last!r}"
            if self.client.exists(keys.due(STREAM, partition, self.group)):
                yield f"windows of partition {partition} are due"
            if self.client.exists(keys.live_sessions(STREAM, partition, stage_groups(self.config)[STAYS])):
                yield f"sessions of partition {partition} are live"
        if self.client.exists(keys.emit(METRIC, self.group.partition("@")[2])):
            yield "rows are on their way downstream"
