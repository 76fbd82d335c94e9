"""A registered function that goes wrong, through the whole line: its events are dead letters and the stream goes on."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from pipeline import transform
from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Transform, Tumbling
from pipeline.core.registered_transforms import TRANSFORMS
from tests.line import Line, Row
from tests.servers import RunningServer

FIELDS = (Field("ts", "timestamp", unit="ms"), Field("page", "string"))


@transform("goes_wrong", returns={"length": "int"})
def goes_wrong(frame: pl.DataFrame) -> pl.DataFrame:
    """Measure each page, in the way that its name asks for."""
    if (frame["page"] == "/raises").any():
        raise ValueError("no such page")
    if (frame["page"] == "/no-column").any():
        return frame
    lengths = frame["page"].str.len_chars()
    if (frame["page"] == "/wrong-type").any():
        return frame.with_columns(length=lengths.cast(pl.String) + "?")
    if (frame["page"] == "/no-frame").any():
        return lengths  # type: ignore[return-value]
    return frame.with_columns(length=lengths)


@pytest.fixture
def line(server: RunningServer) -> Line:
    stream = Stream("visits", FIELDS, TimePolicy("ts"), partitions=1)
    stages = (
        Transform("measured", "visits", python=TRANSFORMS["goes_wrong"].definition),
        Aggregate("lengths", "measured", Tumbling(10_000), (), (AggregateSpec("total", "sum", "length"),)),
    )
    return Line(Config({"visits": stream}, {stage.name: stage for stage in stages}), server)


@pytest.mark.parametrize(
    ("page", "reason", "said"),
    [
        ("/raises", "function_failed", 'raise ValueError("no such page")\nValueError: no such page'),
        ("/no-column", "function_result", "length"),
        ("/wrong-type", "function_result", "length"),
        ("/no-frame", "function_result", "DataFrame"),
    ],
)
def test_its_event_is_a_dead_letter_that_says_why_and_the_others_count(
    line: Line, page: str, reason: str, said: str
) -> None:
    line.post("visits", [visit(1, "/a"), visit(2, page), visit(3, "/bc")])
    line.settle()

    line.post("visits", [visit(4, "/def"), visit(30_000, "/later")])
    line.end("visits", 30_000)
    line.settle()

    [letter] = dead_letters(line)
    assert (letter["event"]["page"], letter["reason"]) == (page, reason)
    assert "goes_wrong" in letter["error"]
    assert said in letter["error"]
    assert [row["total"] for row in line.closed("lengths")] == [len("/a") + len("/bc") + len("/def"), len("/later")]
    ledger = line.http.get("/v1/stages/lengths").get_json()["ledger"]
    assert (ledger["read"], ledger["accepted"], ledger["dead"], ledger["balances"]) == (5, 4, 1, True)


def visit(ts: int, page: str) -> dict[str, Any]:
    return {"ts": ts, "page": page}


def dead_letters(line: Line) -> list[Row]:
    answer = line.http.get("/v1/dead-letters", query_string={"stage": "lengths"})
    assert answer.status_code == 200, answer.text
    rows: list[Row] = answer.get_json()["rows"]
    return rows
