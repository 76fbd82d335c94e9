"""One event at a time, by HTTP and by any Redis client, and the load shared by several workers."""

from __future__ import annotations

import gzip
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from pipeline.core.definitions import Aggregate
from pipeline.runtime.config import load_config
from tests.oracle import duck
from tests.product.product import ROOT, Process, Product, assert_balanced, wait_for
from tests.servers import RunningServer

WEB_LOG = ROOT / "tests/data/weblog.ndjson.gz"
ALL: dict[str, Any] = {"start": "1970-01-01T00:00:00Z", "limit": 100_000}
SENSOR_PARTITIONS = 2  # of the shipped config
Fields = dict[str, str]
LEASED_S = 20.0  # beats are a second apart, a dead worker's lease runs 5 s

SHARED = """
streams:
  weblog:
    schema: {ts: timestamp, user: string, status: int, bytes: int?}
    time: {field: ts, disorder: 60s}
    partition_by: user
    partitions: 6
stages:
  by_status:
    from: weblog
    window: {tumbling: 1m}
    group_by: [status]
    aggregates: {requests: count, sum_bytes: sum(bytes), mean_bytes: mean(bytes), max_bytes: max(bytes)}
"""


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with Product(tmp_path_factory.mktemp("one"), "--no-demo") as product:
        yield product.wait_until_ready()


@pytest.fixture
def foreign(product: Product) -> Iterator[redis.Redis]:
    """A client that knows nothing of us."""
    with product.redis() as client:
        yield client


def sensor_log(sensor: str) -> str:
    """Where the README says a foreign client writes: crc32 of the partition key, modulo partitions."""
    return f"{{sensors.{zlib.crc32(sensor.encode()) % SENSOR_PARTITIONS}}}:raw"


def other_log(sensor: str) -> str:
    return next(
        f"{{sensors.{p}}}:raw" for p in range(SENSOR_PARTITIONS) if f"{{sensors.{p}}}:raw" != sensor_log(sensor)
    )


def add(client: redis.Redis, key: str, fields: Fields) -> str:
    entry_id: bytes = client.execute_command("XADD", key, "*", *(part for pair in fields.items() for part in pair))
    return entry_id.decode()


def entries(client: redis.Redis, key: str, first: str = "-", last: str = "+") -> list[tuple[str, Fields]]:
    found = client.execute_command("XRANGE", key, first, last)
    return [(i.decode(), {name.decode(): value.decode() for name, value in row.items()}) for i, row in found]


def reading(sensor: str, temperature: float) -> Fields:
    return {"ts": str(int(time.time() * 1_000)), "sensor": sensor, "temperature": str(temperature)}


def counted(product: Product, sensor: str) -> int:
    rows = product.rows("sensor_climate", **{"where.sensor": sensor})
    return sum(row["readings"] for row in rows)


def test_publish_answers_as_the_tutorial_says_and_stores_a_row_any_client_reads(
    product: Product, foreign: redis.Redis
) -> None:
    answer = product.http.post("/publish", json={"source": "kitchen", "value": 21.5})

    assert answer.status_code == 201
    said = answer.json()
    assert said == {"event_id": said["event_id"], "status": "Event published"}
    stored = entries(foreign, "{events.0}:raw", said["event_id"], said["event_id"])
    assert stored == [(said["event_id"], {"source": "kitchen", "value": "21.5"})]


def test_a_published_event_is_counted_in_its_minute(product: Product) -> None:
    for value in (1.0, 4.0):
        assert product.http.post("/publish", json={"source": "cellar", "value": value}).status_code == 201
    product.wait_until_applied("events_per_minute")

    rows = product.rows("events_per_minute", **{"where.source": "cellar"})
    assert sum(row["events"] for row in rows) == 2
    assert rows[-1]["last_value"] == 4.0


