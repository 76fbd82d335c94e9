"""Files as rows: NDJSON, CSV and Parquet say the same thing, and odd rows are left to the door."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from pipeline.errors import StreamgaugeError
from pipeline.runtime.csv_files import CsvStyle
from pipeline.runtime.replay_files import EventTimes, FileRow, read_rows

FIELDS = {"ts": "timestamp", "user": "string", "n": "int", "x": "float", "ok": "bool", "tags": "list[string]"}


def rows_of(path: Path, fields: dict[str, str] = FIELDS) -> list[Any]:
    return [json.loads(row.body) for row in read_rows(path, fields)]


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_csv_cells_are_typed_by_the_schema(tmp_path: Path, name: str) -> None:
    path = write(
        tmp_path,
        name,
        "\ufeffts,user,n,x,ok,tags,other\n"
        '1431857103000,007,7,1e3,true,"[""a"",""b""]",5\n'
        "2015-05-17T10:05:03Z,,,,,,\n"
        '1431857103.5,"a,\nb",+12,-0.5,0,,\n',
    )
    assert rows_of(path) == [
        {"ts": 1431857103000, "user": "007", "n": 7, "x": 1000.0, "ok": True, "tags": ["a", "b"], "other": "5"},
        {"ts": "2015-05-17T10:05:03Z", "user": None, "n": None, "x": None, "ok": None, "tags": None, "other": None},
        {"ts": 1431857103.5, "user": "a,\nb", "n": 12, "x": -0.5, "ok": False, "tags": None, "other": None},
    ]


def test_cells_that_do_not_fit_their_type_are_sent_as_they_are(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "ts,n,x,ok\nyesterday,1.5,NaN,maybe\n")
    assert rows_of(path) == [{"ts": "yesterday", "n": "1.5", "x": "NaN", "ok": "maybe"}]


def test_a_csv_row_with_too_many_cells_is_sent_as_text_for_the_door_to_refuse(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "user,n\nada,1\nlove, lace,2\n")
    assert rows_of(path) == [{"user": "ada", "n": 1}, "love, lace,2"]


def test_rows_know_their_line(tmp_path: Path) -> None:
    csv = write(tmp_path, "a.csv", 'user,n\n"a\nb",1\n\nc,2\n')
    assert [row.line for row in read_rows(csv, FIELDS)] == [3, 5]  # the line a row ends on
    ndjson = write(tmp_path, "a.ndjson", '{"n":1}\n\n  \n{"n":2}')
    assert list(read_rows(ndjson, FIELDS)) == [FileRow(1, b'{"n":1}'), FileRow(4, b'{"n":2}')]


@pytest.mark.parametrize("name", ["a.ndjson", "a.ndjson.gz", "log"])
def test_ndjson_is_passed_on_byte_for_byte(tmp_path: Path, name: str) -> None:
    path = write(tmp_path, name, '\ufeff{"n": 1.50, "é":"\\u00e9"}\r\nnot json\n')
    assert [row.body for row in read_rows(path, FIELDS)] == ['{"n": 1.50, "é":"\\u00e9"}'.encode(), b"not json"]


def test_parquet_times_are_moments_and_nulls_stay_null(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"ts": [1431857103000, None], "user": ["ada", None], "x": [0.1, float("nan")], "tags": [["a"], []]},
        schema={
            "ts": pl.Datetime("ns", "Europe/Paris"),
            "user": pl.String,
            "x": pl.Float64,
            "tags": pl.List(pl.String),
        },
    ).with_columns(ts=pl.Series([1431857103000, None]).cast(pl.Datetime("ms")).dt.replace_time_zone("UTC"))
    frame.write_parquet(tmp_path / "a.parquet")
    assert rows_of(tmp_path / "a.parquet") == [
        {"ts": "2015-05-17T10:05:03.000+00:00", "user": "ada", "x": 0.1, "tags": ["a"]},
        {"ts": None, "user": None, "x": None, "tags": []},
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.json", "[{}]", "one object a line"),
        ("a.txt", "hello", "neither NDJSON, nor Parquet"),
        ("a.csv", "", "a.csv:1: there are no columns. The first line of a CSV names them"),
        ("a.csv", "\n1,2\n", "there are no columns"),
        ("a.csv", "a,b\n1,2\n", "no column is a field of the stream. Columns: a, b. Fields: ts, user"),
        ("a.csv", "n,n\n1,2\n", "names a column twice"),
        ("a.csv", b"n,user\n1,\xff\n", "not CSV in UTF-8"),
        ("a.parquet", b"PAR1 and then nothing", "not a readable Parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    path = write(tmp_path, name, content)
    with pytest.raises(StreamgaugeError, match=said):
        rows_of(path)


def test_a_gzip_that_is_cut_off_says_so(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"n":1}\n' * 10_000)
    (tmp_path / "a.ndjson.gz").write_bytes(whole[:-10])
    with pytest.raises(StreamgaugeError, match="damaged or cut off"):
        rows_of(tmp_path / "a.ndjson.gz")


@pytest.mark.parametrize(
    ("body", "time_ms"),
    [
        (b'{"x":[1],"ts":1431857103000}', 1431857103000),
        (b'{"ts":1431857103}', 1431857103000),
        (b'{"ts":1431857103.5}', 1431857103500),
        (b'{"ts":1431857103000000000}', 1431857103000),
        (b'{"ts":"2015-05-17 10:05:03"}', 1431857103000),
        (b'{"ts":null}', None),
        (b'{"ts":"soon"}', None),
        (b'{"ts":true}', None),
        (b"{}", None),
        (b"not json", None),
    ],
)
def test_the_event_time_of_a_row_is_read_or_none(body: bytes, time_ms: int | None) -> None:
    assert EventTimes("ts").of(FileRow(1, body)) == time_ms


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
def test_the_header_tells_the_separator(tmp_path: Path, mark: str) -> None:
    path = write(tmp_path, "a.csv", f'user{mark}n{mark}other\n"a{mark}b"{mark}7{mark}x\n{mark}{mark}\nlost{mark}1\n')
    assert rows_of(path) == [
        {"user": f"a{mark}b", "n": 7, "other": "x"},
        {"user": None, "n": None, "other": None},
        f"lost{mark}1",
    ]


def test_times_without_seconds_or_clock_are_completed_as_the_door_takes_them(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "ts\n2026-03-01\n2026-03-01 08:05\n2026-03-01 8:05\n")
    assert [row["ts"] for row in rows_of(path)] == ["2026-03-01T00:00:00", "2026-03-01T08:05:00", "2026-03-01 8:05"]


def test_a_style_reads_times_and_decimals_and_leaves_the_rest_for_the_door(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'ts;n;x;user\n3.4.2026 9:05;1.234;"1.234,5";1,5\n2026-04-03 09:05:00;7;12.5;\n')
    style = CsvStyle("%d.%m.%Y %H:%M", decimal_comma=True)
    assert [json.loads(row.body) for row in read_rows(path, FIELDS, style)] == [
        {"ts": "2026-04-03T09:05:00", "n": "1.234", "x": 1234.5, "user": "1,5"},
        {"ts": "2026-04-03 09:05:00", "n": 7, "x": "12.5", "user": None},  # 12.5 here may be a thousand of something
    ]
    zoned = CsvStyle("%d/%b/%Y:%H:%M:%S %z").reader("timestamp")
    assert zoned("03/Apr/2026:09:05:00 +0200") == "2026-04-03T09:05:00+02:00"


@pytest.mark.parametrize("text", ["", "%H:%M", "%d.%m.", "%Y-%m-%d %I:%M", "%Q", "tomorrow"])
def test_a_time_format_that_reads_no_complete_time_is_refused(text: str) -> None:
    with pytest.raises(StreamgaugeError, match="reads no complete time: it needs year, month and day"):
        CsvStyle(text)


def test_a_style_is_of_csv_alone(tmp_path: Path) -> None:
    with pytest.raises(StreamgaugeError, match=r"a.ndjson: --time-format says how to read a CSV, and this is ndjson"):
        read_rows(write(tmp_path, "a.ndjson", '{"n":1}'), FIELDS, CsvStyle("%Y-%m-%d"))


def test_text_that_is_not_utf8_is_found_in_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", b"n,user\n" + b"1,x\n" * 9_000 + "2,é\n".encode("latin-1"))
    with pytest.raises(StreamgaugeError, match=r"a.csv:9002: not CSV in UTF-8: byte 0xe9.*iconv -f WINDOWS-1252"):
        list(read_rows(path, FIELDS))
