"""The schema made executable: what the door accepts, what it refuses, and that readers agree with it."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.definitions import Field, Stream, TimePolicy
from pipeline.core.events import ChunkError, Reader, RowError, row_fields
from pipeline.core.partitioning import partition_of
from pipeline.core.validation import Checked, Validator

NOW_MS = 1_747_476_303_250
FIELDS = (
    Field("ts", "timestamp"),
    Field("name", "string"),
    Field("count", "int", nullable=True),
    Field("value", "float", nullable=True),
    Field("ok", "bool", nullable=True),
    Field("seen", "timestamp", nullable=True),
    Field("tags", "list", nullable=True, item="string"),
    Field("times", "list", nullable=True, item="timestamp"),
    Field("class", "string", nullable=True),
)
STREAM = Stream("events", FIELDS, TimePolicy("ts"))
CLOSED = Stream("events", FIELDS, TimePolicy("ts"), extra="refuse")
VALIDATOR = Validator(STREAM)
READER = Reader(STREAM, [field.name for field in FIELDS])
GOOD = b'{"ts":1747476303250,"name":"a"}'


def check(body: bytes, kind: Any = "ndjson", validator: Validator = VALIDATOR) -> Checked:
    checked = validator.check(body, kind=kind, now_ms=NOW_MS)
    assert checked.n_received == checked.n_good + len(checked.refusals)
    assert checked.n_good == (len(checked.body.split(b"\n")) if checked.body else 0)
    return checked


def event(**fields: Any) -> bytes:
    return msgspec.json.encode({"ts": NOW_MS, "name": "a"} | fields)


def test_shares_keep_the_order_inside_a_partition() -> None:
    names = [f"u{n % 7}" for n in range(50)]
    stream = Stream("events", (Field("name", "string"),), TimePolicy(None), partitions=3, partition_by="name")
    checked = check(b"\n".join(event(name=name, n=n) for n, name in enumerate(names)), validator=Validator(stream))
    shares = checked.shares(stream, 0)

    assert sum(chunk.n for chunks in shares.values() for chunk in chunks) == 50
    for partition, [chunk] in shares.items():
        mine = [msgspec.json.decode(row)["n"] for row in chunk.body.split(b"\n")]
        assert mine == [n for n in range(50) if partition_of(names[n], 3) == partition]
        assert chunk.n == len(mine)


def test_a_good_batch_is_kept_byte_for_byte() -> None:
    body = b"\n".join([GOOD, b'{ "ts" : 1747476303251 , "name":"\\u00e9" }'])
    checked = check(body + b"\n")
    assert checked.body == body
    assert checked.times_ms is not None
    assert checked.times_ms.tolist() == [NOW_MS, NOW_MS + 1]
    assert checked.refusals == []


REFUSED: list[tuple[bytes, str, str | None]] = [
    (b'{"ts":1747476303250}', "missing", "name"),
    (b'{"name":"a"}', "missing", "ts"),
    (b'{"ts":null,"name":"a"}', "wrong_type", "ts"),
    (b'{"ts":true,"name":"a"}', "wrong_type", "ts"),
    (b'{"ts":"noon","name":"a"}', "bad_time", "ts"),
    (b'{"ts":1747476303250,"name":5}', "wrong_type", "name"),
    (event(count=True), "wrong_type", "count"),
    (event(count="5"), "wrong_type", "count"),
    (event(count=1.5), "wrong_type", "count"),
    (event(count=2**63), "out_of_range", "count"),
    (event(count=-(2**63) - 1), "out_of_range", "count"),
    (event(value=True), "wrong_type", "value"),
    (event(value=msgspec.Raw(b"1e999")), "out_of_range", "value"),
    (event(value=msgspec.Raw(b"9" * 400)), "out_of_range", "value"),
    (event(value=msgspec.Raw(b"NaN")), "malformed", None),
    (event(value=msgspec.Raw(b"-Infinity")), "malformed", None),
    (event(ok=1), "wrong_type", "ok"),
    (event(seen="noon"), "bad_time", "seen"),
    (event(tags=["a", 5]), "wrong_type", "tags"),
    (event(tags="a"), "wrong_type", "tags"),
    (event(times=[NOW_MS, "noon"]), "bad_time", "times"),
    (event(ts=NOW_MS + 300_001), "too_far_ahead", "ts"),
    (GOOD + GOOD, "malformed", None),
    (GOOD[:-1], "malformed", None),
    (GOOD[:-1] + b",}", "malformed", None),
    (GOOD + b",", "malformed", None),
    (b"null", "wrong_type", None),
    (b'"a"', "wrong_type", None),
    (b"hello", "malformed", None),
    (b"\x00", "malformed", None),
    (b'{"ts":1747476303250,"name":"\xff"}', "not_utf8", None),
    (b'{"ts":1747476303250,"name":"a","x":"\xff"}', "not_utf8", None),
    (b'{"ts":1747476303250,"name":"a\x00"}', "malformed", None),
    (b'{"ts":1747476303250,"name":"\\ud800"}', "not_utf8", None),
    (event(x=msgspec.Raw(b"[" * 65 + b"]" * 65)), "too_deep", None),
    (event(x=msgspec.Raw(b"[" * 100_000 + b"]" * 100_000)), "too_deep", None),
    (b"[" * 100_000, "too_deep", None),
    (event(name="a" * 1_000_001), "too_large", None),
]


@pytest.mark.parametrize(("row", "code", "field"), REFUSED)
def test_a_bad_row_is_refused_alone_with_its_bytes(row: bytes, code: str, field: str | None) -> None:
    checked = check(b"\n".join([GOOD, row, GOOD]))
    (refusal,) = checked.refusals
    assert (refusal.index, refusal.code, refusal.field, refusal.body) == (1, code, field, row)
    assert refusal.message
    assert checked.body == GOOD + b"\n" + GOOD


HALF = "not valid Unicode: half of a surrogate pair, such as \\ud800, stands alone"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (rb"\ud800", HALF),
        (rb"\udc00", HALF),
        (rb"\ud800 and more", HALF),
        (rb"\ud800\u0041", HALF),
        (rb"\\\ud800", HALF),
        (rb"\ud83d\ude00 \uD83D", HALF),
    ],
)
def test_half_a_character_is_no_row_that_ends_too_early(text: bytes, message: str) -> None:
    for row in (b'{"ts":1747476303250,"name":"%s"}' % text, b'{"ts":1747476303250,"name":"a","x":["%s"]}' % text):
        (refusal,) = check(row).refusals
        assert (refusal.code, refusal.message) == ("not_utf8", message)
        (refusal,) = check(b"[%s,%s]" % (GOOD, row)).refusals
        assert (refusal.code, refusal.message) == ("not_utf8", message)


@pytest.mark.parametrize("row", [rb'{"ts":1747476303250,"name":"\ud800', rb'{"ts":1747476303250,"name":"\\ud800'])
def test_a_row_that_does_end_too_early_is_called_so(row: bytes) -> None:
    (refusal,) = check(row).refusals
    assert (refusal.code, refusal.message) == ("malformed", "not one JSON object: it ends too early")


def test_no_message_of_a_refusal_ends_with_a_full_stop() -> None:
    """Whoever shows it makes the sentence: two would add up to `..`."""
    bad_times = ["noon", "2026-13-01T00:00:00Z", "9999-12-31T23:59:59-01:00", 2**62, 10**30, 10**14 * 3]
    body = b"\n".join([*(row for row, _, _ in REFUSED), *(event(ts=value) for value in bad_times)])
    messages = [refusal.message for refusal in check(body).refusals]
    assert len(messages) > len(bad_times)
    assert [message for message in messages if message.endswith(".")] == []


ACCEPTED = [
    event(count=2**63 - 1, value=5),
    event(count=-(2**63), value=2**64),
    event(count=None, value=None, ok=None, seen=None, tags=None, times=None),
    event(name="\0", tags=[], times=[]),
    event(ts="2025-05-17T10:05:03Z", seen="2025-05-17 10:05:03"),
    event(ts=NOW_MS / 1000, times=[1, "2025-05-17T10:05:03Z"]),
    event(ts=-1),
    event(x=msgspec.Raw(b"[" * 63 + b"]" * 63)),
    event(x='{"[' * 100),
    event(**{"class": "é"}),
    b'{"ts":1,"ts":1747476303250,"name":"a","name":"b"}',  # the last of duplicate keys, for every reader
]


@pytest.mark.parametrize("row", ACCEPTED)
def test_a_row_at_the_edge_of_the_schema_is_accepted(row: bytes) -> None:
    assert check(row).n_good == 1


def test_json_arrays_and_objects_give_the_rows_of_ndjson() -> None:
    assert check(b"[" + GOOD + b" ,\n" + GOOD + b"]", "json").body == GOOD + b"\n" + GOOD
    assert check(GOOD.replace(b",", b",\n"), "json").body == GOOD.replace(b",", b", ")
    assert check(GOOD + b"\n" + GOOD, "json").n_good == 2
    assert check(b"\xef\xbb\xbf" + GOOD + b"\r\n\r\n " + GOOD + b" \r\n").body == GOOD + b"\n" + GOOD
    assert check(b"[1,[],{}]").n_received == 3


def test_a_document_that_cannot_be_taken_apart_is_one_refusal() -> None:
    for body in (b"[" + GOOD, b"[" + GOOD + b"]]", b"[" + b"[" * 100_000):
        checked = check(body, "json")
        assert checked.document_refused
        assert [refusal.body for refusal in checked.refusals] == [body]


def test_nothing_is_received_from_a_body_without_rows() -> None:
    for body in (b"", b" \n\r\n ", b"[]", b"\xef\xbb\xbf"):
        assert check(body).n_received == 0


def test_a_row_split_over_lines_is_refused_whatever_stands_beside_it() -> None:
    split = b'{"ts":1747476303250,"x":{"a":1}\n,"name":"a"}'
    compensated = b"\n".join([split, GOOD + GOOD])  # as many values as lines
    assert [r.index for r in check(b"\n".join([split, GOOD])).refusals] == [0, 1]
    assert [r.index for r in check(compensated).refusals] == [0, 1, 2]


def test_undeclared_fields_are_counted_or_refused() -> None:
    body = b"\n".join([event(x=1), GOOD, event(y={"z": [1]})])
    assert check(body).undeclared == 2
    assert check(body + b"\n{}").undeclared == 2
    assert check(event(x=1, ts=NOW_MS + 10**9) + b"\n" + body).undeclared == 2
    closed = check(body, validator=Validator(CLOSED))
    assert [(r.index, r.code, r.field) for r in closed.refusals] == [(0, "undeclared", "x"), (2, "undeclared", "y")]


def test_events_older_than_max_age_are_refused() -> None:
    stream = Stream("events", FIELDS, TimePolicy("ts", max_age_ms=1_000))
    checked = check(event(ts=NOW_MS - 1_001) + b"\n" + event(ts=NOW_MS - 1_000), validator=Validator(stream))
    assert [(r.index, r.code) for r in checked.refusals] == [(0, "too_old")]
    assert checked.refusals[0].message == "ts is 1001 ms old; max_age is 1s"
    ancient = check(event(ts=NOW_MS - 400 * 86_400_000 - 343), validator=Validator(stream))
    assert ancient.refusals[0].message == "ts is over 400 days old; max_age is 1s"


def test_a_stream_without_a_time_field_takes_events_without_times() -> None:
    stream = Stream("beats", (Field("name", "string"),))
    assert check(b'{"name":"a"}', validator=Validator(stream)).times_ms is None
    reader = Reader(stream, ["name"])
    arrivals_ms = np.array([7], dtype=np.int64)
    assert reader.times(reader.chunk(b'{"name":"a"}', 1), arrivals_ms).tolist() == [7]


ROWS = st.lists(st.sampled_from([row for row, _, _ in REFUSED if len(row) < 1_000] + ACCEPTED), min_size=1, max_size=6)


@given(rows=ROWS)
def test_a_rows_fate_does_not_depend_on_its_neighbours(rows: list[bytes]) -> None:
    together = check(b"\n".join(rows))
    alone = [check(row) for row in rows]
    assert [r.index for r in together.refusals] == [k for k, one in enumerate(alone) if one.refusals]
    assert together.body == b"\n".join(one.body for one in alone if one.n_good)
    assert together.undeclared == sum(one.undeclared for one in alone)


NAMES = st.text(max_size=5)
TIMES = st.one_of(
    st.integers(-(10**9), NOW_MS // 1000),
    st.integers(10**11, NOW_MS),
    st.floats(0, 1e9),
    st.just("2025-05-17T10:05:03.5Z"),
)
EVENTS = st.fixed_dictionaries(
    {"ts": TIMES, "name": NAMES},
    optional={
        "count": st.none() | st.integers(-(2**63), 2**63 - 1),
        "value": st.none() | st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**100), 2**100),
        "ok": st.none() | st.booleans(),
        "seen": st.none() | TIMES,
        "tags": st.none() | st.lists(NAMES, max_size=2),
        "times": st.none() | st.lists(TIMES, max_size=2),
        "class": st.none() | NAMES,
        "other": st.none() | NAMES | st.dictionaries(NAMES, st.integers()),
    },
)


@given(events=st.lists(EVENTS, min_size=1, max_size=4), names=st.sets(st.sampled_from([f.name for f in FIELDS])))
def test_readers_read_what_the_door_accepts_from_chunks_and_from_rows(
    events: list[dict[str, Any]], names: set[str]
) -> None:
    checked = check(b"\n".join(map(msgspec.json.encode, map(_utf8, events))))
    assert checked.refusals == []
    whole = READER.chunk(checked.body, checked.n_good)
    rows = [READER.row({k.encode(): v for k, v in row_fields(STREAM, each).items()}) for each in whole]
    assert rows == whole
    reader = Reader(STREAM, names)
    part = reader.chunk(checked.body, checked.n_good)
    columns, all_columns = reader.frame(part), READER.frame(whole)
    assert columns.height == len(events)
    assert set(columns.columns) == names
    assert all(columns[name].equals(all_columns[name]) for name in names)
    arrivals_ms = np.zeros(len(part), dtype=np.int64)
    assert reader.times(part, arrivals_ms).tolist() == checked.times_ms.tolist()  # type: ignore[union-attr]
    assert reader.raw_rows(checked.body) == checked.body.split(b"\n")


def _utf8(event: dict[str, Any]) -> dict[str, Any]:
    """Hypothesis draws no lone surrogates by default; big integers need Raw, as msgspec writes none beyond 64 bits."""
    value = event.get("value")
    return event | {"value": msgspec.Raw(str(value).encode())} if isinstance(value, int) else event


def test_a_json_object_over_several_lines_is_one_row_even_when_broken() -> None:
    pretty = b'{\n "ts": 1747476303250,\n "name": "a"\n}'
    assert check(pretty, "json").n_good == 1
    assert check(pretty[:-1], "json").n_received == 1
    assert [r.index for r in check(GOOD + b"\noops\n" + GOOD, "json").refusals] == [1]
    assert [r.index for r in check(GOOD[:-1] + b"\n" + GOOD, "json").refusals] == [0]


def test_frames_have_the_canonical_types_even_when_empty() -> None:
    schema = {
        "ts": pl.Datetime("ms"), "name": pl.String(), "count": pl.Int64(), "value": pl.Float64(), "ok": pl.Boolean(),
        "seen": pl.Datetime("ms"), "tags": pl.List(pl.String()), "times": pl.List(pl.Datetime("ms")),
        "class": pl.String(),
    }  # fmt: skip
    assert READER.frame([]).schema == schema
    assert READER.frame(READER.chunk(GOOD, 1)).schema == schema
    assert Reader(STREAM, []).frame(READER.chunk(GOOD, 1)).height == 1


def test_a_long_body_is_read_in_slices_without_losing_a_row() -> None:
    body = b"\n".join(event(count=k, name="x" * (k % 700)) for k in range(2_000))
    assert check(body).n_good == 2_000
    assert READER.frame(READER.chunk(body, 2_000))["count"].to_list() == list(range(2_000))


@pytest.mark.parametrize(("body", "n"), [(GOOD, 2), (GOOD[:-1], 1), (b'{"ts":1}', 1), (b'{"ts":1,"name":"\xff"}', 1)])
def test_a_chunk_that_is_not_what_its_header_says_is_refused_whole(body: bytes, n: int) -> None:
    with pytest.raises(ChunkError):
        READER.chunk(body, n)


def test_a_row_is_read_as_a_person_types_it() -> None:
    row = READER.row(
        {b"ts": b"2025-05-17T10:05:03Z", b"name": b"5", b"value": b"21.5", b"ok": b"true", b"tags": b'["a"]'}
    )
    assert (row.ts, row.name, row.value, row.ok, row.tags) == ("2025-05-17T10:05:03Z", "5", 21.5, True, ["a"])
    assert READER.row({b"ts": b"1747476303", b"name": b"null", b"count": b"null", b"x": b"?"}).name == "null"


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({b"name": b"a"}, "missing", "ts"),
        ({b"ts": b"1"}, "missing", "name"),
        ({b"ts": b"noon", b"name": b"a"}, "bad_time", "ts"),
        ({b"ts": b"null", b"name": b"a"}, "wrong_type", "ts"),
        ({b"ts": b"true", b"name": b"a"}, "wrong_type", "ts"),
        ({b"ts": b"1", b"name": b"\xff"}, "not_utf8", "name"),
        ({b"ts": b"1", b"name": b"a", b"value": b"nan"}, "wrong_type", "value"),
        ({b"ts": b"1", b"name": b"a", b"value": b"warm"}, "wrong_type", "value"),
        ({b"ts": b"1", b"name": b"a", b"count": b"1.5"}, "wrong_type", "count"),
        ({b"ts": b"1", b"name": b"a", b"count": b"9223372036854775808"}, "wrong_type", "count"),
        ({b"ts": b"1", b"name": b"a", b"ok": b"yes"}, "wrong_type", "ok"),
        ({b"ts": b"1", b"name": b"a", b"tags": b"a"}, "wrong_type", "tags"),
        ({b"ts": b"1", b"name": b"a", b"times": b'["noon"]'}, "bad_time", "times"),
        ({b"ts": b"1", b"name": b"a", b"tags": b"[" * 100_000}, "wrong_type", "tags"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_field(fields: dict[bytes, bytes], code: str, field: str) -> None:
    for reader in (READER, Reader(STREAM, [])):  # whichever fields a stage needs
        with pytest.raises(RowError) as caught:
            reader.row(fields)
        assert (caught.value.code, caught.value.field) == (code, field)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("value", b"nan", "value: 'nan' is not a float"),
        ("value", b"", "value: '' is not a float"),
        ("count", b"abc", "count: 'abc' is not an int"),
        ("count", b"1.5", "count: '1.5' is not an int: Expected int | null, got float"),
        ("ok", b"True", "ok: 'True' is not a bool (true or false)"),
        ("tags", b"a,b", "tags: 'a,b' is not a list in JSON"),
    ],
)
def test_a_row_typed_by_hand_is_refused_in_words_without_json_errors(name: str, text: bytes, message: str) -> None:
    with pytest.raises(RowError) as caught:
        READER.row({b"ts": b"1", b"name": b"a", name.encode(): text})
    assert str(caught.value) == message
