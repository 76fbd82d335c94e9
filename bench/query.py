"""How long the reading side takes, idle and while 100,000 events come each second, beside InfluxDB on the same events.

    python -m bench.query                      ours and, where influxd is found, InfluxDB 1.x (GROUP BY time())
    python -m bench.query --short              a tenth of the data and of the requests, to see that it works

Both are asked over one kept-alive connection for whole answers, which are read and not parsed. No figure counts that is
not CORRECT: each answer's rows and events are recounted from the events themselves.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from bench.peers.influxdb import BINARY, DATABASE, query, server, write
from bench.product import Product, product
from bench.sending import NDJSON, Post, Sender, SendingError

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
BATCH = 5_000
INGEST_PER_S = 100_000
INGEST_BATCH = 1_000
CONFIG = """
streams:
  readings: {schema: {ts: timestamp, sensor: string, v: float}, time: {field: ts, disorder: 10s, max_age: none}}
  minutes: {schema: {ts: timestamp, sensor: string, v: float}, time: {field: ts, disorder: 10s, max_age: none}}
  visits: {schema: {ts: timestamp, user: string, v: float}, time: {field: ts, disorder: 10s, max_age: none}}
  noise: {schema: {ts: timestamp, sensor: string, v: float}, time: {field: ts, disorder: 10s}}
stages:
  hour: {from: readings, window: {tumbling: 10s}, group_by: [sensor], aggregates: {n: count, mean: mean(v)}}
  day: {from: minutes, window: {tumbling: 1m}, group_by: [sensor], aggregates: {n: count, mean: mean(v)}, output: none}
  users: {from: visits, window: {tumbling: 1h}, group_by: [user], aggregates: {n: count}, output: none}
  load: {from: noise, window: {tumbling: 10s}, group_by: [sensor], aggregates: {n: count, mean: mean(v)}, output: none}
"""

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Events:
    """The events of one stream, in order of time: each has a time, a group and a value."""

    stream: str
    tag: str
    times_ms: Int64
    groups: Int64

    def frame(self) -> pl.DataFrame:
        values = (np.arange(len(self.times_ms)) * 7_919 % 1_000) / 8  # eighths: sums are exact, whatever their order
        return pl.DataFrame({"ts": self.times_ms, "group": self.groups, "v": values}).with_row_index("number")

    def bodies(self) -> list[bytes]:
        head, middle = pl.lit('{"ts":'), pl.lit(f',"{self.tag}":"g')
        line = pl.concat_str(head, "ts", middle, "group", pl.lit('","v":'), "v", pl.lit("}"))
        return _joined(self.frame().select(line.alias("line"))["line"])

    def points(self) -> list[bytes]:
        nanoseconds = pl.col("ts") * 1_000_000 + pl.col("number") % 1_000_000
        line = pl.concat_str(
            pl.lit(f"{self.stream},{self.tag}=g"), "group", pl.lit(" v="), "v", pl.lit(" "), nanoseconds
        )
        return _joined(self.frame().select(line.alias("line"))["line"])


def _joined(lines: pl.Series) -> list[bytes]:
    return ["\n".join(lines.slice(at, BATCH).to_list()).encode() for at in range(0, len(lines), BATCH)]


@dataclass(frozen=True, slots=True)
class Load:
    """All events, and where the hour and the day of them begin."""

    readings: Events
    minutes: Events
    visits: Events
    hour_ms: int
    day_ms: int

    @property
    def streams(self) -> tuple[Events, Events, Events]:
        return (self.readings, self.minutes, self.visits)


def made(share: float) -> Load:
    """An hour of a reading a second of 100 sensors, a day of one a minute of 1,000, an hour of 100,000 users."""
    draw = np.random.default_rng(1)
    hour_ms = (int(time.time() * 1_000) // HOUR - 2) * HOUR
    day_ms = hour_ms - 23 * HOUR
    n_seconds, n_minutes, n_users = (max(1, int(n * share)) for n in (3_600, 1_440, 100_000))
    seconds = np.repeat(np.arange(n_seconds) * SECOND + hour_ms, 100)
    minutes = np.repeat(np.arange(n_minutes) * MINUTE + day_ms, 1_000)
    users = np.concatenate([np.arange(n_users), (draw.pareto(1.0, n_users) * 3).astype(np.int64) % n_users])
    return Load(
        Events("readings", "sensor", seconds, np.tile(np.arange(100), n_seconds)),
        Events("minutes", "sensor", minutes, np.tile(np.arange(1_000), n_minutes)),
        Events("visits", "user", np.sort(draw.integers(hour_ms, hour_ms + HOUR, len(users))), draw.permutation(users)),
        hour_ms,
        day_ms,
    )


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of both: our path (page by page), InfluxDB's query, and how many rows and events there are."""

    name: str
    path: str
    influx: str
    rows: int
    events: int | None
    requests: int = 40


