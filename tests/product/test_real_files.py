"""The real files through the command line and HTTP into a running `up`: every number is DuckDB's, row by row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.core.definitions import Aggregate, Config
from pipeline.runtime.config import load_config
from tests.oracle import duck
from tests.product.product import ROOT, SHIPPED, Product, Row, assert_balanced

WEB_LOG = ROOT / "tests/data/weblog.ndjson.gz"
TEMPERATURE = ROOT / "tests/data/machine_temperature.csv"
STOPPED_BEFORE_SENDING = 3
ALL: dict[str, Any] = {"start": "1970-01-01T00:00:00Z", "limit": 100_000}


@pytest.fixture(scope="module")
def config() -> Config:
    return load_config(SHIPPED, {})


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """An `up` that was sent both files, all windows final."""
    with Product(tmp_path_factory.mktemp("files"), "--no-demo", "--workers", 2) as product:
        product.wait_until_ready()
        for file, stream in ((WEB_LOG, "weblog"), (TEMPERATURE, "machine_temperature")):
            done = product.replay(file, stream, "--json")
            assert done.returncode == 0, done.stderr
            said = json.loads(done.stdout)
            assert (said["rejected"], said["duplicates"]) == (0, 0)
            assert said["accepted"] == product.stream(stream)["door"]["stored"] > 0
        product.wait_until_final("weblog_by_status", **ALL)
        product.wait_until_final("temperature_hourly", **ALL)
        yield product


def expected(config: Config, metric: str) -> tuple[list[Row], list[Row]]:
    """DuckDB's windows and late rows of a file."""
    stage = config.stages[metric]
    assert isinstance(stage, Aggregate)
    events = duck.web_log(WEB_LOG) if metric == "weblog_by_status" else duck.sensor(TEMPERATURE)
    time = config.stream_of(stage).time
    return duck.windows(events, stage, time), duck.late_rows(events, stage, time)


def test_requests_and_bytes_by_status_a_minute_are_duckdbs(product: Product, config: Config) -> None:
    windows, late = expected(config, "weblog_by_status")
    assert len(windows) > 200
    assert late == []

    duck.assert_same_rows(product.rows("weblog_by_status", **ALL), windows)
    assert product.stage("weblog_by_status")["ledger"]["late"] == 0


def test_the_temperature_an_hour_is_duckdbs_and_ties_go_by_the_row_of_the_file(
    product: Product, config: Config
) -> None:
    windows, late = expected(config, "temperature_hourly")
    assert len(windows) > 1_000

    duck.assert_same_rows(product.rows("temperature_hourly", **ALL), windows)
    assert product.stage("temperature_hourly")["ledger"]["late"] == len(late)


def test_every_ledger_balances_and_every_row_of_a_file_is_accounted_for(product: Product) -> None:
    assert_balanced(product)
    for stage, stream in (("weblog_by_status", "weblog"), ("temperature_hourly", "machine_temperature")):
        account = product.stage(stage)
        assert account["ledger"]["read"] == product.stream(stream)["door"]["stored"]
        assert account["ledger"]["dead"] == account["ledger"]["filtered"] == 0


def test_a_second_replay_of_a_file_stops_before_it_sends(product: Product) -> None:
    before = product.stream("weblog")["door"]

    again = product.replay(WEB_LOG, "weblog")

    assert again.returncode == STOPPED_BEFORE_SENDING, again.stderr
    assert "another stream" in again.stderr
    assert product.stream("weblog")["door"] == before


@pytest.mark.parametrize("metric", ["weblog_by_status", "temperature_hourly"])
def test_csv_says_what_json_says(product: Product, metric: str) -> None:
    rows = product.rows(metric, **ALL)
    answer = product.http.get(f"/v1/metrics/{metric}", params={**ALL, "format": "csv"})
    assert answer.status_code == 200
    table = list(csv.DictReader(io.StringIO(answer.text, newline="")))
    assert [list(row) for row in table[:1]] == [list(row) for row in rows[:1]]
    assert table == [{name: _cell(value) for name, value in row.items()} for row in rows]


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
