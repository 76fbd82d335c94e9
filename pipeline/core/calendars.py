"""Where local days, weeks and months begin: instants in epoch milliseconds, by the IANA time zone database.

A day begins at the first instant whose local date is that day or a later one: where a clock change skips midnight
(Beirut, Santiago) the day begins at 01:00, and a date that was skipped altogether (Samoa, 30 December 2011) has no day.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from pipeline.core.definitions import CalendarUnit

Int64 = npt.NDArray[np.int64]
DAY_S = 86_400
EARLIEST, LATEST = 2, 9998  # years that datetime can hold, with room for a zone's offset
_DAYS = (-720_000, 2_933_000)  # numbers of the days around them
BEGINNING_MS, END_MS = -(2**62), 2**62  # where the first window begins and the last one ends


@cache
def boundaries(unit: CalendarUnit, zone: str) -> Boundaries:
    """The boundaries of a unit in a zone; made once, since they remember what they computed."""
    return Boundaries(unit, zone)


@dataclass(eq=False)
class Boundaries:
    """Sorted window boundaries, computed for the years that were asked about and remembered."""

    unit: CalendarUnit
    zone: str
    _known: Int64 = field(default_factory=lambda: np.array([BEGINNING_MS, END_MS]))
    _years: set[int] = field(default_factory=set)

    def at_or_before(self, times_ms: Int64) -> Int64:
        """The last boundary at or before each time."""
        known = self._covering(times_ms)
        return known[np.searchsorted(known, times_ms, side="right") - 1]

    def after(self, times_ms: Int64) -> Int64:
        """The first boundary after each time."""
        known = self._covering(times_ms)
        return known[np.searchsorted(known, times_ms, side="right")]

    def _covering(self, times_ms: Int64) -> Int64:
        """The boundaries of the years of these times and of the years next to them."""
        days = np.clip(times_ms // (DAY_S * 1_000), *_DAYS)
        years = np.unique(days.astype("M8[D]").astype("M8[Y]").astype(np.int64)) + 1970
        wanted = {year + near for year in years.tolist() for near in (-1, 0, 1)} - self._years
        if wanted:
            zone = ZoneInfo(self.zone)
            found = {first_instant_ms(day, zone) for year in wanted for day in self._days(year)}
            self._known = np.union1d(self._known, np.array(sorted(found), dtype=np.int64))
            self._years |= wanted
        return self._known

    def _days(self, year: int) -> list[date]:
        """The local dates of a year at which a window begins."""
        if not EARLIEST <= year <= LATEST:
            return []
        first, last = date(year, 1, 1), date(year, 12, 31)
        match self.unit:
            case "day":
                return [first + timedelta(days=n) for n in range((last - first).days + 1)]
            case "week":
                monday = first + timedelta(days=-first.weekday() % 7)
                return [monday + timedelta(weeks=n) for n in range((last - monday).days // 7 + 1)]
            case "month":
                return [date(year, month, 1) for month in range(1, 13)]


def first_instant_ms(day: date, zone: ZoneInfo) -> int:
    """The first instant whose local date is `day` or later."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=zone)
    instant = round(midnight.timestamp())  # of a skipped midnight: read with the offset before the change
    before = datetime.fromtimestamp(instant - 1, UTC).astimezone(zone).date()
    if before < day:
        return instant * 1_000
    # a gap that began before midnight: the clock jumped from the day before into this one
    early, late = instant - DAY_S, instant
    while late - early > 1:
        middle = (early + late) // 2
        is_there = datetime.fromtimestamp(middle, UTC).astimezone(zone).date() >= day
        early, late = (early, middle) if is_there else (middle, late)
    return late * 1_000
