"""A lookup table that becomes unusable while `up` runs: what was counted on goes on, whatever is started again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.product.product import Product, assert_balanced, wait_for

CONFIG = """\
streams:
  steps:
    time: {field: ts, disorder: 0s}
    schema: {ts: {type: timestamp, unit: ms}, s: string}
    partitions: 1
stages:
  placed: {from: steps, lookup: {room: {table: rooms.csv, on: s, key: user, column: room}}}
  by_room: {from: placed, window: {tumbling: 1d}, group_by: [room], aggregates: {n: count}}
"""
GOOD = "user,room\na,1\nb,2\n"
BAD_CONFIG = 78
COMES_BACK_S = 30.0


def twice(table: Path) -> None:
    table.write_text(GOOD + "a,3\n")


def texts(table: Path) -> None:
    table.write_text("user,room\na,attic\nb,2\n")


def gone(table: Path) -> None:
    table.unlink()


def a_folder(table: Path) -> None:
    table.unlink()
    table.mkdir()


@pytest.mark.parametrize(
    "spoil", [gone, *(pytest.param(each, marks=pytest.mark.slow) for each in (twice, texts, a_folder))]
)
def test_a_worker_that_is_started_again_goes_on_with_the_content_that_was_announced(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    config, table = tmp_path / "config.yaml", tmp_path / "rooms.csv"
    config.write_text(CONFIG)
    table.write_text(GOOD)
    with Product(tmp_path / "up", "--no-demo", config=config) as product:
        product.wait_until_ready()
        version = product.stage("by_room")["version"]
        send(product, "a")

        # When the file is spoilt, and every process that reads it ends
        spoil(table)
        for victim in ("worker-1", "api", "scheduler"):
            restart(product, victim)

        # Then they come back, the version is what it was, and events are joined with the content before
        wait_for(product.ready, "it to be ready", COMES_BACK_S, lambda: product.said)
        send(product, "b")
        assert product.stage("by_room")["version"] == version
        assert counts(product) == {1: 1, 2: 1}
        assert "refused its configuration" not in product.said
        assert "the content before stays" in product.said
        assert_balanced(product)

        # And a good file counts again
        if table.is_dir():
            table.rmdir()
        table.write_text("user,room\na,1\nb,7\n")
        restart(product, "scheduler")  # the one way to have it read now, and not within a minute
        wait_for(lambda: "a table has another content" in product.said, "it to be read", COMES_BACK_S)
        send(product, "b")
        assert counts(product) == {1: 1, 2: 1, 7: 1}
        assert product.press_ctrl_c() == 0

    if spoil is not texts:  # which is another type of column, and so another version
        spoil(table)
        with Product(tmp_path / "up", "--no-demo", config=config) as refused:
            assert refused.end() == BAD_CONFIG
            assert "config.yaml:7:" in refused.said


def restart(product: Product, victim: str) -> None:
    """kill -9 a process of the tree, and wait for the next one of its name."""
    before = product.tree()[victim]
    before.kill()

    def is_back() -> bool:
        found = product.tree().get(victim)
        return found is not None and found.pid != before.pid and product.listens()

    wait_for(is_back, f"{victim} to be started again", COMES_BACK_S, lambda: product.said)


def send(product: Product, user: str) -> None:
    event = {"ts": int(time.time() * 1_000), "s": user}
    answer = product.http.post("/v1/streams/steps/events", params={"wait": "applied"}, json=event)
    assert answer.status_code == 202, answer.text


def counts(product: Product) -> dict[int, int]:
    found: dict[int, int] = {}
    for row in product.rows("by_room"):
        found[row["room"]] = found.get(row["room"], 0) + row["n"]
    return found
