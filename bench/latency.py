"""From each 202 to the first answer that counts the batch, while events come at a steady rate and a reader asks.

The events are made before and have the times at which they are due, so what is measured is the line and no generator.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.cases import METRIC, YAHOO
from bench.end_to_end import started
from bench.product import DRAIN_TIMEOUT_S, Product
from bench.sending import NDJSON, Post, Sender
from bench.window_loads import n_correct, same
from bench.yahoo_load import ADS_A_CAMPAIGN, TABLE, VIEW, WINDOW_MS, YahooLoad, ads_table, yahoo_load, yahoo_names

EVENTS_PER_S = 10_000
BATCH = 100
MADE_AHEAD_S = 3.0  # for making the events
READ_EVERY_S = 0.005
CONNECTIONS = 4


@dataclass(frozen=True, slots=True)
class Latencies:
    """Milliseconds of each batch, in order of size; and whether every count was right at the end."""

    ms: Sequence[float]
    correct: int
    expected: int

    def quantile(self, q: float) -> float:
        return self.ms[min(len(self.ms) - 1, int(len(self.ms) * q))]


def measure_latencies(seconds: float) -> Latencies:
    """Send for so long, each batch with one view of the campaign that the reader asks for, and see when it counts."""
    with started(YAHOO, {TABLE: ads_table(yahoo_names())}) as running:
        start_s = time.time() + MADE_AHEAD_S
        load = _marked(yahoo_load(int(seconds * EVENTS_PER_S), int(start_s * 1000), events_per_ms=EVENTS_PER_S / 1000))
        bodies = load.bodies(BATCH)
        due_s = [number * BATCH / EVENTS_PER_S for number in range(len(bodies))]
        time.sleep(max(0.0, start_s - time.time()))
        post = Post("/v1/streams/ads/events", bodies, NDJSON, CONNECTIONS, due_s=due_s)
        sender = Sender(running.port, post)
        is_marked = (load.event_types == VIEW) & (load.ads < ADS_A_CAMPAIGN)
        wanted = np.cumsum(np.add.reduceat(is_marked, np.arange(0, len(is_marked), BATCH)))
        first_ms = int(start_s * 1000) // WINDOW_MS * WINDOW_MS
        queryable_s = _queryable_s(running, load.names["campaign"][0], first_ms, wanted.tolist())
        answered_s = sorted(sender.join().answered_s)
        # Every marked batch is applied; of the others, a partition may still have some to read.
        running.wait_until_read([METRIC], len(load.times_ms))
        path = f"/v1/metrics/{METRIC}?start={first_ms - WINDOW_MS}&limit=100000"
        found = {(row["window_start"], row["campaign_id"]): row for row in running.get(path)["data"]}
    expected = load.counts()
    ms = sorted(max(0.0, at - done) * 1000 for at, done in zip(queryable_s, answered_s, strict=True))
    return Latencies(ms, n_correct(found, expected, same), len(expected))


def _marked(load: YahooLoad) -> YahooLoad:
    """The load with a view of the first campaign at the head of each batch."""
    ads, event_types = load.ads.copy(), load.event_types.copy()
    ads[::BATCH], event_types[::BATCH] = 0, VIEW
    return replace(load, ads=ads, event_types=event_types)


def _queryable_s(running: Product, campaign: str, first_ms: int, wanted: Sequence[int]) -> list[float]:
    """When the count reached that of the first batch, of the first two …, on the monotonic clock."""
    path = f"/v1/metrics/{METRIC}?start={first_ms - WINDOW_MS}&where.campaign_id={campaign}"
    found: list[float] = []
    deadline_s = time.monotonic() + DRAIN_TIMEOUT_S
    while len(found) < len(wanted):
        counted = sum(row["views"] for row in running.get(path)["data"])
        now_s = time.monotonic()
        while len(found) < len(wanted) and wanted[len(found)] <= counted:
            found.append(now_s)
        if now_s > deadline_s:
            raise SystemExit(f"only {len(found)} of {len(wanted)} batches were counted after {DRAIN_TIMEOUT_S} s")
        time.sleep(READ_EVERY_S)
    return found
