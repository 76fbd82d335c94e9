"""What a group takes in Redis, by aggregate: of an open window (its pane) and of a published one (its result).

One product with a stage for each aggregate over the same events, measured by `MEMORY USAGE` of every key of the stage
that has to do with groups, divided by the groups. One partition, one window, retention not yet over.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis

from bench.lines import Times, decimals, ndjson, texts
from bench.product import Product, product
from bench.sending import Post, send
from bench.window_loads import named

WINDOW_MS = 3_600_000
GAP_MS = 60_000
BATCH = 2_500

STREAM = """
  {name}:
    schema: {{ts: {{type: timestamp, unit: ms}}, key: string, user: string, value: float, total: int}}
    time: {{field: ts, disorder: 1s}}
    partition_by: key
    partitions: 1
"""
STAGE = """
  {name}:
    from: {stream}
    window: {window}
    group_by: [key]
    aggregates: {{v: "{aggregate}"}}
    output: none
"""
AGGREGATES = (
    ("count", "count"),
    ("sum", "sum(value)"),
    ("mean", "mean(value)"),
    ("min", "min(value)"),
    ("max", "max(value)"),
    ("first", "first(value)"),
    ("last", "last(value)"),
    ("var", "var(value)"),
    ("quantile", "quantile(value, 0.95)"),
    ("histogram", "histogram(value)"),
    ("distinct", "distinct(user)"),
    ("distinct_exact", "distinct_exact(user)"),
    ("topk", "topk(user, 10)"),
    ("increase", "increase(total)"),
    ("time_weighted_mean", "time_weighted_mean(value)"),
)


@dataclass(frozen=True, slots=True)
class Shape:
    """A stream: so many groups, each with so many different users, one event of each."""

    name: str
    groups: int
    users: int
    stages: Sequence[tuple[str, str, str]]  # name, aggregate, window


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes per group in Redis, and of its `latest`, of which a metric has one whatever it aggregates."""

    aggregate: str
    events_a_group: int
    open: float
    published: float
    latest: float


def shapes(*, quick: bool) -> list[Shape]:
    tumbling, session = "{tumbling: 1h}", "{session: 1m}"
    small = tuple((f"w_{name}", aggregate, tumbling) for name, aggregate in AGGREGATES)
    wide = Shape("wide", 100 if quick else 1_000, 100, (*small, ("w_session", "count", session)))
    few = Shape("few", 100 if quick else 1_000, 10, (("distinct_10", "distinct(user)", tumbling),))
    some = Shape("some", 10 if quick else 100, 1_000, (("distinct_1000", "distinct(user)", tumbling),))
    many = Shape(
        "many", 1 if quick else 10, 10_000 if quick else 100_000, (("distinct_max", "distinct(user)", tumbling),)
    )
    return [wide, few, some, many]


def measure_bytes(*, quick: bool) -> list[Size]:
    """Send every shape's events and measure what its stages keep of them."""
    wanted = shapes(quick=quick)
    streams = "".join(STREAM.format(name=shape.name) for shape in wanted)
    stages = "".join(
        STAGE.format(name=name, stream=shape.name, window=window, aggregate=aggregate)
        for shape in wanted
        for name, aggregate, window in shape.stages
    )
    with tempfile.TemporaryDirectory(prefix="streamgauge-bench-config-") as folder:
        config = Path(folder) / "config.yaml"
        config.write_text(f"redis: {{url: embedded}}\nstreams:{streams}\nstages:{stages}")
        with product(config, 1) as running:
            for shape in wanted:
                send(running.port, Post(f"/v1/streams/{shape.name}/events", bodies(shape), connections=1))
            return [size for shape in wanted for size in _sizes(running, shape)]


def bodies(shape: Shape) -> list[bytes]:
    """One event of every group, then the next of every group …; within a session's gap."""
    start_ms = (int(time.time() * 1000) // WINDOW_MS - 1) * WINDOW_MS
    chance = np.random.default_rng(4)
    numbers = np.arange(shape.groups * shape.users)
    parts = (
        *(b'{"ts":', Times(start_ms + numbers // shape.groups * 20)),
        *(b',"key":"', named("k", numbers % shape.groups), b'","user":"', named("u", numbers)),
        *(b'","value":', decimals(np.round(chance.lognormal(3.0, 0.8, len(numbers)), 2))),
        *(b',"total":', texts([str(number) for number in range(len(numbers))], numbers), b"}"),
    )
    return ndjson(parts, len(numbers), BATCH)


def _sizes(running: Product, shape: Shape) -> list[Size]:
    client = running.redis()
    n_events = shape.groups * shape.users
    running.wait_until_read([name for name, _, _ in shape.stages], n_events)
    keys_open = {
        name: _open_bytes(client, shape.name, name, is_session="session" in window) for name, _, window in shape.stages
    }
    running.end_time(shape.name)
    found = []
    for name, aggregate, window in shape.stages:
        is_session = "session" in window
        start_ms = (int(time.time() * 1000) // WINDOW_MS - 1) * WINDOW_MS
        running.wait_until_complete(name, start_ms + (shape.users * 20 + GAP_MS if is_session else WINDOW_MS))
        kind = "session_rows" if is_session else "result"
        published = _bytes(client, f"{{{name}}}:{kind}:*")
        latest = _bytes(client, f"{{{name}}}:latest")
        what = "session of count" if is_session else aggregate
        sizes = (size / shape.groups for size in (keys_open[name], published, latest))
        found.append(Size(what, shape.users, *sizes))
    client.close()
    return found


def _open_bytes(client: redis.Redis, stream: str, stage: str, *, is_session: bool) -> int:
    """Panes or live sessions of a stage."""
    tag = f"{{{stream}.0}}"
    return _bytes(client, f"{tag}:{'live_sessions' if is_session else 'pane'}:{stage}@*")


def _bytes(client: redis.Redis, pattern: str) -> int:
    found = list(client.scan_iter(match=pattern.replace("[", r"\["), count=1_000))
    if not found:
        raise SystemExit(f"no key is called {pattern}: nothing was measured")
    return sum(int(client.execute_command("MEMORY", "USAGE", key, "SAMPLES", 0) or 0) for key in found)


def print_bytes(sizes: Sequence[Size]) -> None:
    """Print bytes per group; nothing when nothing was measured."""
    if not sizes:
        return
    print(f"\n{'bytes per group in Redis':32}{'events a group':>15}{'open':>10}{'published':>11}{'latest':>8}")
    for size in sizes:
        events = f"{size.events_a_group:,}"
        print(f"{size.aggregate:32}{events:>15}{size.open:>10,.0f}{size.published:>11,.0f}{size.latest:>8,.0f}")
