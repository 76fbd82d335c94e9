"""Clicks of a few users in two partitions, through three session metrics: what is recomputed of sessions in tests.

Out of order, late within what is allowed (extending and merging sessions that were published) and beyond it, filtered,
unreadable, floats of every size; see `filled_with_sessions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.core.definitions import (
    Aggregate,
    AggregateSpec,
    Config,
    Field,
    Session,
    Stream,
    TimePolicy,
    Transform,
)
from pipeline.core.partitioning import partition_of
from pipeline.runtime.worker import Worker
from tests.kept_lines import filled_once
from tests.line import Event, Line
from tests.servers import RunningServer
from tests.visits import BASE_MS, VALUES

PARTITIONS = 2
STREAM = Stream(
    "clicks",
    (
        Field("ts", "timestamp"),
        Field("user", "string"),
        Field("page", "string", nullable=True),
        Field("ms", "float", nullable=True),
        Field("n", "int", nullable=True),
        Field("bot", "bool", nullable=True),
        Field("seen", "timestamp", nullable=True),
    ),
    TimePolicy("ts", disorder_ms=2_000),
    partition_by="user",
    partitions=PARTITIONS,
)
CONFIG = Config(
    streams={"clicks": STREAM},
    stages={
        "people": Transform("people", "clicks", filter="NOT COALESCE(bot, FALSE)"),
        "stays": Aggregate("stays", "people", Session(1_500), ("user",), VALUES, allowed_lateness_ms=20_000),
        "strict": Aggregate("strict", "clicks", Session(3_000), ("user", "page"), VALUES),
        "shifts": Aggregate(
            "shifts", "people", Session(4_000, max_ms=30_000), ("user",), VALUES, allowed_lateness_ms=5_000
        ),
        "counted": Aggregate("counted", "people", Session(2_000), ("user",), (AggregateSpec("n", "count"),)),
    },
)
METRICS = ("stays", "strict", "shifts", "counted")


def partition(user: str) -> int:
    return partition_of(user, PARTITIONS)


def _users(number: int) -> list[str]:
    return [user for user in (f"user{n}" for n in range(40)) if partition(user) == number][:4]


USERS = [*_users(0), *_users(1)]


def clicks(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Events of users who come and go; one in ten is late for what is in time."""
    chance = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        late = chance.random() > 0.9
        behind_ms = int(chance.integers(5_000, 40_000) if late else chance.integers(0, 1_800))
        row = {
            "ts": BASE_MS + number * 250 - behind_ms,
            "user": USERS[int(chance.integers(len(USERS)))],
            "page": f"/{number % 2}" if number % 11 else None,
            "ms": float(chance.random()) * 10 ** int(chance.integers(-3, 9)) if number % 7 else None,
            "n": int(chance.integers(-(2**62), 2**62)),
            "bot": bool(number % 9 == 0),
            "seen": BASE_MS - number,
        }
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def send(line: Line, rows: Sequence[Event]) -> None:
    """Append rows, each to its user's partition, in one chunk each."""
    for number in range(PARTITIONS):
        mine = [row for row in rows if partition(row["user"]) == number]
        if mine:
            line.chunk("clicks", mine, partition=number, times_ms=[row["ts"] for row in mine])


def filled_with_sessions(server: RunningServer, config: Config = CONFIG, worker: Worker | None = None) -> Line:
    """A line whose sessions were published while events came in: many were retracted, and some are still live."""
    if config is CONFIG and worker is None:
        return filled_once("clicks", server, lambda: Line(config, server), _fill)
    line = Line(config, server)
    _fill(line, worker)
    return line


def _fill(line: Line, worker: Worker | None = None) -> None:
    events = clicks(600)
    for at in range(0, len(events), 40):
        send(line, events[at : at + 40])
        line.settle(worker)
    line.row("clicks", {"ts": str(BASE_MS + 160_000), "user": USERS[0], "ms": "1.5"}, partition=partition(USERS[0]))
    line.row("clicks", {"ts": str(BASE_MS), "user": USERS[0], "n": "not a number"}, partition=partition(USERS[0]))
    line.settle(worker)
    for number in range(PARTITIONS):
        line.tick("clicks", BASE_MS + 165_000, partition=number)
    line.settle(worker)
