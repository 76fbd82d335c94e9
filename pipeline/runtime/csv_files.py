"""CSV files as people have them: the header tells the separator; times and decimals are written in the file's style.

Invariant: a style is stated, never guessed while rows are sent; a cell that is not written in it stays the text it is,
for the door to refuse.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

import msgspec

from pipeline.core.column_names import TwoColumnsError, read_as
from pipeline.core.csv_cells import CellReader, cell_reader
from pipeline.core.ndjson import encode_rows
from pipeline.errors import StreamgaugeError

SEPARATORS = (",", ";", "\t", "|")  # the one that cuts the header into most cells; of equals, the first
# RFC 3339 without its seconds or its clock, as spreadsheets write it: complete, it is what the door takes.
_SHORT_TIME = re.compile(r"(\d{4}-\d\d-\d\d)(?:[Tt ](\d\d:\d\d))?", re.ASCII)
_COMMA_NUMBER = re.compile(r"\s*[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)(?:,\d+)?\s*", re.ASCII)
# Of two years and both halves of the day: a format without its year, day or half of the day does not give both back.
_PROBES = (datetime(2026, 12, 31, 23, 58, tzinfo=UTC), datetime(2001, 3, 4, 5, 6, tzinfo=UTC))

BodyAt = tuple[int, bytes]  # the line a row ends on, and its JSON


@dataclass(frozen=True, slots=True)
class CsvStyle:
    """What a file writes otherwise than JSON does.

    `time_format`: of timestamps, as `strptime` reads it; None: RFC 3339, or an epoch number. `decimal_comma`: 1.234,5.

    Raises:
        StreamgaugeError: the format reads no complete time.
    """

    time_format: str | None = None
    decimal_comma: bool = False

    def __post_init__(self) -> None:
        if self.time_format is not None and not _reads_times(self.time_format):
            raise StreamgaugeError(
                f"--time-format {self.time_format!r} reads no complete time: it needs year, month and day, such as "
                "'%d.%m.%Y %H:%M:%S'. The letters are strptime's: %Y 2026, %m 03, %d 31, %H 23 (or %I 11 with %p PM)."
            )

    @property
    def options(self) -> list[str]:
        """What names it on a command line."""
        time = [] if self.time_format is None else ["--time-format", self.time_format]
        return [*time, *(["--decimal-comma"] if self.decimal_comma else [])]

    def reader(self, kind: str) -> CellReader:
        """What reads the cells of a field type."""
        if kind == "timestamp":
            return _short_time if self.time_format is None else partial(_formatted_time, self.time_format)
        if kind in ("int", "float") and self.decimal_comma:
            return partial(_comma_number, cell_reader(kind))
        return cell_reader(kind)


PLAIN = CsvStyle()


def _reads_times(time_format: str) -> bool:
    """Whether what it writes is read back, to the minute, the hour or the day."""
    try:
        again = [datetime.strptime(probe.strftime(time_format), time_format).replace(tzinfo=UTC) for probe in _PROBES]
    except ValueError:
        return False
    return all(
        found in (probe, probe.replace(minute=0), probe.replace(hour=0, minute=0))
        for found, probe in zip(again, _PROBES, strict=True)
    )


def _short_time(cell: str) -> Any:
    short = _SHORT_TIME.fullmatch(cell.strip())
    return f"{short[1]}T{short[2] or '00:00'}:00" if short else cell_reader("timestamp")(cell)


def _formatted_time(time_format: str, cell: str) -> str:
    try:
        return datetime.strptime(cell.strip(), time_format).isoformat()
    except ValueError:
        return cell


def _comma_number(read: CellReader, cell: str) -> Any:
    """`1.234,5` is 1234.5; `1.234` alone is not known to be one or a thousand, and stays a text with `12.5`."""
    if not _COMMA_NUMBER.fullmatch(cell) or ("." in cell and "," not in cell):
        return cell
    number = read(cell.replace(".", "").replace(",", "."))
    return cell if isinstance(number, str) else number


def csv_bodies(
    path: Path, open_file: Callable[[Path], BinaryIO], fields: Mapping[str, str], style: CsvStyle
) -> Iterator[BodyAt]:
    """Yield the rows of a CSV file as JSON; `fields` (name → type) names columns and types the text.

    Raises:
        StreamgaugeError: it is not CSV in UTF-8, or its header names no columns.
    """
    line = 0
    with open_file(path) as file:
        text = io.TextIOWrapper(cast(io.BufferedReader, file), encoding="utf-8-sig", newline="")
        try:
            head = text.readline()
            separator = separator_of(head)
            reader = csv.reader(chain([head] if head else [], text), strict=True, delimiter=separator)
            header = _header(path, reader, fields)
            readers = [style.reader(fields.get(name, "string")) for name in header]
            for cells in reader:
                line = reader.line_num
                if cells:
                    yield line, _body(header, readers, cells, separator)
        except UnicodeDecodeError as error:
            raise StreamgaugeError(_not_utf8(path, open_file)) from error
        except (csv.Error, EOFError, gzip.BadGzipFile) as error:
            raise StreamgaugeError(f"{path}:{line + 1}: not CSV in UTF-8: {error}") from error


def separator_of(head: str) -> str:
    """The separator of the cells of a header line."""
    return max(SEPARATORS, key=lambda mark: len(next(csv.reader([head], delimiter=mark), [])))


def _not_utf8(path: Path, open_file: Callable[[Path], BinaryIO]) -> str:
    """Which line it is, and the way out: the text reader decodes blocks, so its error knows no line."""
    with open_file(path) as file:
        for line, text in enumerate(file, start=1):
            try:
                text.decode()
            except UnicodeDecodeError as error:
                return (
                    f"{path}:{line}: not CSV in UTF-8: byte 0x{text[error.start]:02x}. A spreadsheet may have saved "
                    f"it as Windows-1252: iconv -f WINDOWS-1252 -t UTF-8 {shlex.quote(str(path))} > utf8.csv"
                )
    return f"{path}: not CSV in UTF-8"


def _header(path: Path, reader: Iterator[list[str]], fields: Mapping[str, str]) -> list[str]:
    header = [name.strip() for name in next(reader, [])]
    if not any(header):
        raise StreamgaugeError(
            f"{path}:1: there are no columns. The first line of a CSV names them, and this one is empty."
        )
    if len(set(header)) != len(header):
        raise StreamgaugeError(f"{path}:1: the header names a column twice: {', '.join(header)}")
    header = columns_as_fields(f"{path}:1", header, fields)
    if fields and not set(header) & set(fields):
        raise StreamgaugeError(
            f"{path}:1: no column is a field of the stream. Columns: {', '.join(header)}. Fields: {', '.join(fields)}."
        )
    return header


def columns_as_fields(place: str, columns: list[str], fields: Iterable[str]) -> list[str]:
    """The columns by the fields they are read as; `place` is where an error says it is."""
    try:
        return read_as(columns, list(fields))
    except TwoColumnsError as error:
        raise StreamgaugeError(f"{place}: {error}.") from error


def _body(header: list[str], readers: list[CellReader], cells: list[str], separator: str) -> bytes:
    if len(cells) != len(header):  # an unquoted separator, or cut off: which cell is which is not known
        return msgspec.json.encode(separator.join(cells))
    row = {name: read(cell) if cell else None for name, read, cell in zip(header, readers, cells, strict=True)}
    return encode_rows([row]).rstrip()
