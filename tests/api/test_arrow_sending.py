"""DataFrames become Arrow bodies that mean what the frame said, or are refused by column and row."""

from __future__ import annotations

import io
from datetime import date, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import polars as pl
import pytest

from api import arrow_sending
from api.arrow_sending import arrow_bodies, sendable
from api.client import NotFoundError
from pipeline.errors import FrameError
from tests.api.line import BASE, Line
from tests.api.wire import client_on

TYPES = {
    "ts": "timestamp",
    "user": "string",
    "value": "float",
    "count": "int",
    "ok": "bool",
    "tags": "list[string]",
}


def sent(given: Any) -> list[dict[str, Any]]:
    return sendable(given, "s", TYPES).to_dicts()


def test_columns_of_objects_take_the_type_the_schema_declares() -> None:
    frame = pd.DataFrame(
        {
            "ts": [date(2020, 1, 1), datetime(2020, 1, 1, 1), None],
            "user": [UUID(int=1), "ada", None],
            "value": [Decimal("1.5"), 2, None],
            "count": pd.Series([1, None, 2**53 + 1], dtype=object),
            "ok": pd.Series([True, None, False], dtype=object),
            "tags": [["a"], np.array(["b", "c"]), None],
        }
    )
    assert [{name: str(value) for name, value in row.items()} for row in sent(frame)] == [
        {
            "ts": "2020-01-01 00:00:00+00:00",
            "user": "00000000-0000-0000-0000-000000000001",
            "value": "1.5",
            "count": "1",
            "ok": "True",
            "tags": "['a']",
        },
        {
            "ts": "2020-01-01 01:00:00+00:00",
            "user": "ada",
            "value": "2.0",
            "count": "None",
            "ok": "None",
            "tags": "['b', 'c']",
        },
        {"ts": "None", "user": "None", "value": "None", "count": str(2**53 + 1), "ok": "False", "tags": "None"},
    ]


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("value", [1.5, "fast"], r"column 'value', row 1: 'fast' \(str\) is not of type float, which s declares"),
        ("count", [1, "2"], r"column 'count', row 1: '2' \(str\) is not of type int"),
        ("user", ["ada", 5], r"column 'user', row 1: 5 \(int\) is not of type string"),
        ("tags", [["a"], [1]], r"column 'tags', row 1"),
        ("ts", [datetime(2020, 1, 1), "soon"], r"column 'ts', row 1: 'soon' \(str\) stands among datetimes"),
        ("other", [1, "x"], r"column 'other' mixes types .*leave it out"),
        ("value", [pd.Timedelta("1s"), None], r"column 'value', row 0: Timedelta"),
    ],
)
def test_what_a_column_cannot_hold_is_named_by_column_and_row(column: str, values: list[Any], said: str) -> None:
    with pytest.raises(FrameError, match=said):
        sent(pd.DataFrame({column: pd.Series(values, dtype=object)}))


def test_a_polars_column_that_no_field_holds_is_named() -> None:
    with pytest.raises(FrameError, match="column 'took' is of type Duration"):
        sent(pl.DataFrame({"took": [1]}).cast(pl.Duration("ms")))
    with pytest.raises(FrameError, match="column 'who' is of type Struct"):
        sent(pl.DataFrame({"who": [{"name": "ada"}]}))


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(FrameError, match="distinct names"):
        sent(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_bodies_are_cut_by_rows_and_by_bytes_and_come_out_the_same_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = sendable(pl.DataFrame({"value": range(10), "user": ["x" * 1_000] * 10}), "s", TYPES)

    assert [count for _, count in arrow_bodies(frame, 4)] == [4, 4, 2]
    monkeypatch.setattr(arrow_sending, "BODY_BYTES", 4_000)
    bodies = list(arrow_bodies(frame, 10))
    assert [count for _, count in bodies] == [2, 3, 2, 3]
    assert max(len(body) for body, _ in bodies) <= 4_000
    assert pl.concat(pl.read_ipc_stream(io.BytesIO(body)) for body, _ in bodies).equals(frame)
    assert bodies == list(arrow_bodies(frame, 10))
    with pytest.raises(ValueError, match=r"1 to 200,000, got 0"):
        list(arrow_bodies(frame, 0))


def test_the_door_reads_a_pandas_frame_as_it_was_meant(line: Line) -> None:
    frame = pd.DataFrame({"ms": [1.5, np.nan], "status": [200.0, np.nan], "bot": [True, False]})
    frame["page"] = pd.Categorical(["/", None])
    frame.index = pd.DatetimeIndex(
        pd.to_datetime([BASE, BASE + 1], unit="ms", utc=True).tz_convert("Europe/Paris"), name="ts"
    )

    result = client_on(line.http).send("visits", frame)

    assert (result.accepted, result.rejected) == (2, 0)
    newest = client_on(line.http).events("visits")
    assert [event["event"] for event in sorted(newest, key=lambda event: event["row"])] == [
        {"ts": BASE, "page": "/", "ms": 1.5, "bot": True, "status": 200},
        {"ts": BASE + 1, "page": None, "ms": None, "bot": False, "status": None},
    ]


def test_a_row_that_the_schema_refuses_is_reported_by_its_index(line: Line) -> None:
    frame = pl.DataFrame({"ts": [BASE, None, BASE], "status": [1.0, 2.0, 2.5]})
    result = client_on(line.http).send("visits", frame, batch=1)
    assert (result.accepted, result.rejected) == (1, 2)
    assert [(error.index, error.field) for error in result.errors] == [(1, "ts"), (2, "status")]


def test_a_key_of_the_caller_counts_the_same_rows_once(line: Line) -> None:
    frame = pl.DataFrame({"ts": [BASE, BASE + 1, BASE + 2]})
    sent = [client_on(line.http).send("visits", frame, batch=2, key="log-1") for _ in range(2)]
    assert [(result.accepted, result.duplicates) for result in sent] == [(3, 0), (0, 3)]
    assert len(client_on(line.http).events("visits")) == 3
    for _ in range(2):
        client_on(line.http).send("visits", [{"ts": BASE + 3}], key="log-2")
    assert len(client_on(line.http).events("visits")) == 4


def test_an_unknown_stream_is_named_before_anything_is_sent(line: Line) -> None:
    with pytest.raises(NotFoundError, match="no stream 'vists'; there are visits, quiet"):
        client_on(line.http).send("vists", pl.DataFrame({"ts": [BASE]}))
