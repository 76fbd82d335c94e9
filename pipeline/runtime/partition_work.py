"""One partition in a worker's hands: all groups that read it, one decoding for those at the same entries, its doubts.

Whatever the fence refuses is loaded again; nothing here decides whether a number counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import redis
import structlog

from pipeline.core.batches import Batch, read_batch
from pipeline.core.definitions import Config, Stream
from pipeline.core.entries import Entry
from pipeline.core.events import Reader
from pipeline.core.programs import Program
from pipeline.errors import FenceError, ForeignKeyError, MissingTableError, TornError
from pipeline.rim import connection, groups, keys
from pipeline.rim.rebuild import rebuild_partition
from pipeline.rim.scripts import Scripts
from pipeline.rim.table_cache import TableCache
from pipeline.runtime.assignments import computations_of
from pipeline.runtime.runner import Loaded, Runner

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class PartitionWork:
    """All groups that read one partition; those at the same entries share one decoding."""

    stream: Stream
    partition: int
    runners: Sequence[Runner]
    reader: Reader
    cursor: bytes = b""  # the last id we know of: an entry behind it wakes us
    is_behind: bool = False  # the last poll brought as many entries as it asked for: there are more
    again: bool = False  # a group lost its state and has to load before anything new comes
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
        awake = [runner for runner in self.runners if not runner.is_resting]
        fresh = {runner.group for runner in awake if runner.state is None}
        loaded = {runner.group: state for runner in awake if (state := self._loaded(runner)) is not None}
        runners = [runner for runner in awake if runner.group in loaded]
        wanted = {
            runner.group: (loaded[runner.group].consumer, runner.read_count)
            for runner in runners
            if not loaded[runner.group].pending
        }
        found = groups.read_new(client, self.stream.name, self.partition, wanted) if wanted else {}
        self.is_behind = any(len(entries) >= wanted[group][1] for group, entries in found.items())
        events = 0
        for runner in runners:
            if runner.group in wanted and runner.group not in found:
                log.info("a consumer group is gone; loading again", group=runner.group, partition=self.partition)
                runner.state = None
                self.again = True
                continue
            runner.take(found.get(runner.group, []))
            if not loaded[runner.group].pending:
                self._doubt(runner, announced, runner.group in fresh)
            events = max(events, self._process(runner, loaded[runner.group]))
        self._decoded = None
        self.again |= any(runner.is_resting for runner in self.runners)  # tried again when its rest is over
        return events

    def _loaded(self, runner: Runner) -> Loaded | None:
        try:
            state = runner.state or runner.load()
        except TornError as error:
            self._rebuild(runner, error)
            return None
        except (ForeignKeyError, MissingTableError, redis.ResponseError) as error:
            self._rest(runner, error)
            return None
        self.see(state.checkpoint.cursor)
        return state

    def _rebuild(self, runner: Runner, error: TornError) -> None:
        log.error(
            "rebuilding a torn partition from its log",
            stage=runner.group.partition("@")[0],
            group=runner.group,
            stream=self.stream.name,
            partition=self.partition,
            why=str(error),
            next="nothing: its windows are counted again, and what changes in published ones is a revision",
        )
        rebuild_partition(
            runner.client,
            runner.scripts,
            self.stream.name,
            self.partition,
            runner.group,
            partitions=self.stream.partitions,
            window=runner.computation.window,
        )
        self.again = True

    def _rest(self, runner: Runner, error: Exception) -> None:
        """What one stage cannot do is no reason for the others to wait; Redis away is one for all."""
        if isinstance(error, redis.ResponseError) and connection.is_away(error):
            raise error
        runner.rest(error)
        self.again = True

    def see(self, entry_id: bytes) -> None:
        """An entry is known to be in the log: the next poll has to bring every group at least there."""
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
            self._rebuild(runner, error)
            return 0
        except (ForeignKeyError, MissingTableError, redis.ResponseError) as error:
            self._rest(runner, error)
            return 0
        self.see(last)
        return max(events, 1)  # a tick alone is work done as well

    def rest(self, error: Exception) -> None:
        """Leave the whole partition alone for a while: its log cannot be read."""
        for runner in self.runners:
            runner.rest(error)
        self.again = True

    @property
    def is_resting(self) -> bool:
        return all(runner.is_resting for runner in self.runners)

    def is_elsewhere(self) -> bool:
        """Whether a group is not where we left it: a rollback of Redis, another worker, or a key was deleted."""
        return any(self._is_elsewhere(runner) for runner in self.runners)

    def _is_elsewhere(self, runner: Runner) -> bool:
        try:
            return runner.is_elsewhere()
        except redis.ResponseError as error:
            self._rest(runner, error)
            return False

    def forget(self) -> None:
        for runner in self.runners:
            runner.state = None


def partition_work(
    config: Config,
    programs: Mapping[str, Program],
    stream_name: str,
    partition: int,
    *,
    client: redis.Redis,
    scripts: Scripts,
    worker: str,
    tables: TableCache,
) -> PartitionWork:
    """Everything a config has to do on one partition, nothing loaded yet."""
    stream = config.streams[stream_name]
    computations = computations_of(config, programs, stream, partition, tables)
    runners = [Runner(stream, partition, each, client, scripts, worker) for each in computations]
    needs = frozenset[str]().union(*(each.needs for each in computations))
    return PartitionWork(stream, partition, runners, Reader(stream, needs))
