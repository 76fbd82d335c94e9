"""Time zones by their IANA names: which there are, and the nearest to one that is misspelt.

`localtime` is none of them: it is another zone on every machine, and the same config must cut the same days everywhere.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from zoneinfo import available_timezones

_OF_THE_MACHINE = frozenset(("localtime", "Factory"))


_WRITE = " Write an IANA name such as Europe/Paris, or UTC."


@cache
def zone_names() -> frozenset[str]:
    return frozenset(available_timezones() - _OF_THE_MACHINE)


def check_zone(name: str) -> None:
    """Accept the name of a time zone, spelt as IANA does.

    Raises:
        ValueError: there is no such zone; the message names the nearest, also for a city alone.
    """
    if name not in zone_names():
        raise ValueError(f"unknown time zone {name!r}.{_way_out(name)}")


def _way_out(name: str) -> str:
    if re.fullmatch(r"[A-Z]{3,5}", name):
        return " Abbreviations do not say when summer time is; write an IANA name such as Europe/Berlin, or UTC."
    if re.search(r"[+-]\d", name):
        return _WRITE
    by_name = {zone.lower(): zone for zone in sorted(zone_names())}
    by_city = {zone.rpartition("/")[2].lower(): zone for zone in sorted(zone_names())}
    for zones in (by_name, by_city):
        if near := get_close_matches(name.lower(), zones, n=1, cutoff=0.75):
            return f" Did you mean '{zones[near[0]]}'?"
    return _WRITE