def questions(load: Load, share: float) -> list[Question]:
    hour, day = (f"start={ms}&end={ms + span}" for ms, span in ((load.hour_ms, HOUR), (load.day_ms, 24 * HOUR)))
    both = "count(v), mean(v)"
    span = f"time >= {load.hour_ms}ms AND time < {load.hour_ms + HOUR}ms"
    days = f"time >= {load.day_ms}ms AND time < {load.day_ms + 24 * HOUR}ms"
    last_ms = int(load.readings.times_ms[-1]) // (10 * SECOND) * 10 * SECOND
    n_windows = len(np.unique(load.readings.times_ms // (10 * SECOND)))
    n_readings, n_minutes = len(load.readings.times_ms), len(load.minutes.times_ms)
    grouped = f"SELECT {both} FROM readings WHERE {span} GROUP BY time(10s), sensor fill(none)"
    top = np.sort(np.bincount(load.visits.groups))[::-1][:10]
    rolling = f"time >= {last_ms - 290_000}ms AND time < {last_ms + 10_000}ms"
    in_rolling = int(np.sum(load.readings.times_ms >= last_ms - 290_000))
    in_last = int(np.sum(load.readings.times_ms >= last_ms))
    return [
        Question(
            "1 h at 10 s x 100 groups, columns",
            f"hour?{hour}&limit=100000&format=columns",
            grouped,
            n_windows * 100,
            n_readings,
        ),
        Question("1 h at 10 s x 100 groups, rows", f"hour?{hour}&limit=100000", grouped, n_windows * 100, n_readings),
        Question(
            "24 h at 1 m x 1,000 groups, all rows in pages",
            f"day?{day}&limit=100000&format=columns",
            f"SELECT {both} FROM minutes WHERE {days} GROUP BY time(1m), sensor fill(none)",
            n_minutes,
            n_minutes,
            3,
        ),
        Question(
            "24 h at 1 m, 1,000 groups merged",
            f"day?{day}&limit=100000&format=columns&group_by=",
            f"SELECT {both} FROM minutes WHERE {days} GROUP BY time(1m) fill(none)",
            len(np.unique(load.minutes.times_ms)),
            n_minutes,
            5,
        ),
        Question(
            "24 h at 1 h x 1,000 groups",
            f"day?{day}&limit=100000&format=columns&step=1h",
            f"SELECT {both} FROM minutes WHERE {days} GROUP BY time(1h), sensor fill(none)",
            len(np.unique(load.minutes.times_ms // HOUR)) * 1_000,
            n_minutes,
            5,
        ),
        Question(
            f"top 10 of {len(np.unique(load.visits.groups)):,} groups",
            "users?order=-n&limit=10",
            f'SELECT top(n, "user", 10) FROM (SELECT count(v) AS n FROM visits WHERE {span} GROUP BY "user")',
            10,
            int(top.sum()),
            10,
        ),
        Question(
            "latest",
            "hour/latest",
            f"SELECT {both} FROM readings WHERE time >= {last_ms}ms AND time < {last_ms + 10_000}ms GROUP BY sensor",
            100,
            in_last,
            100,
        ),
        Question(
            "rolling 5m",
            f"hour/rolling?window=5m&at={last_ms + 10_000}",
            f"SELECT {both} FROM readings WHERE {rolling} GROUP BY sensor",
            100,
            in_rolling,
            100,
        ),
    ]


@dataclass(frozen=True, slots=True)
class Figure:
    """Milliseconds of each whole answer, in order of size."""

    ms: Sequence[float]

    def quantile(self, q: float) -> float:
        return self.ms[min(len(self.ms) - 1, int(len(self.ms) * q))]

    def __str__(self) -> str:
        return f"{self.quantile(0.5):8.1f} {self.quantile(0.99):8.1f}"


def timed(question: Question, ask: Callable[[], tuple[int, int]]) -> Figure:
    """Ask once to see that the answer is right, then as often as the question says."""
    rows, events = ask()
    if rows != question.rows or (question.events is not None and events != question.events):
        raise SystemExit(
            f"WRONG: {question.name}: {rows} rows of {events} events, not {question.rows} of {question.events}"
        )
    found = []
    for _ in range(question.requests):
        start = time.perf_counter()
        ask()
        found.append((time.perf_counter() - start) * 1_000)
    return Figure(sorted(found))


class Reader:
    """One kept-alive connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)

    def get(self, path: str) -> bytes:
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        body = response.read()
        if response.status != 200:
            raise SystemExit(f"{path}: {response.status} {body[:300]!r}")
        return body


def ours(reader: Reader, question: Question, *, check: bool) -> tuple[int, int]:
    """Read every page of an answer; its rows and events are counted where they are to be checked."""
    rows = events = 0
    cursor = ""
    while True:
        body = reader.get(f"/v1/metrics/{question.path}{cursor}")
        page = None if not check else json.loads(body)
        if page is not None:
            data = page["data"]
            counts = data["n"] if isinstance(data, dict) else [row["n"] for row in data]
            rows, events = rows + len(counts), events + sum(counts)
        following = _next(body)
        if following is None or "order=" in question.path:  # of the first ten no more are asked for
            return rows, events
        cursor = f"&cursor={following}"


def _next(body: bytes) -> str | None:
    """`next` is the last member of an answer: it is found without parsing the rest."""
    tail = body[body.rindex(b'"next":') + 7 : -1]
    return None if tail == b"null" else json.loads(tail)


def influx(reader: Reader, question: Question, *, check: bool) -> tuple[int, int]:
    asked = urllib.parse.urlencode({"q": question.influx, "db": DATABASE, "epoch": "ms"})
    body = reader.get(f"/query?{asked}")
    if not check:
        return 0, 0
    series = json.loads(body)["results"][0].get("series", [])
    values = [value for each in series for value in each["values"]]
    return len(values), sum(value[1] for value in values)


class Ask(Protocol):
    """Ask a question once: how many rows and events the answer has, where that is to be checked."""

    def __call__(self, reader: Reader, question: Question, *, check: bool) -> tuple[int, int]: ...


def measured(title: str, reader: Reader, asking: list[Question], ask: Ask) -> None:
    """Ask every question, and print each figure as it is there."""
    print(f"{title:50} {'p50 ms':>8} {'p99 ms':>8}", flush=True)
    for question in asking:
        first = [True]

        def once(question: Question = question, first: list[bool] = first) -> tuple[int, int]:
            return ask(reader, question, check=first.pop() if first else False)

        print(f"  {question.name:48} {timed(question, once)}", flush=True)


@contextmanager
def under_ingest(port: int, seconds: float) -> Iterator[None]:
    """While events come: each batch when it is due, as many as 100,000 events a second."""
    start_ms = int(time.time() * 1_000)
    n_batches = int(seconds * INGEST_PER_S / INGEST_BATCH)
    times = start_ms + np.arange(n_batches * INGEST_BATCH) * 1_000 // INGEST_PER_S
    noise = Events("noise", "sensor", times, np.arange(len(times)) % 1_000)
    lines = b"\n".join(noise.bodies()).split(b"\n")
    bodies = [b"\n".join(lines[at : at + INGEST_BATCH]) for at in range(0, len(lines), INGEST_BATCH)]
    due_s = [number * INGEST_BATCH / INGEST_PER_S for number in range(n_batches)]
    sender = Sender(port, Post("/v1/streams/noise/events", bodies, NDJSON, 3, due_s=due_s))
    try:
        yield
    finally:
        try:
            sent = sender.join()
            took_s = max(sent.answered_s) - sent.began_s
            print(f"  ingest: {len(times):,} events, answered in {took_s:.1f} s", flush=True)
        except SendingError as error:
            print(f"  ingest: {error}", flush=True)


def fill(running: Product, load: Load) -> None:
    for events in load.streams:
        Sender(
            running.port, Post(f"/v1/streams/{events.stream}/events?backfill=false", events.bodies(), NDJSON, 1)
        ).join()
        running.end_time(events.stream)
    for metric, events, size_ms in (
        ("hour", load.readings, 10 * SECOND),
        ("day", load.minutes, MINUTE),
        ("users", load.visits, HOUR),
    ):
        running.wait_until_complete(metric, int(events.times_ms[-1]) // size_ms * size_ms + size_ms)


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__)
    given.add_argument("--short", action="store_true", help="a tenth of the data, and fewer requests")
    given.add_argument("--ingest-s", type=float, default=60.0, help="how long events come while it is asked")
    share = 0.1 if given.parse_args().short else 1.0
    ingest_s = given.parse_args().ingest_s
    load = made(share)
    asking = questions(load, share)
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-config-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(CONFIG)
        with product(config, 1) as running:
            fill(running, load)
            reader = Reader(running.port)
            measured("ours, idle", reader, asking, ours)
            with under_ingest(running.port, ingest_s):
                measured("ours, under ingest", reader, asking, ours)
    if os.environ.get(BINARY) or shutil.which("influxd"):
        with server() as port:
            for events in load.streams:
                write(port, events.points())
            query(port, "SHOW DATABASES")
            measured("InfluxDB, idle", Reader(port), asking, influx)


if __name__ == "__main__":
    main()
