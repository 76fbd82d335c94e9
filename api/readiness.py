"""Whether the installation does its work: the checks behind `/readyz`, each with what to do where it fails.

Invariant: a check that could not run has failed.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

import redis

from pipeline.core.definitions import MINUTE_MS, Config
from pipeline.core.times import about_duration
from pipeline.rim.checks import Finding, check_server
from pipeline.rim.ledger import Verdict, load_verdict
from pipeline.rim.status import workers_alive
from pipeline.runtime.ledger import findings
from pipeline.runtime.status import Status, read_status

SERVER_CHECK_S = 60.0  # INFO and CONFIG GET are cheap, but a probe comes every few seconds
WORKER_HEARD_MS = 10_000  # a worker beats every second; ten missed beats and it is gone
LEDGER_STALE_MS = 5 * MINUTE_MS  # the scheduler looks every minute
HANDOVER_S = 10.0  # a dead worker's lease runs out after 5 s, then another takes the partition


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: what was seen, and what to do where it is not ok."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


@dataclass(slots=True)
class Readiness:
    """Runs the checks; the ones about the server's settings at most once a minute."""

    config: Config
    client: redis.Redis
    allow_volatile: bool
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _findings: list[Finding] = field(default_factory=list)
    _checked_s: float | None = None

    def checks(self) -> list[Check]:
        """Return every check; only Redis's when it is away."""
        try:
            self.client.ping()
            status = read_status(self.client, self.config)
            alive = workers_alive(self.client, WORKER_HEARD_MS)
            verdict = load_verdict(self.client)
            server = [_server_check(finding) for finding in self._server()]
        except redis.exceptions.RedisError as error:
            advice = "start Redis, or correct redis.url; a loading server becomes ready by itself"
            return [Check("redis", False, str(error), advice)]
        found = [Check("redis", True, "answers"), *server, workers_check(status, alive)]
        return [*found, torn_check(status), ledger_check(status, verdict)]

    def _server(self) -> list[Finding]:
        with self._lock:
            now_s = time.monotonic()
            if self._checked_s is None or now_s - self._checked_s >= SERVER_CHECK_S:
                self._findings = check_server(self.client, self.allow_volatile)
                self._checked_s = now_s
            if not all(finding.ok for finding in self._findings):
                self._checked_s = None  # whoever corrects a setting sees it at once
            return self._findings


def _server_check(finding: Finding) -> Check:
    advice = "" if finding.ok else finding.sentence
    return Check(f"redis_{finding.name.replace('-', '_').replace(' ', '_')}", finding.ok, str(finding.seen), advice)


def workers_check(status: Status, alive: set[str]) -> Check:
    """Every partition that has something to do is held by a worker that lives."""
    waiting = [
        f"{stage.stage.name} on partition {partition.partition} of {stage.stream.name} ({partition.lag.seconds:.0f} s)"
        for stage in status.stages.values()
        for partition in stage.partitions
        if partition.lag.events and partition.holder not in alive and (not alive or partition.lag.seconds > HANDOVER_S)
    ]
    if waiting:
        advice = "start a worker: `streamgauge worker`, or `streamgauge up`, which starts everything"
        return Check("workers", False, f"nobody works on {_some(waiting)}", advice)
    return Check("workers", True, f"{len(alive)} alive")


def torn_check(status: Status) -> Check:
    """No commit was cut off in the middle, and no key of a stage was deleted."""
    torn = [
        f"{stage.stage.name} on partition {partition.partition} of {stage.stream.name}"
        for stage in status.stages.values()
        for partition in stage.partitions
        if partition.state.checkpoint.torn
    ]
    if torn:
        advice = (
            "the worker that holds the partition counts it again from its log, within seconds: start one if none runs"
        )
        return Check("checkpoints", False, f"a commit was cut off, or a key was deleted: {_some(torn)}", advice)
    return Check("checkpoints", True, "none is torn")


def ledger_check(status: Status, verdict: Verdict | None) -> Check:
    """The books add up, now and when the scheduler last looked; and it does look.

    A finding of the scheduler's stays until it has looked again.
    """
    stored = () if verdict is None else verdict.findings
    wrong = list(dict.fromkeys([*findings(status), *stored]))
    if wrong:
        advice = "; ".join(dict.fromkeys(finding.advice for finding in wrong))
        return Check("ledger", False, _some([finding.sentence for finding in wrong]), advice)
    if verdict is None:
        return Check("ledger", True, "the books add up; no scheduler has looked yet")
    age_ms = max(0, status.now_ms - verdict.checked_ms)
    if age_ms > LEDGER_STALE_MS:
        advice = "start the scheduler: `streamgauge scheduler`, or `streamgauge up`, which starts everything"
        return Check("ledger", False, f"nobody has looked at the books for {about_duration(age_ms)}", advice)
    return Check("ledger", True, f"the books add up; the scheduler looked {about_duration(age_ms)} ago")


def _some(texts: list[str]) -> str:
    rest = len(texts) - 3
    return "; ".join(texts[:3]) + (f" and {rest} more" if rest > 0 else "")
