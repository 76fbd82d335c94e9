"""The native reader of NDJSON beside the careful path: the same judgement and the same columns, for any body.

Where it gives a body back the careful path judges it, so what is compared here is the whole door, with and without.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from random import Random
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from pipeline.core import native
from pipeline.core.batches import read_batch
from pipeline.core.definitions import Field, Stream, TimePolicy
from pipeline.core.entries import Chunk, Entry, Tick
from pipeline.core.events import Reader
from pipeline.core.validation import Checked, Validator
from tests.laws.ndjson_bodies import FIELDS, STREAM, Bodies

NOW_MS = 1_800_000_000_000
SEEDS = 24
BODIES = 150
SCALARS = [field.name for field in FIELDS if field.type != "list"]

pytestmark = pytest.mark.skipif(not native.IS_BUILT, reason="the native reader is not built: no C compiler")


def pairs(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[Validator, Reader], tuple[Validator, Reader]]:
    """A door and a reader with the native reader, and without."""
    fast = Validator(stream), Reader(stream, SCALARS)
    monkeypatch.setattr(native, "IS_BUILT", False)
    return fast, (Validator(stream), Reader(stream, SCALARS))


def said(checked: Checked) -> dict[str, Any]:
    return {
        "body": checked.body,
        "n": (checked.n_received, checked.n_good, checked.undeclared),
        "times": None if checked.times_ms is None else checked.times_ms.tolist(),
        "owners": None if checked.owners is None else checked.owners.tolist(),
        "refusals": checked.refusals,
        "newest": checked.newest_ms,
        "document": checked.document_refused,
    }


def frames(reader: Reader, checked: Checked) -> tuple[pl.DataFrame, list[int]]:
    chunk = Chunk(b"1-0", checked.n_good, checked.n_good, 0, NOW_MS, b"ndjson", checked.body)
    frame, times_ms = reader.joined([reader.events(chunk)], np.full(checked.n_good, NOW_MS))
    return frame, times_ms.tolist()


@pytest.mark.parametrize("extra", ["allow", "refuse"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_body_is_judged_and_read_alike(seed: int, extra: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = replace(STREAM, extra=extra)
    (fast, fast_reader), (careful, careful_reader) = pairs(stream, monkeypatch)
    bodies = Bodies(seed, oddness=0.3 * seed / SEEDS)
    for body in (bodies.body() for _ in range(BODIES)):
        found = fast.check(body, kind="ndjson", now_ms=NOW_MS)
        expected = careful.check(body, kind="ndjson", now_ms=NOW_MS)

        assert said(found) == said(expected), body
        assert shares(found, stream) == shares(expected, stream), body
        if expected.n_good:
            frame, times = frames(careful_reader, expected)
            found_frame, found_times = frames(fast_reader, expected)
            assert found_times == times, body
            assert_frame_equal(found_frame, frame, check_exact=True)


def mixed_entries(seed: int, validator: Validator) -> list[Entry]:
    """Small chunks side by side, some with a wrong number of rows, a wrong sum or a body cut off, and ticks between."""
    chance, bodies = Random(seed), Bodies(seed, oddness=0.1 * seed / SEEDS)
    entries: list[Entry] = []
    for number in range(chance.randrange(1, 60)):
        name = b"%d-0" % (NOW_MS + number)
        if chance.random() < 0.05:
            entries.append(Tick(name, NOW_MS, NOW_MS - 1_000))
        checked = validator.check(bodies.body(), kind="ndjson", now_ms=NOW_MS)
        if checked.n_good:
            body, n = checked.body, checked.n_good
            if seed % 3 == 0 and chance.random() < 0.05:
                body, n = chance.choice(
                    [(body + b"\n", n), (body + b"\n", n + 1), (body, n + 1), (body[:-1], n), (b"", n)]
                )
            sums = crc32(body) + (seed % 3 == 1 and chance.random() < 0.05)
            entries.append(Chunk(name, n, number, sums, NOW_MS + number, b"ndjson", body))
    return entries


@pytest.mark.parametrize("seed", range(2 * SEEDS))
def test_chunks_that_are_read_together_read_as_each_does_alone(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = mixed_entries(seed, Validator(STREAM))
    read = partial(read_batch, entries, Reader(STREAM, SCALARS), partition=0, max_future_ms=10**13)
    found = read()
    monkeypatch.setattr(Reader, "together", lambda reader, chunks: None)
    expected = read()

    assert_frame_equal(found.frame, expected.frame, check_exact=True)
    for name in ("times_ms", "effective_ms", "places", "rows", "entry_of"):
        assert getattr(found, name).tolist() == getattr(expected, name).tolist(), name
    assert (found.dead, found.ticks, found.entries) == (expected.dead, expected.ticks, expected.entries)


def test_usual_chunks_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = [b'{"ts":%d,"text":"u%d"}' % (NOW_MS, number) for number in range(50)]
    stream = Stream("events", (Field("ts", "timestamp"), Field("text", "string")), TimePolicy("ts"))
    entries = [Chunk(b"%d-0" % n, 1, n, crc32(body), NOW_MS, b"ndjson", body) for n, body in enumerate(bodies, 1)]
    monkeypatch.setattr(Reader, "events", lambda reader, chunk: pytest.fail("it was read by itself"))

    batch = read_batch(entries, Reader(stream, ["text"]), partition=0, max_future_ms=0)

    assert batch.frame["text"].to_list() == [f"u{number}" for number in range(50)]


def shares(checked: Checked, stream: Stream) -> Any:
    return checked.shares(stream, 0)


def test_what_everybody_sends_is_read_natively(monkeypatch: pytest.MonkeyPatch) -> None:
    (fast, reader), _ = pairs(STREAM, monkeypatch)
    bodies = Bodies(1, oddness=0.0)
    taken = [
        b'{"ts":1700000000000,"name":"a","count":1}\n' * 3,
        b'{"ts":"2024-05-17T10:05:03+02:00","name":"","count":0}',
        b'{"count":0,"name":"a","ts":"2024-05-17T10:05:03Z"}',
    ]
    taken += [b'{"name":"\\u00e9\\n","count":-7,"value":0.1234567890123456,"ts":-5,"other":{"a":[1,null,"x"]}}']

    assert [fast.check(body, kind="ndjson", now_ms=NOW_MS).native is not None for body in taken] == [True] * 4
    sent = [body for body in (bodies.body() for _ in range(200)) if b'"seen":"' not in body and b'"ts":"' not in body]
    natively = [fast.check(body, kind="ndjson", now_ms=NOW_MS).native is not None for body in sent]
    assert len(sent) > 20
    assert all(natively)
    assert reader._native is not None


@pytest.mark.parametrize(
    "body",
    [
        b'{"ts":1,"name":"a","count":1}\r\n{"ts":1,"name":"a","count":1}',  # what is kept has no carriage return
        b'{"ts":1,"name":"a","count":1,"count":2}',
        b'{"ts":1,"na\\u006de":"a","count":1}',
        b'{"ts":1,"name":"a","count":1,"other":' + b"[" * 70 + b"]" * 70 + b"}",
        b'{"ts":1,"name":"a\xff","count":1}',
        b'{"ts":1,"name":"\xed\xa0\x80","count":1}',  # a surrogate in UTF-8
        b'{"ts":1,"name":"' + b"x" * 1_000_001 + b'","count":1}',
        b'[{"ts":1,"name":"a","count":1}]',
        b'{"ts":1,"name":"a","count":1}\n\n{"ts":1,"name":"a","count":1}',
        b'{"ts":1,"name":"a",\n"count":1}',
        b'{"ts":1,"name":"a","count":1',
        b"{",
        b"",
    ],
)
def test_what_is_unusual_is_given_back(body: bytes) -> None:
    reader = native.NativeReader.of(STREAM, ["ts", "name"])
    assert reader is not None
    assert reader.read(body) is None


def test_strings_outlive_the_body_and_the_reader() -> None:
    reader = native.NativeReader.of(STREAM, SCALARS)
    assert reader is not None
    names = [f"a name that is longer than a view, {n}\n" for n in range(1000)]
    body = "\n".join(f'{{"ts":1,"name":"{name[:-1]}\\n","note":"{name[:-1]}","count":1}}' for name in names).encode()
    rows = reader.read(body)
    assert rows is not None
    frame = rows.frame()
    del body, rows, reader

    assert frame["name"].to_list() == names
    assert frame["note"].to_list() == [name[:-1] for name in names]
