"""Random logs of everything a raw stream may hold, and a stage of every accumulator: what the laws quantify over.

entry ids    20 000 … 3 000 ms apart at most, so arrival times cap some events and make others too far ahead
event times  both sides of 1970, some late, some far ahead of their arrival
values       nulls, int64 extremes, floats whose sum depends on the order, texts a derive cannot convert
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st

from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Transform, Tumbling
from tests.examples import examples
from tests.line import chunk_fields

STREAM = "s"
METRIC = "m"
TOTAL = "total"
DISORDER_MS = 8_000
FIRST_ARRIVAL_MS = 20_000
END_MS = 200_000  # past every window of these logs: an arrival and a tick time

law = settings(max_examples=examples(12, whole=60), deadline=None, derandomize=os.environ.get("CI") == "true")
small_law = settings(law, max_examples=examples(6, whole=25))  # of laws that run once for each of a dozen accumulators

FIELDS = (
    Field("ts", "timestamp", unit="ms"),
    Field("key", "string", nullable=True),
    Field("v", "float", nullable=True),
    Field("k", "int", nullable=True),
    Field("on", "bool", nullable=True),
    Field("at", "timestamp", nullable=True, unit="ms"),
)
EVERY_AGGREGATE = (
    AggregateSpec("n", "count"),
    AggregateSpec("n_v", "count", "v"),
    AggregateSpec("sum_v", "sum", "v"),
    AggregateSpec("mean_v", "mean", "v"),
    AggregateSpec("min_v", "min", "v"),
    AggregateSpec("max_v", "max", "v"),
    AggregateSpec("first_v", "first", "v"),
    AggregateSpec("last_v", "last", "v"),
    AggregateSpec("sum_k", "sum", "k"),
    AggregateSpec("mean_k", "mean", "k"),
    AggregateSpec("min_k", "min", "k"),
    AggregateSpec("max_k", "max", "k"),
    AggregateSpec("last_k", "last", "k"),
    AggregateSpec("first_key", "first", "key"),
    AggregateSpec("last_key", "last", "key"),
    AggregateSpec("first_on", "first", "on"),
    AggregateSpec("min_at", "min", "at"),
    AggregateSpec("last_at", "last", "at"),
    AggregateSpec("sum_number", "sum", "number"),
)


def config(partitions: int = 1) -> Config:
    """A stream, a filter, a published transform whose derive fails on some rows, a grouped metric and a total."""
    time = TimePolicy("ts", disorder_ms=DISORDER_MS, max_future_ms=20_000)
    window = Tumbling(10_000, offset_ms=3_000)
    total = (AggregateSpec("n", "count"), AggregateSpec("sum_v", "sum", "v"), AggregateSpec("last_k", "last", "k"))
    return Config(
        streams={STREAM: Stream(STREAM, FIELDS, time, partitions=partitions)},
        stages={
            "kept": Transform("kept", STREAM, filter="k IS NULL OR k <> 13"),
            "numbered": Transform("numbered", "kept", derive={"number": "CAST(key AS BIGINT)"}, publish=True),
            METRIC: Aggregate(METRIC, "numbered", window, ("key", "on"), EVERY_AGGREGATE),
            TOTAL: Aggregate(TOTAL, STREAM, Tumbling(7_000), (), total),
        },
    )


@dataclass(frozen=True, slots=True)
class Logged:
    """One entry of a raw stream, as Redis holds it."""

    id: str
    fields: Mapping[bytes, bytes]


floats = st.one_of(
    st.sampled_from([0.1, 0.2, 0.3, -0.0, 1.0, 1e16, -1e16, 1e300, -1e300, 5e-324]),
    st.floats(allow_nan=False, allow_infinity=False),
)
ints = st.one_of(st.sampled_from([13, 1, -1, 2**63 - 1, -(2**63), 2**53 + 1]), st.integers(-(2**63), 2**63 - 1))
times = st.one_of(st.integers(0, 25_000), st.integers(0, 25_000), st.integers(-30_000, 70_000))
events = st.fixed_dictionaries(  # most values are there and most groups the same, so that cells get many events
    {
        "ts": times,
        "key": st.sampled_from(["1", "1", "1", "1", "-7", "nine", None]),
        "v": st.one_of(floats, floats, floats, st.none()),
        "k": st.one_of(ints, ints, st.none()),
        "on": st.sampled_from([True, True, True, False, None]),
    },
    optional={"at": st.none() | times},
)


@st.composite
def logs(
    draw: st.DrawFn,
    max_entries: int = 14,
    of: st.SearchStrategy[dict[str, Any]] = events,
    controls: Sequence[Mapping[str, str]] = ({"_k": "control"},),
) -> list[Logged]:
    """Entries of one partition: chunks, rows, bad rows, damaged chunks, ticks and control entries."""
    log: list[Logged] = []
    arrival_ms, position = FIRST_ARRIVAL_MS, 0
    for number in range(draw(st.integers(max_entries // 2, max_entries))):
        arrival_ms += draw(st.integers(0, 3_000))
        kind = draw(st.sampled_from(["chunk"] * 6 + ["row"] * 3 + ["tick", "damaged", "bad_row", "control"]))
        fields: Mapping[str, Any]
        match kind:
            case "chunk" | "damaged":
                rows = draw(st.lists(of, min_size=1, max_size=6))
                fields = chunk(rows, position, arrival_ms) | ({"crc": 1} if kind == "damaged" else {})
                position += len(rows)
            case "row":
                fields = flat(draw(of))
            case "bad_row":
                fields = draw(st.sampled_from([{"ts": "1000", "v": "x"}, {"key": "no time"}, {"ts": "1", "k": "1.5"}]))
            case "tick":
                fields = {"_k": "tick", "t": draw(times)}
            case _:
                fields = draw(st.sampled_from(controls))
        log.append(Logged(f"{arrival_ms}-{number}", as_bytes(fields)))
    return log


def chunk(rows: Sequence[Mapping[str, Any]], position: int, arrival_ms: int) -> dict[str, str | int | bytes]:
    return chunk_fields(rows, [row["ts"] for row in rows], position=position, at_ms=arrival_ms)


def flat(event: Mapping[str, Any]) -> dict[str, str]:
    """An event as a row entry spells it."""
    texts = {k: v if isinstance(v, str) else msgspec.json.encode(v).decode() for k, v in event.items()}
    return {name: text for name, text in texts.items() if event[name] is not None}


def end_tick(log: Sequence[Logged]) -> Logged:
    return Logged(f"{END_MS}-{len(log)}", as_bytes({"_k": "tick", "t": END_MS}))


def as_bytes(fields: Mapping[str, Any]) -> dict[bytes, bytes]:
    return {name.encode(): v if isinstance(v, bytes) else str(v).encode() for name, v in fields.items()}
