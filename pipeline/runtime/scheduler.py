"""Housekeeping in a process of its own: ticks where events are missing, trim, expiry, tables, checks of Redis, books.

Safe to run several: every effect is decided inside a script (a tick by the last entry, a trim by the checkpoints, an
expiry by the publishing time), so a second scheduler finds nothing left to do. No window is closed here, and none by
the wall clock: ticks go through the log. None of it needs polars, except for rows past the door and changed tables.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial

import redis
import structlog
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobSubmissionEvent
from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from pipeline.core.definitions import MINUTE_MS, Aggregate, Config
from pipeline.core.versions import decode_definition, version_of
from pipeline.rim import connection, expiry, keys, replies, trim
from pipeline.rim.checks import check_server
from pipeline.rim.expiry import Expired, Kept
from pipeline.rim.ledger import Finding, Verdict
from pipeline.rim.result_lists import restore_lists
from pipeline.rim.scripts import Scripts
from pipeline.rim.store import redis_time_ms
from pipeline.rim.trim import Trimmed
from pipeline.runtime.ledger import check_ledger
from pipeline.runtime.stage_groups import groups_of
from pipeline.runtime.table_reloads import TableReloads
from pipeline.runtime.time_keepers import time_keepers

TICK_EVERY_MS = 500  # a silent stream closes its windows at most this much after it is due
GAP_MS = MINUTE_MS  # between two looks of a scheduler that runs: longer, and the machine was suspended
TRIM_EVERY_MS = 5_000  # at 150 MB/s a log of 1 GB fills in seven seconds: once a minute would let it grow to nine
EXPIRE_EVERY_MS = MINUTE_MS
CHECK_EVERY_MS = MINUTE_MS
LEDGER_EVERY_MS = MINUTE_MS
TABLES_EVERY_MS = MINUTE_MS
SAY_EVERY_S = 60.0
JOBS_AT_ONCE = 6  # one thread a job: a long trim must not hold up the ticks

log = structlog.get_logger(__name__)


@dataclass
class Watch:
    """Since when the streams have been looked at without a gap, by Redis's clock; one that goes back begins anew."""

    since_ms: int | None = None
    last_ms: int | None = None

    def look(self, now_ms: int) -> int:
        """Note a look; return since when there was none missing."""
        if self.since_ms is None or self.last_ms is None or not 0 <= now_ms - self.last_ms <= GAP_MS:
            self.since_ms = now_ms
        self.last_ms = now_ms
        return self.since_ms


class Housekeeping:
    """The jobs, each callable by itself; `now_ms` is Redis's clock unless a test says another."""

    def __init__(self, config: Config, client: redis.Redis, *, allow_volatile: bool = False) -> None:
        self.config = config
        self.allow_volatile = allow_volatile
        self.client = client
        self._scripts = Scripts(client)
        self._time_keepers = time_keepers(client, config)
        self._tables = TableReloads(config, client, self._scripts)
        self._watch = Watch()
        self._unfit: frozenset[str] = frozenset()
        self._unbalanced: frozenset[Finding] = frozenset()
        self._searched: frozenset[str] = frozenset()  # metrics whose results were looked for by their keys

    def tick_once(self, now_ms: int | None = None, watched_since_ms: int | None = None) -> list[str]:
        """Write the ticks that are due in any stream; return their entry ids."""
        now_ms = redis_time_ms(self.client) if now_ms is None else now_ms
        keepers = self._time_keepers.values()
        return [entry_id for keeper in keepers for entry_id in keeper.tick_idle(now_ms, watched_since_ms)]

    def tick_watching(self) -> list[str]:
        """`tick_once`, where a silence begins no earlier than this scheduler's looks at Redis without a gap.

        What buffers while Redis or the machine is down sends when it is back: that is not late because of the outage.
        """
        try:
            now_ms = redis_time_ms(self.client)
            return self.tick_once(now_ms, self._watch.look(now_ms))
        except redis.RedisError:
            self._watch = Watch()
            raise

    def trim_once(self, now_ms: int | None = None) -> Trimmed:
        """Sample checkpoints and trim every stream that is past its retention."""
        now_ms = redis_time_ms(self.client) if now_ms is None else now_ms
        trimmed = Trimmed()
        for stream in self.config.streams.values():
            groups = groups_of(self.config, stream.name)
            trimmed += trim.trim_stream(self.client, self._scripts, stream, groups, now_ms)
        return trimmed

    def expire_once(self, now_ms: int | None = None) -> Expired:
        """Delete results past their retention with their panes, and old rows of side streams."""
        now_ms = redis_time_ms(self.client) if now_ms is None else now_ms
        expired = Expired()
        for stage in self.config.stages.values():
            stream = self.config.stream_of(stage)
            if isinstance(stage, Aggregate):
                for kept in self._kept(stage):
                    expired += expiry.expire_results(self.client, self._scripts, kept, stage.retention_ms, now_ms)
                    for tier in kept.stage.rollups:
                        expired += expiry.expire_tier(self.client, self._scripts, kept, tier, now_ms)
                expired += expiry.expire_downstream(self.client, stage, now_ms)
            elif stage.publish:
                expired += expiry.expire_transform(self.client, stream, stage, now_ms)
        for stream in self.config.streams.values():
            groups = groups_of(self.config, stream.name)
            expired += expiry.expire_side_streams(self.client, stream, groups, now_ms)
        return expired

    def reload_tables_once(self, now_ms: int | None = None) -> int:
        """Bring files of lookup tables that have changed into the logs; return in how many partitions one was news."""
        news = self._tables.reload_once()
        self._tables.drop_unused(redis_time_ms(self.client) if now_ms is None else now_ms)
        return news

    def check_once(self) -> None:
        """Say in the log what is wrong with the server's settings, once each time that it changes."""
        unfit = {finding.name: finding for finding in check_server(self.client, self.allow_volatile) if not finding.ok}
        for name in unfit.keys() - self._unfit:
            log.error("server is unfit", check=name, seen=unfit[name].seen, why=unfit[name].sentence)
        for name in self._unfit - unfit.keys():
            log.info("server is fit again", check=name)
        self._unfit = frozenset(unfit)

    def restore_lists_once(self) -> int:
        """Put results back into the lists that readers find them by, where somebody deleted one; return how many."""
        restored = 0
        for stage in self.config.aggregates():
            version = version_of(self.config, stage.name)
            search, self._searched = stage.name not in self._searched, self._searched | {stage.name}
            found = restore_lists(self.client, self._scripts, stage, version, search=search)
            if found:
                log.error(
                    "results were missing in a list of the metric's results, and are in it again",
                    stage=stage.name,
                    results=found,
                    next="find out who deleted keys of this metric",
                )
            restored += found
        return restored

    def ledger_once(self) -> Verdict:
        """Look at the books and keep what was found; say in the log what does not add up, once each time it changes."""
        self.restore_lists_once()
        verdict = check_ledger(self.client, self.config)
        found = frozenset(verdict.findings)
        for finding in sorted(found - self._unbalanced, key=lambda finding: finding.sentence):
            log.error("the books do not add up", seen=finding.sentence, next=finding.advice)
        if self._unbalanced and not found:
            log.info("the books add up again")
        self._unbalanced = found
        return verdict

    def _kept(self, stage: Aggregate) -> list[Kept]:
        """Every version of a metric that may have results: the running one, and all its record names."""
        stored = replies.parse_hash(self.client.execute_command("HGETALL", keys.versions(stage.name)))
        running = Kept(self.config.stream_of(stage), stage, version_of(self.config, stage.name))
        definitions = {name.decode().partition(":")[2]: text for name, text in stored.items() if b"definition:" in name}
        known = {version: decode_definition(text) for version, text in definitions.items()}
        older = [Kept(it.stream, it.stage, version, running=False) for version, it in sorted(known.items())]
        return [running, *(kept for kept in older if kept.version != running.version)]


