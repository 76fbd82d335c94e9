"""Registered aggregates through the whole line: what fails in their code costs no event of another value."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.core import registry
from pipeline.rim import keys, store
from pipeline.runtime.config import load_config
from tests.line import Line
from tests.servers import RunningServer

FUNCTIONS = """
from pipeline import aggregate

@aggregate("product", returns="int")
class Product:
    def lift(self, value):
        if value == 13:
            raise RuntimeError("unlucky")
        return value

    def merge(self, a, b):
        if a * b > 100:
            raise OverflowError(f"{a} times {b}")
        return a * b

    def finish(self, partial):
        return {7: "seven"}.get(partial, partial)
"""
CONFIG = """
functions: functions.py
streams:
  s: {schema: {ts: timestamp, k: string, n: int?}, time: {field: ts, disorder: 0s}, partitions: 1}
stages:
  m:
    from: s
    window: WINDOW
    group_by: [k]
    aggregates: {n: count, total: sum(n), product: product(n), small: product(n) where n < 5}
"""
BASE_MS = 1_748_779_200_000


@pytest.fixture(autouse=True)
def forget_functions() -> Iterator[None]:
    before = dict(registry.aggregates)
    yield
    registry.aggregates.clear()
    registry.aggregates.update(before)


def line_of(tmp_path: Path, server: RunningServer, window: str = "{tumbling: 10s}") -> Line:
    (tmp_path / "functions.py").write_text(FUNCTIONS)
    (tmp_path / "config.yaml").write_text(CONFIG.replace("WINDOW", window))
    return Line(load_config(tmp_path / "config.yaml", {}), server)


def send(line: Line, second: int, *events: tuple[str, int | None]) -> None:
    times_ms = [BASE_MS + second * 1_000 + number for number in range(len(events))]
    rows = [{"ts": at_ms, "k": key, "n": n} for at_ms, (key, n) in zip(times_ms, events, strict=True)]
    line.chunk("s", rows, times_ms=times_ms)


def values(line: Line) -> dict[str, tuple[Any, ...]]:
    return {row["k"]: (row["n"], row["total"], row["product"], row["small"]) for row in line.get("m")["data"]}


WINDOWS = ["{tumbling: 10s}", "{hopping: 1h, every: 1h}", "{session: 10s}"]


@pytest.mark.parametrize("window", WINDOWS)
def test_a_value_that_lift_fails_on_makes_its_event_a_dead_letter_and_no_other(
    server: RunningServer, tmp_path: Path, window: str
) -> None:
    line = line_of(tmp_path, server, window)

    send(line, 0, ("a", 2), ("a", 13), ("b", None), ("a", 6), ("b", 13))
    line.settle()

    assert values(line) == {"a": (2, 8, 12, 2), "b": (1, 0, None, None)}
    letters = line.stream(keys.dead("s", 0, line.programs["m"].group))
    assert [(letter["row"], letter["code"]) for letter in letters] == [("1", "lift_failed"), ("4", "lift_failed")]
    assert "product.lift: RuntimeError: unlucky" in letters[0]["error"]
    assert 'raise RuntimeError("unlucky")' in letters[0]["error"]
    checkpoint = store.load_checkpoint(server.client, "s", 0, line.programs["m"].group)
    assert (checkpoint.accepted, checkpoint.dead) == (3, 2)


def test_a_value_outside_the_condition_is_not_lifted(server: RunningServer, tmp_path: Path) -> None:
    line = line_of(tmp_path, server)
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("product: product(n), ", ""))
    line = Line(load_config(path, {}), server)

    send(line, 0, ("a", 2), ("a", 13), ("a", 3))
    line.settle()

    (row,) = line.get("m")["data"]
    assert (row["n"], row["small"]) == (3, 6)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_merge_that_fails_makes_one_value_null_and_everything_else_goes_on(
    server: RunningServer, tmp_path: Path, window: str
) -> None:
    line = line_of(tmp_path, server, window)

    with capture_logs() as logs:
        send(line, 0, ("a", 20), ("b", 20), ("a", 6), ("b", 2))
        line.settle()
        send(line, 1, ("a", 1), ("b", 1), ("a", 3))  # by another worker, from what was written
        line.settle(line.worker("another"))

    assert values(line) == {"a": (4, 30, None, 3), "b": (3, 23, 40, 2)}
    checkpoint = store.load_checkpoint(server.client, "s", 0, line.programs["m"].group)
    assert (checkpoint.accepted, checkpoint.dead) == (7, 0)
    said = [entry for entry in logs if entry["event"] == "aggregate_failed"]
    assert [(entry["stage"], entry["aggregate"], entry["step"]) for entry in said] == [("m", "product(n)", "merge")]
    assert "product.merge: OverflowError: 20 times 6" in said[0]["error"]
    if "session" not in window:
        assert line.get("m")["meta"]["failed"] == ["product"]


def test_an_answer_that_finish_fails_on_is_null_and_named(server: RunningServer, tmp_path: Path) -> None:
    line = line_of(tmp_path, server)

    send(line, 0, ("a", 7), ("b", 8))
    send(line, 20, ("b", 2))
    line.settle()

    assert line.get("m")["meta"]["failed"] == ["product"]
    assert [row["product"] for row in line.get("m")["data"]] == [None, 8, 2]


def test_while_a_changed_aggregate_is_rebuilt_the_old_version_answers_without_it(
    server: RunningServer, tmp_path: Path
) -> None:
    line = line_of(tmp_path, server)
    send(line, 0, ("a", 2), ("a", 6))
    line.settle()
    (tmp_path / "functions.py").write_text(FUNCTIONS.replace("> 100", "> 1000"))

    changed = Line(load_config(tmp_path / "config.yaml", {}), server)

    answer = changed.get("m")
    assert values(changed) == {"a": (2, 8, None, None)}
    assert answer["meta"]["failed"] == ["product", "small"]
    changed.settle()
    assert values(changed) == {"a": (2, 8, 12, 2)}
    assert changed.get("m")["meta"]["failed"] == []


def test_a_changed_file_is_another_version_and_a_file_no_longer_named_is_forgotten(
    server: RunningServer, tmp_path: Path
) -> None:
    before = line_of(tmp_path, server).programs["m"].version
    (tmp_path / "functions.py").write_text(FUNCTIONS.replace("> 100", "> 1000"))
    changed = Line(load_config(tmp_path / "config.yaml", {}), server).programs["m"].version
    assert changed != before

    plain = CONFIG.replace("functions: functions.py", "").replace("WINDOW", "{tumbling: 10s}")
    (tmp_path / "config.yaml").write_text(plain.split("    aggregates")[0] + "    aggregates: {n: count}\n")
    load_config(tmp_path / "config.yaml", {})

    assert "product" not in registry.aggregates
