"""Arrow columns of every type a sender may have: values, refusals and codes are those of the same JSON."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from pipeline.core.arrow_stream import Limits
from pipeline.core.arrow_validation import CheckedColumns, ColumnValidator
from pipeline.core.batches import Batch, read_batch
from pipeline.core.definitions import Field, Stream, TimePolicy
from pipeline.core.entries import Chunk as StoredChunk
from pipeline.core.events import Reader
from pipeline.core.ndjson import encode_rows
from pipeline.core.validation import Checked, Validator
from tests.arrow_bodies import ipc

FIELDS = (
    Field("ts", "timestamp"),
    Field("name", "string"),
    Field("count", "int", nullable=True),
    Field("value", "float", nullable=True),
    Field("ok", "bool", nullable=True),
    Field("seen", "timestamp", nullable=True),
    Field("tags", "list", nullable=True, item="string"),
    Field("marks", "list", nullable=True, item="float"),
    Field("moments", "list", nullable=True, item="timestamp"),
)
STREAM = Stream("events", FIELDS, TimePolicy("ts"), partitions=3)
KEYED = Stream("users", FIELDS, TimePolicy("ts"), partition_by="name", partitions=3)
NOW_MS = 1_763_900_000_000
LIMITS = Limits(rows=200_000, bytes=32_000_000)
N = 300  # above what is stored as NDJSON


def judged(table: pa.Table, stream: Stream = STREAM) -> CheckedColumns:
    return ColumnValidator(stream, LIMITS).check(ipc(table), now_ms=NOW_MS)


def judged_rows(rows: Sequence[dict[str, Any]], stream: Stream = STREAM) -> Checked:
    return Validator(stream).check(encode_rows(rows), kind="ndjson", now_ms=NOW_MS)


def read_back(
    checked: Checked | CheckedColumns, stream: Stream = STREAM, names: Sequence[str] | None = None
) -> list[Batch]:
    """What workers read of each partition, through the chunks as they are stored."""
    reader = Reader(stream, [field.name for field in stream.fields] if names is None else names)
    batches = []
    for partition, parts in sorted(checked.shares(stream, 0).items()):
        entries = [
            StoredChunk(b"%d-%d" % (NOW_MS, k), part.n, 0, zlib.crc32(part.body), NOW_MS, part.coding, part.body)
            for k, part in enumerate(parts)
        ]
        batches.append(read_batch(entries, reader, partition=partition, max_future_ms=300_000))
    return batches


def same(left: Sequence[Batch], right: Sequence[Batch]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        assert one.frame.schema == other.frame.schema
        assert one.frame.equals(other.frame)
        assert one.times_ms.tolist() == other.times_ms.tolist()
        assert one.n_dead == other.n_dead == 0


def refused(checked: Checked | CheckedColumns) -> list[tuple[int, str | None, str]]:
    return [(each.index, each.field, each.code) for each in checked.refusals]


def row(number: int) -> dict[str, Any]:
    """A row of plain values; every kind of null and of empty value among them."""
    return {
        "ts": NOW_MS - 1_000 * number,
        "name": f"näme-{number % 7}" if number % 5 else "",
        "count": None if number % 3 == 0 else number - 5,
        "value": None if number % 4 == 0 else number / 7,
        "ok": None if number % 6 == 0 else number % 2 == 0,
        "seen": None if number % 5 == 0 else NOW_MS + number,
        "tags": None if number % 7 == 0 else ["a", f"long enough to be no inlined view {number}"][: number % 3],
        "marks": None if number % 8 == 0 else [number / 3, 0.5][: number % 3],
        "moments": None if number % 9 == 0 else [NOW_MS, NOW_MS + number][: number % 3],
    }


ROWS = [row(number) for number in range(N)]
TYPES = {
    "ts": pa.int64(),
    "name": pa.string(),
    "count": pa.int64(),
    "value": pa.float64(),
    "ok": pa.bool_(),
    "seen": pa.int64(),
    "tags": pa.list_(pa.string()),
    "marks": pa.list_(pa.float64()),
    "moments": pa.list_(pa.int64()),
}


def table(rows: Sequence[dict[str, Any]] = ROWS, **types: pa.DataType) -> pa.Table:
    chosen = TYPES | types
    return pa.table({name: pa.array([each.get(name) for each in rows], kind) for name, kind in chosen.items()})


@pytest.mark.parametrize("stream", [STREAM, KEYED])
@pytest.mark.parametrize("compression", ["none", "lz4", "zstd"])
@pytest.mark.parametrize("size", [1, 255, N])
def test_columns_are_stored_and_read_to_what_the_same_rows_are(stream: Stream, compression: Any, size: int) -> None:
    coded = Stream(stream.name, FIELDS, stream.time, stream.partition_by, 3, compression=compression)
    checked = judged(table(ROWS[:size]), coded)

    assert (checked.n_received, checked.n_good, checked.refusals, checked.undeclared) == (size, size, [], 0)
    assert checked.newest_ms == NOW_MS
    rows = judged_rows(ROWS[:size], coded)
    same(read_back(checked, coded), read_back(rows, coded))
    assert [len(parts) for parts in checked.shares(coded, 0).values()] == [
        len(parts) for parts in rows.shares(coded, 0).values()
    ]


@pytest.mark.parametrize("names", [[], ["value"], ["tags", "ts"]])
def test_a_reader_gets_the_columns_it_asked_for(names: list[str]) -> None:
    batches = read_back(judged(table()), names=names)

    same(batches, read_back(judged_rows(ROWS), names=names))
    assert set(batches[0].frame.columns) == set(names)


TEXTS = [
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.dictionary(pa.uint32(), pa.large_string()),
]
NUMBERS = [pa.int8(), pa.int16(), pa.int32(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]


@pytest.mark.parametrize("kind", TEXTS, ids=str)
def test_texts_of_every_layout(kind: pa.DataType) -> None:
    same(read_back(judged(table(name=kind))), read_back(judged_rows(ROWS)))


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.string_view()),
        pa.list_(pa.large_string()),
        pa.large_list(pa.string()),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
    ],
    ids=str,
)
def test_lists_of_every_layout(kind: pa.DataType) -> None:
    texts = pa.array([each["tags"] for each in ROWS], pa.list_(pa.string()))
    if pa.types.is_dictionary(kind.value_type):
        items = pa.ListArray.from_arrays(texts.offsets, texts.values.dictionary_encode(), mask=texts.is_null())
    else:
        items = texts.cast(kind)
    given = table().set_column(6, "tags", items)

    same(read_back(judged(given)), read_back(judged_rows(ROWS)))


def test_lists_of_a_fixed_size_with_gaps() -> None:
    marks = [None if k % 3 == 0 else [k / 7, 1.5] for k in range(N)]
    given = table().set_column(7, "marks", pa.array(marks, pa.list_(pa.float64(), 2)))

    same(
        read_back(judged(given)),
        read_back(judged_rows([each | {"marks": m} for each, m in zip(ROWS, marks, strict=True)])),
    )


@pytest.mark.parametrize("kind", NUMBERS, ids=str)
def test_integers_of_every_width(kind: pa.DataType) -> None:
    rows = [each | {"count": None if k % 4 == 0 else k % 128} for k, each in enumerate(ROWS)]

    same(read_back(judged(table(rows, count=kind))), read_back(judged_rows(rows)))
    as_float = [each | {"value": each["count"]} for each in rows]
    same(read_back(judged(table(as_float, count=kind, value=kind))), read_back(judged_rows(as_float)))


@pytest.mark.parametrize("kind", [pa.float16(), pa.float32()], ids=str)
def test_floats_of_every_width_are_the_double_of_the_same_value(kind: pa.DataType) -> None:
    rows = [each | {"value": None if k % 4 == 0 else float(np.float16(k / 7))} for k, each in enumerate(ROWS)]

    same(read_back(judged(table(rows, value=kind))), read_back(judged_rows(rows)))


def test_decimals_are_floats() -> None:
    given = table().set_column(3, "value", pa.array([Decimal("0.1")] * N, pa.decimal128(10, 3)))

    same(read_back(judged(given)), read_back(judged_rows([each | {"value": 0.1} for each in ROWS])))


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_timestamps_of_every_unit_and_zone_are_floored_to_the_same_instant(unit: str, zone: str | None) -> None:
    per_s = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    numbers = [(NOW_MS // 1_000 - k) * per_s - (per_s > 1) for k in range(N)]
    old = [-k * per_s - (per_s > 1) for k in range(N)]  # before 1970: towards the past
    given = table()
    given = given.set_column(0, "ts", pa.array(numbers, pa.timestamp(unit, zone)))
    given = given.set_column(5, "seen", pa.array(old, pa.timestamp(unit, zone)))
    floored = [{"ts": n * 1_000 // per_s, "seen": o * 1_000 // per_s} for n, o in zip(numbers, old, strict=True)]
    in_ms = tuple(Field(f.name, f.type, f.nullable, f.item, unit="ms") for f in FIELDS)
    stream = Stream("events", in_ms, TimePolicy("ts"), partitions=3)

    rows = [each | times for each, times in zip(ROWS, floored, strict=True)]
    same(read_back(judged(given, stream), stream), read_back(judged_rows(rows, stream), stream))


@pytest.mark.parametrize("unit", ["auto", "s", "ms", "us", "ns"])
@pytest.mark.parametrize("size", [20, N])
def test_numbers_texts_and_floats_are_times_by_the_fields_unit(unit: Any, size: int) -> None:
    fields = tuple(Field(f.name, f.type, f.nullable, f.item, unit=unit) for f in FIELDS)
    stream = Stream("events", fields, TimePolicy("ts"), partitions=3)
    per_s = {"auto": 1_000, "s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    rows = [each | {"ts": (NOW_MS // 1_000 - k) * per_s, "moments": None} for k, each in enumerate(ROWS[:size])]
    numbers = [each | {"seen": None if k % 5 == 0 else each["ts"] / 2} for k, each in enumerate(rows)]
    texts = [each | {"seen": None if k % 5 == 0 else "2026-05-17T10:05:03.250+02:00"} for k, each in enumerate(rows)]

    for given, kind in ((numbers, pa.float64()), (texts, pa.string()), (texts, pa.string_view())):
        checked = judged(table(given, seen=kind), stream)
        assert checked.refusals == []
        same(read_back(checked, stream), read_back(judged_rows(given, stream), stream))


def test_dates_are_their_first_instant() -> None:
    days = [date(2025, 1, 1 + k % 28) for k in range(N)]
    rows = [each | {"seen": day} for each, day in zip(ROWS, days, strict=True)]

    for kind in (pa.date32(), pa.date64()):
        same(read_back(judged(table(rows, seen=kind))), read_back(judged_rows(rows)))


def test_nan_is_null_and_a_whole_float_an_int_as_pandas_writes_an_int_column_with_a_gap() -> None:
    count = pa.array([float("nan") if k % 3 == 0 else float(k) for k in range(N)])
    value = pa.array([float("nan") if k % 2 == 0 else k / 7 for k in range(N)])
    given = table().set_column(2, "count", count).set_column(3, "value", value)

    rows = [
        each | {"count": None if k % 3 == 0 else k, "value": None if k % 2 == 0 else k / 7}
        for k, each in enumerate(ROWS)
    ]
    same(read_back(judged(given)), read_back(judged_rows(rows)))


@dataclass(frozen=True)
class Wrong:
    """A column with something wrong in some rows; the same rows as JSON are refused alike."""

    name: str
    kind: pa.DataType
    values: dict[int, Any]


WRONG = [
    Wrong("count", pa.uint64(), {3: 2**63}),
    Wrong("count", pa.float64(), {4: 2.5, 7: 1e300}),
    Wrong("value", pa.float64(), {5: float("inf"), 6: float("-inf")}),
    Wrong("value", pa.string(), {2: "1.5"}),
    Wrong("name", pa.int32(), {9: 7}),
    Wrong("name", pa.string(), {9: None}),
    Wrong("ok", pa.int8(), {1: 1}),
    Wrong("tags", pa.list_(pa.string()), {8: ["a", None]}),
    Wrong("tags", pa.list_(pa.int64()), {8: [], 11: [5]}),
    Wrong("tags", pa.string(), {8: "a"}),
    Wrong("marks", pa.list_(pa.float64()), {8: [0.5, float("inf")]}),
    Wrong("moments", pa.list_(pa.string()), {8: ["2026-05-17T10:05:03Z", "noon"]}),
    Wrong("ts", pa.int64(), {0: None}),
    Wrong("ts", pa.int64(), {0: NOW_MS + 10**8, 5: 2**62}),
    Wrong("seen", pa.string(), {3: "yesterday", 4: None}),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong.name} {wrong.kind} {next(iter(wrong.values))}")
def test_a_value_that_does_not_fit_refuses_its_row_alone_as_the_same_json(wrong: Wrong) -> None:
    keeps_its_type = wrong.kind == TYPES[wrong.name]
    rows = [each if keeps_its_type else each | {wrong.name: None} for each in ROWS]
    for number, value in wrong.values.items():
        rows[number] = rows[number] | {wrong.name: value}

    checked, expected = judged(table(rows, **{wrong.name: wrong.kind})), judged_rows(rows)

    assert refused(checked) == refused(expected)
    assert set(wrong.values) & {index for index, _, _ in refused(checked)}
    assert (checked.n_received, checked.n_good) == (expected.n_received, expected.n_good)
    if checked.n_good:
        same(read_back(checked), read_back(expected))
    for mine, theirs in zip(checked.refusals, expected.refusals, strict=True):
        assert json.loads(mine.body.replace(b"1e999", b"Infinity")).keys() == json.loads(theirs.body).keys()


def test_a_time_outside_the_years_there_are_is_refused_and_shown_as_its_number() -> None:
    values = [NOW_MS // 1_000] * N
    values[3], values[4] = 10**12, -(2**63)
    checked = judged(table().set_column(0, "ts", pa.array(values, pa.timestamp("s"))))

    assert refused(checked) == [(3, "ts", "bad_time"), (4, "ts", "bad_time")]
    assert json.loads(checked.refusals[0].body)["ts"] == 10**12


def test_a_required_column_that_is_not_there_refuses_every_row_as_missing() -> None:
    checked = judged(table(ROWS[:5]).drop(["name"]))

    assert refused(checked) == [(k, "name", "missing") for k in range(5)]
    assert refused(checked) == refused(judged_rows([{k: v for k, v in r.items() if k != "name"} for r in ROWS[:5]]))


def test_an_optional_column_that_is_not_there_or_has_no_type_is_null() -> None:
    rows = [each | {"value": None, "tags": None} for each in ROWS]
    given = table().drop(["value", "tags"]).append_column("tags", pa.nulls(N))

    same(read_back(judged(given)), read_back(judged_rows(rows)))


def test_other_columns_are_dropped_and_counted_or_refused() -> None:
    given = table(ROWS[:4]).append_column("more", pa.array([{"x": {"y": [1]}}] * 4))
    rows = [each | {"more": {"x": 1}} for each in ROWS[:4]]

    assert judged(given).undeclared == judged_rows(rows).undeclared == 4
    closed = Stream("events", FIELDS, TimePolicy("ts"), extra="refuse")
    assert refused(judged(given, closed)) == refused(judged_rows(rows, closed))


def test_a_column_of_a_type_no_field_has_refuses_every_row() -> None:
    given = table(ROWS[:3]).set_column(2, "count", pa.array([{"deep": 1}] * 3))

    checked = judged(given)
    assert refused(checked) == [(k, "count", "wrong_type") for k in range(3)]
    assert "struct" in checked.refusals[0].message


def test_a_row_that_is_too_long_is_refused_alone() -> None:
    rows = [dict(each) for each in ROWS]
    rows[7]["name"] = "x" * 1_000_001
    rows[9]["tags"] = ["y" * 600_000, "z" * 600_000]

    assert [(r.index, r.code) for r in judged(table(rows)).refusals] == [(7, "too_large"), (9, "too_large")]


def test_frames_as_polars_and_pandas_write_them() -> None:
    moments = [datetime(2025, 11, 23, 12, 0, k % 60, tzinfo=UTC) for k in range(N)]
    polars = pl.DataFrame(
        {
            "ts": pl.Series(moments),
            "name": pl.Series([f"a text of some length {k % 9}" for k in range(N)], dtype=pl.Categorical),
            "count": pl.Series([None if k % 3 == 0 else k for k in range(N)], dtype=pl.Int16),
            "tags": [["a", "b"][: k % 3] for k in range(N)],
        }
    )
    out = io.BytesIO()
    polars.write_ipc_stream(out, compression="zstd")
    pandas = pd.DataFrame(
        {
            "ts": pd.to_datetime(moments),
            "name": pd.Categorical([f"a text of some length {k % 9}" for k in range(N)]),
            "count": [None if k % 3 == 0 else k for k in range(N)],
            "tags": [["a", "b"][: k % 3] for k in range(N)],
        }
    )
    rows = [each | {"ts": each["ts"]} for each in polars.to_dicts()]

    expected = read_back(judged_rows(rows))
    for body in (out.getvalue(), ipc(pa.Table.from_pandas(pandas), "lz4", batch_rows=37)):
        same(read_back(ColumnValidator(STREAM, LIMITS).check(body, now_ms=NOW_MS)), expected)


def test_a_chunk_never_passes_its_bounds_and_keeps_the_order() -> None:
    rows = [{"ts": NOW_MS - k, "name": "x" * (900_000 if k in (3, 4, 5, 6, 7) else 100)} for k in range(25_000)]
    checked = judged(table(rows))

    parts = checked.shares(STREAM, 0)[0]
    assert sum(part.n for part in parts) == 25_000
    assert max(part.n for part in parts) <= 10_000
    assert max(len(part.body) for part in parts) < 4_100_000
    assert [t for batch in read_back(checked) for t in batch.times_ms.tolist()] == [NOW_MS - k for k in range(25_000)]


def under(fields: tuple[Field, ...], names: list[str]) -> Batch:
    """A chunk that was written under the schema of today, read under another one."""
    [part] = judged(table()).shares(STREAM, 0)[0]
    chunk = StoredChunk(b"1-0", part.n, 0, zlib.crc32(part.body), NOW_MS, part.coding, part.body)
    reader = Reader(Stream("events", fields, TimePolicy("ts")), names)
    return read_batch([chunk], reader, partition=0, max_future_ms=300_000)


def test_a_chunk_is_read_under_a_schema_that_has_changed_since_as_json_would_be() -> None:
    new = (Field("ts", "timestamp"), Field("count", "float", nullable=True), Field("new", "list", True, item="int"))

    batch = under(new, ["count", "new"])

    assert batch.frame["count"].to_list() == [None if k % 3 == 0 else k - 5.0 for k in range(N)]
    assert batch.frame["new"].to_list() == [None] * N


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (Field("new", "string"), "new is missing"),
        (Field("name", "int"), "name: Expected int, got"),
        (Field("count", "int"), "count: Expected int, got null"),
    ],
)
def test_a_chunk_that_does_not_fit_the_schema_any_more_is_dead_and_says_why(field: Field, said: str) -> None:
    batch = under((Field("ts", "timestamp"), field), [field.name])

    [letter] = batch.dead
    assert (letter.code, letter.n, letter.coding) == ("chunk_unreadable", N, b"arrow")
    assert said in letter.message


FRESH_PROCESS = """
import sys
from pipeline.core.arrow_stream import Limits
from pipeline.core.arrow_validation import ColumnValidator
from pipeline.core.batches import read_batch
from pipeline.core.definitions import Field, Stream, TimePolicy
from pipeline.core.entries import Chunk
from pipeline.core.events import Reader
from isal.isal_zlib import crc32

fields = (Field("ts", "timestamp"), Field("name", "string"), Field("tags", "list", True, "string"))
stream = Stream("s", fields, TimePolicy("ts"), partition_by="name", partitions=2, compression="zstd")
checked = ColumnValidator(stream, Limits(10**5, 10**7)).check(sys.stdin.buffer.read(), now_ms=10**13)
assert checked.n_good == 300
for partition, parts in checked.shares(stream, 0).items():
    chunks = [Chunk(b"1-0", part.n, 0, crc32(part.body), 10**13, part.coding, part.body) for part in parts]
    batch = read_batch(chunks, Reader(stream, ["name", "tags"]), partition=partition, max_future_ms=1)
    assert not batch.dead and len(batch.raw_rows([0])) == 1
sys.exit("pandas" in sys.modules)
"""


def test_neither_the_door_nor_a_worker_imports_pandas_for_a_body() -> None:
    command = [sys.executable, "-c", FRESH_PROCESS]
    done = subprocess.run(command, input=ipc(table()), capture_output=True, check=False, cwd=Path(__file__).parents[2])

    assert done.returncode == 0, done.stderr
