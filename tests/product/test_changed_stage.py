"""A config changed between two runs: nobody is ever shown half a rebuild, and no number is lost by it."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline.core.definitions import Aggregate
from pipeline.runtime.config import load_config
from tests.oracle import duck
from tests.product.product import ROOT, Process, Product, Row, assert_balanced, wait_for
from tests.servers import RunningServer

WEB_LOG = ROOT / "tests/data/weblog.ndjson.gz"
HALF = 5_000  # lines
ALL: dict[str, Any] = {"start": "1970-01-01T00:00:00Z", "limit": 100_000}
METRICS = ("by_status", "by_method", "by_hour")
BAD_CONFIG = 78

OLD = """
streams:
  weblog:
    schema: {ts: timestamp, user: string, method: string, page: string, status: int, bytes: int?}
    time: {field: ts, disorder: 60s}
    partitions: 2
stages:
  seen: {from: weblog, filter: "bytes > 1000"}
  by_status: {from: weblog, window: {tumbling: 1m}, group_by: [status], aggregates: {n: count}}
  by_method: {from: seen, window: {tumbling: 1m}, group_by: [method], aggregates: {n: count, sum_bytes: sum(bytes)}}
  by_hour: {from: weblog, window: {tumbling: 1h}, aggregates: {n: count, mean_bytes: mean(bytes)}}
"""
NEW = OLD.replace("{n: count}", "{n: count, max_bytes: max(bytes)}").replace("bytes > 1000", "bytes > 20000")
FILTERS = {OLD: "bytes > 1000", NEW: "bytes > 20000"}


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    """The web log as two files."""
    with gzip.open(WEB_LOG) as log:
        lines = log.readlines()
    files = tmp_path / "first.ndjson", tmp_path / "second.ndjson"
    files[0].write_bytes(b"".join(lines[:HALF]))
    files[1].write_bytes(b"".join(lines[HALF:]))
    return files


@pytest.fixture
def config_path(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(OLD)
    return path


def expected(config_path: Path, metric: str, lines: int | None = None) -> list[Row]:
    """DuckDB's answer over the first `lines` of the file by the config as it is now."""
    config = load_config(config_path, {})
    stage = config.stages[metric]
    assert isinstance(stage, Aggregate)
    events = duck.web_log(WEB_LOG)
    if lines is not None:
        events = events.filter(f"line < {lines}")
    if metric == "by_method":
        events = events.filter(FILTERS[config_path.read_text()])
    return duck.windows(events, stage, config.streams["weblog"].time)


@contextmanager
def api_alone(folder: Path, config_path: Path, url: str) -> Iterator[Product]:
    with Product(folder, "--redis-url", url, config=config_path, starts="api") as api:
        wait_for(api.listens, "the API to listen")
        yield api


def worker(folder: Path, config_path: Path, url: str, name: str) -> Process:
    return Process(folder, name, "worker", "--config", config_path, "--redis-url", url, "--name", name)


