"""Every kind of window with every aggregate through real processes equals DuckDB's answer.

One `up` has all of it: for each kind three streams of random events, posted in pieces as a client would, and the web
log, replayed from its file. Everything is read back over HTTP. (The other files: tests/oracle/test_real_kinds.py.)
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from pipeline.core.definitions import Aggregate, Config, Stage, Stream, Transform
from tests.oracle import duck
from tests.oracle.as_yaml import as_yaml
from tests.oracle.every_kind import AGGREGATES, CASES, FATE, KINDS, METRIC, STREAM, Case, Kind, config_of
from tests.oracle.random_logs import MAX_EVENTS, RandomLog, log_of
from tests.oracle.real_kinds import WEB, RealFile
from tests.product.product import Product, Row, assert_balanced

EXAMPLES = 3  # of each kind
SEED = 3
BYTES_AN_EVENT = 9
PIECE = 7  # events a request
ALL: dict[str, Any] = {"start": "1900-01-01T00:00:00Z", "limit": 100_000}
REAL = (WEB,)


def example(kind: Kind, number: int) -> tuple[str, Case, RandomLog]:
    """The name of an example's stream, what it is about, and its events."""
    chance = random.Random(f"{SEED} {kind} {number}")
    case = CASES[kind][number % len(CASES[kind])]
    return f"{kind}_{number}", case, log_of(chance.randbytes(2 * MAX_EVENTS * BYTES_AN_EVENT), case)


def config_of_all() -> Config:
    streams: dict[str, Stream] = {}
    stages: dict[str, Stage] = {}
    for kind in KINDS:
        for number in range(EXAMPLES):
            name, case, _ = example(kind, number)
            of = sorted(AGGREGATES)[number % len(AGGREGATES)]
            one = config_of(case, of, is_late_allowed=number == 1)
            stream, kept, stage = one.streams[STREAM], one.stages["kept"], one.stages[METRIC]
            assert isinstance(kept, Transform)
            assert isinstance(stage, Aggregate)
            streams[name] = replace(stream, name=name, time=replace(stream.time, idle_after_ms=None))
            stages[f"kept_{name}"] = replace(kept, name=f"kept_{name}", source=name)
            stages[f"answer_{name}"] = replace(stage, name=f"answer_{name}", source=f"kept_{name}")
    for file in REAL:
        of_file = file.config()
        streams |= of_file.streams
        stages |= of_file.stages
    return Config(streams, stages)


@pytest.fixture(scope="module")
def config() -> Config:
    return config_of_all()


@pytest.fixture(scope="module")
def product(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Product]:
    """An `up` that was sent everything, and told that it was all."""
    folder = tmp_path_factory.mktemp("kinds")
    (folder / "config.yaml").write_text(as_yaml(config), encoding="utf-8")
    with Product(folder, "--no-demo", "--workers", 2, config=folder / "config.yaml") as product:
        product.wait_until_ready()
        for kind in KINDS:
            for number in range(EXAMPLES):
                name, _, log = example(kind, number)
                post(product, name, log.sent())
        for file in REAL:
            done = product.replay(file.path, file.stream.name, "--json")
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout)["rejected"] == 0
        for name in config.streams:
            answer = product.http.post(f"/v1/streams/{name}/time", json={"end": True})
            assert answer.status_code in (200, 202), answer.text
        product.wait_until_applied(*(name for name, stage in config.stages.items() if isinstance(stage, Aggregate)))
        yield product


def post(product: Product, stream: str, events: Sequence[Row]) -> None:
    for at in range(0, len(events), PIECE):
        answer = product.http.post(f"/v1/streams/{stream}/events", json=events[at : at + PIECE])
        assert answer.status_code == 202, answer.text
        assert answer.json()["accepted"] == len(events[at : at + PIECE])


@pytest.mark.parametrize("number", range(EXAMPLES))
@pytest.mark.parametrize("kind", KINDS)
def test_random_events_give_duckdbs_answer(product: Product, config: Config, kind: Kind, number: int) -> None:
    name, _, log = example(kind, number)
    stage, time = config.stages[f"answer_{name}"], config.streams[name].time
    assert isinstance(stage, Aggregate)

    found = product.wait_until_final(stage.name, **ALL)

    events = log.sent_table()
    duck.assert_same_rows(found, as_read(duck.windows(events, stage, time, FATE)))
    assert_same_account(product, stage, duck.account(events, stage, time, FATE))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", REAL, ids=lambda file: file.stream.name)
def test_a_real_file_gives_duckdbs_answer(product: Product, file: RealFile, kind: Kind) -> None:
    stage, time = file.stage(kind), file.stream.time

    found = product.wait_until_final(stage.name, **ALL)

    duck.assert_same_rows(found, as_read(duck.windows(file.events(), stage, time)))
    assert_same_account(product, stage, duck.account(file.events(), stage, time))


def test_the_books_balance(product: Product) -> None:
    assert_balanced(product)


def as_read(expected: Sequence[Row]) -> list[Row]:
    """DuckDB's rows in the columns of every result: a session's window is from its first event to where it closes."""
    return [as_window(row) if "closes_at" in row else row for row in expected]


def as_window(session: Row) -> Row:
    others = {name: value for name, value in session.items() if name not in ("first", "last", "closes_at")}
    return {"window_start": session["first"], "window_end": session["closes_at"]} | others


def assert_same_account(product: Product, stage: Aggregate, expected: duck.Account) -> None:
    ledger = product.stage(stage.name)["ledger"]
    parts = ("read", "accepted", "filtered", "late", "dead")
    assert [ledger[name] for name in parts] == [getattr(expected, name) for name in parts]
