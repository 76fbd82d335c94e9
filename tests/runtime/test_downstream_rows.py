"""The rows of a window in the metric's downstream stream are those of the answer, however many columns and rows."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Tumbling
from pipeline.rim import publish
from tests.line import Line
from tests.servers import RunningServer

BASE_MS = 1_700_000_000_000
FIELDS = (
    Field("ts", "timestamp"),
    Field("k", "string"),
    Field("v", "float", nullable=True),
    Field("t", "string", nullable=True),
)
VALUES = [
    AggregateSpec("n", "count"),
    *(AggregateSpec(f"above_{level}", "count", where=f"v > {level}") for level in range(40)),
    AggregateSpec("mean_v", "mean", "v"),
    AggregateSpec("last_t", "last", "t"),
    AggregateSpec("values", "histogram", "v"),
]
TEXTS = ["a", "", 'b"c,d\r\n', "é☃", "null"]


@pytest.mark.parametrize("nulls", [False, True])
@pytest.mark.parametrize("most_bytes", [publish.STAGING_BYTES, 2_000])
def test_they_are_the_rows_of_the_answer(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch, nulls: bool, most_bytes: int
) -> None:
    monkeypatch.setattr(publish, "STAGING_BYTES", most_bytes)
    stream = Stream("s", FIELDS, TimePolicy("ts", disorder_ms=0))
    metric = Aggregate("m", "s", Tumbling(60_000), ("k",), tuple(VALUES))
    line = Line(Config({"s": stream}, {"m": metric}), server)
    events = [
        {"ts": BASE_MS, "k": f"{TEXTS[number % 5]}{number}", "v": number / 7, "t": TEXTS[number % 5]}
        for number in range(publish.EMIT_ROWS + 100)
    ]
    if nulls:
        events += [{"ts": BASE_MS, "k": "nothing"}, {"ts": BASE_MS, "k": "half", "v": 1.5}]
    line.chunk("s", events, times_ms=[BASE_MS] * len(events))
    line.end("s", BASE_MS)
    line.settle()

    answered = [row | {"version": line.programs["m"].version} for row in line.rows("m")]

    assert len(answered) == len(events)
    assert sorted(line.downstream("m"), key=by_group) == sorted(map(as_sent, answered), key=by_group)


def as_sent(row: dict[str, Any]) -> dict[str, str]:
    """Texts as they are, everything else as JSON, and nothing of a null."""
    return {
        name: value if isinstance(value, str) else msgspec.json.encode(value).decode()
        for name, value in row.items()
        if value is not None
    }


def by_group(row: dict[str, str]) -> str:
    return row["k"]