def test_rows_a_foreign_client_adds_are_counted(product: Product, foreign: redis.Redis) -> None:
    sensors = [f"foreign-{number}" for number in range(6)]
    assert {sensor_log(sensor) for sensor in sensors} == {"{sensors.0}:raw", "{sensors.1}:raw"}
    for sensor in sensors:
        add(foreign, sensor_log(sensor), reading(sensor, 20.0))
        add(foreign, sensor_log(sensor), reading(sensor, 22.0))

    wait_for(lambda: all(counted(product, sensor) == 2 for sensor in sensors), "the rows to be counted")
    [row, *_] = product.rows("sensor_climate", **{"where.sensor": sensors[0]})
    assert row["max_temperature"] in (20.0, 22.0)
    assert_balanced(product)


def test_a_row_in_the_partition_of_another_key_is_a_dead_letter_and_not_counted(
    product: Product, foreign: redis.Redis
) -> None:
    stage = product.stage("sensor_climate")
    key, dead = other_log("stray"), stage["ledger"]["dead"]

    entry_id = add(foreign, key, reading("stray", 20.0))

    wait_for(lambda: product.stage("sensor_climate")["ledger"]["dead"] == dead + 1, "the dead letter")
    assert counted(product, "stray") == 0
    _, letter = entries(foreign, f"{key.removesuffix('raw')}dead:{stage['group']}")[-1]
    assert {entry_id, "misplaced"} <= set(letter.values())
    [shown] = [e for e in product.get("/v1/streams/sensors/events")["events"] if e["id"] == entry_id]
    assert sensor_log("stray") in shown["error"]
    assert_balanced(product)


def test_a_row_that_does_not_fit_the_schema_is_a_dead_letter(product: Product, foreign: redis.Redis) -> None:
    dead = product.stage("sensor_climate")["ledger"]["dead"]
    add(foreign, sensor_log("broken"), {**reading("broken", 1.0), "temperature": "warm"})
    wait_for(lambda: product.stage("sensor_climate")["ledger"]["dead"] == dead + 1, "the dead letter")
    assert counted(product, "broken") == 0
    assert_balanced(product)


def test_three_workers_share_the_partitions_and_take_over_a_dead_ones(
    tmp_path: Path, throwaway_server: RunningServer
) -> None:
    config_path, url = tmp_path / "config.yaml", throwaway_server.url
    config_path.write_text(SHARED)
    names = ("w1", "w2", "w3")

    def holders() -> Counter[str]:
        held = [throwaway_server.client.get(f"{{weblog.{p}}}:lease") for p in range(6)]
        return Counter(name.decode() for name in held if isinstance(name, bytes))

    with ExitStack() as stack:
        options = ("--config", config_path, "--redis-url", url)
        workers = {n: stack.enter_context(Process(tmp_path, n, "worker", *options, "--name", n)) for n in names}
        api = stack.enter_context(Product(tmp_path, "--redis-url", url, config=config_path, starts="api"))
        api.wait_until_ready()
        wait_for(lambda: holders() == {"w1": 2, "w2": 2, "w3": 2}, "two partitions for each worker", LEASED_S)

        replay = stack.enter_context(
            Process(tmp_path, "replay", "replay", WEB_LOG, "--stream", "weblog", "--url", api.url, "--batch", 50)
        )
        wait_for(lambda: api.stage("by_status")["ledger"]["read"] > 500, "the workers to be at it")
        workers["w2"].kill()
        at_kill = api.stage("by_status")["ledger"]["read"]
        assert replay.end() == 0, replay.said
        assert at_kill < (rows := line_count(WEB_LOG)), "the kill came after all was done"

        wait_for(lambda: holders() == {"w1": 3, "w3": 3}, "the others to take over", LEASED_S)
        found = api.wait_until_final("by_status", **ALL)
        config = load_config(config_path, {})
        stage, policy = config.stages["by_status"], config.streams["weblog"].time
        assert isinstance(stage, Aggregate)
        duck.assert_same_rows(found, duck.windows(duck.web_log(WEB_LOG), stage, policy))
        ledger = api.stage("by_status")["ledger"]
        assert (ledger["read"], ledger["accepted"]) == (rows, rows)
        assert [workers[name].drain() for name in ("w1", "w3")] == [0, 0]


def line_count(file: Path) -> int:
    with gzip.open(file) as lines:
        return sum(1 for _ in lines)
