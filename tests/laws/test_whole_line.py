"""Whoever works, however often they die, wherever the connection is cut: the same results, late rows and ledger.

The calm run is one worker that is given the whole log. The wild run has the same log and three workers, and between its
polls everything happens that may happen to a process: it dies, forgets, loses its leases and goes on as a zombie, or
its connection is cut before or after any of its commands (so a commit may be done and its reply lost).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import redis
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from pipeline.rim import keys
from pipeline.rim.scripts import Scripts
from pipeline.runtime.closer import Closer
from pipeline.runtime.worker import Worker
from tests.examples import examples
from tests.laws.logs import METRIC, STREAM, TOTAL, Logged, as_bytes, config, end_tick, flat, law, logs
from tests.laws.outcomes import assert_downstream_equals_results, outcome
from tests.line import Line
from tests.servers import RunningServer

WORKERS = 3
COMMANDS_OF_A_CLOSE = 20  # as many as a window or two take
COMMANDS_OF_A_POLL = 40  # about as many as a poll with a commit and a publish takes

whole_line_law = settings(
    law,
    max_examples=examples(8, whole=20),
    phases=[
        Phase.explicit,
        Phase.reuse,
        Phase.generate,
    ],  # shrinking takes minutes with a server; ask for it when needed
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

number = st.integers(0, WORKERS - 1)
actions = st.one_of(
    *[st.tuples(st.just("append"), number, st.integers(1, 2))] * 4,
    *[st.tuples(st.just("poll"), number)] * 3,
    st.tuples(st.just("poll"), number),
    st.tuples(st.just("cut"), number, st.integers(0, COMMANDS_OF_A_POLL), st.booleans()),
    st.tuples(st.just("die"), number),
    st.tuples(st.just("forget"), number),
    st.tuples(st.just("beat"), number),
    st.tuples(st.just("take over"), number),
    st.tuples(st.just("take over"), number),
    st.tuples(st.just("close"), st.integers(0, COMMANDS_OF_A_CLOSE), st.booleans()),
    st.tuples(st.just("close"), st.integers(0, COMMANDS_OF_A_CLOSE), st.booleans()),
    st.tuples(st.just("read and die"), number, st.integers(1, 3), st.sampled_from([METRIC, TOTAL])),
)


class CutClient(redis.Redis):
    """A client whose connection is cut at the n-th command from now, before or after the server has done it."""

    left: int | None = None
    after: bool = False

    def execute_command(self, *args: Any, **options: Any) -> Any:
        last = self.left == 0
        if self.left is not None:
            self.left = None if last else self.left - 1
        if last and not self.after:
            raise redis.exceptions.ConnectionError("cut before the command")
        answer = super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        if last:
            raise redis.exceptions.ConnectionError("cut before the reply")
        return answer


@dataclass(slots=True)
class Crew:
    """Workers over one line, and the part of each partition's log that is not appended yet."""

    line: Line
    rest: list[list[Logged]]
    workers: list[Worker] = field(default_factory=list)
    born: int = 0

    def __post_init__(self) -> None:
        self.workers = [self.newborn() for _ in range(WORKERS)]

    def newborn(self) -> Worker:
        self.born += 1
        client = self.cut_client()
        return Worker(self.line.config, client, client, f"w{self.born}")

    def cut_client(self) -> CutClient:
        client = CutClient(connection_pool=self.line.client.connection_pool)
        client.response_callbacks.pop("XPENDING")  # as our own factory does
        return client

    def act(self, action: tuple[Any, ...]) -> None:
        match action:
            case ("append", partition, count):
                self.append(partition % len(self.rest), count)
            case ("poll", worker):
                self.poll(worker)
            case ("cut", worker, commands, after):
                client = self.workers[worker].client
                assert isinstance(client, CutClient)
                client.left, client.after = commands, after
                self.poll(worker)
            case ("die", worker):
                self.die(worker)
            case ("forget", worker):
                self.workers[worker].forget()
            case ("beat", worker):
                self.workers[worker].leases.forget()  # the next poll beats: it takes and gives back leases
            case ("take over", worker):
                self.take_over(worker)
            case ("close", commands, after):
                self.close(commands, after)
            case ("read and die", partition, count, metric):
                self.read_and_die(partition % len(self.rest), count, metric)

    def append(self, partition: int, count: int) -> None:
        for entry in self.rest[partition][:count]:
            self.line.entry(STREAM, entry.fields, partition=partition, entry_id=entry.id)
        self.rest[partition] = self.rest[partition][count:]

    def poll(self, worker: int) -> None:
        try:
            self.workers[worker].poll_once()
        except redis.exceptions.ConnectionError:
            self.workers[worker].forget()  # as the worker's own loop does

    def take_over(self, worker: int) -> None:
        """Every lease has run out and this worker gets them; until they beat again, the others are zombies."""
        leases = [keys.lease(STREAM, partition) for partition in range(len(self.rest))]
        self.line.client.execute_command("DEL", keys.workers(), *leases)
        self.workers[worker].leases.forget()
        self.poll(worker)

    def close(self, commands: int, after: bool) -> None:
        """Somebody publishes what is due and dies on the way."""
        client = self.cut_client()
        client.left, client.after = commands, after
        with contextlib.suppress(redis.exceptions.ConnectionError):
            for program in self.line.programs.values():
                Closer(program, client, Scripts(client)).close_once()

    def die(self, worker: int) -> None:
        """A new one takes its place; its leases have run out and nobody counts it any more."""
        dead = self.workers[worker]
        for partition in range(len(self.rest)):
            if self.line.client.execute_command("GET", keys.lease(STREAM, partition)) == dead.name.encode():
                self.line.client.execute_command("DEL", keys.lease(STREAM, partition))
        self.line.client.execute_command("ZREM", keys.workers(), dead.name)
        self.workers[worker] = self.newborn()

    def read_and_die(self, partition: int, count: int, metric: str) -> None:
        group = self.line.programs[metric].group
        command = ("XREADGROUP", "GROUP", group, "ghost", "COUNT", count, "STREAMS", keys.raw(STREAM, partition), ">")
        self.line.client.execute_command(*command)

    def finish(self) -> None:
        """The rest of the log comes, everybody dies, and one last worker does what is left."""
        for partition in range(len(self.rest)):
            self.append(partition, len(self.rest[partition]))
        for worker in range(WORKERS):
            self.die(worker)
        self.line.settle(self.newborn())


