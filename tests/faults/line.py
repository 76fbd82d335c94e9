"""The line the fault tests run on: one small config, and runners whose every step a test takes itself.

Invariant: nothing here waits or chooses; which worker does what, and when, is written in the test.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from pipeline.core.batches import Batch, read_batch
from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Transform, Tumbling
from pipeline.core.entries import Entry
from pipeline.core.events import Reader
from pipeline.core.programs import Program, compile_programs
from pipeline.rim import groups, keys, store
from pipeline.rim.commit import Checkpoint
from pipeline.rim.scripts import Operands, Script, Scripts, all_scripts, script
from pipeline.runtime.closer import Closer
from pipeline.runtime.computations import AggregateComputation, Computation
from pipeline.runtime.metric_query import MetricQuery
from pipeline.runtime.query import Metrics
from pipeline.runtime.runner import Loaded, Runner
from pipeline.runtime.setup import set_up
from tests.faults.model import WINDOW_MS, Cells, Model, read_log, rows_of

STREAM, METRIC = "s", "m"
DISORDER_MS = 1_000


def config_of(partitions: int, *, rare: bool = False) -> Config:
    """A stream, a filter, and a metric counted exactly; with `rare` a published transform as well."""
    fields = (Field("ts", "timestamp", unit="ms"), Field("g", "string"), Field("k", "int"))
    values = (AggregateSpec("n", "count"), AggregateSpec("sum_k", "sum", "k"), AggregateSpec("last_k", "last", "k"))
    published = {"rare": Transform("rare", STREAM, filter="g = 'g0'", publish=True)} if rare else {}
    return Config(
        streams={STREAM: Stream(STREAM, fields, TimePolicy("ts", disorder_ms=DISORDER_MS), partitions=partitions)},
        stages={
            "kept": Transform("kept", STREAM, filter="g <> 'bot'"),
            METRIC: Aggregate(METRIC, "kept", Tumbling(WINDOW_MS), ("g",), values),
            **published,
        },
    )


def without(name: str, guard: str, instead: str = "") -> Mapping[str, Script]:
    """All scripts, with one guard of one of them taken out; a guard that is not found exactly once fails the test."""
    source = all_scripts()[name].source.decode()
    assert source.count(guard) == 1, (
        f"{name}.lua holds the guard {source.count(guard)} times; look at it again:\n{guard}"
    )
    return {**all_scripts(), name: script(name, source.replace(guard, instead).encode())}


class OneByOne(Scripts):
    """Scripts that are all run by `run`: for those that do something else there."""

    def run_each(self, name: str, calls: Iterable[Operands]) -> Generator[Any]:
        return (self.run(name, keys=call.keys, args=call.args) for call in calls)


class Interrupted(OneByOne):
    """Scripts on which something else happens right before the n-th call of one of them: a pause, made exact."""

    def __init__(
        self,
        client: redis.Redis,
        name: str,
        meanwhile: Callable[[], object],
        *,
        nth: int = 1,
        scripts: Mapping[str, Script] | None = None,
    ) -> None:
        super().__init__(client, scripts)
        self._name, self._meanwhile, self._left = name, meanwhile, nth

    def run(self, name: str, **arguments: Any) -> Any:
        if name == self._name:
            self._left -= 1
            if self._left == 0:
                self._meanwhile()
        return super().run(name, **arguments)


@dataclass(slots=True)
class Line:
    """A set-up config on a server, with everything a directed test reads or does."""

    client: redis.Redis
    partitions: int = 1
    config: Config = field(init=False)
    program: Program = field(init=False)

    def __post_init__(self) -> None:
        self.config = config_of(self.partitions)
        self.program = compile_programs(self.config)[METRIC]
        set_up(self.client, self.config)

    @property
    def group(self) -> str:
        return self.program.group

    def add(self, *events: tuple[int, str, int], partition: int = 0) -> list[bytes]:
        """Append (ts, g, k) as row entries, as any Redis client does; return their ids."""
        key = keys.raw(STREAM, partition)
        flat = [("ts", str(ts), "g", g, "k", str(k)) for ts, g, k in events]
        return [self.client.execute_command("XADD", key, "*", *fields) for fields in flat]

    def runner(
        self,
        name: str,
        *,
        scripts: Scripts | None = None,
        partition: int = 0,
        computation: Computation | None = None,
    ) -> Runner:
        """A worker's part for one partition, that has loaded its state."""
        work = computation or AggregateComputation(self.program, partition)
        stream = self.config.streams[STREAM]
        runner = Runner(stream, partition, work, self.client, scripts or Scripts(self.client), name)
        runner.load()
        return runner

    def read(self, runner: Runner) -> list[bytes]:
        """Let a runner take what is new, as its worker would; return the ids."""
        loaded = state_of(runner)
        wanted = {self.group: (loaded.consumer, 1_000)}
        found = groups.read_new(self.client, STREAM, runner.partition, wanted)[self.group]
        runner.take(found)
        return [entry.id for entry in found]

    def decode(self, entries: Sequence[Entry]) -> Batch:
        reader = Reader(self.config.streams[STREAM], self.program.needs)
        return read_batch(entries, reader, partition=0, max_future_ms=self.config.streams[STREAM].time.max_future_ms)

    def work(self, runner: Runner) -> int:
        """Read, compute and commit once."""
        self.read(runner)
        return runner.process(self.decode)

    def finish(self, name: str = "finisher", partition: int = 0) -> None:
        """A fresh worker does whatever is left."""
        self.work(self.runner(name, partition=partition))

    def finish_with(self, scripts: Scripts) -> None:
        """A fresh worker on these scripts does whatever is left."""
        self.work(self.runner("worker", scripts=scripts))

    def closer(self, scripts: Scripts | None = None) -> Closer:
        return Closer(self.program, self.client, scripts or Scripts(self.client))

    def checkpoint(self, partition: int = 0) -> Checkpoint:
        return store.load_checkpoint(self.client, STREAM, partition, self.group)

    def cells(self) -> Cells:
        """What the product answers: (window start, group) → (count, sum)."""
        rows = Metrics(self.config, self.client).query(MetricQuery(METRIC)).rows
        return {(row["window_start"], row["g"]): (row["n"], row["sum_k"]) for row in rows}

    def model(self) -> Model:
        """What the log says, by plain Python."""
        return read_log(self.client, STREAM, self.partitions, disorder_ms=DISORDER_MS)

    def right(self) -> bool:
        """Whether cells, late rows and ledger are what the log says."""
        model, late = self.model(), keys.late(STREAM, 0, self.group)
        checkpoints = [self.checkpoint(p) for p in range(self.partitions)]
        ledgers = [(c.read, c.accepted, c.filtered, c.late, c.dead) for c in checkpoints]
        late_rows = [(row[b"entry"], int(row[b"row"])) for _, row in rows_of(self.client, late)]
        return (
            self.cells() == model.cells
            and ledgers == [model.ledgers[p] for p in range(self.partitions)]
            and late_rows == model.late[0]
        )

    def everything(self, pattern: str = "*") -> dict[Any, Any]:
        """Every key of the server with its value: to show that nothing was written, or to bring it back."""
        return {key: self.client.dump(key) for key in self.client.keys(pattern)}


def state_of(runner: Runner) -> Loaded:
    assert runner.state is not None, "the runner has forgotten its state"
    return runner.state


def published_revisions(client: redis.Redis) -> list[tuple[str, str]]:
    """(window start, revision) of every downstream row."""
    rows = [fields for _, fields in rows_of(client, keys.rows(METRIC))]
    return [(row[b"window_start"].decode(), row[b"revision"].decode()) for row in rows]
