"""`streamgauge up`: what a newcomer sees in the first minute, how it comes back, and that it leaves nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.product.product import Product, Row, assert_balanced, gone, listens, wait_for
from tests.servers import RunningServer

COMPUTING = {"_polars_runtime_32", "pyarrow", "numpy"}
CHILDREN = {"up", "api", "granian", "worker-1", "scheduler", "demo", "redis"}
MOVES_S = 25.0  # a window of the demo is 10 s long
COMES_BACK_S = 30.0  # a lease of 5 s has to run out, and pauses grow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    with Product(tmp_path_factory.mktemp("demo"), "--demo") as product:
        yield product.wait_until_ready()


def sensors_stored(product: Product) -> int:
    return int(product.stream("sensors")["door"]["stored"])


def readings(rows: list[Row]) -> dict[tuple[int, str], int]:
    return {(row["window_start"], row["sensor"]): row["readings"] for row in rows}


def redis_port(product: Product) -> int:
    return int((product.data_dir / "redis" / "port").read_text())


def test_the_curl_it_prints_answers_with_windows_that_move(demo: Product) -> None:
    path = urlsplit(demo.curl_it_prints())
    assert path.query, "without a start the curl would print every window there is"

    def newest() -> int:
        answer = httpx.get(demo.curl_it_prints())
        assert answer.status_code == 200, answer.text
        return max((row["window_start"] for row in answer.json()["data"]), default=0)

    wait_for(lambda: newest() > 0, "the first window")
    first_ms = newest()
    wait_for(lambda: newest() > first_ms, f"{demo.curl_it_prints()} to show a newer window", MOVES_S)
    age_ms = time.time() * 1_000 - newest()
    assert age_ms < 20_000, f"the newest window began {age_ms:.0f} ms ago"


def test_up_and_the_scheduler_hold_nothing_of_what_computes(demo: Product) -> None:
    def brought(name: str) -> set[str]:
        mapped = Path(f"/proc/{demo.tree()[name].pid}/maps").read_text()
        return {package for package in COMPUTING if f"/{package}/" in mapped}

    wait_for(lambda: "scheduler started" in demo.said, "the scheduler to have read the config")

    assert brought("worker-1") == COMPUTING, "the look does not see what is there"
    assert brought("up") == set()
    assert brought("scheduler") == {"numpy"}


@pytest.mark.parametrize("victim", ["redis", "worker-1"])
def test_a_killed_child_is_started_again_and_the_numbers_go_on(demo: Product, victim: str) -> None:
    wait_for(lambda: sensors_stored(demo) > 0, "the demo's first readings")
    stored = sensors_stored(demo)
    before = demo.tree()[victim]

    before.kill()

    def back() -> bool:
        tree = demo.tree()
        return victim in tree and tree[victim].pid != before.pid and demo.ready()

    wait_for(back, f"{victim} to be started again", COMES_BACK_S, lambda: demo.said)
    assert sensors_stored(demo) >= stored, "what was acknowledged is gone"
    wait_for(lambda: sensors_stored(demo) > stored, "new readings", COMES_BACK_S)
    goal = sensors_stored(demo)
    wait_for(lambda: demo.stage("sensor_climate")["ledger"]["read"] >= goal, "them to be counted", COMES_BACK_S)
    assert_balanced(demo)


def test_ctrl_c_leaves_nothing_and_a_second_up_goes_on_from_the_data(tmp_path: Path) -> None:
    with Product(tmp_path, "--demo") as first:
        first.wait_until_ready()
        wait_for(lambda: len(first.rows("sensor_climate")) > 0, "the first windows")
        tree, server_port = first.tree(), redis_port(first)
        assert tree.keys() == CHILDREN
        old, stored = readings(first.rows("sensor_climate")), sensors_stored(first)

        assert first.press_ctrl_c() == 0

        assert gone(tree.values()), [each for each in tree.values() if each.is_running()]
        assert not listens(first.port)
        assert not listens(server_port)

    with Product(tmp_path, "--no-demo") as second:
        second.wait_until_ready()
        second.wait_until_applied("sensor_climate")
        assert sensors_stored(second) >= stored
        found = readings(second.rows("sensor_climate"))
        assert [key for key, count in old.items() if found.get(key, 0) < count] == []
        accepted = second.stage("sensor_climate")["ledger"]["accepted"]
        assert sum(found.values()) == accepted, "a reading was lost or counted twice on the way"

        event = {"ts": int(time.time() * 1_000), "sensor": "new", "temperature": 1.0}
        answer = second.http.post("/v1/streams/sensors/events", params={"wait": "applied"}, json=event)
        assert answer.json()["applied"] is True
        assert second.stage("sensor_climate")["ledger"]["accepted"] == accepted + 1
        assert_balanced(second)


def test_kill_9_of_the_supervisor_leaves_nothing(tmp_path: Path) -> None:
    with Product(tmp_path, "--demo") as product:
        product.wait_until_ready()
        tree, server_port = product.tree(), redis_port(product)
        assert tree.keys() == CHILDREN

        product.process.kill()
        product.process.wait()

        # a killed process is a zombie before its last thread has let go of its sockets
        ports = (product.port, server_port)
        wait_for(lambda: gone(tree.values()) and not any(map(listens, ports)), "everything to die with the supervisor")


def test_a_server_allowed_to_be_volatile_is_complained_about_by_nobody(
    tmp_path: Path, throwaway_server: RunningServer
) -> None:
    throwaway_server.client.config_set("appendonly", "no")
    options = ("--no-demo", "--redis-url", throwaway_server.url)
    with Product(tmp_path / "allowed", *options, "--allow-volatile") as product:
        product.wait_until_ready()
        wait_for(lambda: "scheduler started" in product.said, "the scheduler's first look")
        assert product.press_ctrl_c() == 0  # its jobs have all run once
        assert "unfit" not in product.said

    with Product(tmp_path / "refused", *options) as refused:
        assert refused.end() == 1
        assert "appendonly" in refused.said