def row(ts: int, number: int) -> Logged:
    event = {"ts": ts, "key": "1", "v": 0.1, "k": 1, "on": True}
    return Logged(f"25000-{number}", as_bytes(flat(event)))


ONE_CELL = [row(5_000, number) for number in range(6)]
LAST_MOVES_TIME = [row(5_000, 0), row(5_000, 1), row(5_000, 2), row(30_000, 3)]
A_ZOMBIE_COMMITS = [("append", 0, 2), ("poll", 0), ("append", 0, 1), ("take over", 1), ("append", 0, 1), ("poll", 0)]
AN_ENTRY_IS_ELSEWHERE = [("append", 0, 2), ("poll", 0), ("append", 0, 2), ("read and die", 0, 1, METRIC), ("poll", 0)]


@whole_line_law
@example(log=[ONE_CELL], wild=A_ZOMBIE_COMMITS)  # only the checkpoint's fence sees it
@example(log=[LAST_MOVES_TIME], wild=AN_ENTRY_IS_ELSEWHERE)  # only the count of pending entries sees it
@given(log=st.lists(logs(max_entries=14), min_size=1, max_size=2), wild=st.lists(actions, min_size=30, max_size=60))
def test_any_interleaving_and_any_crash_gives_the_same_answers(
    any_server_in_time: RunningServer, log: list[list[Logged]], wild: list[tuple[Any, ...]]
) -> None:
    logs_to_the_end = [[*entries, end_tick(entries)] for entries in log]

    calm_crew = crew_on(any_server_in_time, logs_to_the_end)
    calm_crew.finish()
    calm = outcome(calm_crew.line)
    assert_downstream_equals_results(calm_crew.line)

    wild_crew = crew_on(any_server_in_time, logs_to_the_end)
    for action in wild:
        wild_crew.act(action)
    wild_crew.finish()

    assert outcome(wild_crew.line) == calm
    assert_downstream_equals_results(wild_crew.line)


def crew_on(server: RunningServer, log: Sequence[Sequence[Logged]]) -> Crew:
    server.client.flushall()
    return Crew(Line(config(partitions=len(log)), server), [list(entries) for entries in log])
