"""Hostile Arrow bodies: refused before anything of them is believed, in bounded memory, and no process ends."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.core.arrow_stream import END, MAX_BATCHES, ArrowBodyError, Limits, read_stream
from tests.arrow_bodies import ipc

ROOT = Path(__file__).parents[2]
LIMITS = Limits(rows=1_000, bytes=1_000_000)
TABLE = pa.table({"a": [1, 2, 3], "s": ["x", None, "yy"]})


def refused(body: bytes, wanted: tuple[str, ...] = ("a", "s"), **options: Any) -> ArrowBodyError:
    with pytest.raises(ArrowBodyError) as caught:
        read_stream(body, wanted, LIMITS, **options)
    return caught.value


def test_a_whole_stream_is_read_batch_by_batch() -> None:
    found = read_stream(ipc(TABLE, batch_rows=2), ["a"], LIMITS)

    assert [(n, columns["a"].to_pylist()) for n, columns in found.batches] == [(2, [1, 2]), (1, [3])]
    assert (found.n_rows, found.others, found.unreadable) == (3, ("s",), {})


def test_rows_are_counted_where_no_column_is_wanted() -> None:
    found = read_stream(ipc(TABLE), ["nothing"], LIMITS)

    assert (found.n_rows, found.batches, found.others) == (3, ((3, {}),), ("a", "s"))


BODIES: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "no valid Arrow"),
    "text": (b'{"a":1}', "no valid Arrow"),
    "a mark alone": (b"\xff\xff\xff\xff", "no valid Arrow"),
    "an end alone": (END, "no valid Arrow"),
    "half of it": (ipc(TABLE)[: len(ipc(TABLE)) // 2], "no valid Arrow"),
    "two streams": (ipc(TABLE) * 2, "follow the end"),
    "no columns": (ipc(pa.table({})), "0 columns"),
    "a name twice": (ipc(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])), "two columns"),
}


@pytest.mark.parametrize("name", BODIES)
def test_what_is_no_stream_is_malformed(name: str) -> None:
    body, said = BODIES[name]

    error = refused(body)
    assert error.code == "malformed"
    assert said in str(error)


def test_a_stream_without_its_end_is_read_unless_it_may_have_been_cut() -> None:
    body = ipc(TABLE).removesuffix(END)

    assert read_stream(body, ["a"], LIMITS).n_rows == 3
    assert "breaks off" in str(refused(body, to_the_end=True))


def test_more_rows_batches_or_columns_than_are_taken() -> None:
    assert refused(ipc(pa.table({"a": range(1_001)}))).code == "too_large"
    assert refused(ipc(pa.table({"a": range(2 * MAX_BATCHES + 1)}), batch_rows=1)).code == "too_large"
    assert "columns" in str(refused(ipc(pa.table({f"c{n}": [1] for n in range(2_001)}))))


def _views(n: int, size: int) -> pa.Array:
    """Views that all show one text."""
    view = struct.pack("<i4sii", size, b"xxxx", 0, 0)
    return pa.Array.from_buffers(pa.string_view(), n, [None, pa.py_buffer(view * n), pa.py_buffer(b"x" * size)])


BOMBS: dict[str, Callable[[], pa.Array]] = {
    "a dictionary's one text in every row": lambda: pa.DictionaryArray.from_arrays(
        pa.array(np.zeros(1_000, dtype=np.int8)), pa.array(["x" * 100_000])
    ),
    "views of one text": lambda: _views(1_000, 100_000),
    "a dictionary of views of one text": lambda: pa.DictionaryArray.from_arrays(
        pa.array(np.arange(100, dtype=np.int8)), _views(100, 100_000)
    ),
    "a dictionary of views that no row shows": lambda: pa.DictionaryArray.from_arrays(
        pa.array([None], pa.int8()), _views(100, 100_000)
    ),
    "lists of one text of a dictionary": lambda: pa.ListArray.from_arrays(
        pa.array([0, 500, 1_000]),
        pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000, dtype=np.int8)), pa.array(["x" * 100_000])),
    ),
    "lists of nulls, which take no bytes": lambda: pa.ListArray.from_arrays(pa.array([0, 2**30]), pa.nulls(2**30)),
    "lists of nulls of a fixed size": lambda: pa.FixedSizeListArray.from_arrays(pa.nulls(2**24), 2**22),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_small_body_that_expands_is_refused_before_it_does(name: str) -> None:
    body = ipc(pa.table({"a": BOMBS[name]()}))
    assert len(body) < 200_000

    before = pa.total_allocated_bytes()
    tracemalloc.start()
    error = refused(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert error.code == "too_large"
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert peak < 5_000_000


def test_a_dictionary_that_every_batch_refers_to_is_read_a_bounded_number_of_times() -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0] * 500, pa.int32()), pa.array(["x" * 50_000, "y"]))
    body = ipc(pa.table({"a": words.slice(0, 15)}))
    assert len(read_stream(body, ["a"], LIMITS).batches) == 1

    coded = pa.DictionaryArray.from_arrays(pa.array([1] * 500, pa.int32()), pa.array(["x" * 50_000, "y"]))
    assert "dictionaries" in str(refused(ipc(pa.table({"a": coded}), batch_rows=1)))


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_body_that_inflates_beyond_the_limit_is_refused_by_what_it_says(compression: str) -> None:
    body = ipc(pa.table({"b": ["x" * 5_000_000]}), compression)
    assert len(body) < 50_000

    error = refused(body, wanted=("a",))  # a column that nobody wants counts as well
    assert error.code == "too_large"
    assert "inflate to 5,000,0" in str(error)


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
@pytest.mark.parametrize("said", [2**62, -7, 3])
def test_a_buffer_that_lies_about_its_size_is_refused(compression: str, said: int) -> None:
    body = ipc(pa.table({"s": ["abcdefgh" * 500]}), compression)
    before, size, after = body.rpartition(struct.pack("<q", 4_000))
    assert size

    refused(before + struct.pack("<q", said) + after)


def test_types_that_no_field_has_are_not_read() -> None:
    deep = pa.array([{"x": {"y": [{"z": 1}]}}])
    table = pa.table(
        {"a": deep, "s": pa.array([[["x"]]]), "m": pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64()))}
    )

    found = read_stream(ipc(table), ["a", "s", "m"], LIMITS)
    assert found.unreadable.keys() == {"a", "s", "m"}
    assert found.batches == ((1, {}),)


def test_a_schema_nested_beyond_reason_is_refused() -> None:
    kind: pa.DataType = pa.int64()
    for _ in range(500):
        kind = pa.list_(kind)
    out = io.BytesIO()
    pa.ipc.new_stream(out, pa.schema({"a": kind})).close()

    assert refused(out.getvalue()).code == "malformed"


def fuzz(seed: int, count: int) -> dict[str, int]:
    command = [sys.executable, "-m", "tests.core.arrow_fuzz", str(seed), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3_000:]
    found: dict[str, int] = json.loads(done.stdout)
    return found


def test_mutated_bodies_are_refused_or_whole_and_end_no_process() -> None:
    found = fuzz(0, 300)

    assert sum(found.values()) == 600
    assert min(found[outcome] for outcome in ("202", "400", "read", "dead letter")) > 10


@pytest.mark.slow
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("part", range(6))
def test_very_many_mutated_bodies_are_refused_or_whole_and_end_no_process(part: int) -> None:
    found = fuzz(1_000_000 * (part + 1), 10_000)

    assert sum(found.values()) == 20_000
