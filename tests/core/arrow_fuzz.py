"""Mutated Arrow bodies through the door's judgement and back through a worker's reading, in a process that may die.

    python -m tests.core.arrow_fuzz SEED COUNT

Prints what became of them as JSON. Memory is capped, so a body that makes anybody allocate without bound fails too.
"""

from __future__ import annotations

import io
import json
import random
import resource
import sys
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa

from pipeline.core.arrow_stream import Limits
from pipeline.core.arrow_validation import CheckedColumns, ColumnValidator
from pipeline.core.batches import read_batch
from pipeline.core.definitions import Field, Stream, TimePolicy
from pipeline.core.entries import Chunk
from pipeline.core.events import ChunkError, Reader
from pipeline.errors import BadRequestError

FIELDS = (
    Field("ts", "timestamp"),
    Field("user", "string"),
    Field("coded", "string", nullable=True),
    Field("view", "string", nullable=True),
    Field("count", "int", nullable=True),
    Field("value", "float", nullable=True),
    Field("ok", "bool", nullable=True),
    Field("marks", "list", nullable=True, item="float"),
    Field("tags", "list", nullable=True, item="string"),
    Field("pair", "list", nullable=True, item="int"),
)
STREAM = Stream("s", FIELDS, TimePolicy("ts"), partition_by="user", partitions=2, compression="zstd")
LIMITS = Limits(rows=2_000, bytes=4_000_000)
MEMORY = 2_000_000_000  # bytes of address space beyond what the process has when it starts
NOW_MS = 1_763_900_000_000
EDGES = (0, -1, 1, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63), 2**40, 7, 8, 64, 300, -5)


def corpus() -> list[bytes]:
    """Whole bodies of two batches: every type that is read and one that is not, by two writers with three codecs."""
    n = 300
    table = pa.table(
        {
            "ts": pa.array([NOW_MS - k for k in range(n)], pa.timestamp("ms")),
            "user": pa.array([f"user-{k % 7}" for k in range(n)]),
            "coded": pa.array([None if k % 5 == 0 else f"läng {k % 3}" for k in range(n)]).dictionary_encode(),
            "view": pa.array(
                [f"long enough to be outside of its view {k}"[: k % 50] for k in range(n)], pa.string_view()
            ),
            "count": pa.array([None if k % 4 == 0 else k for k in range(n)], pa.int32()),
            "value": pa.array([k / 7 for k in range(n)]),
            "ok": pa.array([k % 2 == 0 for k in range(n)]),
            "marks": pa.array([None if k % 6 == 0 else [k / 3] * (k % 4) for k in range(n)], pa.list_(pa.float64())),
            "tags": pa.array([["x", "yy"][: k % 3] for k in range(n)], pa.large_list(pa.string_view())),
            "pair": pa.array([None if k % 5 == 0 else [k, 1] for k in range(n)], pa.list_(pa.int64(), 2)),
            "other": pa.array([{"deep": [k]} for k in range(n)]),
        }
    )
    bodies = []
    for codec in (None, "lz4", "zstd"):
        out = io.BytesIO()
        with pa.ipc.new_stream(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=codec)) as writer:
            writer.write_table(table, max_chunksize=280)
        bodies.append(out.getvalue())
        out = io.BytesIO()
        pl.DataFrame(pl.from_arrow(table.drop(["other"]))).write_ipc_stream(out, compression=codec or "uncompressed")
        bodies.append(out.getvalue())
    return bodies


def mutated(chance: random.Random, body: bytes) -> bytes:
    """The body with some bytes changed: most of them where the metadata is, often to the edges of integers."""
    data = bytearray(body)
    for _ in range(chance.choice([1, 1, 1, 2, 4, 16])):
        at = chance.randrange(len(data) if chance.random() < 0.5 else min(len(data), 3_000))
        match chance.randrange(6):
            case 0 | 1:
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                data[at] = chance.choice([0, 255, 127, 128, chance.randrange(256)])
            case 3:
                width = chance.choice([4, 8])
                at -= at % width
                data[at : at + width] = (chance.choice(EDGES) % (1 << 8 * width)).to_bytes(width, "little")
            case 4:
                del data[at : at + chance.randrange(1, 40)]
            case _:
                other = chance.randrange(len(data))
                data[at : at + 8] = data[other : other + 8]
        if not data:
            return b"\xff"
    return bytes(data)


def judge(body: bytes) -> str:
    """What the door does with a body; what it takes is read back whole."""
    try:
        checked = ColumnValidator(STREAM, LIMITS).check(body, now_ms=NOW_MS)
    except BadRequestError as error:
        return str(error.status)
    if checked.document_refused:
        assert (checked.n_received, checked.n_good, len(checked.refusals)) == (1, 0, 1)
        _did_not_ask_for_memory(checked.refusals[0].message)
        return "400"
    assert checked.n_received == checked.n_good + len(checked.refusals)
    assert checked.n_received <= LIMITS.rows
    assert all(json.loads(each.body.replace(b"1e999", b"1")) is not None for each in checked.refusals)
    _read_back(checked)
    return "202" if checked.n_good else "422"


def _read_back(checked: CheckedColumns) -> None:
    reader = Reader(STREAM, [field.name for field in FIELDS])
    found = 0
    for partition, parts in checked.shares(STREAM, 0).items():
        for part in parts:
            chunk = Chunk(b"1-0", part.n, 0, zlib.crc32(part.body), NOW_MS, part.coding, part.body)
            batch = read_batch([chunk], reader, partition=partition, max_future_ms=300_000)
            assert not batch.dead, batch.dead[0].message
            assert len(batch.raw_rows(range(part.n))) == part.n
            found += batch.frame.height
    assert found == checked.n_good


def read_as_chunk(body: bytes) -> str:
    """What a worker does with a body that somebody put into the log, with a crc that fits."""
    reader = Reader(STREAM, ["user", "value", "tags"])
    try:
        events = reader.events(Chunk(b"1-0", 300, 0, zlib.crc32(body), NOW_MS, b"arrow", body))
    except ChunkError as error:
        _did_not_ask_for_memory(str(error))
        return "dead letter"
    assert len(events) == 300
    return "read"


def _did_not_ask_for_memory(message: str) -> None:
    """A body that is refused because the memory is capped here would have had it elsewhere."""
    if "alloc" in message:  # zstd refuses a frame with too large a window by itself, without asking
        raise AssertionError(message)


def main(seed: int, count: int) -> None:
    bodies = corpus()
    one_batch = [_one_batch(body) for body in bodies]
    now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()  # noqa: SIM115
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
    outcomes: Counter[str] = Counter()
    steps: tuple[tuple[list[bytes], Callable[[bytes], str]], ...] = ((bodies, judge), (one_batch, read_as_chunk))
    for number in range(seed, seed + count):
        chance = random.Random(number)
        for whole, step in steps:
            body = mutated(chance, whole[number % len(whole)])
            try:
                outcomes[step(body)] += 1
            except Exception as error:
                error.add_note(f"seed {number}, {step.__name__}")
                raise
    print(json.dumps(outcomes))


def _one_batch(body: bytes) -> bytes:
    table: Any = pa.ipc.open_stream(body).read_all()
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return out.getvalue()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
