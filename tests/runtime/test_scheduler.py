"""The housekeeping jobs over a whole config, and the process that runs them."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from apscheduler.events import EVENT_JOB_MAX_INSTANCES, JobSubmissionEvent
from structlog.testing import capture_logs

from pipeline.core.definitions import HOUR_MS, Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Tumbling
from pipeline.core.versions import encode_definition, version_of
from pipeline.rim import keys
from pipeline.rim.expiry import Expired
from pipeline.rim.replies import parse_entries
from pipeline.rim.store import redis_time_ms
from pipeline.runtime.scheduler import Housekeeping, Skips, Watch, guarded, schedule
from pipeline.runtime.setup import set_up
from pipeline.runtime.worker import Worker
from tests.servers import RunningServer

CONFIG = Config(
    streams={
        "readings": Stream(
            "readings",
            (Field("ts", "timestamp", unit="ms"),),
            TimePolicy(field="ts", disorder_ms=1_000),
            partitions=2,
            retention_ms=HOUR_MS,
        )
    },
    stages={
        "counts": Aggregate(
            "counts", "readings", Tumbling(10_000), (), (AggregateSpec("n", "count"),), retention_ms=HOUR_MS
        )
    },
)
GROUP = f"counts@{version_of(CONFIG, 'counts')}"
STARTUP_S = 20.0


def add_row(server: RunningServer, partition: int, time_ms: int, entry_id: str = "*") -> str:
    reply = server.client.execute_command("XADD", keys.raw("readings", partition), entry_id, "ts", time_ms)
    return str(reply.decode())


def last_entry(server: RunningServer, partition: int) -> dict[bytes, bytes]:
    reply = server.client.execute_command("XREVRANGE", keys.raw("readings", partition), "+", "-", "COUNT", 1)
    return parse_entries(reply)[0].fields or {}


def test_the_tick_job_moves_time_in_a_silent_stream_once(server: RunningServer) -> None:
    set_up(server.client, CONFIG)
    now_ms = redis_time_ms(server.client)
    for partition in (0, 1):
        add_row(server, partition, now_ms)
    first, second = Housekeeping(CONFIG, server.client), Housekeeping(CONFIG, server.client)
    assert first.tick_once() == []
    later_ms = redis_time_ms(server.client) + 10_000
    assert len(first.tick_once(later_ms)) == 2
    # a tick is stamped by Redis's own clock: a later `now` in the same millisecond would be a whole interval after it
    assert second.tick_once(later_ms - 1) == []
    assert last_entry(server, 0)[b"_k"] == b"tick"


def test_silence_closes_the_last_window_of_every_partition(server: RunningServer) -> None:
    """A worker and two schedulers, one event, three partitions never used: the result comes out, once."""
    config = Config(streams={"readings": replace(CONFIG.streams["readings"], partitions=4)}, stages=CONFIG.stages)
    version = version_of(config, "counts")
    set_up(server.client, config)
    worker = Worker(config, server.client, server.client, "worker-1")
    schedulers = [Housekeeping(config, server.client) for _ in range(2)]
    now_ms = redis_time_ms(server.client)
    add_row(server, 2, now_ms - 30_000)

    for later_ms in range(0, 30_000, 500):
        for scheduler in schedulers:
            scheduler.tick_once(now_ms + later_ms)
    deadline_s = time.monotonic() + STARTUP_S
    published = 0
    while not published and time.monotonic() < deadline_s:
        published += worker.poll_once(block_ms=10).published

    windows = server.client.zrange(keys.windows("counts", version), 0, -1)
    start_ms = (now_ms - 30_000) // 10_000 * 10_000
    assert windows == [f"{start_ms}:{start_ms + 10_000}".encode()]
    assert server.client.xlen(keys.raw("readings", 2)) <= 5, "ticks end when the window has closed"


def test_the_trim_job_waits_for_the_groups_of_the_config(server: RunningServer) -> None:
    set_up(server.client, CONFIG)
    for minute in range(1, 11):
        add_row(server, 0, minute, f"{minute}-0")
    housekeeping = Housekeeping(CONFIG, server.client)
    assert housekeeping.trim_once().entries == 0
    checkpoint = keys.checkpoint("readings", 0, GROUP)
    server.client.execute_command("HSET", checkpoint, "cursor", "4-0", "max_seen_ms", 4, "max_ts_ms", 4)
    assert housekeeping.trim_once().entries == 4


def test_the_expiry_job_finds_the_results_of_every_version(server: RunningServer) -> None:
    set_up(server.client, CONFIG)
    old_versions = (version_of(CONFIG, "counts"), "before")
    server.client.execute_command(
        "HSET", keys.versions("counts"), "definition:before", encode_definition(CONFIG, CONFIG.aggregates()[0])
    )
    for partition in range(CONFIG.streams["readings"].partitions):
        server.client.execute_command("HSET", keys.checkpoint("readings", partition, GROUP), "max_seen_ms", 10**12)
    for version in old_versions:
        server.client.execute_command("ZADD", keys.ages("counts", version), 1, "0:10000")
        server.client.execute_command("HSET", keys.result("counts", version, 0, 10_000), "revision", 0)
    assert Housekeeping(CONFIG, server.client).expire_once() == Expired(results=2)
    assert [server.client.exists(keys.result("counts", version, 0, 10_000)) for version in old_versions] == [0, 0]


def test_a_job_that_meets_a_dead_server_is_logged_and_works_again_afterwards(throwaway_server: RunningServer) -> None:
    housekeeping = Housekeeping(CONFIG, throwaway_server.client)
    throwaway_server.kill()
    with capture_logs() as logs:
        guarded("ticks", housekeeping.tick_watching)
    assert [(line["event"], line["job"], line["log_level"]) for line in logs] == [("redis is away", "ticks", "warning")]
    throwaway_server.restart()
    with capture_logs() as logs:
        guarded("ticks", housekeeping.tick_watching)
        guarded("trim", housekeeping.trim_once)
        guarded("expiry", housekeeping.expire_once)
    assert {line["event"] for line in logs} <= {"job ran"}


def test_an_outage_is_not_taken_for_the_silence_of_a_source(
    throwaway_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a source keeps while Redis is away is in time if it comes within `idle_after` of the server's return."""
    housekeeping, began_ms = Housekeeping(CONFIG, throwaway_server.client), redis_time_ms(throwaway_server.client)
    for partition in (0, 1):
        add_row(throwaway_server, partition, began_ms)

    def looks(*after_ms: int) -> int:
        ticks = 0
        for ms in after_ms:
            monkeypatch.setattr("pipeline.runtime.scheduler.redis_time_ms", lambda client, at=began_ms + ms: at)
            ticks += len(housekeeping.tick_watching())
        return ticks

    assert looks(0) == 0
    throwaway_server.kill()
    with pytest.raises(redis.ConnectionError):
        looks(500)
    throwaway_server.restart()
    assert looks(30_000, 35_000, 39_900) == 0
    assert looks(40_000) == 2, "a tick in each partition, ten seconds after the first look that was answered"


