"""Durations and instants as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.definitions import DAY_MS, HOUR_MS, MINUTE_MS
from pipeline.core.times import (
    MAX_DURATION_MS,
    about_duration,
    by_units,
    format_duration,
    parse_duration_ms,
    parse_time_ms,
)

NOW_MS = 1_800_000_000_000
MAY_MS = 1_779_012_303_000  # 2026-05-17T10:05:03Z


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("250ms", 250),
        ("10s", 10_000),
        ("5m", 5 * MINUTE_MS),
        ("24h", DAY_MS),
        ("7d", 7 * DAY_MS),
        ("4w", 28 * DAY_MS),
        ("1h30m", 90 * MINUTE_MS),
        ("1m500ms", MINUTE_MS + 500),
        ("0s", 0),
    ],
)
def test_a_duration_is_read_in_milliseconds(text: str, expected_ms: int) -> None:
    assert parse_duration_ms(text) == expected_ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "m",
        "5 m",
        "-5m",
        "1.5h",
        "5min",
        "5M",
        "1h 30m",
        "5m5m",
        "30m1h",
        "\u0665m",
        "9" * 14 + "w",
        "101w1000000d",
    ],
)
def test_what_is_not_a_duration_is_refused_with_its_text(text: str) -> None:
    with pytest.raises(ValueError, match=r"\.$") as caught:
        parse_duration_ms(text)

    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [
        (0, "0s"),
        (1, "1ms"),
        (1_500, "1500ms"),
        (10_000, "10s"),
        (90_000, "90s"),
        (90 * MINUTE_MS, "90m"),
        (DAY_MS, "1d"),
        (7 * DAY_MS, "1w"),
        (DAY_MS + 1, "1d1ms"),
        (-6 * MINUTE_MS, "-6m"),
        (25 * HOUR_MS, "25h"),
    ],
)
def test_a_duration_is_written_as_short_as_it_can_be(duration_ms: int, text: str) -> None:
    assert format_duration(duration_ms) == text


@given(st.integers(0, MAX_DURATION_MS))
def test_a_written_duration_reads_back_exactly(duration_ms: int) -> None:
    assert parse_duration_ms(format_duration(duration_ms)) == duration_ms
    assert parse_duration_ms(by_units(duration_ms)) == duration_ms


@pytest.mark.parametrize(
    ("text", "expected_ms"),
    [
        ("2026-05-17T10:05:03Z", MAY_MS),
        ("2026-05-17t10:05:03z", MAY_MS),
        ("2026-05-17 10:05:03", MAY_MS),
        ("2026-05-17T12:05:03+02:00", MAY_MS),
        ("2026-05-17T05:35:03-04:30", MAY_MS),
        ("2026-05-17T10:05:03.25Z", MAY_MS + 250),
        ("2026-05-17T10:05:03.999999999Z", MAY_MS + 999),
        ("2026-05-17T10:05", MAY_MS - 3_000),
        ("2026-05-17", 1_778_976_000_000),
        ("1969-12-31T23:59:59.999Z", -1),
        ("1779012303", MAY_MS),
        ("1779012303.25", MAY_MS + 250),
        ("1779012303000", MAY_MS),
        ("1779012303000000", MAY_MS),
        ("1779012303000999999", MAY_MS),
        ("-1", -1_000),
        ("0", 0),
        ("now", NOW_MS),
        ("now-15m", NOW_MS - 15 * MINUTE_MS),
        ("now+1h30m", NOW_MS + 90 * MINUTE_MS),
        ("-15m", NOW_MS - 15 * MINUTE_MS),
        (" now ", NOW_MS),
    ],
)
def test_a_time_of_a_query_is_read_in_epoch_milliseconds(text: str, expected_ms: int) -> None:
    assert parse_time_ms(text, NOW_MS) == expected_ms


@pytest.mark.parametrize(
    "text",
    [
        *("", "yesterday", "2026-13-01", "2026-02-30T00:00:00Z", "2026-05-17T25:00:00Z", "2026-05-17T10:05:03+99:00"),
        *("now-", "now-15", "now 15m", "15m", "1e9", "nan", "1" * 21, "999999999999999999999", "0000-01-01"),
    ],
)
def test_what_is_not_a_time_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        parse_time_ms(text, NOW_MS)


@pytest.mark.parametrize(
    ("duration_ms", "text"),
    [
        (0, "0 ms"),
        (9_999, "9999 ms"),
        (10_000, "10 seconds"),
        (90_001, "over 90 seconds"),
        (51 * HOUR_MS, "51 hours"),
        (51 * HOUR_MS + 1, "over 51 hours"),
        (1_795_469_417_343, "over 20780 days"),
    ],
)
def test_a_duration_for_people_is_cut_off_and_says_so(duration_ms: int, text: str) -> None:
    assert about_duration(duration_ms) == text


def test_an_offset_of_a_day_is_refused_in_words_of_whoever_asks() -> None:
    with pytest.raises(ValueError, match="its offset must be less than 24 hours"):
        parse_time_ms("2026-05-17T10:05:03+25:00", 0)
