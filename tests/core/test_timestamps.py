"""Times as senders write them: every unit, every form, and never another answer beside other values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.timestamps import MAX_TIME_MS, MIN_TIME_MS, TimestampsError, to_ms

T_MS = 1_747_476_303_250
VALUES = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(MIN_TIME_MS, MAX_TIME_MS),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["2026-05-17T10:05:03Z", "2026-05-17 10:05:03.25", "2026-02-30T00:00:00Z", "", "now", "17"]),
)
UNITS = st.sampled_from(["auto", "s", "ms", "us", "ns"])


@pytest.mark.parametrize(
    ("value", "unit"),
    [
        (1_747_476_303, "auto"),
        (1_747_476_303_250, "auto"),
        (1_747_476_303_250_999, "auto"),
        (1_747_476_303_250_999_999, "auto"),
        (1_747_476_303, "s"),
        (1_747_476_303.25, "s"),
        (1_747_476_303.25, "auto"),
        (T_MS, "ms"),
        (T_MS * 1000 + 999, "us"),
        (T_MS * 1_000_000 + 999_999, "ns"),
    ],
)
def test_numbers_are_read_in_their_unit_and_floored(value: float, unit: Any) -> None:
    expected = T_MS - 250 if value == 1_747_476_303 else T_MS
    assert to_ms([value], unit).tolist() == [expected]


def test_the_edges_of_auto_belong_to_the_finer_unit() -> None:
    edges = [10**11 - 1, 10**11, 10**14 - 1, 10**14, 10**17 - 1, 10**17]
    assert to_ms(edges).tolist() == [(10**11 - 1) * 1000, 10**11, 10**14 - 1, 10**11, 10**14 - 1, 10**11]


def test_times_before_1970_are_floored_to_the_past() -> None:
    assert to_ms([-1], "us").tolist() == [-1]
    assert to_ms([-1.5], "ms").tolist() == [-2]
    assert to_ms([-1_500_000], "ns").tolist() == [-2]
    assert to_ms(["1969-12-31T23:59:59.9995Z"]).tolist() == [-1]


def test_a_fraction_of_a_second_is_not_lost_to_binary_rounding() -> None:
    seconds = [1_747_476_303 + k / 1000 for k in range(1000)]
    assert to_ms(seconds, "s").tolist() == [1_747_476_303_000 + k for k in range(1000)]


@pytest.mark.parametrize(
    ("text", "zone", "expected"),
    [
        ("2026-05-17T10:05:03Z", "UTC", datetime(2026, 5, 17, 10, 5, 3, tzinfo=UTC)),
        ("2026-05-17t10:05:03z", "UTC", datetime(2026, 5, 17, 10, 5, 3, tzinfo=UTC)),
        ("2026-05-17 12:05:03+02:00", "UTC", datetime(2026, 5, 17, 10, 5, 3, tzinfo=UTC)),
        ("2026-05-17 12:05:03", "Europe/Paris", datetime(2026, 5, 17, 10, 5, 3, tzinfo=UTC)),
        ("2025-10-26 02:30:00", "Europe/Paris", datetime(2025, 10, 26, 0, 30, tzinfo=UTC)),  # the first of two
        ("2026-05-17T10:05:03.123456789Z", "UTC", datetime(2026, 5, 17, 10, 5, 3, 123000, tzinfo=UTC)),
    ],
)
def test_written_times_are_read_in_their_offset_or_the_fields_zone(text: str, zone: str, expected: datetime) -> None:
    assert to_ms([text], "auto", zone).tolist() == [round(expected.timestamp() * 1000)]


NO_TEXTS = ["", "yesterday", "2026-05-17", "2026-13-01T00:00:00Z", "2026-05-17T25:00:00Z", "1747476303"]
OUTSIDE = [1e300, 1e307, -1e308, 2**63, -(2**63), 2**64, "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-01:00"]


@pytest.mark.parametrize("value", [*NO_TEXTS, "\uff12026-05-17T10:05:03Z", float("nan"), float("inf"), *OUTSIDE])
def test_what_is_no_time_is_named_and_the_others_are_kept(value: Any) -> None:
    with pytest.raises(TimestampsError) as caught:
        to_ms([T_MS, value, T_MS], "ms")
    assert list(caught.value.errors) == [1]
    assert caught.value.times_ms.tolist() == [T_MS, 0, T_MS]


@given(values=st.lists(VALUES, max_size=8), unit=UNITS)
def test_a_value_is_judged_as_if_it_stood_alone(values: list[Any], unit: Any) -> None:
    alone = [_judge([value], unit)[0] for value in values]
    assert _judge(values, unit) == alone


@given(values=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=8), unit=UNITS)
def test_a_column_of_integers_is_read_like_big_integers(values: list[int], unit: Any) -> None:
    assert _judge(values, unit) == [_exact(value, unit) for value in values]


def _judge(values: list[Any], unit: Any) -> list[int | None]:
    try:
        times_ms = to_ms(values, unit)
    except TimestampsError as error:
        return [None if k in error.errors else int(v) for k, v in enumerate(error.times_ms)]
    assert times_ms.dtype == np.int64
    return [int(value) for value in times_ms]


def _exact(value: int, unit: str) -> int | None:
    if unit == "auto":
        limits = {"s": 10**11, "ms": 10**14, "us": 10**17, "ns": 10**30}
        unit = next(name for name, limit in limits.items() if abs(value) < limit)
    time_ms = value * {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}[unit] // 10**6
    return time_ms if MIN_TIME_MS <= time_ms <= MAX_TIME_MS else None


@pytest.mark.parametrize("unit", ["auto", "s", "ms", "us", "ns"])
@pytest.mark.parametrize("value", [1e303, -1.7e308, 10**400])
def test_a_number_that_overflows_while_it_is_converted_is_refused_like_any_other(value: float, unit: Any) -> None:
    with pytest.raises(TimestampsError, match="outside the years 1 to 9999"):
        to_ms([value], unit)


@pytest.mark.parametrize("offset", ["+25:00", "-24:00"])
def test_an_offset_of_a_day_or_more_is_refused_in_words_of_the_sender(offset: str) -> None:
    with pytest.raises(TimestampsError, match="its offset must be less than 24 hours") as caught:
        to_ms([f"2026-05-17T10:05:03{offset}"])
    assert "timedelta" not in str(caught.value)
