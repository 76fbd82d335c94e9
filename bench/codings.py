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
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pyarrow as pa

from bench.load import WINDOW_MS, Load, make_load
from pipeline.core.arrow_stream import Limits
from pipeline.core.arrow_validation import ColumnValidator
from pipeline.core.batches import read_batch
from pipeline.core.codings import CODECS, coding_of
from pipeline.core.definitions import Compression, Stream
from pipeline.core.entries import parse_entry
from pipeline.core.events import Reader
from pipeline.core.process import TimeState
from pipeline.core.programs import Program, compile_programs
from pipeline.core.twin import PartitionPanes
from pipeline.core.validation import MAX_BODY_BYTES, Validator
from pipeline.rim import keys, replies
from pipeline.rim.connection import writer
from pipeline.rim.embedded import EmbeddedServer
from pipeline.rim.scripts import Scripts
from pipeline.rim.streams import Step, append
from pipeline.runtime.config import load_config

CONFIG = Path(__file__).resolve().parent / "e2e.yaml"
STREAM, METRIC = "ads", "views_by_campaign"
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


def arrow_bodies(load: Load, stream: Stream, compression: Compression) -> list[bytes]:
    """The load's bodies as a sender of columns posts them: made before the clock starts."""
    reader = Reader(stream, [each.name for each in stream.fields])
    return [_as_arrow(reader, body, compression) for body in load.bodies]


def _as_arrow(reader: Reader, body: bytes, compression: Compression) -> bytes:
    frame = reader.frame(reader.chunk(body, body.count(b"\n") + 1))
    out = io.BytesIO()
    columns = {name: frame[name].to_arrow().cast(_plain(frame[name].to_arrow().type)) for name in frame.columns}
    table = pa.table(columns)
    options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
    with pa.ipc.new_stream(out, table.schema, options=options) as writer_:
        writer_.write_table(table)
    return out.getvalue()


def _plain(kind: Any) -> Any:
    return pa.string() if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) else kind


def measure(client: Any, program: Program, stream: Stream, bodies: list[bytes], kind: str) -> Measured:
    """Everything from a posted body to the partials of the windows, in one partition."""
    client.flushall()
    steps, scripts, n_events = Steps(), Scripts(client), 0
    validator, columns = Validator(stream), ColumnValidator(stream, Limits(200_000, MAX_BODY_BYTES))
    now_ms = int(time.time() * 1_000)
    before = _redis_cpu_s(client)
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
    steps.cpu_s["redis"] = _redis_cpu_s(client) - before
    stored = client.execute_command("MEMORY", "USAGE", keys.raw(stream.name, 0), "SAMPLES", 0)
    counted = _work(client, program, stream, steps)
    return Measured(steps, int(stored) / n_events, counted)


def _work(client: Any, program: Program, stream: Stream, steps: Steps) -> Counter[tuple[int, str]]:
    reader, twin, after = Reader(stream, program.needs), PartitionPanes(program, 0, TimeState()), b"-"
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
        for name, slot in cells.items():
            campaign = name.decode().partition('["')[2].removesuffix('"]')
            counts[start_ms, campaign] = int(views[slot])
    return counts


def _redis_cpu_s(client: Any) -> float:
    said = client.info("cpu")
    return float(said["used_cpu_user"]) + float(said["used_cpu_sys"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--batch", type=int, default=10_000)
    asked = parser.parse_args()
    config = load_config(CONFIG, {})
    program = compile_programs(config)[METRIC]
    span_ms = asked.events // 10 + 3 * WINDOW_MS
    load = make_load(asked.events, asked.batch, (int(time.time() * 1_000) - span_ms) // WINDOW_MS * WINDOW_MS)
    print(f"{load.n_events} events of {sum(map(len, load.bodies)) / load.n_events:.0f} bytes; CPU ns an event")
    print(f"{'':22}" + "".join(f"{step:>9}" for step in STEPS) + "    door  worker  bytes")
    with tempfile.TemporaryDirectory() as folder, EmbeddedServer(Path(folder)) as server:
        client = writer(server.url)
        for kind in ("ndjson", "arrow"):
            for compression in COMPRESSIONS:
                stream = replace(config.streams[STREAM], compression=compression, partitions=1)
                bodies = list(load.bodies) if kind == "ndjson" else arrow_bodies(load, stream, "none")
                found = measure(client, program, stream, bodies, kind)
                _print(coding_of(kind.encode(), compression).decode(), found, load)


def _print(name: str, found: Measured, load: Load) -> None:
    if +found.counted != load.expected:
        raise SystemExit(f"{name}: the recount differs, no figure counts")
    ns = {step: seconds / load.n_events * 1e9 for step, seconds in found.steps.cpu_s.items()}
    door, worker = (sum(ns[step] for step in part) for part in (STEPS[:3], STEPS[4:]))
    print(
        f"{name:22}"
        + "".join(f"{ns[step]:9.0f}" for step in STEPS)
        + f"{1e3 / door:6.2f} M{1e3 / worker:6.2f} M{found.bytes_an_event:7.0f}"
    )


if __name__ == "__main__":
    main()