def test_the_old_version_answers_until_the_rebuilt_one_has_caught_up(
    tmp_path: Path, throwaway_server: RunningServer, config_path: Path, halves: tuple[Path, Path]
) -> None:
    url = throwaway_server.url
    with worker(tmp_path, config_path, url, "old"), api_alone(tmp_path, config_path, url) as api:
        api.wait_until_ready()
        assert api.replay(halves[0], "weblog", "--open").returncode == 0
        api.wait_until_applied(*METRICS)
        before = {metric: expected(config_path, metric, HALF) for metric in METRICS}
        for metric in METRICS:
            duck.assert_same_rows(api.rows(metric, **ALL), before[metric])
        versions = {metric: api.stage(metric)["version"] for metric in METRICS}

    config_path.write_text(NEW)
    with api_alone(tmp_path, config_path, url) as api:
        # no worker yet: nothing is rebuilt, the old versions answer in full
        for metric in METRICS:
            duck.assert_same_rows(api.rows(metric, **ALL), before[metric])
        stages = {metric: api.stage(metric) for metric in METRICS}
        changed = {metric for metric in METRICS if stages[metric]["version"] != versions[metric]}
        assert changed == {"by_status", "by_method"}
        assert {metric: stage["active_version"] for metric, stage in stages.items()} == versions

        with worker(tmp_path, config_path, url, "new"):
            after = {metric: expected(config_path, metric, HALF) for metric in METRICS}

            def switched() -> bool:
                answers = {metric: api.get(f"/v1/metrics/{metric}", **ALL)["data"] for metric in METRICS}
                for metric, rows in answers.items():
                    assert is_one_of(rows, before[metric], after[metric]), f"{metric} shows half a rebuild"
                return all(is_one_of(answers[metric], after[metric]) for metric in METRICS)

            wait_for(switched, "the new versions to answer")
            for metric in METRICS:
                stage = api.stage(metric)
                assert (stage["active_version"], stage["rebuilding"]) == (stage["version"], False)
            kept = throwaway_server.client.hgetall(f"{{weblog.0}}:cp:by_hour@{versions['by_hour']}")
            assert kept, "the stage that did not change has lost its checkpoint"

            assert api.replay(halves[1], "weblog").returncode == 0
            for metric in METRICS:
                duck.assert_same_rows(api.wait_until_final(metric, **ALL), expected(config_path, metric))
            assert_balanced(api)


def is_one_of(rows: list[Row], *answers: list[Row]) -> bool:
    """Whether an answer is, row by row and in every value, one of these."""

    def equal(expected: list[Row]) -> bool:
        if len(rows) != len(expected):
            return False
        pairs = zip(rows, expected, strict=True)
        return all(name in row and duck.same(row[name], value) for row, want in pairs for name, value in want.items())

    return any(equal(expected) for expected in answers)


def test_other_partitions_for_a_stream_with_data_are_refused_in_a_sentence(tmp_path: Path, config_path: Path) -> None:
    with Product(tmp_path, "--no-demo", config=config_path) as first:
        first.wait_until_ready()
        event = {"ts": 1_431_857_103_000, "user": "u", "method": "GET", "page": "/", "status": 200}
        assert first.http.post("/v1/streams/weblog/events", json=event).status_code == 202
        first.wait_until_applied(*METRICS)
        assert first.press_ctrl_c() == 0

    config_path.write_text(OLD.replace("partitions: 2", "partitions: 3"))
    with Product(tmp_path, "--no-demo", config=config_path) as second:
        assert second.end() == BAD_CONFIG
        assert "streams.weblog.partitions: this data has 2 partitions, the file says 3" in second.said
        assert re.search(rf"{re.escape(str(config_path))}:\d+:\d+: streams\.weblog\.partitions", second.said)
        assert "started" not in second.said
        assert "Traceback" not in second.said

    config_path.write_text(OLD)
    with Product(tmp_path, "--no-demo", config=config_path) as third:
        third.wait_until_ready()
        assert sum(row["n"] for row in third.rows("by_status", **ALL)) == 1


@pytest.mark.parametrize("saved", [NEW, "streams: ["])
def test_what_is_saved_while_up_runs_waits_for_the_next_start(tmp_path: Path, config_path: Path, saved: str) -> None:
    """A worker that dies hours after an edit is started again with what was checked, and is no outage."""
    with Product(tmp_path / "up", config=config_path) as running:
        running.wait_until_ready()
        version = running.stage("by_status")["version"]
        before = running.tree()["worker-1"]

        config_path.write_text(saved)
        before.kill()

        def back() -> bool:
            tree = running.tree()
            return "worker-1" in tree and tree["worker-1"].pid != before.pid and running.ready()

        wait_for(back, "the worker to be started again", said=lambda: running.said)
        event = {"ts": 1_431_857_103_000, "user": "u", "method": "GET", "page": "/", "status": 200}
        answer = running.http.post("/v1/streams/weblog/events?wait=applied", json=event)
        assert answer.json()["applied"] is True
        assert running.stage("by_status")["version"] == version
        assert_balanced(running)
