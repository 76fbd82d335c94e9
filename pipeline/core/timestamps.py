"""Event times as senders write them, a whole column at once, to int64 milliseconds UTC.

Invariant: the value alone decides, never its neighbours: the column paths give what `one_to_ms` gives value by value.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from pipeline.core.definitions import TimeUnit
from pipeline.core.times import why_no_time

Int64 = npt.NDArray[np.int64]
TimeValue = int | float | str

# The years 1 to 9999: what Python, polars and RFC 3339 can all write; window arithmetic stays far from int64's ends.
MIN_TIME_MS = -62_135_596_800_000
MAX_TIME_MS = 253_402_300_799_999

# `auto`: seconds reach 1e11 in the year 5138, and milliseconds are below it only before March 1973; so on by thousands.
MAX_AUTO_S, MAX_AUTO_MS, MAX_AUTO_US = 10**11, 10**14, 10**17

MAX_NUMBER = 10**30  # far beyond the year 9999 in every unit; 1e303 s would be infinite in µs, and no integer

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_TEXT = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)?", re.ASCII)
_FORMS = "Send an epoch number, or RFC 3339 such as 2026-05-17T10:05:03.250Z"


class TimestampsError(ValueError):
    """Some values of a column are no times: `errors` maps an index to its message; `times_ms` holds 0 there.

    A message has no last full stop, as every message of a refusal: whoever shows it puts it into a sentence.
    """

    def __init__(self, errors: dict[int, str], times_ms: Int64) -> None:
        self.errors = errors
        self.times_ms = times_ms
        super().__init__(next(iter(errors.values())))


def to_ms(values: Sequence[TimeValue] | Int64, unit: TimeUnit = "auto", zone: str = "UTC") -> Int64:
    """Return epoch milliseconds; what is finer is floored, towards the past for times before 1970 too.

    Numbers are in `unit`; seconds may have a fraction, which is first rounded to the microsecond a double can carry.
    Strings without an offset are in `zone`; an hour that a clock change repeats is the first one.

    Raises:
        TimestampsError: some values are no times, or lie outside the years 1 to 9999.
    """
    numbers = values if isinstance(values, np.ndarray) else _int_column(values)
    if numbers is not None:
        times_ms = _ints_to_ms(numbers, unit)
        if not len(times_ms) or (times_ms.min() >= MIN_TIME_MS and times_ms.max() <= MAX_TIME_MS):
            return times_ms
    return _slow_to_ms(values.tolist() if isinstance(values, np.ndarray) else values, unit, zone)


def _int_column(values: Sequence[TimeValue]) -> Int64 | None:
    """The column if it is int64 throughout. Not `np.array`: one long string among n would take n times its bytes."""
    ints: Any = values
    try:
        return np.frombuffer(array("q", ints), dtype=np.int64)
    except (TypeError, OverflowError):  # a float or a string; beyond int64
        return None


def _ints_to_ms(numbers: Int64, unit: TimeUnit) -> Int64:
    match unit:
        case "ms":
            return numbers
        case "us":
            return numbers // 1_000
        case "ns":
            return numbers // 1_000_000
        case "s":
            return np.clip(numbers, MIN_TIME_MS, MAX_TIME_MS) * 1_000  # clipped values stay out of range: no overflow
        case "auto":
            return _auto_to_ms(numbers)


def _auto_to_ms(numbers: Int64) -> Int64:
    if not len(numbers):
        return numbers
    lowest, highest = int(numbers.min()), int(numbers.max())
    if lowest >= MAX_AUTO_S and highest < MAX_AUTO_MS:
        return numbers  # today's usual column
    size = np.abs(np.maximum(numbers, -INT64_MAX))  # abs(-2**63) is negative
    seconds = np.where(size < MAX_AUTO_S, numbers, 0) * 1_000
    finer = np.select([size < MAX_AUTO_MS, size < MAX_AUTO_US], [numbers, numbers // 1_000], numbers // 1_000_000)
    return np.where(size < MAX_AUTO_S, seconds, finer)


def _slow_to_ms(values: Sequence[TimeValue], unit: TimeUnit, zone: str) -> Int64:
    """Value by value: strings, floats, mixtures, and columns with something wrong in them."""
    times_ms = np.zeros(len(values), dtype=np.int64)
    errors: dict[int, str] = {}
    for index, value in enumerate(values):
        try:
            times_ms[index] = one_to_ms(value, unit, zone)
        except ValueError as error:
            errors[index] = str(error)
    if errors:
        raise TimestampsError(errors, times_ms)
    return times_ms


def one_to_ms(value: TimeValue, unit: TimeUnit = "auto", zone: str = "UTC") -> int:
    """Return the milliseconds of one time, as `to_ms` reads it.

    Raises:
        ValueError: it is no time, or lies outside the years 1 to 9999.
    """
    if isinstance(value, str):
        return _text_to_ms(value, _zone(zone))
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a time. {_FORMS}")
    read = _TO_MS[_unit_of(value) if unit == "auto" else unit]
    time_ms = read(value) if abs(value) < MAX_NUMBER else MAX_TIME_MS + 1
    if not MIN_TIME_MS <= time_ms <= MAX_TIME_MS:
        raise ValueError(f"{_short(value)} is outside the years 1 to 9999 when read as {unit}. Check the field's unit")
    return time_ms


def _unit_of(value: float) -> TimeUnit:
    size = abs(value)
    return "s" if size < MAX_AUTO_S else "ms" if size < MAX_AUTO_MS else "us" if size < MAX_AUTO_US else "ns"


# 1747476303.123 * 1000 is ...122.9999 in doubles: round to a microsecond first, then floor. Integers are exact.
_TO_MS: dict[TimeUnit, Callable[[Any], int]] = {
    "s": lambda value: value * 1_000 if isinstance(value, int) else round(value * 1e6) // 1_000,
    "ms": lambda value: value if isinstance(value, int) else round(value * 1e3) // 1_000,
    "us": lambda value: math.floor(value) // 1_000,
    "ns": lambda value: math.floor(value) // 1_000_000,
}


def _text_to_ms(text: str, local: tzinfo) -> int:
    if _TEXT.fullmatch(text) is None:
        raise ValueError(f"{_short(text)} is not a time. {_FORMS}")
    try:
        moment = datetime.fromisoformat(text.upper())
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=local)
        time_ms = (moment - _EPOCH) // _MS
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{_short(text)} is not a time: {why_no_time(error)}. {_FORMS}") from None
    if not MIN_TIME_MS <= time_ms <= MAX_TIME_MS:  # an offset can move it out of the year 1 or 9999
        raise ValueError(f"{_short(text)} is outside the years 1 to 9999")
    return time_ms


def _short(value: TimeValue) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"


@cache
def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)
