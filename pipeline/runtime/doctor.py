"""What is wrong, and what to do about it: config, Redis, the books, the next limit, API, lag.

Invariant: a check that could not run is a check that failed; `doctor` never passes by not looking.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, StreamgaugeError

if TYPE_CHECKING:
    import redis

    from pipeline.core.definitions import Config
    from pipeline.rim.ledger import Verdict
    from pipeline.runtime.limits import Limit

NEAR_LIMIT = 0.8  # of a resource: what is left is gone in a quarter of the time that it took so far
WAITING_WARN = 1_000  # closed windows of a metric: a few seconds' work of one worker
LAG_WARN_S = 30  # a worker at work is within a second; half a minute behind, it does not keep up or does not run


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at: what was seen, and what to do where it is not ok."""

    name: str
    ok: bool
    seen: str
    fix: str = ""


def check_config(path: Path, environ: Mapping[str, str]) -> Check:
    from pipeline.runtime.config import load_config

    try:
        config = load_config(path, environ)
    except ConfigError as error:
        return Check("config", False, error.problems[0].splitlines()[0], f"streamgauge check --config {path}")
    return Check("config", True, f"{path}: {len(config.streams)} streams, {len(config.stages)} stages")


def check_native() -> Check:
    """Say whether bodies are read and packed natively; all numbers are the same without."""
    from pipeline.core import names, native, stored_chunks, texts

    if all(part.IS_BUILT for part in (names, native, stored_chunks, texts)):
        return Check("native parts", True, "built")
    seen = "not built, so an event costs more CPU; with a C compiler it is: apt-get install gcc python3-dev, make setup"
    return Check("native parts", True, seen)


def check_redis(
    find_url: Callable[[], str], allow_volatile: bool, config: Config | None = None, data_dir: Path | None = None
) -> list[Check]:
    """Check that Redis answers and can keep the promises, what the scheduler last found in the books, and the limits.

    Without a `config` nobody knows which streams and metrics there are: limits and waiting windows are left out.
    """
    import redis

    from pipeline.rim.checks import check_server
    from pipeline.rim.connection import reader
    from pipeline.rim.ledger import load_verdict
    from pipeline.runtime.limits import limits

    try:
        client = reader(find_url())
        findings = check_server(client, allow_volatile)
        verdict = load_verdict(client)
        of_config = []
        if config is not None:
            of_config = [check_limits(limits(client, config, data_dir)), check_published(client, config)]
    except (StreamgaugeError, redis.RedisError) as error:
        return [Check("redis", False, str(error), "start it, or correct redis.url or --redis-url")]
    found = [Check(f"redis {f.name}", f.ok, str(f.seen), "" if f.ok else f.sentence) for f in findings]
    return [*found, check_books(verdict), *of_config]


def check_limits(limits: Sequence[Limit]) -> Check:
    """Name the resource that runs out next, of those that are known, the nearest first."""
    if not limits:
        return Check("next limit", False, "Redis says nothing of its memory", "permit INFO to this user of Redis")
    nearest, *others = limits
    seen = str(nearest) + (f"; then {others[0]}" if others else "")
    ok = nearest.share < NEAR_LIMIT
    return Check("next limit", ok, seen, "" if ok else nearest.advice)


def check_published(client: redis.Redis, config: Config) -> Check:
    """Check that closed windows do not pile up unpublished, as after a long file: the lag is 0 by then."""
    from pipeline.core.definitions import Session
    from pipeline.core.ndjson import iso_time
    from pipeline.core.programs import compile_programs
    from pipeline.runtime.metric_completeness import windows_waiting

    waiting = {
        name: windows_waiting(client, program)
        for name, program in compile_programs(config).items()
        if not isinstance(program.window, Session)
    }
    seen = "; ".join(
        f"{name}: {len(windows):,} closed windows wait, from {iso_time(windows[0][0])} on"
        for name, windows in waiting.items()
        if len(windows) > WAITING_WARN
    )
    if not seen:
        return Check("published", True, "no closed windows pile up")
    advice = "wait, workers publish the oldest first; where the number stays as it is, start one: streamgauge worker"
    return Check("published", False, seen, advice)


def check_books(verdict: Verdict | None) -> Check:
    """Check that the scheduler's last look at the books found nothing."""
    if verdict is None:
        seen = "no scheduler has looked at the books since this Redis was set up, or emptied"
        advice = "one looks every minute: run doctor again then, and if it stays so, start it: streamgauge scheduler"
        return Check("ledger", False, seen, advice)
    if verdict.ok:
        return Check("ledger", True, "the books add up")
    seen = "; ".join(finding.sentence for finding in verdict.findings)
    return Check("ledger", False, seen, "; ".join(dict.fromkeys(finding.advice for finding in verdict.findings)))


def check_ready(get: Callable[[str], Any]) -> Check:
    """Check that the API answers and says it is ready."""
    try:
        get("/readyz")
    except StreamgaugeError as error:
        return Check("api", False, str(error), "streamgauge up, or --url with the address of a running one")
    return Check("api", True, "ready")


def check_lag(stages: Sequence[Mapping[str, Any]]) -> list[Check]:
    """Check that every stage keeps up with its stream; one that runs inside others has no lag of its own."""
    return [_stage_check(stage) for stage in stages if stage.get("lag") is not None]


def _stage_check(stage: Mapping[str, Any]) -> Check:
    lag = stage["lag"]
    entries = "an unknown number of" if lag["entries"] is None else lag["entries"]
    seconds = lag["seconds"]
    seen = f"{entries} entries, {seconds:.1f} s behind"
    ok = seconds < LAG_WARN_S
    return Check(f"lag {stage['stage']}", ok, seen, "" if ok else "start another worker: streamgauge worker")
