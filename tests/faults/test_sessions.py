"""Publishing sessions, interrupted: between any two steps, by a crash, a paused worker, a lost reply, a torn commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest
import redis

from pipeline.core.batches import Batch, read_batch
from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Session, Stream, TimePolicy
from pipeline.core.entries import Entry
from pipeline.core.events import Reader
from pipeline.core.programs import Program, compile_programs
from pipeline.rim import connection, groups, keys, replies, session_publish, session_store
from pipeline.rim.scripts import Scripts
from pipeline.runtime.answer import Row
from pipeline.runtime.metric_query import MetricQuery
from pipeline.runtime.query import Metrics
from pipeline.runtime.runner import Runner
from pipeline.runtime.session_closer import SessionCloser
from pipeline.runtime.session_computation import SessionComputation
from pipeline.runtime.setup import set_up
from pipeline.runtime.verify import verify
from pipeline.runtime.worker import Worker
from tests.faults.line import Interrupted, OneByOne, without
from tests.faults.logs import log_bytes, restart_with_log
from tests.laws.session_model import Event, Lateness, in_time, sessions_of
from tests.servers import RunningServer

STREAM, METRIC = "s", "visits"
WINDOW = Session(10)
LATENESS = Lateness(disorder_ms=3, allowed_ms=40)
ZOMBIE_GUARD = (
    "if stored_load > mark_load or (stored_load == mark_load and stored_commit > mark_commit) then return -1 end"
)


class Crash(Exception):
    """The process ends here."""


class Crashing(OneByOne):
    """Scripts that end the process at the n-th call of one of them: before it, or after it with its reply lost."""

    def __init__(self, client: redis.Redis, name: str, *, nth: int = 1, after: bool = False) -> None:
        super().__init__(client)
        self._name, self._left, self._after = name, nth, after

    def run(self, name: str, **arguments: Any) -> Any:
        self._left -= name == self._name
        if name == self._name and self._left == 0 and not self._after:
            raise Crash
        reply = super().run(name, **arguments)
        if name == self._name and self._left == 0:
            raise Crash
        return reply


@dataclass(slots=True)
class Line:
    """One partition of a session metric; the test takes every step."""

    client: redis.Redis
    config: Config = field(init=False)
    program: Program = field(init=False)
    log: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        fields = (Field("ts", "timestamp", unit="ms"), Field("user", "string"), Field("v", "float"))
        values = (AggregateSpec("n", "count"), AggregateSpec("total", "sum", "v"))
        time = TimePolicy("ts", disorder_ms=LATENESS.disorder_ms)
        self.config = Config(
            {STREAM: Stream(STREAM, fields, time, partition_by="user", partitions=1)},
            {METRIC: Aggregate(METRIC, STREAM, WINDOW, ("user",), values, allowed_lateness_ms=LATENESS.allowed_ms)},
        )
        self.program = compile_programs(self.config)[METRIC]
        set_up(self.client, self.config)

    def add(self, *events: tuple[str, int, float]) -> None:
        for user, ts, v in events:
            self.client.xadd(keys.raw(STREAM, 0), {"ts": ts, "user": user, "v": v})
            self.log.append(Event(user, ts, v))

    def runner(self, name: str = "w", scripts: Scripts | None = None) -> Runner:
        computation = SessionComputation(self.program, 0)
        runner = Runner(self.config.streams[STREAM], 0, computation, self.client, scripts or Scripts(self.client), name)
        runner.load()
        return runner

    def read(self, runner: Runner) -> None:
        assert runner.state is not None
        wanted = {runner.group: (runner.state.consumer, 1_000)}
        runner.take(groups.read_new(self.client, STREAM, 0, wanted)[runner.group])

    def decode(self, entries: Sequence[Entry]) -> Batch:
        return read_batch(
            entries, Reader(self.config.streams[STREAM], self.program.needs), partition=0, max_future_ms=1_000
        )

    def work(self, runner: Runner) -> None:
        self.read(runner)
        runner.process(self.decode)

    def close(self, runner: Runner, scripts: Scripts | None = None) -> int:
        """Publish all that has closed of a runner's sessions."""
        assert runner.state is not None
        assert isinstance(runner.computation, SessionComputation)
        closer = SessionCloser(self.program, self.client, scripts or Scripts(self.client))
        return closer.close_once(runner.computation, runner.state.checkpoint).published

    def finish(self) -> None:
        """A fresh worker does whatever is left."""
        runner = self.runner("finisher")
        self.work(runner)
        self.close(runner)

    def rows(self, **asked: Any) -> list[Row]:
        return Metrics(self.config, self.client).query(MetricQuery(METRIC, **asked)).rows

    def sent(self) -> list[Mapping[bytes, bytes]]:
        found = replies.parse_entries(self.client.execute_command("XRANGE", keys.rows(METRIC), "-", "+"))
        return [entry.fields or {} for entry in found]

    def right(self) -> bool:
        """What is published is what the log means, nothing twice and nothing left of earlier forms."""
        expected = {
            (user, s.first, s.last, s.n, s.total)
            for user, found in sessions_of(in_time(self.log, WINDOW, LATENESS), WINDOW).items()
            for s in found
        }
        assert {(r["user"], r["first"], r["last"], r["n"], r["total"]) for r in self.rows()} == expected
        identities = [(r[b"user"], r[b"first"], r[b"last"]) for r in self.sent()]
        revisions = [(i, int(r[b"revision"])) for i, r in zip(identities, self.sent(), strict=True)]
        assert all(count == 1 for count in Counter(revisions).values()), "a row went downstream twice"
        for identity in set(identities):  # revisions are 0, 1, 2 … in order
            assert [n for i, n in revisions if i == identity] == list(range(identities.count(identity)))
        newest = dict(zip(identities, self.sent(), strict=True))
        closed = {(r["user"].encode(), b"%d" % r["first"], b"%d" % r["last"]) for r in self.rows(state="closed")}
        assert closed == {i for i, row in newest.items() if row[b"state"] == b"closed"}
        retracted = {(r["user"].encode(), b"%d" % r["first"], b"%d" % r["last"]) for r in self.rows(state="retracted")}
        assert retracted == {i for i, row in newest.items() if row[b"state"] == b"retracted"}
        return True

    def all_equal(self) -> bool:
        """What `verify` says: every session is what the log says, and none waits."""
        [report] = verify(self.client, self.config)
        assert (report.unchecked, report.differences, report.pending) == (None, [], 0)
        assert report.windows + report.live_sessions >= len(self.rows())
        return True

    def live(self) -> int:
        return len(session_store.live_sessions(self.client, STREAM, 0, self.program.group))


