"""Seeded loads for every kind of window, with what a correct pipeline answers of the arrays they are made of.

The recounts share no code with the pipeline: numpy over the whole load at once, sorted where order decides.

    sensors   1,000 sensors, a log-normal value each event, evenly spread
    pages     100 pages of different popularity, users by Zipf's law over all there are
    visits    every user comes once and has two events, at most 10 s apart
    crowd     every user has one event a minute, for some minutes
    keys      events of any of so many users, all as likely
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.lines import Floats, Ints, Texts, Times, decimals, ndjson, texts

Answer = Mapping[str, Any]  # the values of one row
Close = Callable[[Answer, Answer], bool]  # whether a row (first) is what is expected (second)

EVENTS_PER_MS = 10  # of event time: a pane of ten seconds has 100,000 events
SENSORS = 1_000
PAGES = 100
PAGE_HEAD = 10  # popularity of page k is 1 / (k + PAGE_HEAD): the first has 4 % of all events
PRODUCTS = 977
MINUTE_MS = 60_000
VISIT_MS = 10_000  # between the two events of a user
QUANTILE_ERROR = 0.01  # promised by the configuration page
DISTINCT_ERROR = 5 * 0.0081  # five standard errors: one row in two million is further off


@dataclass(frozen=True, slots=True)
class SensorLoad:
    """Readings in order of event time."""

    times_ms: Ints
    sensors: Ints
    values: Floats

    def bodies(self, batch: int) -> list[bytes]:
        parts = (
            *(b'{"ts":', Times(self.times_ms), b',"sensor":"', named("s", self.sensors)),
            *(b'","value":', decimals(self.values), b',"unit":"C","site":"north"}'),
        )
        return ndjson(parts, len(self.times_ms), batch)

    def counts(self, size_ms: int) -> dict[tuple[int, str], Answer]:
        return _counts(self.times_ms, self.sensors, "s", size_ms)

    def hops(self, size_ms: int, every_ms: int) -> dict[tuple[int, str], Answer]:
        """What every hopping window says of every sensor."""
        found: dict[tuple[int, str], Answer] = {}
        first = int(self.times_ms[0]) // every_ms * every_ms - size_ms + every_ms
        for start in range(first, int(self.times_ms[-1]) + 1, every_ms):
            begin, end = np.searchsorted(self.times_ms, [start, start + size_ms])
            order = begin + np.lexsort((self.values[begin:end], self.sensors[begin:end]))
            sensors, values = self.sensors[order], self.values[order]
            heads = np.flatnonzero(np.diff(sensors, prepend=-1))
            for low, high in zip(heads.tolist(), [*heads[1:].tolist(), len(sensors)], strict=True):
                n = high - low
                place = low + (95 * (n - 1)) // 100
                found[start, name_of("s", int(sensors[low]))] = {
                    "n": n,
                    "mean": math.fsum(values[low:high]) / n,
                    "low": float(values[low]),
                    "high": float(values[high - 1]),
                    "p95": float(values[place]),
                    "p95_from": float(values[max(place - 1, low)]),
                    "p95_to": float(values[min(place + 1, high - 1)]),
                }
        return found


@dataclass(frozen=True, slots=True)
class PageLoad:
    """Page views in order of event time."""

    times_ms: Ints
    pages: Ints
    users: Ints

    def bodies(self, batch: int) -> list[bytes]:
        parts = (
            *(b'{"ts":', Times(self.times_ms), b',"page":"', named("p", self.pages)),
            *(b'","user":"', named("u", self.users), b'","agent":"Mozilla/5.0"}'),
        )
        return ndjson(parts, len(self.times_ms), batch)

    def counts(self, size_ms: int) -> dict[tuple[int, str], Answer]:
        return _counts(self.times_ms, self.pages, "p", size_ms)

    def visitors(self, size_ms: int, k: int) -> dict[tuple[int, str], Answer]:
        """How many users each page had in each window, and the `k` most frequent of them."""
        found: dict[tuple[int, str], Answer] = {}
        windows = self.times_ms // size_ms * size_ms
        for start in np.unique(windows).tolist():
            begin, end = np.searchsorted(self.times_ms, [start, start + size_ms])
            tagged = self.pages[begin:end] * (int(self.users.max()) + 1) + self.users[begin:end]
            pairs, counts = np.unique(tagged, return_counts=True)
            pages, users = np.divmod(pairs, int(self.users.max()) + 1)
            for page in np.unique(pages).tolist():
                low, high = np.searchsorted(pages, [page, page + 1])
                named = zip(users[low:high].tolist(), counts[low:high].tolist(), strict=True)
                best = sorted(((name_of("u", user), n) for user, n in named), key=lambda pair: (-pair[1], pair[0]))
                found[start, name_of("p", page)] = {"users": len(best), "top": [list(pair) for pair in best[:k]]}
        return found


@dataclass(frozen=True, slots=True)
class VisitLoad:
    """Every user some times, in order of event time; `newest_ms` is where the newest window of plain counts begins."""

    times_ms: Ints
    users: Ints
    newest_ms: int

    def bodies(self, batch: int) -> list[bytes]:
        products = [f"/products/{number}" for number in range(PRODUCTS)]
        parts = (
            *(b'{"ts":', Times(self.times_ms), b',"user":"', named("u", self.users)),
            *(b'","page":"', texts(products, self.users % PRODUCTS), b'","agent":"Mozilla/5.0"}'),
        )
        return ndjson(parts, len(self.times_ms), batch)

    def counts(self) -> dict[str, Answer]:
        """The newest count of every user."""
        users, counts = np.unique(self.users[self.times_ms >= self.newest_ms], return_counts=True)
        return {name_of("u", user): {"n": n} for user, n in zip(users.tolist(), counts.tolist(), strict=True)}

    def sessions(self) -> dict[str, Answer]:
        """The one session of every user."""
        order = np.lexsort((self.times_ms, self.users))
        users, times = self.users[order], self.times_ms[order]
        heads = np.flatnonzero(np.diff(users, prepend=-1))
        ends = np.append(heads[1:], len(users))
        columns = (users[heads].tolist(), times[heads].tolist(), times[ends - 1].tolist(), (ends - heads).tolist())
        return {
            name_of("u", user): {"window_start": first, "last": last, "n": n}
            for user, first, last, n in zip(*columns, strict=True)
        }


def sensor_load(n_events: int, start_ms: int, seed: int = 1) -> SensorLoad:
    chance = np.random.default_rng(seed)
    values = np.round(chance.lognormal(3.0, 0.8, n_events), 2)
    return SensorLoad(_times(n_events, start_ms), chance.integers(0, SENSORS, n_events), values)


def page_load(n_events: int, start_ms: int, n_users: int, seed: int = 2) -> PageLoad:
    chance = np.random.default_rng(seed)
    pages = _by_weight(chance, 1 / (np.arange(PAGES) + PAGE_HEAD), n_events)
    users = _by_weight(chance, 1 / np.arange(1, n_users + 1), n_events)
    return PageLoad(_times(n_events, start_ms), pages, users)


def visit_load(n_users: int, start_ms: int, seed: int = 3) -> VisitLoad:
    chance = np.random.default_rng(seed)
    users = chance.permutation(n_users)
    begins = start_ms + 2 * np.arange(n_users) // EVENTS_PER_MS
    times = np.concatenate([begins, begins + chance.integers(1, VISIT_MS, n_users)])
    order = np.argsort(times, kind="stable")
    return VisitLoad(times[order], np.concatenate([users, users])[order], start_ms)


def crowd_load(n_users: int, minutes: int, start_ms: int, seed: int = 5) -> VisitLoad:
    """One event of every user in each of the minutes, in another order each time."""
    chance = np.random.default_rng(seed)
    users = np.concatenate([chance.permutation(n_users) for _ in range(minutes)])
    times = start_ms + np.arange(len(users)) * MINUTE_MS // n_users
    return VisitLoad(times, users, start_ms + (minutes - 1) * MINUTE_MS)


def key_load(n_events: int, n_users: int, start_ms: int, seed: int = 6) -> VisitLoad:
    users = np.random.default_rng(seed).integers(0, n_users, n_events)
    return VisitLoad(_times(n_events, start_ms), users, start_ms)


def _times(n_events: int, start_ms: int) -> Ints:
    times: Ints = start_ms + np.arange(n_events) // EVENTS_PER_MS
    return times


def _by_weight(chance: np.random.Generator, weights: Floats, n: int) -> Ints:
    cumulated = np.cumsum(weights)
    found: Ints = np.searchsorted(cumulated, chance.random(n) * cumulated[-1], side="right").astype(np.int64)
    return found


def name_of(kind: str, number: int) -> str:
    return f"{kind}{number:06d}"


def named(kind: str, numbers: Ints) -> Texts:
    """The names of a column of numbers."""
    return texts([name_of(kind, number) for number in range(int(numbers.max()) + 1)], numbers)


def _counts(times_ms: Ints, groups: Ints, kind: str, size_ms: int) -> dict[tuple[int, str], Answer]:
    width = int(groups.max()) + 1
    tagged, counts = np.unique(times_ms // size_ms * width + groups, return_counts=True)
    windows, numbers = np.divmod(tagged, width)
    return {
        (window * size_ms, name_of(kind, number)): {"n": n}
        for window, number, n in zip(windows.tolist(), numbers.tolist(), counts.tolist(), strict=True)
    }


def same(row: Answer, expected: Answer) -> bool:
    """Whether a row says exactly what is expected."""
    return all(row[name] == value for name, value in expected.items())


def same_readings(row: Answer, expected: Answer) -> bool:
    """Counts and extremes exactly, the mean up to rounding, the quantile within its promised error."""
    return (
        same(row, {name: expected[name] for name in ("n", "low", "high")})
        and math.isclose(row["mean"], expected["mean"], rel_tol=1e-9)
        and math.isclose(row["p95"], expected["p95"], rel_tol=QUANTILE_ERROR)
    )


def same_readings_by_rank(row: Answer, expected: Answer) -> bool:
    """As above, for those who mean another rank by a quantile, or go between two: one rank more or less will do."""
    exact = {"n": expected["n"], "low": expected["low"], "high": expected["high"]}
    least, most = expected["p95_from"] * (1 - QUANTILE_ERROR), expected["p95_to"] * (1 + QUANTILE_ERROR)
    return (
        same(row, exact)
        and math.isclose(row["mean"], expected["mean"], rel_tol=1e-9)
        and bool(least <= row["p95"] <= most)
    )


def same_users(row: Answer, expected: Answer) -> bool:
    """The number of different users within five standard errors."""
    error = abs(int(row["users"]) - int(expected["users"]))
    return bool(error <= max(2, DISTINCT_ERROR * expected["users"]))


def same_visitors(row: Answer, expected: Answer) -> bool:
    """The most frequent users exactly, their number as well as it can be."""
    return bool(row["top"] == expected["top"]) and same_users(row, expected)


def n_correct(found: Mapping[Any, Answer], expected: Mapping[Any, Answer], close: Close) -> int:
    """How many expected rows are there and right; each row too many takes one off."""
    right = sum(key in found and close(found[key], answer) for key, answer in expected.items())
    return right - len(found.keys() - expected.keys())
