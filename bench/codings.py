"""What each coding of a chunk costs, step by step, in one process beside one Redis: CPU ns an event, bytes in Redis.

    python bench/codings.py [--events 400000] [--batch 10000]

    judge     a posted body → which rows are good            pack    good rows → chunks as they are stored
    append    the script call, this process; `redis`: the server's CPU of it
    read      entries back from Redis and parsed             decode  to the columns that the stage reads
    compute   windows, merge: the same for every coding

No figure is printed without its recount: the views of every (window, campaign).
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import polars as pl

from bench.cases import METRIC, YAHOO, arrow_bodies, started_ago
from bench.yahoo_load import TABLE, YahooLoad, ads_table, yahoo_load, yahoo_names
from pipeline.core.arrow_stream import Limits
from pipeline.core.arrow_validation import ColumnValidator
from pipeline.core.batches import read_batch
from pipeline.core.codings import CODECS, coding_of
from pipeline.core.definitions import Compression, Stream
from pipeline.core.entries import parse_entry
from pipeline.core.events import Reader
from pipeline.core.process import TimeState, prepare
from pipeline.core.programs import Program, compile_programs
from pipeline.core.table_names import content_hash
from pipeline.core.tables import decode, encode
from pipeline.core.twin import PartitionPanes
from pipeline.core.validation import MAX_BODY_BYTES, Validator
from pipeline.rim import keys, replies
from pipeline.rim.connection import writer
from pipeline.rim.embedded import EmbeddedServer
from pipeline.rim.scripts import Scripts
from pipeline.rim.streams import Step, append
from pipeline.runtime.config import load_config

EVENTS_PER_MS = 10.0
ENTRIES_A_READ = 5
STEPS = ("judge", "pack", "append", "redis", "read", "decode", "compute")
COMPRESSIONS: tuple[Compression, ...] = ("none", *CODECS)


@dataclass(slots=True)
class Steps:
    """CPU seconds of this process by step, of Redis under `redis`."""

    cpu_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self.cpu_s[step] += time.process_time() - began


@dataclass(frozen=True, slots=True)
class Measured:
    """One coding over one load."""

    steps: Steps
    bytes_an_event: float
    counted: Counter[tuple[int, str]]


def measure(client: Any, program: Program, stream: Stream, bodies: list[bytes], kind: str) -> Measured:
    """Everything from a posted body to the partials of the windows, in one partition."""
    client.flushall()
    steps, scripts, n_events = Steps(), Scripts(client), 0
    validator, columns = Validator(stream), ColumnValidator(stream, Limits(200_000, MAX_BODY_BYTES))
    now_ms = int(time.time() * 1_000)
    before = server_cpu_s(client)
    for body in bodies:
        with steps.timed("judge"):
            checked: Any = (
                columns.check(body, now_ms=now_ms)
                if kind == "arrow"
                else validator.check(body, kind="ndjson", now_ms=now_ms)
            )
        assert not checked.refusals, checked.refusals[0]
        with steps.timed("pack"):
            chunks = checked.shares(stream, 0)[0]
        with steps.timed("append"):
            for chunk in chunks:
                append(scripts, stream.name, 0, Step([chunk], [], 0, now_ms))
        n_events += checked.n_good
    steps.cpu_s["redis"] = server_cpu_s(client) - before
    stored = client.execute_command("MEMORY", "USAGE", keys.raw(stream.name, 0), "SAMPLES", 0)
    counted = _work(client, program, stream, steps)
    return Measured(steps, int(stored) / n_events, counted)


def _work(client: Any, program: Program, stream: Stream, steps: Steps) -> Counter[tuple[int, str]]:
    content = encode(pl.read_csv(io.StringIO(ads_table(yahoo_names()))))
    contents, tables = {content_hash(content): decode(content)}, {TABLE: content_hash(content)}
    compute = partial(prepare, program, contents=contents)
    twin = PartitionPanes(program, 0, TimeState(tables=tables), compute)
    reader, after = Reader(stream, program.needs), b"-"
    while True:
        with steps.timed("read"):
            reply = client.execute_command("XRANGE", keys.raw(stream.name, 0), after, "+", "COUNT", ENTRIES_A_READ)
            entries = [parse_entry(entry.id, entry.fields or {}) for entry in replies.parse_entries(reply)]
        if not entries:
            break
        after = b"(" + entries[-1].id
        with steps.timed("decode"):
            batch = read_batch(entries, reader, partition=0, max_future_ms=stream.time.max_future_ms)
        with steps.timed("compute"):
            twin.take(batch)
    counts: Counter[tuple[int, str]] = Counter()
    views = twin.table.columns["n(*)"]  # the accumulator of a count of events
    for start_ms, cells in twin.table.panes.items():
        for name, slot in zip(cells.names, cells.slots.tolist(), strict=True):
            campaign = name.decode().partition('["')[2].removesuffix('"]')
            counts[start_ms, campaign] = int(views[slot])
    return counts


def server_cpu_s(client: Any) -> float:
    said = client.info("cpu")
    return float(said["used_cpu_user"]) + float(said["used_cpu_sys"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--batch", type=int, default=10_000)
    asked = parser.parse_args()
    load = yahoo_load(asked.events, started_ago(asked.events / EVENTS_PER_MS), events_per_ms=EVENTS_PER_MS)
    lines, columns = load.bodies(asked.batch), arrow_bodies(load, asked.batch)
    print(f"{asked.events} events of {sum(map(len, lines)) / asked.events:.0f} bytes; CPU ns an event")
    print(f"{'':22}" + "".join(f"{step:>9}" for step in STEPS) + "    door  worker  bytes")
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        config_path = Path(folder) / "config.yaml"
        config_path.write_text(YAHOO.config)
        config_path.with_name(TABLE).write_text(ads_table(load.names))
        config = load_config(config_path, {})
        program = compile_programs(config)[METRIC]
        client = writer(server.url)
        for kind, bodies in (("ndjson", lines), ("arrow", columns)):
            for compression in COMPRESSIONS:
                stream = replace(config.streams[YAHOO.source.stream], compression=compression, partitions=1)
                found = measure(client, program, stream, bodies, kind)
                _print(coding_of(kind.encode(), compression).decode(), found, load)


def _print(name: str, found: Measured, load: YahooLoad) -> None:
    if {key: {"views": n} for key, n in found.counted.items() if n} != load.counts():
        raise SystemExit(f"{name}: the recount differs, no figure counts")
    ns = {step: seconds / len(load.times_ms) * 1e9 for step, seconds in found.steps.cpu_s.items()}
    door, worker = (sum(ns[step] for step in part) for part in (STEPS[:3], STEPS[4:]))
    print(
        f"{name:22}"
        + "".join(f"{ns[step]:9.0f}" for step in STEPS)
        + f"{1e3 / door:6.2f} M{1e3 / worker:6.2f} M{found.bytes_an_event:7.0f}"
    )


if __name__ == "__main__":
    main()