def three_closed(line: Line) -> Runner:
    """A worker with three sessions that have closed, one that is open, and nothing published."""
    line.add(("a", 100, 1.0), ("b", 101, 2.0), ("c", 102, 4.0), ("open", 130, 8.0))
    runner = line.runner("first")
    line.work(runner)
    return runner


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_crash_at_any_step_of_publishing_is_made_good(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, nth: int, *, after: bool
) -> None:
    monkeypatch.setattr(session_publish, "ROWS_A_STEP", 1)
    line = Line(server.client)
    runner = three_closed(line)

    with pytest.raises(Crash):
        line.close(runner, Crashing(server.client, "publish_sessions", nth=nth, after=after))
    line.finish()

    assert line.right()
    assert line.all_equal()
    assert len(line.sent()) == 3


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_around_settling_is_made_good(server: RunningServer, *, after: bool) -> None:
    line = Line(server.client)
    line.add(("a", 100, 1.0), ("open", 300, 8.0))
    runner = line.runner("first")
    line.work(runner)

    with pytest.raises(Crash):
        line.close(runner, Crashing(server.client, "settle_sessions", after=after))
    assert line.live() == (1 if after else 2)
    line.finish()

    assert line.live() == 1
    assert line.right()
    assert len(line.sent()) == 1


def test_a_worker_that_publishes_again_after_a_load_sends_no_row_twice(server: RunningServer) -> None:
    line = Line(server.client)
    line.close(three_closed(line))

    again = line.runner("second")

    assert line.close(again) == 0
    assert len(line.sent()) == 3


def extended_meanwhile(line: Line) -> Callable[[], None]:
    """Another worker takes over, extends a session and publishes it so."""

    def meanwhile() -> None:
        line.add(("a", 105, 16.0), ("b", 92, 32.0))
        line.finish()

    return meanwhile


def test_a_zombie_cannot_publish_a_form_that_has_grown(server: RunningServer) -> None:
    line = Line(server.client)
    zombie = three_closed(line)

    published = line.close(zombie, Interrupted(server.client, "publish_sessions", extended_meanwhile(line)))

    assert published == 0
    assert line.right()
    assert {(r["user"], r["first"], r["last"]) for r in line.rows(state="closed")} == {
        ("a", 100, 105),
        ("b", 92, 101),
        ("c", 102, 102),
    }


def test_without_its_guard_a_zombie_would_publish_it(server: RunningServer) -> None:
    line = Line(server.client)
    zombie = three_closed(line)
    mutant = Interrupted(server.client, "publish_sessions", extended_meanwhile(line))
    mutant._scripts = without("publish_sessions", ZOMBIE_GUARD)

    line.close(zombie, mutant)

    with pytest.raises(AssertionError):
        line.right()


def test_verify_finds_what_a_zombie_without_its_guard_published_of_sessions_that_are_final(
    server: RunningServer,
) -> None:
    line = Line(server.client)
    zombie = three_closed(line)

    def meanwhile() -> None:
        line.add(("a", 105, 16.0), ("b", 92, 32.0), ("open", 1_000, 64.0))
        line.finish()
        assert line.all_equal()

    mutant = Interrupted(server.client, "publish_sessions", meanwhile)
    mutant._scripts = without("publish_sessions", ZOMBIE_GUARD)
    line.close(zombie, mutant)

    [report] = verify(line.client, line.config)
    assert [(each.group, each.window, each.stored, each.recomputed) for each in report.differences] == [
        ('["a"]', (100, 110), "closed", "retracted"),
        ('["b"]', (101, 111), "closed", "retracted"),
    ]


