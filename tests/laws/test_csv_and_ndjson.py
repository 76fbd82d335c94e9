"""A row has one fate, however it is sent: as CSV it is taken, refused and stored as the same row is in NDJSON."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.csv_columns import plain_lines, written_out
from pipeline.core.csv_rows import names_of, read_csv
from pipeline.core.csv_validation import CsvValidator
from pipeline.core.definitions import Field, Stream, TimePolicy
from pipeline.core.validation import Checked, Validator
from tests.laws.logs import law

NOW_MS = 1_800_000_000_000
FIELDS = (
    Field("ts", "timestamp", unit="ms"),
    Field("user", "string"),
    Field("n", "int", nullable=True),
    Field("x", "float", nullable=True),
    Field("ok", "bool", nullable=True),
    Field("tags", "list", nullable=True, item="string"),
)
TIME = TimePolicy("ts", max_age_ms=1_000_000)
STREAMS = [
    Stream("s", FIELDS, TIME, partition_by=by, partitions=3, extra=extra)
    for by in (None, "user")
    for extra in ("drop", "refuse")
]

texts = st.text(st.sampled_from('ab",;\n\r é'), min_size=1, max_size=5)
rows = st.fixed_dictionaries(
    {"ts": st.sampled_from([NOW_MS, NOW_MS - 1, NOW_MS + 10**9, NOW_MS - 10**8, "noon", None]), "user": texts},
    optional={
        "n": st.one_of(st.none(), st.integers(), st.just("many"), st.just(2**70)),
        "x": st.one_of(
            st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers(-5, 5), st.just("1e999")
        ),
        "ok": st.one_of(st.none(), st.booleans(), st.just("perhaps")),
        "tags": st.one_of(st.none(), st.lists(texts, max_size=2), st.just("[1")),
        "other": texts,
    },
)


plain_texts = st.text(st.sampled_from("ab; é#_0"), min_size=1, max_size=5)
times = st.one_of(
    st.integers(NOW_MS - 10**6, NOW_MS + 10**6).map(str),
    st.sampled_from(["2027-01-15T08:00:00Z", "noon", "1.8e12", " 7", ""]),
)
numbers = st.one_of(
    st.integers().map(str),
    st.floats().map(repr),
    st.sampled_from(["", "+7", "7.0", " 7", "7 ", "1_0", "0x1", "1e3", ".5", "٣"]),
)
plain_rows = st.tuples(
    times, plain_texts | st.just(""), numbers, numbers, st.sampled_from(["", "true", "1", "False", "no"])
)


@law
@given(
    stream=st.sampled_from(STREAMS),
    rows=st.lists(plain_rows, min_size=1, max_size=4),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
    fewer=st.integers(0, 9),
)
def test_column_by_column_and_row_by_row_say_the_same(
    stream: Stream, rows: list[tuple[str, ...]], end: str, last: bool, fewer: int
) -> None:
    """Without quotes a body is read by columns where nothing in it is unusual: with the fates of the careful way."""
    lines = ["ts,user,n,x,ok", *(",".join(row) for row in rows)]
    if 0 < fewer < len(lines):
        lines[fewer] = lines[fewer].rpartition(",")[0]
    body = (end.join(lines) + end * last).encode()
    validator = CsvValidator(stream, Validator(stream))

    found = validator.check(body, now_ms=NOW_MS)

    carefully = validator._judge(read_csv(body), NOW_MS, of_any_age=False)
    assert [replace(each, message="") for each in found.refusals] == [
        replace(each, message="") for each in carefully.refusals
    ]
    assert (found.n_received, found.n_good, found.undeclared) == (carefully.n_received, carefully.n_good, 0)
    assert stored(found) == stored(carefully)


def without_nulls(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


def test_what_everybody_sends_is_read_by_columns() -> None:
    fields = {field.name: field for field in FIELDS}
    body = b"ts,user,n,x,ok,tags,other\r\n1,ada,7,0.1,true,,z\r\n2027-01-15,eve,,,,,\r\n"
    plain = plain_lines(body)
    assert plain is not None

    for some in (plain, plain.replace(b"2027-01-15", b"2")):
        rows = written_out(some, names_of(some.partition(b"\n")[0]), fields)
        assert (rows is None) == (some is plain), "a column of times is numbers or texts"
    assert rows is not None
    assert [json.loads(row) for row in rows.splitlines()] == [
        {"ts": 1, "user": "ada", "n": 7, "x": 0.1, "ok": True, "tags": None},
        {"ts": 2, "user": "eve", "n": None, "x": None, "ok": None, "tags": None},
    ]


def as_csv(sent: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    names = [field.name for field in FIELDS] + (["other"] if any("other" in row for row in sent) else [])
    writer = csv.writer(text)
    writer.writerow(names)
    writer.writerows([[cell(row.get(name)) for name in names] for row in sent])
    return text.getvalue().encode()


def cell(value: Any) -> Any:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case list():
            return json.dumps(value)
    return value


def as_ndjson(sent: list[dict[str, Any]]) -> bytes:
    """An empty cell is a field that is not there; the order of fields decides which of two mistakes is named."""
    names = [*(field.name for field in FIELDS), "other"]
    return b"\n".join(
        json.dumps({name: row[name] for name in names if row.get(name) is not None}).encode() for row in sent
    )


@law
@given(stream=st.sampled_from(STREAMS), sent=st.lists(rows, min_size=1, max_size=6))
def test_a_row_of_csv_has_the_fate_of_the_same_row_in_ndjson(stream: Stream, sent: list[dict[str, Any]]) -> None:
    validator = Validator(stream)

    found = CsvValidator(stream, validator).check(as_csv(sent), now_ms=NOW_MS)

    as_rows = validator.check(as_ndjson(sent), kind="ndjson", now_ms=NOW_MS)
    assert (found.n_received, found.n_good, found.newest_ms) == (as_rows.n_received, as_rows.n_good, as_rows.newest_ms)
    assert [(each.index, each.field, each.code) for each in found.refusals] == [
        (each.index, each.field, each.code) for each in as_rows.refusals
    ]
    assert {each.header for each in found.refusals} <= {as_csv(sent).partition(b"\r\n")[0]}
    for mine, theirs in ((found.times_ms, as_rows.times_ms), (found.owners, as_rows.owners)):
        assert (None if mine is None else mine.tolist()) == (None if theirs is None else theirs.tolist())
    assert stored(found) == stored(as_rows)


def stored(checked: Checked) -> list[dict[str, Any]]:
    """The good rows; columns that the schema does not have are dropped at the door from CSV, by readers from JSON."""
    lines = checked.body.split(b"\n") if checked.n_good else []
    names = {field.name for field in FIELDS}
    return [without_nulls({name: json.loads(line).get(name) for name in names}) for line in lines]


@law
@given(sent=st.lists(rows, min_size=1, max_size=4))
def test_a_refused_row_and_its_header_are_the_same_row_again(sent: list[dict[str, Any]]) -> None:
    stream = STREAMS[0]
    csv_validator = CsvValidator(stream, Validator(stream))

    for refusal in csv_validator.check(as_csv(sent), now_ms=NOW_MS).refusals:
        [again] = csv_validator.check(b"\n".join([refusal.header, refusal.body]), now_ms=NOW_MS).refusals
        assert (again.code, again.field, again.body) == (refusal.code, refusal.field, refusal.body)
