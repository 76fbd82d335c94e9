"""Page views in two partitions, with everything a log may hold, through four metrics: what is recomputed in tests.

Late for some windows, for all, out of order, filtered, unreadable, floats of every size; see `filled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from api.client import Client
from pipeline.core.definitions import (
    Aggregate,
    AggregateSpec,
    Config,
    Cumulating,
    Field,
    Hopping,
    Stream,
    TimePolicy,
    Transform,
    Tumbling,
)
from tests.kept_lines import filled_once
from tests.line import Line
from tests.servers import RunningServer

BASE_MS = 1_700_000_040_000
FIELDS = (
    Field("ts", "timestamp"),
    Field("page", "string", nullable=True),
    Field("ms", "float", nullable=True),
    Field("n", "int", nullable=True),
    Field("bot", "bool", nullable=True),
    Field("tags", "list", item="string", nullable=True),
    Field("seen", "timestamp", nullable=True),
)
VALUES = (
    AggregateSpec("views", "count"),
    AggregateSpec("sum_ms", "sum", "ms"),
    AggregateSpec("mean_ms", "mean", "ms"),
    AggregateSpec("last_n", "last", "n"),
    AggregateSpec("pages", "distinct", "page"),
    AggregateSpec("p95", "quantile", "ms", 0.95),
    AggregateSpec("first_seen", "min", "seen"),
)
STREAM = Stream("visits", FIELDS, TimePolicy("ts", disorder_ms=2_000), partitions=2)
CONFIG = Config(
    streams={"visits": STREAM},
    stages={
        "people": Transform("people", "visits", filter="NOT COALESCE(bot, FALSE)"),
        "by_page": Aggregate("by_page", "people", Tumbling(10_000), ("page",), VALUES),
        "hops": Aggregate("hops", "people", Hopping(30_000, 10_000), (), VALUES, allowed_lateness_ms=5_000),
        "grown": Aggregate("grown", "visits", Cumulating(60_000, 20_000), ("bot", "page"), VALUES),
        "dated": Aggregate("dated", "visits", Tumbling(60_000), (), (AggregateSpec("n", "count", "n"),)),
    },
)
METRICS = ("by_page", "hops", "grown", "dated")


class LineClient(Client):
    """The client over a line in this process."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def content(self, path: str, query: Mapping[str, str | list[str]] | None = None) -> bytes:
        answer = self._line.http.get(path, query_string=query)
        assert answer.status_code == 200, answer.text
        return bytes(answer.data)

    def get(self, path: str, query: Mapping[str, str | list[str]] | None = None) -> dict[str, Any]:
        answer = self._line.http.get(path, query_string=query)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.get_json()
        return found


def visits(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Events out of order within the bound, some of them late for some windows or all."""
    chance = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        behind_ms = int(chance.integers(0, 1_500) if chance.random() < 0.9 else chance.integers(10_000, 50_000))
        row = {
            "ts": BASE_MS + number * 400 - behind_ms,
            "page": f"/{number % 5}" if number % 11 else None,
            "ms": float(chance.random()) * 10 ** int(chance.integers(-3, 9)) if number % 7 else None,
            "n": int(chance.integers(-(2**62), 2**62)),
            "bot": bool(number % 3 == 0),
            "tags": ["a", "b"][: number % 3] if number % 5 else None,
            "seen": BASE_MS - number,
        }
        rows.append({name: value for name, value in row.items() if value is not None})
    return rows


def filled(server: RunningServer, config: Config = CONFIG) -> Line:
    """A line with chunks, rows, a damaged chunk, a row that does not fit and ticks in two partitions, all committed."""
    if config is CONFIG:
        return filled_once("visits", server, lambda: Line(config, server), _fill)
    line = Line(config, server)
    _fill(line)
    return line


def _fill(line: Line) -> None:
    events = visits(600)
    for number, at in enumerate(range(0, len(events), 50)):
        part = events[at : at + 50]
        line.chunk("visits", part, partition=number % 2, times_ms=[row["ts"] for row in part])
    line.row("visits", {"ts": str(BASE_MS + 200_000), "page": "/row", "ms": "1.5"})
    line.row("visits", {"ts": str(BASE_MS), "n": "not a number"})
    line.entry("visits", {"_k": "chunk", "v": 1, "n": 3, "seq": 0, "crc": 1, "at": 5, "coding": "ndjson", "body": "x"})
    line.entry("visits", {"_k": "control"}, partition=1)
    line.settle()
    for partition in (0, 1):
        line.tick("visits", BASE_MS + 200_000, partition=partition)
    line.settle()
