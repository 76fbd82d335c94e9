"""The same events as NDJSON or Arrow, plain or compressed: the same windows, late rows and books, bit for bit."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from api.app import create_app
from pipeline.core.codings import coding_of, pack_rows
from pipeline.core.definitions import Compression, Config
from pipeline.core.entries import Chunk, parse_entry
from pipeline.core.ndjson import encode_rows
from pipeline.rim import keys, replies, store
from pipeline.runtime.log_batches import side_rows
from pipeline.runtime.verify import verify
from tests.arrow_bodies import arrow_body
from tests.line import Line
from tests.servers import RunningServer
from tests.visits import BASE_MS, CONFIG, FIELDS, METRICS, STREAM, visits

SIZES = (300, 5, 295, 1, 260)  # chunks of columns, and bodies so small that they are stored as rows
BOOKS = ("max_seen_ms", "max_ts_ms", "read", "accepted", "filtered", "late", "dead", "partial", "others", "position")
Plan = Sequence[tuple[str, Compression]]  # of each body: how it is sent, and what the config says when it comes
COMPRESSIONS: tuple[Compression, ...] = ("none", "lz4", "zstd")


def config(compression: Compression) -> Config:
    return replace(CONFIG, streams={"visits": replace(STREAM, compression=compression)})


def run(server: RunningServer, plan: Plan) -> Line:
    """Bodies in turns over two partitions, by their keys; then every window is closed."""
    server.client.flushall()
    events, at = visits(sum(SIZES)), 0
    line = Line(config(plan[0][1]), server)
    for number, (size, (form, compression)) in enumerate(zip(SIZES, plan, strict=True)):
        http = create_app(config(compression), server.url).test_client()
        rows = events[at : at + size]
        at += size
        answer = http.post(
            "/v1/streams/visits/events",
            data=arrow_body(FIELDS, rows) if form == "arrow" else encode_rows(rows),
            headers={"Idempotency-Key": key_of(number % 2, number)},
        )
        assert (answer.status_code, answer.get_json()["accepted"]) == (202, size), answer.text
    line.settle()
    for partition in range(STREAM.partitions):
        line.tick("visits", BASE_MS + 600_000, partition=partition)
    line.settle()
    return line


def key_of(partition: int, number: int) -> str:
    """An idempotency key that a partition keeps the record of, and with it the rows of a stream that is spread."""
    return next(
        key for k in range(99) if zlib.crc32((key := f"{number}-{k}").encode()) % STREAM.partitions == partition
    )


def outcome(line: Line) -> dict[str, Any]:
    """Everything that the events decide; panes hold positions, which are ids: `verify` compares those."""
    found: dict[str, Any] = {}
    for metric in METRICS:
        program = line.programs[metric]
        found[metric] = line.closed(metric)
        for partition in range(STREAM.partitions):
            found[f"{metric} late {partition}"] = [_late(row) for row in line.late(metric, partition)]
            checkpoint = store.load_checkpoint(line.client, "visits", partition, program.group)
            found[f"{metric} books {partition}"] = {name: getattr(checkpoint, name) for name in BOOKS}
    return found


PLAIN_ROWS: list[dict[str, Any]] = []  # the outcome all others are compared with, once a run of the tests


def as_plain_rows(server: RunningServer) -> dict[str, Any]:
    """The outcome of the events as plain NDJSON."""
    if not PLAIN_ROWS:
        found = outcome(run(server, [("ndjson", "none")] * len(SIZES)))
        assert any(rows for name, rows in found.items() if " late " in name), "a log without late rows shows little"
        PLAIN_ROWS.append(found)
    return PLAIN_ROWS[0]


def _late(row: dict[str, Any]) -> dict[str, Any]:
    event = {name: value for name, value in msgspec.json.decode(row["event"]).items() if value is not None}
    return {**row, "event": event, "entry": None}


def codings(line: Line) -> set[bytes]:
    found = set()
    for partition in range(STREAM.partitions):
        reply = line.client.execute_command("XRANGE", keys.raw("visits", partition), "-", "+")
        parsed = [parse_entry(entry.id, entry.fields or {}) for entry in replies.parse_entries(reply)]
        found |= {entry.coding for entry in parsed if isinstance(entry, Chunk)}
    return found


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("form", ["ndjson", "arrow"])
def test_the_coding_of_events_decides_nothing(server: RunningServer, form: str, compression: Compression) -> None:
    expected = as_plain_rows(server)

    line = run(server, [(form, compression)] * len(SIZES))

    assert outcome(line) == expected
    assert coding_of(form.encode(), compression) in codings(line)
    assert [report.n_differences for report in verify(line.client, line.config)] == [0] * len(METRICS)


@pytest.mark.parametrize("first", range(3))
def test_a_changed_setting_loses_no_old_chunk(server: RunningServer, first: int) -> None:
    expected = as_plain_rows(server)

    changing = [(("arrow", "ndjson")[k // 2 % 2], COMPRESSIONS[(first + k) % 3]) for k in range(len(SIZES))]
    line = run(server, changing)

    assert outcome(line) == expected
    assert len(codings(line)) > 2
    assert [report.n_differences for report in verify(line.client, line.config)] == [0] * len(METRICS)


@pytest.mark.parametrize("form", ["ndjson", "arrow"])
@pytest.mark.parametrize("damage", ["a bomb", "cut", "another codec", "not a frame"])
def test_a_chunk_that_is_not_what_it_says_is_a_dead_letter(server: RunningServer, form: str, damage: str) -> None:
    line = Line(CONFIG, server)
    coding = coding_of(form.encode(), "zstd")
    body = broken(form, damage)
    line.entry(
        "visits",
        {"_k": "chunk", "v": 1, "n": 3, "seq": 10**6, "crc": zlib.crc32(body), "at": BASE_MS, "lo": 1, "hi": 2}
        | {"coding": coding, "body": body},
    )

    line.settle()

    for metric in METRICS:
        [letter] = list(side_rows(line.client, keys.dead("visits", 0, line.programs[metric].group)))
        said = {name: letter[name] for name in (b"code", b"n", b"coding", b"body")}
        assert said == {b"code": b"chunk_unreadable", b"n": b"3", b"coding": coding, b"body": body}
        assert len(letter[b"error"]) > 20
    shown = line.http.get("/v1/dead-letters?stage=by_page").get_json()["rows"][0]
    assert shown["event"] == f"a chunk coded {coding.decode()}, {len(body):,} bytes"


def broken(form: str, damage: str) -> bytes:
    """A body that is no three events, with a crc that fits: nothing but its own coding tells."""
    rows = visits(300)
    if form == "ndjson":
        whole = pack_rows(encode_rows(rows), "zstd")[1]
        bombs = (10**12).to_bytes(8, "little") + whole[8:]
    else:
        whole = arrow_body(FIELDS, rows, "zstd")
        long = [{"ts": BASE_MS, "page": "x" * 40_000_000}]
        bombs = arrow_body(FIELDS, long, "zstd")
        assert len(bombs) < 100_000
    match damage:
        case "a bomb":
            return bombs
        case "cut":
            return whole[: len(whole) * 2 // 3]
        case "another codec":
            return pack_rows(encode_rows(rows), "lz4")[1]
        case _:
            return b"\0" * 300
