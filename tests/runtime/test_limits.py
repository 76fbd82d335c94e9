"""Which resource runs out next: of memory, of each stream's backlog, and of the disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.rim.connection import writer
from pipeline.runtime.config import load_config
from pipeline.runtime.doctor import check_lag, check_limits, check_redis
from pipeline.runtime.limits import Limit, limits
from tests.line import Line
from tests.servers import RunningServer

CONFIG = """
streams:
  slow: {schema: {ts: timestamp, n: int}, time: {field: ts}, partitions: 1, retention: {bytes: 1kB}}
  unread: {schema: {n: int}}
stages:
  counted: {from: slow, window: {tumbling: 1m}, aggregates: {n: count}}
"""


@pytest.fixture
def line(server: RunningServer, tmp_path: Path) -> Line:
    (tmp_path / "config.yaml").write_text(CONFIG)
    return Line(load_config(tmp_path / "config.yaml", {}), server)


def test_a_backlog_that_nobody_works_off_becomes_the_next_limit(line: Line, tmp_path: Path) -> None:
    line.post("slow", [{"ts": 60_000, "n": 1}])
    line.settle()
    settled = {limit.name: limit for limit in limits(line.client, line.config, tmp_path)}
    assert settled["backlog of slow"].used == 0
    assert "backlog of unread" not in settled  # nobody will ever read it, so nothing waits

    line.post("slow", [{"ts": 60_000 + n, "n": n} for n in range(60)])

    nearest = limits(line.client, line.config, tmp_path)[0]
    assert nearest.name == "backlog of slow"
    assert nearest.share > 0.8
    check = check_limits([nearest])
    assert not check.ok
    assert check.fix.startswith("start another worker: streamgauge worker")
    assert check.seen.startswith("backlog of slow ")


def test_memory_is_judged_by_what_redis_may_use(line: Line, tmp_path: Path) -> None:
    admin = writer(line.server.url)
    before = admin.config_get("maxmemory")["maxmemory"]
    used = int(admin.info("memory")["used_memory"])
    try:
        admin.config_set("maxmemory", 4 * used)
        found = {limit.name: limit for limit in limits(line.client, line.config, tmp_path)}
    finally:
        admin.config_set("maxmemory", before or "0")
        admin.close()

    memory = found["Redis memory"]
    assert memory.most == pytest.approx(0.9 * 4 * used)  # where the door begins to refuse
    assert 0.2 < memory.share < 0.4
    assert "disk of the data folder" in found


def test_doctor_names_the_nearest_two_and_is_content_with_room() -> None:
    check = check_limits([Limit("memory", 3e9, 4e9, "buy"), Limit("disk", 1e6, 4e9, "free some")])
    assert (check.ok, check.fix) == (True, "")
    assert check.seen == "memory 75.0% (3.0 GB of 4.0 GB); then disk 0.0% (1.0 MB of 4.0 GB)"


def test_doctor_looks_at_the_limits_of_a_running_redis(line: Line) -> None:
    found = {check.name: check for check in check_redis(lambda: line.server.url, True, line.config)}
    assert found["next limit"].ok
    assert "%" in found["next limit"].seen


def test_a_stage_without_a_group_of_its_own_has_no_lag_to_check() -> None:
    lag = {"entries": 2, "events": 9, "seconds": 31.0}
    (check,) = check_lag([{"stage": "inside", "lag": None}, {"stage": "hot", "lag": lag}])
    assert (check.name, check.ok) == ("lag hot", False)
