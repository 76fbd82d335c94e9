"""Files as rows to send: NDJSON, CSV and Parquet, the first two also gzipped.

Invariant: the same file and the same schema give the same bytes for every row, in file order, so a batch sent again
after a crash meets its own idempotency record. A row that cannot be converted is still there, for the door to refuse.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import msgspec

from pipeline.core.ndjson import encode_rows, iso_time
from pipeline.core.times import epoch_to_ms, parse_time_ms
from pipeline.errors import StreamgaugeError
from pipeline.runtime.csv_files import PLAIN, CsvStyle, columns_as_fields, csv_bodies

GZIP_MAGIC = b"\x1f\x8b"
PARQUET_MAGIC = b"PAR1"
PARQUET_SLICE_ROWS = 50_000  # read at once: tens of MB, whatever the size of the file
ACCESS_LOG_LINE = re.compile(rb'\S+ \S+ \S+ \[[^]]+\] "')  # of a web server
EPOCH_MS_RANGE = range(10**11, 10**14)  # integers that `epoch_to_ms` reads as milliseconds

FileFormat = Literal["ndjson", "csv", "parquet"]


@dataclass(frozen=True, slots=True)
class FileRow:
    """One row: its line (of a Parquet file: its row) counted from 1, and its JSON."""

    line: int
    body: bytes


def read_rows(path: Path, fields: Mapping[str, str], style: CsvStyle = PLAIN) -> Iterator[FileRow]:
    """Yield the rows of a file; `fields` (name → type) names columns and types the text of a CSV of that style.

    Raises:
        StreamgaugeError: the file is of no known format, is not what its format says, or has no style.
    """
    found = file_format(path)
    if style.options and found != "csv":
        raise StreamgaugeError(f"{path}: {style.options[0]} says how to read a CSV, and this is {found}: leave it out.")
    match found:
        case "parquet":
            return _parquet_rows(path, fields)
        case "csv":
            return (FileRow(line, body) for line, body in csv_bodies(path, _open, fields, style))
        case "ndjson":
            return _ndjson_rows(path)


def file_format(path: Path) -> FileFormat:
    """Return the format, by content where it tells (Parquet, a JSON object) and by name for CSV."""
    with _open(path) as file:
        head = file.read(4096)
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if head.startswith(PARQUET_MAGIC):
        return "parquet"
    if path.name.removesuffix(".gz").endswith(".csv"):
        return "csv"
    if start == b"{" or not head:
        return "ndjson"
    if start == b"[":
        raise StreamgaugeError(f"{path}: a JSON array is not read; make it one object a line: jq -c '.[]' {path.name}")
    hint = ". docs/send.md has a script that makes NDJSON of it" if ACCESS_LOG_LINE.match(head) else ""
    raise StreamgaugeError(f"{path}: neither NDJSON, nor Parquet, nor a name that ends in .csv or .csv.gz{hint}")


def _open(path: Path) -> BinaryIO:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == GZIP_MAGIC
        return cast(BinaryIO, gzip.open(path, "rb")) if zipped else path.open("rb")
    except OSError as error:
        raise StreamgaugeError(f"{path}: {error.strerror}") from error


def _ndjson_rows(path: Path) -> Iterator[FileRow]:
    with _open(path) as file:
        for line, text in enumerate(_lines(path, file), start=1):
            if body := text.strip():
                yield FileRow(line, body.removeprefix(b"\xef\xbb\xbf"))


def _lines(path: Path, file: BinaryIO) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, gzip.BadGzipFile) as error:
        raise StreamgaugeError(f"{path}: the gzip file is damaged or cut off: {error}") from error


def _parquet_rows(path: Path, fields: Mapping[str, str]) -> Iterator[FileRow]:
    import polars as pl

    try:
        source = pl.scan_parquet(path)
        columns = source.collect_schema().names()
        source = source.rename(dict(zip(columns, columns_as_fields(str(path), columns, fields), strict=True)))
        for first in range(0, source.select(pl.len()).collect().item(), PARQUET_SLICE_ROWS):
            rows = source.slice(first, PARQUET_SLICE_ROWS).collect().iter_rows(named=True)
            for line, row in enumerate(rows, start=first + 1):
                yield FileRow(line, encode_rows([row]).rstrip())
    except pl.exceptions.PolarsError as error:
        raise StreamgaugeError(f"{path}: not a readable Parquet file: {error}") from error


class EventTimes:
    """Reads the event time of a row without decoding the rest of it."""

    def __init__(self, field: str) -> None:
        shape = msgspec.defstruct("EventTime", [("at", int | float | str | None, None)], rename={"at": field})
        self._decode = msgspec.json.Decoder(shape).decode

    def of(self, row: FileRow) -> int | None:
        """Return epoch milliseconds, or None where the door will find no time either."""
        try:
            at = cast(Any, self._decode(row.body)).at
            if type(at) is int and at in EPOCH_MS_RANGE:
                return at
            return time_ms(at)
        except (msgspec.DecodeError, ValueError):
            return None


class ShiftedTimes:
    """Adds a constant to the event time of rows; everything else of a row stays as it is, byte for byte.

    The time is written as RFC 3339 in UTC, which reads the same whatever unit or zone the field has.
    """

    def __init__(self, field: str, shift_ms: int) -> None:
        self._field = field
        self._times = EventTimes(field)
        self._shift_ms = shift_ms
        self._decode = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

    def of(self, row: FileRow) -> FileRow:
        """Return the row with its new time; one without a readable time as it is, for the door to refuse."""
        at = self._times.of(row)
        if at is None:
            return row
        values = self._decode(row.body)
        try:
            values[self._field] = msgspec.Raw(msgspec.json.encode(iso_time(at + self._shift_ms)))
        except OverflowError:  # beyond the years there are: the door refuses it as it is
            return row
        return replace(row, body=msgspec.json.encode(values))


def time_ms(at: Any) -> int | None:
    """Epoch milliseconds of a decoded time; None where it is none.

    Raises:
        ValueError: its text is no time.
    """
    match at:
        case str():
            return parse_time_ms(at, 0)
        case float():
            return epoch_to_ms(format(at, "f"))
        case int():
            return epoch_to_ms(str(at))
    return None
