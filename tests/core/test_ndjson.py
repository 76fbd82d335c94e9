"""Rows as NDJSON: no value changes its meaning on the way."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pytest

from pipeline.core.ndjson import datetime_to_ms, encode_rows, iso_time
from pipeline.core.times import parse_time_ms


def sent(value: Any) -> Any:
    return json.loads(encode_rows([{"x": value}]))["x"]


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), pd.NaT, pd.NA, np.datetime64("NaT")])
def test_every_kind_of_missing_value_is_null(missing: Any) -> None:
    assert sent(missing) is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2020, 1, 1, 0, 0, 1, 999_999), "2020-01-01T00:00:01.999+00:00"),
        (datetime(2020, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "2020-01-01T00:00:00.000+00:00"),
        (datetime(1969, 12, 31, 23, 59, 59, 999_500, tzinfo=UTC), "1969-12-31T23:59:59.999+00:00"),
        (date(1970, 1, 2), "1970-01-02T00:00:00.000+00:00"),
        (pd.Timestamp("2020-01-01 00:00:00.123456789", tz="UTC"), "2020-01-01T00:00:00.123+00:00"),
        (np.datetime64("2020-01-01T00:00:00.123456789"), "2020-01-01T00:00:00.123+00:00"),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (0.1 + 0.2, 0.30000000000000004),
        (np.array([1, 2]), [1, 2]),
        ([pd.NA, 1.5], [None, 1.5]),
        (Decimal("1.10"), 1.1),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        ("é\n", "é\n"),
    ],
)
def test_values_keep_their_meaning(value: Any, expected: Any) -> None:
    assert sent(value) == expected


@pytest.mark.parametrize("year", [1, 1960, 1970, 1972, 2026, 9998])
def test_a_moment_is_read_as_what_it_was_whatever_its_distance_from_1970(year: int) -> None:
    moment = datetime(year, 1, 2, 3, 4, 5, 6_000, tzinfo=UTC)
    assert parse_time_ms(sent(moment), 0) == datetime_to_ms(moment)


def test_numbers_that_do_not_fit_are_left_for_the_door_to_refuse() -> None:
    assert encode_rows([{"x": float("inf")}, {"x": 2**80}]) == b'{"x":1e999}\n{"x":1208925819614629174706176}\n'


def test_a_value_without_json_form_is_named_with_row_and_field() -> None:
    with pytest.raises(TypeError, match="row 1, field 'x': a bytes has no JSON form"):
        encode_rows([{"x": 1}, {"x": b"raw"}])
    with pytest.raises(TypeError, match="timedelta64"):
        encode_rows([{"x": np.timedelta64(1, "s")}])


def test_iso_time_is_exact_and_what_pandas_compares_with() -> None:
    assert iso_time(1_432_155_959_001) == "2015-05-20T21:05:59.001+00:00"
    index = pd.DatetimeIndex(["2015-05-20T21:05:59.001Z"])
    assert (index == iso_time(1_432_155_959_001)).all()