def test_a_zombie_that_knows_its_place_is_gone_publishes_nothing(server: RunningServer) -> None:
    line = Line(server.client)
    zombie = three_closed(line)
    line.add(("a", 105, 16.0))
    line.work(line.runner("owner"))  # committed, and nothing published yet

    assert line.close(zombie) == 0
    assert line.sent() == []


@pytest.mark.parametrize("guarded", [True, False])
def test_settling_deletes_only_what_the_caller_knows(server: RunningServer, *, guarded: bool) -> None:
    """A log that was rolled back may hold, under the same field, a session that is not final any more."""
    line = Line(server.client)
    line.add(("a", 100, 1.0), ("open", 300, 8.0))
    runner = line.runner("first")
    line.work(runner)
    commit = keys.checkpoint(STREAM, 0, line.program.group)
    scripts = Interrupted(server.client, "settle_sessions", lambda: server.client.hset(commit, "commit", "7"))
    if not guarded:
        scripts._scripts = without("settle_sessions", "\n  return -1\n", "\n")

    line.close(runner, scripts)

    assert line.live() == (2 if guarded else 1)


@pytest.mark.parametrize("lost", ["settle_sessions", "publish_sessions"])
def test_what_a_restarted_server_lost_after_the_last_commit_is_done_again(
    throwaway_server: RunningServer, lost: str
) -> None:
    """The checkpoint is where the worker left it, so no fence would tell; and it remembers what it has published."""
    line = Line(throwaway_server.client)
    client = connection.owner(throwaway_server.url)
    worker = Worker(line.config, client, client, "w")
    line.add(("a", 100, 1.0), ("b", 101, 2.0), ("c", 102, 4.0), ("open", 130, 8.0))
    poll(worker, line)
    line.add(("a", 105, 16.0), ("open", 300, 32.0))  # one is revised, and all of them become final
    logs: list[bytes] = []
    worker.scripts = Interrupted(client, lost, lambda: logs.append(log_bytes(throwaway_server)))
    poll(worker, line)
    assert line.right()
    assert line.live() == 1

    restart_with_log(throwaway_server, logs[0])  # so quickly that the worker's connections only reconnect
    assert line.live() > 1
    line.add(("open", 310, 64.0))
    with pytest.raises(redis.exceptions.ConnectionError, match="another run of the server"):
        worker.poll_once()
    worker.forget()  # as `run` does
    poll(worker, line)

    assert line.right()
    assert line.all_equal()
    assert line.live() == 1
    client.close()


def poll(worker: Worker, line: Line) -> None:
    """Until nothing is left to read, to publish or to settle."""
    for _ in range(4):
        worker.poll_once()
        worker.close_sessions(line.program)


def test_a_torn_partition_is_rebuilt_and_nothing_goes_out_again(server: RunningServer) -> None:
    line = Line(server.client)
    runner = three_closed(line)
    line.close(runner)
    line.add(("a", 105, 16.0), ("b", 92, 32.0))
    line.work(runner)
    line.close(runner)
    before = line.sent()
    server.client.hset(keys.checkpoint(STREAM, 0, line.program.group), "torn", "1")
    line.add(("d", 131, 64.0))

    poll(Worker(line.config, server.client, server.client, "w"), line)

    assert line.right()
    assert line.sent() == before


def test_an_overwritten_key_stops_publishing_before_it_writes(server: RunningServer) -> None:
    line = Line(server.client)
    runner = three_closed(line)
    server.client.set(keys.latest(METRIC), "a string of somebody else")

    with pytest.raises(redis.ResponseError, match=r"^WRONGTYPE .*\{visits\}:latest is a string"):  # workers go on
        line.close(runner)
    assert line.sent() == []
    server.client.delete(keys.latest(METRIC))
    line.close(runner)

    assert line.right()


@pytest.mark.parametrize("seed", range(25))
def test_any_schedule_of_commits_publications_crashes_and_zombies_gives_the_same(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(session_publish, "ROWS_A_STEP", 2)
    random = Random(seed)
    line = Line(server.client)
    runner = line.runner("w0")
    zombies: list[Runner] = []
    now = 100
    for number in range(30):
        for _ in range(random.randrange(4)):
            now += random.randrange(9)
            line.add((random.choice("ab"), now - random.choice([0, 0, 0, 15, 30]), random.choice([0.1, 0.2, 1e16])))
        match random.choice(["work", "work", "close", "close", "crash", "zombie", "replace"]):
            case "work":
                line.work(runner)
            case "close":
                line.close(runner)
            case "crash":
                name, nth = random.choice(["publish_sessions", "settle_sessions"]), random.randrange(1, 3)
                crashing = Crashing(server.client, name, nth=nth, after=random.random() < 0.5)
                try:
                    line.work(runner)
                    line.close(runner, crashing)
                except Crash:
                    runner = line.runner(f"w{number}")
            case "replace":
                zombies.append(runner)
                runner = line.runner(f"w{number}")
            case "zombie" if zombies:
                line.close(random.choice(zombies))
    line.add(("end", now + 200, 1.0))
    line.finish()
    line.finish()

    assert line.right()
    assert line.all_equal()
    assert line.live() == 1