def test_a_suspended_machine_and_a_clock_that_goes_back_begin_the_watch_anew() -> None:
    watch = Watch()
    assert [watch.look(ms) for ms in (1_000, 1_500, 61_500)] == [1_000, 1_000, 1_000]
    assert watch.look(121_501) == 121_501
    assert watch.look(121_500) == 121_500


def test_a_job_that_fails_does_not_end_the_process(server: RunningServer) -> None:
    def broken() -> None:
        raise ValueError("a mistake of ours")

    with capture_logs() as logs:
        guarded("trim", broken)
    assert [(line["event"], line["log_level"]) for line in logs] == [("job failed", "error")]


def test_what_is_wrong_with_the_server_is_said_once(server: RunningServer) -> None:
    housekeeping = Housekeeping(CONFIG, server.client)
    before = server.client.config_get("maxmemory-policy")["maxmemory-policy"]
    server.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with capture_logs() as logs:
            housekeeping.check_once()
            housekeeping.check_once()
    finally:
        server.client.config_set("maxmemory-policy", str(before))
    said = [line for line in logs if "allkeys-lru" in str(line)]
    assert len(said) == 1
    with capture_logs() as logs:
        housekeeping.check_once()
    assert "server is fit again" in {line["event"] for line in logs}


def test_every_job_runs_when_the_scheduler_starts(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: dict[str, threading.Event] = {}
    for job in ("tick_watching", "trim_once", "expire_once", "check_once", "ledger_once"):
        ran[job] = threading.Event()
        monkeypatch.setattr(Housekeeping, job, lambda self, event=ran[job]: event.set())
    scheduler = schedule(Housekeeping(CONFIG, server.client))
    scheduler.start()
    try:
        assert all(event.wait(STARTUP_S) for event in ran.values())
    finally:
        scheduler.shutdown(wait=True)


CONFIG_YAML = """
streams:
  readings:
    time: {field: ts, disorder: 1s, idle_after: 1s}
    schema: {ts: {type: timestamp, unit: ms}}
    partitions: 2
stages:
  counts:
    from: readings
    window: {tumbling: 1s}
    aggregates: {n: count}
"""


def wait_for_tick(client: redis.Redis, partition: int) -> bool:
    """Wait until the newest entry of a partition is a tick; blocking in Redis, not by the clock."""
    key = keys.raw("readings", partition)
    deadline = time.monotonic() + STARTUP_S
    last = b"0-0"
    while time.monotonic() < deadline:
        reply = client.execute_command("XREAD", "BLOCK", 500, "STREAMS", key, last)
        for stream in reply or []:
            for entry in parse_entries(stream[1]):
                last = entry.id
                if entry.fields and entry.fields.get(b"_k") == b"tick":
                    return True
    return False


def test_a_job_that_is_too_slow_is_said_once_a_minute_in_our_own_words() -> None:
    # Given a job whose run is not over when the next ones are due
    skips, run_at = Skips(), datetime.now(UTC)
    event = JobSubmissionEvent(EVENT_JOB_MAX_INSTANCES, "ticks", "default", [run_at])

    # When runs of it are skipped for more than a minute
    with capture_logs() as logged:
        for second in range(70):
            skips(event, now_s=float(second))

    # Then there are two lines, which count
    assert [(entry["job"], entry["skipped"]) for entry in logged] == [("ticks", 1), ("ticks", 60)]


def test_what_the_scheduler_library_says_of_skipped_runs_is_not_shown(
    server: RunningServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_up(server.client, CONFIG)
    house, release, slow = Housekeeping(CONFIG, server.client), threading.Event(), threading.Event()

    def tick_slowly() -> list[str]:
        slow.set()
        release.wait(STARTUP_S)
        return []

    monkeypatch.setattr(house, "tick_watching", tick_slowly)
    monkeypatch.setattr("pipeline.runtime.scheduler.TICK_EVERY_MS", 20)
    said = threading.Event()
    monkeypatch.setattr(Skips, "__call__", lambda *_: said.set())
    scheduler = schedule(house)
    scheduler.start()
    assert slow.wait(STARTUP_S)
    assert said.wait(STARTUP_S)
    release.set()
    scheduler.shutdown(wait=True)

    assert "maximum number of running instances" not in caplog.text


def test_the_process_ticks_a_silent_stream_and_ends_cleanly_on_sigterm(server: RunningServer, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG_YAML)
    now_ms = redis_time_ms(server.client)
    for partition in (0, 1):
        add_row(server, partition, now_ms)
    process = subprocess.Popen(
        [sys.executable, "-m", "api.main", "scheduler", "--config", str(config), "--redis-url", server.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=Path(__file__).resolve().parents[2],
    )
    try:
        assert wait_for_tick(server.client, 0)
        assert wait_for_tick(server.client, 1)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=STARTUP_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, output.decode()
    assert b"Traceback" not in output, output.decode()
    assert b"scheduler stopped" in output