def guarded(name: str, job: Callable[[], object]) -> None:
    """Run a job at the top of its thread: whatever fails is logged, and the next run tries again."""
    try:
        done = job()
    except redis.RedisError as error:
        away = connection.is_away(error)
        log.warning("redis is away" if away else "redis refused", job=name, error=str(error), next="the next run")
    except Exception:
        log.exception("job failed", job=name, next="the next run")
    else:
        log.debug("job ran", job=name, done=done)


class Skips:
    """Says that a job takes longer than the time between its runs: what APScheduler says at every run that it skips.

    At most once a minute for a job, with how many runs were skipped since.
    """

    def __init__(self) -> None:
        self._skipped: dict[str, int] = {}
        self._said_s: dict[str, float] = {}

    def __call__(self, event: JobSubmissionEvent, now_s: float | None = None) -> None:
        now_s = time.monotonic() if now_s is None else now_s
        job = event.job_id
        self._skipped[job] = self._skipped.get(job, 0) + len(event.scheduled_run_times)
        if now_s - self._said_s.get(job, -SAY_EVERY_S) < SAY_EVERY_S:
            return
        log.warning(
            "a job takes longer than the time between its runs",
            job=job,
            skipped=self._skipped.pop(job),
            next="it runs again when this run has ended; nothing is lost. Always so: the machine or Redis is too busy",
        )
        self._said_s[job] = now_s


def schedule(housekeeping: Housekeeping) -> BackgroundScheduler:
    """Put the jobs on an APScheduler, not started.

    `coalesce` and no misfire grace: after a pause (SIGSTOP, a suspended machine) each job runs once, at once, and looks
    at what is now; the runs that were missed have nothing left to do. One instance: the next look begins when this one
    has ended.
    """
    scheduler = BackgroundScheduler(
        executors={"default": ThreadPoolExecutor(JOBS_AT_ONCE)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone=UTC,
    )
    scheduler.add_listener(Skips(), EVENT_JOB_MAX_INSTANCES)
    logging.getLogger("apscheduler").setLevel(logging.ERROR)  # its warnings are the skipped runs, said above
    jobs: list[tuple[str, Callable[[], object], int]] = [
        ("ticks", housekeeping.tick_watching, TICK_EVERY_MS),
        ("trim", housekeeping.trim_once, TRIM_EVERY_MS),
        ("expiry", housekeeping.expire_once, EXPIRE_EVERY_MS),
        ("checks", housekeeping.check_once, CHECK_EVERY_MS),
        ("ledger", housekeeping.ledger_once, LEDGER_EVERY_MS),
        ("tables", housekeeping.reload_tables_once, TABLES_EVERY_MS),
    ]
    for name, job, every_ms in jobs:
        scheduler.add_job(
            partial(guarded, name, job),
            "interval",
            seconds=every_ms / 1_000,
            id=name,
            name=name,
            next_run_time=datetime.now(UTC),
        )
    return scheduler


def run_scheduler(config: Config, redis_url: str, *, allow_volatile: bool = False) -> None:
    """Run until SIGTERM or SIGINT, then let the jobs that are running end."""
    client = connection.writer(redis_url)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    scheduler = schedule(Housekeeping(config, client, allow_volatile=allow_volatile))
    scheduler.start()
    log.info("scheduler started", streams=len(config.streams), stages=len(config.stages))
    stopping.wait()
    scheduler.shutdown(wait=True)
    client.close()
    log.info("scheduler stopped")
