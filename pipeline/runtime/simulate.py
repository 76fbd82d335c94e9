"""Made-up sensors and visitors that behave like real ones: daily cycles, late events, duplicates, bots.

Invariant: what is made is a function of (stream, seed, start, rate) alone; nothing here reads a clock or sends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from pipeline.core.definitions import DAY_MS

LATE_SHARE = 0.02  # held back for seconds, within the default disorder bound of 5 s
VERY_LATE_SHARE = 0.002  # held back for longer than that: these end in the late stream
DUPLICATE_SHARE = 0.005  # sent twice, as a client does that missed the answer
USUAL_DELAY_MS = (5, 400)
LATE_DELAY_MS = (500, 4_500)
VERY_LATE_DELAY_MS = (30_000, 120_000)
BOT_SHARE = 0.12

MACHINES = tuple(f"m{number:02}" for number in range(1, 9))
SITES = ("north", "south")
SECTIONS = {"blog": 40, "pricing": 15, "docs": 30, "about": 5, "": 10}
REFERRERS = {"": 50, "https://search.example/": 30, "https://news.example/": 12, "https://friends.example/": 8}
BROWSERS = (
    "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0",
    "Mozilla/5.0 (Macintosh) AppleWebKit/605 Safari/605",
    "Mozilla/5.0 (Windows NT 10.0) AppleWebKit/537 Chrome/140.0",
)
BOTS = ("Mozilla/5.0 (compatible; ExampleBot/2.1)", "sitemap-bot/1.0")
VISITORS = 400

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Simulated:
    """One event and when it reaches the door; `row["ts"]`, when it happened, is earlier."""

    at_ms: int
    row: Row


def simulate_stream(stream: str, seed: int, start_ms: int, rate: float) -> Iterator[Simulated]:
    """Yield the events of one stream for ever, in the order they are sent, `rate` a second.

    Raises:
        KeyError: there is no such simulation.
    """
    random, make = Random(f"{stream}/{seed}"), SIMULATIONS[stream]
    sent, row = 0, None
    while True:
        at_ms = start_ms + int(sent * 1000 / rate)
        if row is None or random.random() >= DUPLICATE_SHARE:
            row = make(random, at_ms - _delay_ms(random))
        yield Simulated(at_ms, row)
        sent += 1


def _delay_ms(random: Random) -> int:
    draw = random.random()
    if draw < VERY_LATE_SHARE:
        return random.randint(*VERY_LATE_DELAY_MS)
    if draw < VERY_LATE_SHARE + LATE_SHARE:
        return random.randint(*LATE_DELAY_MS)
    return random.randint(*USUAL_DELAY_MS)


def _sensor_reading(random: Random, ts: int) -> Row:
    number = random.randrange(len(MACHINES))
    day = math.sin(2 * math.pi * (ts % DAY_MS) / DAY_MS + number / 3)  # each machine has its own noon
    return {
        "ts": ts,
        "sensor": MACHINES[number],
        "site": SITES[number % len(SITES)],
        "temperature": round(55 + 3 * number + 8 * day + random.gauss(0, 0.6), 2),
        "humidity": round(min(100.0, max(0.0, 45 - 12 * day + random.gauss(0, 1.5))), 2),
    }


def _page_view(random: Random, ts: int) -> Row:
    visitor = min(int(random.paretovariate(0.8)), VISITORS)  # few come often, many come once
    bot = random.random() < BOT_SHARE
    section = random.choices(list(SECTIONS), list(SECTIONS.values()))[0]
    article = f"/{random.randint(1, 20)}" if section in ("blog", "docs") else ""
    return {
        "ts": ts,
        "user": f"bot{visitor % 5}" if bot else f"u{visitor:03}",
        "page": f"/{section}{article}",
        "agent": random.choice(BOTS if bot else BROWSERS),
        "referrer": random.choices(list(REFERRERS), list(REFERRERS.values()))[0] or None,
        "load_ms": round(random.lognormvariate(5.3, 0.5), 1),
    }


SIMULATIONS: Mapping[str, Callable[[Random, int], Row]] = {"sensors": _sensor_reading, "pageviews": _page_view}
