"""A generated data set with nulls, ties, late events and int64 extremes, in three partitions, against DuckDB."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import polars as pl

from pipeline.core.definitions import (
    Aggregate,
    AggregateSpec,
    Config,
    Field,
    Stream,
    TimePolicy,
    Tumbling,
)
from tests.line import Line
from tests.oracle import duck
from tests.servers import RunningServer

EVENTS = 6_000
PARTITIONS = 3
BASE_MS = -1_800_000  # half of the events are before 1970
SEED = 7

PLAIN = (
    "count",
    "sum",
    "mean",
    "min",
    "max",
    "first",
    "last",
)  # functions that take int64 extremes; the others: test_every_kind
NUMBERS = [AggregateSpec(f"{function}_k", function, "k") for function in PLAIN]
FLOATS = [AggregateSpec(f"{function}_v", function, "v") for function in PLAIN]
OTHERS = [AggregateSpec("n", "count"), AggregateSpec("first_name", "first", "name"), AggregateSpec("yes", "last", "ok")]
STAGE = Aggregate("numbers", "events", Tumbling(60_000, offset_ms=-7_000), ("name", "ok"), (*NUMBERS, *FLOATS, *OTHERS))
TIME = TimePolicy("ts", disorder_ms=20_000)
CONFIG = Config(
    streams={
        "events": Stream(
            "events",
            (
                Field("ts", "timestamp", unit="ms"),
                Field("name", "string", nullable=True),
                Field("ok", "bool", nullable=True),
                Field("k", "int", nullable=True),
                Field("v", "float", nullable=True),
            ),
            TIME,
            partitions=PARTITIONS,
        )
    },
    stages={"numbers": STAGE},
)
SCHEMA = {"ts": pl.Int64, "name": pl.String, "ok": pl.Boolean, "k": pl.Int64, "v": pl.Float64, "part": pl.Int64}


def test_every_aggregate_over_generated_events_equals_duckdb(server: RunningServer) -> None:
    line, events = Line(CONFIG, server), list(generated())
    for partition in range(PARTITIONS):
        mine = [event for part, event in events if part == partition]
        for at in range(0, len(mine), 700):
            line.chunk("events", mine[at : at + 700], partition=partition)
    line.end("events", max(event["ts"] for _, event in events))
    line.settle()

    relation = table(events)
    expected = duck.windows(relation, STAGE, TIME)
    late = duck.late_rows(relation, STAGE, TIME)
    assert len(late) > 100
    assert sum(row["n"] for row in expected) == EVENTS - len(late)
    duck.assert_same_rows(line.closed("numbers"), expected)
    found = [row for partition in range(PARTITIONS) for row in line.late("numbers", partition)]
    assert [int(row["time"]) for row in found] == [row["event_ms"] for row in late]
    assert [int(row["late_by_ms"]) for row in found] == [row["late_by_ms"] for row in late]


def generated() -> Iterator[tuple[int, dict[str, Any]]]:
    """(partition, event): time goes forward with equal steps, so that ties are common, and some events come late."""
    chance = random.Random(SEED)
    for number in range(EVENTS):
        behind_ms = chance.choice([0, 0, 5_000, 19_000, 60_000, 90_000])
        yield (
            chance.randrange(PARTITIONS),
            {
                "ts": BASE_MS + number // 3 * 2_000 - behind_ms,
                "name": chance.choice(["a", "b", "ü", None]),
                "ok": chance.choice([True, False, None]),
                "k": chance.choice([None, 1, -5, 2**63 - 1, -(2**63), chance.randrange(10**6)]),
                "v": chance.choice([None, chance.uniform(0, 1e6), 0.1, 1e9]),
            },
        )


def table(events: list[tuple[int, dict[str, Any]]]) -> duck.Events:
    frame = pl.DataFrame([event | {"part": part} for part, event in events], schema=SCHEMA)
    placed = frame.with_columns(
        event_ms=pl.col("ts"),
        arrival_ms=pl.lit(duck.NEVER_MS),
        is_tick=pl.lit(False),
        position=pl.int_range(pl.len()).over("part"),
    )
    return duck.table(placed)
