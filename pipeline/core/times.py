"""Durations and instants as people write them, turned into integer milliseconds at the edge and back.

Inside there is one unit, the millisecond; nothing here reads a clock: `now_ms` is an argument.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from pipeline.core.definitions import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

UNITS_MS = {"w": 7 * DAY_MS, "d": DAY_MS, "h": HOUR_MS, "m": MINUTE_MS, "s": SECOND_MS, "ms": 1}
_SPOKEN_MS = {"days": DAY_MS, "hours": HOUR_MS, "minutes": MINUTE_MS, "seconds": SECOND_MS}
MIN_SPOKEN_COUNT = 10  # of a unit: what is cut off below it is less than a tenth
MAX_DURATION_MS = 100 * 366 * DAY_MS  # a century: longer is a typo, and int64 arithmetic stays safe

# Magnitudes that tell the unit of an epoch number: seconds reach 1e11 in the year 5138, milliseconds are below it only
# before March 1973, and so on by thousands.
_EPOCH_LIMITS = ((10**11, SECOND_MS, 1), (10**14, 1, 1), (10**17, 1, 1_000), (10**20, 1, 1_000_000))

_DURATION = re.compile(r"([0-9]{1,15})(ms|[wdhms])")
_RELATIVE = re.compile(r"(?:now)?([+-])(.+)")
_EPOCH = re.compile(r"-?\d{1,20}(\.\d{1,9})?", re.ASCII)
_RFC3339 = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)"
    r"(?:[Tt ](?P<clock>\d\d:\d\d(?::\d\d)?)(?:\.(?P<fraction>\d{1,9}))?)?"
    r"(?P<offset>[Zz]|[+-]\d\d:\d\d)?",
    re.ASCII,
)
_EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)


def parse_duration_ms(text: str) -> int:
    """Return the milliseconds of `250ms`, `10s`, `5m`, `24h`, `7d`, `4w` or a sum of them such as `1h30m`.

    Raises:
        ValueError: the text is not a duration, or longer than a century.
    """
    parts = list(_DURATION.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        raise ValueError(f"{text!r} is not a duration. Write whole numbers with units: 250ms, 10s, 5m, 24h, 7d, 1h30m.")
    units = [UNITS_MS[part[2]] for part in parts]
    if any(later >= earlier for earlier, later in pairwise(units)):
        raise ValueError(f"{text!r} has its units out of order. Write larger units first and each once, such as 1h30m.")
    total = sum(int(part[1]) * unit for part, unit in zip(parts, units, strict=True))
    if total > MAX_DURATION_MS:
        raise ValueError(f"{text!r} is longer than a century.")
    return total


def format_duration(duration_ms: int) -> str:
    """Return the shortest text that `parse_duration_ms` reads back exactly; a negative one has its sign in front."""
    if duration_ms == 0:
        return "0s"
    sign, size = ("-", -duration_ms) if duration_ms < 0 else ("", duration_ms)
    single = next((f"{size // unit}{name}" for name, unit in UNITS_MS.items() if size % unit == 0), "")
    combined = by_units(size)
    return sign + (single if len(single) <= len(combined) else combined)


def by_units(duration_ms: int) -> str:
    """Return a duration of at least 0, larger units first: `2d7h33m20s`; `parse_duration_ms` reads it back exactly."""
    parts = []
    rest = duration_ms
    for name, unit in UNITS_MS.items():
        count, rest = divmod(rest, unit)
        if count:
            parts.append(f"{count}{name}")
    return "".join(parts) or "0s"


def about_duration(duration_ms: int) -> str:
    """Return a duration of at least 0 for people: `over 20780 days`, `90 seconds`; it is never rounded up."""
    for name, unit in _SPOKEN_MS.items():
        count, rest = divmod(duration_ms, unit)
        if count >= MIN_SPOKEN_COUNT:
            return f"over {count} {name}" if rest else f"{count} {name}"
    return f"{duration_ms} ms"


def parse_time_ms(text: str, now_ms: int) -> int:
    """Return the epoch milliseconds of a time as a query gives it.

    Takes RFC 3339 (without an offset: UTC; a date alone: its midnight), epoch seconds, milliseconds, microseconds or
    nanoseconds (by magnitude), `now`, `now-15m` and `-15m`. Parts of a millisecond are floored.

    Raises:
        ValueError: the text is none of these.
    """
    stripped = text.strip()
    if stripped == "now":
        return now_ms
    if _EPOCH.fullmatch(stripped):
        return epoch_to_ms(stripped)
    if (match := _RFC3339.fullmatch(stripped)) is not None:
        return _rfc3339_to_ms(match)
    if (match := _RELATIVE.fullmatch(stripped)) is not None:
        shift = parse_duration_ms(match[2])
        return now_ms - shift if match[1] == "-" else now_ms + shift
    raise ValueError(
        f"{text!r} is not a time. Write RFC 3339 such as 2026-05-17T10:05:03Z, an epoch number, now, now-15m or -15m."
    )


def epoch_to_ms(text: str) -> int:
    """Return the milliseconds of an epoch number whose unit (s, ms, us, ns) is told by its magnitude, exactly."""
    whole, _, fraction = text.partition(".")
    negative = whole.startswith("-")
    digits = int(whole.lstrip("-"))
    for limit, factor, divisor in _EPOCH_LIMITS:
        if digits < limit:
            scaled = digits * 10**9 + int(fraction.ljust(9, "0") or 0)  # billionths of the unit, so that 1.5 s is exact
            return (-scaled if negative else scaled) * factor // (divisor * 10**9)
    raise ValueError(f"{text} is too large for an epoch time, even in nanoseconds.")


def why_no_time(error: Exception) -> str:
    """What Python says of a time it cannot read, in a sender's words: of an offset it speaks of its timedelta."""
    return "its offset must be less than 24 hours" if "timedelta" in str(error) else str(error)


def _rfc3339_to_ms(match: re.Match[str]) -> int:
    offset = match["offset"] or "Z"
    zone = "+00:00" if offset in "Zz" else offset
    try:
        moment = datetime.fromisoformat(f"{match['day']}T{match['clock'] or '00:00'}{zone}")
    except ValueError as error:
        raise ValueError(f"{match[0]!r} is not a time: {why_no_time(error)}.") from error
    fraction_ms = int((match["fraction"] or "").ljust(3, "0")[:3])
    return (moment - _EPOCH_START) // timedelta(milliseconds=1) + fraction_ms
