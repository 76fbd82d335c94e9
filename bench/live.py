"""What live readers cost ingest: the Yahoo benchmark with 100 of them and without any, in turns, in one product.

    python bench/live.py [--quick] [--readers 100] [--events 1000000] [--rounds 3] [--json FILE]

The clock runs from the first POST until every window is published, and with readers until each of them has every row of
every window. Readers are one process that only reads and keeps what comes, on the same cores: part of the cost.
No figure without its recount: the windows, and what every single reader was told, against numpy over the same events.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench.cases import METRIC, YAHOO
from bench.end_to_end import started
from bench.product import DRAIN_TIMEOUT_S, Product
from bench.sending import NDJSON, Post, Sender, lead_of
from bench.yahoo_load import TABLE, WINDOW_MS, YahooLoad, ads_table, yahoo_load, yahoo_names

MOST_COST = 0.20  # of the events a second: what issue 5 allows 100 readers
BATCH = 10_000
CONNECTIONS = 3
EVENTS_PER_MS = 10  # of event time: a million events are ten windows of 100 campaigns
START_MS = 1_760_000_000_000
ROW = b'"window_start"'
READ_BYTES = 1 << 18

Counts = Mapping[tuple[int, str], int]


@dataclass(frozen=True, slots=True)
class Round:
    """One round: how many events, how long, with how many readers, and the CPU of the API and of everything."""

    readers: int
    n_events: int
    seconds: float
    api_cpu_s: float
    all_cpu_s: float  # the pipeline, the load generator and the readers: what full cores are shared by

    @property
    def events_per_s(self) -> float:
        return self.n_events / self.seconds

    @property
    def all_us(self) -> float:
        return self.all_cpu_s / self.n_events * 1e6


@dataclass(slots=True)
class _Reader:
    """One connection and all it was sent."""

    connection: socket.socket
    parts: list[bytes] = field(default_factory=list)
    rows: int = 0
    tail: bytes = b""

    def take(self) -> None:
        data = self.connection.recv(READ_BYTES)
        if not data:
            raise SystemExit("a live stream ended in the middle of a round")
        self.parts.append(data)
        seen = self.tail + data
        self.rows += seen.count(ROW)
        self.tail = seen[-(len(ROW) - 1) :]


def _read(port: int, readers: int, pipe: Connection) -> None:
    """Be all readers: say when all have a snapshot, then wait for rounds; answer with what each was told."""
    selector = selectors.DefaultSelector()
    connected = []
    for _ in range(readers):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(f"GET /v1/metrics/{METRIC}/live HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        connected.append(_Reader(connection))
        selector.register(connection, selectors.EVENT_READ, connected[-1])
    while not all(b"event: snapshot" in b"".join(reader.parts) for reader in connected):
        _take(selector)
    for reader in connected:
        reader.parts, reader.rows = [], 0
    pipe.send(None)
    expected = pipe.recv()
    began_cpu_s = time.process_time()
    deadline = time.monotonic() + DRAIN_TIMEOUT_S
    while any(reader.rows < expected for reader in connected):
        _take(selector)
        if time.monotonic() > deadline:
            raise SystemExit(f"readers have {sorted(reader.rows for reader in connected)[:3]} … of {expected} rows")
    pipe.send((time.monotonic(), time.process_time() - began_cpu_s))
    pipe.send([told(b"".join(reader.parts)) for reader in connected])


def _take(selector: selectors.BaseSelector) -> None:
    for key, _ in selector.select(timeout=1.0):
        key.data.take()


def told(stream: bytes) -> dict[tuple[int, str], int]:
    """The views of each window and campaign, as the events of a chunked answer say."""
    body = b"".join(_unchunked(stream))
    found: dict[tuple[int, str], int] = {}
    for line in body.split(b"\n"):
        if line.startswith(b"data: "):
            for row in json.loads(line.removeprefix(b"data: "))["data"]:
                found[row["window_start"], row["campaign_id"]] = row["views"]
    return found


def _unchunked(stream: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(stream):
        end = stream.index(b"\r\n", at)
        size = int(stream[at:end], 16)
        yield stream[end + 2 : end + 2 + size]
        at = end + 2 + size + 2


@contextmanager
def reading(port: int, readers: int) -> Iterator[Connection | None]:
    """So many live readers, each with its snapshot, for as long as the block runs."""
    if readers == 0:
        yield None
        return
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_read, args=(port, readers, theirs), daemon=True)
    process.start()
    theirs.close()
    ours.recv()
    try:
        yield ours
    finally:
        process.join(5)
        process.terminate()


def run_round(running: Product, load: YahooLoad, readers: int) -> Round:
    """Send a load, with readers or without, until every window is published and told."""
    expected = {key: row["views"] for key, row in load.counts().items()}
    end_ms = max(start for start, _ in expected) + WINDOW_MS
    bodies = load.bodies(BATCH)
    with reading(running.port, readers) as pipe:
        before = running.cpu_s()
        if pipe is not None:
            pipe.send(len(expected))
        post = Post("/v1/streams/ads/events", bodies, NDJSON, CONNECTIONS, lead_of(BATCH, EVENTS_PER_MS))
        sent = Sender(running.port, post).join()
        running.end_time("ads")
        running.wait_until_complete(METRIC, end_ms)
        done_s, readers_cpu_s = time.monotonic(), 0.0
        if pipe is not None:
            told_s, readers_cpu_s = pipe.recv()
            done_s = max(done_s, told_s)
        used = {role: seconds - before.get(role, 0.0) for role, seconds in running.cpu_s().items()}
        if pipe is not None:
            require_told(expected, pipe.recv())
    require_stored(running, expected)
    all_cpu_s = sum(used.values()) + sent.cpu_s + readers_cpu_s
    return Round(readers, len(load.times_ms), done_s - sent.began_s, used["api"], all_cpu_s)


def require_told(expected: Counts, told_by_reader: Sequence[Counts]) -> None:
    """Raise SystemExit unless every reader was told every row."""
    wrong = sum(found != expected for found in told_by_reader)
    if wrong:
        raise SystemExit(
            f"{wrong} of {len(told_by_reader)} readers were not told the {len(expected)} rows that are right"
        )
    print(f"CORRECT {len(told_by_reader)} readers, {len(expected)} rows each", file=sys.stderr)


def require_stored(running: Product, expected: Counts) -> None:
    """Raise SystemExit unless the API answers every row."""
    start_ms, end_ms = min(start for start, _ in expected), max(start for start, _ in expected) + WINDOW_MS
    rows = running.get(f"/v1/metrics/{METRIC}?start={start_ms}&end={end_ms}&limit=100000")["data"]
    found = {(row["window_start"], row["campaign_id"]): row["views"] for row in rows}
    if found != expected:
        raise SystemExit(f"{len(found)} rows are stored, and not the {len(expected)} that are right")


def measure(n_events: int, readers: int, rounds: int) -> list[Round]:
    """Rounds without and with readers in turns, after one that warms up."""
    span_ms = -(-int(n_events / EVENTS_PER_MS) // WINDOW_MS) * WINDOW_MS
    found = []
    with started(YAHOO, {TABLE: ads_table(yahoo_names())}) as running:
        for number, wanted in enumerate([0, *[0, readers] * rounds]):
            load = yahoo_load(n_events, START_MS + number * (span_ms + WINDOW_MS), events_per_ms=EVENTS_PER_MS)
            done = run_round(running, load, wanted)
            print(f"{wanted:>4} readers: {done.events_per_s:>10,.0f} events/s", file=sys.stderr)
            found.append(done)
    return found[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--readers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="200,000 events, one round: whether it works")
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    if asked.quick:
        asked.events, asked.rounds = 200_000, 1
    found = measure(asked.events, asked.readers, asked.rounds)
    alone, followed = ([each for each in found if bool(each.readers) is is_read] for is_read in (False, True))
    rates = [statistics.median(each.events_per_s for each in rounds) for rounds in (alone, followed)]
    used = [statistics.median(each.all_us for each in rounds) for rounds in (alone, followed)]
    cost = 1 - rates[1] / rates[0]
    for name, rounds, rate in zip(("no readers", f"{asked.readers} readers"), (alone, followed), rates, strict=True):
        api = statistics.median(each.api_cpu_s / each.n_events * 1e6 for each in rounds)
        all_us = statistics.median(each.all_us for each in rounds)
        print(f"{name:>14}: {rate:>10,.0f} events/s; CPU an event: API {api:.2f} µs, everything {all_us:.2f} µs")
    print(f"{asked.readers} readers cost {cost:.0%} of ingest (allowed: {MOST_COST:.0%})")
    print(f"and {used[1] / used[0] - 1:.0%} more CPU an event, which is what they cost on full cores")
    if asked.json:
        asked.json.write_text(json.dumps({"cost": cost, "rounds": [asdict(each) for each in found]}, indent=1))
    if cost > MOST_COST and not asked.quick:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
