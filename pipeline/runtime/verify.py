"""`verify`: every window that is kept, recomputed from the raw log by the batch twin and compared bit for bit.

    cut of the last trim          least watermark - allowed lateness        cursors of the stage
    ----------|------------------------------|-------------------------------------|------
    windows not checkable         final: results against the twin     panes and live sessions against the twin, where
                                                                      no commit came after

Safe while the pipeline runs: the checkpoints are read first and the twin goes exactly to their cursors. What was
published or committed since is not compared, and what differs is looked at again before it is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import redis

from pipeline.core.cell_fields import split_field
from pipeline.core.definitions import Aggregate, Config
from pipeline.core.process import Ledger
from pipeline.core.programs import Program
from pipeline.core.session_twin import SessionTwin, twin_of
from pipeline.core.steps import lost_functions, tables_of
from pipeline.core.twin import PaneTwin, PartitionPanes, PartitionTwin
from pipeline.core.windows import FOREVER_MS, Span
from pipeline.errors import LogTrimmedError, MissingTableError, StreamgaugeError
from pipeline.rim import keys, store
from pipeline.rim.commit import Checkpoint, Mark
from pipeline.rim.log import BEGIN, LogPlace, log_begin, order_of
from pipeline.rim.table_cache import TableCache
from pipeline.runtime.closer import minimum_watermark
from pipeline.runtime.computations import AggregateComputation
from pipeline.runtime.log_batches import killed_rows, side_rows, stage_batches, time_at
from pipeline.runtime.query import Metrics
from pipeline.runtime.verify_report import Difference, MetricReport, Where
from pipeline.runtime.verify_results import Bounds, base_level, compare_results, group_differences, tier_level
from pipeline.runtime.verify_sessions import SessionComparison

ATTEMPTS = 3  # when a trim overtakes us
PANES_A_READ = 50
JUDGED = ("accepted", "late", "partial", "others", "backfilled")  # what depends on what had expired, for old data

Progress = Callable[[str, int, int], None]  # metric, events read, events to read (about)


def verify(
    client: redis.Redis, config: Config, names: Sequence[str] = (), progress: Progress | None = None
) -> Iterator[MetricReport]:
    """Recompute the metrics of `names` (default: all), one report each.

    Raises:
        BadRequestError: there is no such metric.
        StreamgaugeError: the log is trimmed faster than it can be read.
    """
    metrics = Metrics(config, client)
    for program in [metrics.program(name) for name in (names or metrics.programs)]:
        yield _Verification(client, config, program, progress or (lambda *said: None)).run()


@dataclass(slots=True)
class _Verification:
    """One metric's verification."""

    client: redis.Redis
    config: Config
    program: Program
    progress: Progress
    report: MetricReport = field(init=False)
    checkpoints: list[Checkpoint] = field(init=False)
    begins: list[LogPlace] = field(init=False)
    now_ms: int = 0

    def run(self) -> MetricReport:
        for _ in range(ATTEMPTS):
            self.report = MetricReport(self.program.name, self.program.version)
            try:
                return self._attempt()
            except LogTrimmedError as error:
                trimmed = error
            except MissingTableError as error:
                return MetricReport(self.program.name, self.program.version, unchecked=str(error))
        raise StreamgaugeError(f"{self.program.name}: {trimmed}") from trimmed

    def _attempt(self) -> MetricReport:
        program, partitions = self.program, range(self.program.stream.partitions)
        self.now_ms = store.redis_time_ms(self.client)
        self.checkpoints = store.load_checkpoints(self.client, program.stream.name, len(partitions), program.group)
        self.begins = [log_begin(self.client, program.stream.name, partition) for partition in partitions]
        self.report.unchecked = self._hindrance()
        if self.report.unchecked is not None:
            return self.report
        twin = twin_of(
            program,
            {number: time_at(begin, self.checkpoints[number]) for number, begin in enumerate(self.begins)},
            AggregateComputation(program, 0, TableCache(self.client)).compute,
        )
        for partition in twin.partitions.values():
            self._compare_books(partition, self._read(partition))
        if isinstance(twin, SessionTwin):
            self._compare_sessions(twin)
            return self.report
        self._compare_windows(twin)
        for panes in twin.partitions.values():
            self._compare_panes(panes)
        return self.report

    def _hindrance(self) -> str | None:
        if lost := lost_functions(self.program.steps):
            return f"version {self.program.version} was made with another text of the function '{lost[0]}'"
        for number, (checkpoint, begin) in enumerate(zip(self.checkpoints, self.begins, strict=True)):
            if checkpoint.torn:
                return (
                    f"partition {number} waits to be rebuilt: a commit was cut off, or entries it had not read are gone"
                )
            if checkpoint.cursor and order_of(checkpoint.cursor) < order_of(begin.cursor):
                return f"partition {number} of version {self.program.version} stands behind the beginning of the log"
        return None

    # --- the twin

    def _read(self, twin: PartitionTwin) -> dict[Where, set[tuple[bytes, int]]]:
        """Take the partition's log up to its checkpoint; return the (entry, row) of what was late and dead."""
        number, checkpoint = twin.partition, self.checkpoints[twin.partition]
        aside: dict[Where, set[tuple[bytes, int]]] = {"late": set(), "dead": set()}
        if not checkpoint.cursor:
            return aside
        killed = killed_rows(self.client, self.program, number)
        total = sum(each.read for each in self.checkpoints)
        for batch in stage_batches(self.client, self.program, number, self.begins[number], checkpoint.cursor, killed):
            prepared = twin.take(batch)
            failed = [*prepared.late.rows.tolist(), *(dead.row for dead in prepared.dead)]
            places = {row: (batch.entry_id(row), batch.row_in_entry(row)) for row in failed}
            aside["late"].update(places[row] for row in prepared.late.rows.tolist())
            aside["dead"].update(places[dead.row] for dead in prepared.dead)
            aside["dead"].update((dead.entry_id, dead.row) for dead in batch.dead)
            self.report.events += prepared.ledger.read
            self.progress(self.program.name, self.report.events, max(total, self.report.events))
        return aside

    # --- time and books

    def _compare_books(self, twin: PartitionTwin, aside: Mapping[Where, set[tuple[bytes, int]]]) -> None:
        number, checkpoint = twin.partition, self.checkpoints[twin.partition]
        if not checkpoint.cursor:
            return
        pairs: list[tuple[Where, str, Any, Any]] = [
            ("time", name, getattr(checkpoint, name), getattr(twin.time, name)) for name in ("max_seen_ms", "max_ts_ms")
        ]
        tables, again = checkpoint.tables, twin.time.tables
        pairs += [("time", f"table {n}", tables.get(n), again.get(n)) for n in sorted(tables_of(self.program.steps))]
        judged_again = not self._has_old_data_expired(number)
        if self.begins[number].is_begin:  # the whole log is there, so the books can be done again
            names = [each.name for each in fields(Ledger)]
            if not judged_again:
                names = [name for name in names if name not in JUDGED]
                self.report.old_data += 1
            pairs += [("ledger", name, getattr(checkpoint, name), getattr(twin.ledger, name)) for name in names]
        self.report.differ(
            [
                Difference(self.program.name, where, name, stored, again, number)
                for where, name, stored, again in pairs
                if stored != again
            ]
        )
        stream, group = self.program.stream.name, self.program.group
        if judged_again:
            self._compare_aside("late", number, keys.late(stream, number, group), aside["late"])
        self._compare_aside("dead", number, keys.dead(stream, number, group), aside["dead"])

    def _has_old_data_expired(self, number: int) -> bool:
        """Whether it is not known any more what had expired when a backfill was counted."""
        checkpoint = self.checkpoints[number]
        return checkpoint.expired_ms is not None and checkpoint.backfilled + checkpoint.replayed > 0

    def _floor_ms(self, number: int) -> int | None:
        """What begins at or before it cannot be checked: it lost events to a trim, or got old ones while it expired."""
        floors = [self.begins[number].max_ts_ms]
        if self._has_old_data_expired(number):
            floors.append((self.checkpoints[number].expired_ms or 0) - 1)
        return max((ms for ms in floors if ms is not None), default=None)

    def _compare_aside(self, where: Where, partition: int, key: str, again: set[tuple[bytes, int]]) -> None:
        """The late rows or dead letters of what is left of the log; those past retention may be gone."""
        first, last = order_of(self.begins[partition].cursor), order_of(self.checkpoints[partition].cursor)
        stored = [
            place
            for row in side_rows(self.client, key)
            if first < order_of((place := (row[b"entry"], int(row[b"row"])))[0]) <= last
        ]
        kept_ms = self.now_ms - self.program.stream.retention_ms
        missing = {place for place in again - set(stored) if order_of(place[0])[0] > kept_ms}
        twice = {place for place, times in Counter(stored).items() if times > 1}
        cases = (("nothing", where, missing), (where, "nothing", set(stored) - again), ("twice", "once", twice))
        for said, expected, places in cases:
            self.report.differ(
                [
                    Difference(self.program.name, where, f"{entry.decode()}/{row}", said, expected, partition)
                    for entry, row in sorted(places)
                ]
            )

    # --- results

    def _floors_ms(self) -> list[int | None]:
        return [self._floor_ms(number) for number in range(len(self.begins))]

    def _compare_windows(self, twin: PaneTwin) -> None:
        watermark_ms = minimum_watermark(self.checkpoints, self.program.stream.time.disorder_ms)
        floor_ms = max((ms for ms in self._floors_ms() if ms is not None), default=-FOREVER_MS)
        program = self.program
        published = store.published_windows(self.client, program.name, program.version)
        self.report.not_checkable = sum(start <= floor_ms for start, _ in published)
        if watermark_ms is None:
            return
        final_ms = watermark_ms - self.program.stage.allowed_lateness_ms
        levels = [base_level(self.client, program, twin, self._retention_ms())]
        levels += [tier_level(self.client, program, twin, tier) for tier in self._stage().rollups]
        for level in levels:
            compare_results(self.client, program, level, Bounds(floor_ms, final_ms, self.now_ms), self.report)

    def _stage(self) -> Aggregate:
        """As the running config has it: retention is no part of a version."""
        stage = self.config.stages[self.program.name]
        assert isinstance(stage, Aggregate)
        return stage

    def _retention_ms(self) -> int:
        return self._stage().retention_ms

    # --- sessions

    def _compare_sessions(self, twin: SessionTwin) -> None:
        comparison = SessionComparison(
            self.client, self.program, self.report, self._floors_ms(), self.now_ms, self._retention_ms()
        )
        comparison.compare_published(twin)
        for partition in twin.partitions.values():
            comparison.compare_live(partition, self._follow)

    def _follow(self, twin: PartitionTwin) -> set[bytes] | None:
        """Take the partition's log on to its checkpoint by now; return the groups that got events there.

        None when the checkpoint is not ahead of where the twin is.
        """
        number, name = twin.partition, self.program.stream.name
        was, now = self.checkpoints[number], store.load_checkpoint(self.client, name, number, self.program.group)
        if now.torn or order_of(now.cursor or BEGIN) < order_of(was.cursor or BEGIN):
            return None
        groups: set[bytes] = set()
        if now.cursor != was.cursor:
            place = replace(self.begins[number], cursor=was.cursor or self.begins[number].cursor)
            killed = killed_rows(self.client, self.program, number)
            for batch in stage_batches(self.client, self.program, number, place, now.cursor, killed):
                groups.update(split_field(name)[1] for _, name in twin.take(batch).cells)
            self.checkpoints[number] = now
        return groups

    # --- panes

    def _compare_panes(self, twin: PartitionPanes) -> None:
        """The panes that no commit has changed since the checkpoint was read: a mark never goes back."""
        program, number = self.program, twin.partition
        floor_ms, mark = self._floor_ms(number), self.checkpoints[number].mark
        before = store.pane_marks(self.client, program.stream.name, number, program.group)
        starts = sorted(
            start for start in before.keys() | twin.table.panes.keys() if floor_ms is None or start > floor_ms
        )
        for at in range(0, len(starts), PANES_A_READ):
            part = starts[at : at + PANES_A_READ]
            there = [start for start in part if start in before]
            stored = store.load_panes(self.client, program.stream.name, number, program.group, there)
            panes = keys.panes(program.stream.name, number, program.group)
            after = dict(zip(part, self.client.execute_command("HMGET", panes, *part), strict=True))
            for start in part:
                if after[start] is not None and Mark.parse(after[start]).order > mark.order:
                    self.report.moved += 1
                elif after[start] is not None and start in stored:
                    self._compare_pane(twin, start, stored[start])
                elif start in twin.table.panes and not self._pane_may_have_expired(twin, start):
                    span = self._first_window(start)
                    self.report.differ([Difference(program.name, "pane", "pane", None, "kept", number, span)])

    def _compare_pane(self, twin: PartitionPanes, start_ms: int, stored: Mapping[bytes, bytes]) -> None:
        self.report.panes += 1
        layout, span = self.program.layout, self._first_window(start_ms)
        try:
            names, columns = layout.gather(stored)
            cells = dict(zip(names, layout.pack(columns, np.arange(len(names))), strict=True))
        except (ValueError, IndexError) as error:
            self.report.differ(
                [Difference(self.program.name, "pane", "cell", str(error), "a readable one", twin.partition, span)]
            )
            return
        self.report.differ(group_differences(self.program, "pane", twin.partition, span, cells, twin.packed(start_ms)))

    def _first_window(self, start_ms: int) -> Span:
        return next(iter(self.program.panes.windows_of(start_ms, -FOREVER_MS, FOREVER_MS)))

    def _pane_may_have_expired(self, twin: PartitionPanes, start_ms: int) -> bool:
        return self.now_ms - twin.first_arrivals_ms[start_ms] >= self._retention_ms()
