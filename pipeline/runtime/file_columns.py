"""The columns of a file by its first rows: what type each has, how a CSV writes it, and which rows do not fit.

Invariant: a row is called odd only beside a hundred that fit, and by its line; every other row fits every column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from pipeline.core.csv_cells import CellReader, typed_cell
from pipeline.errors import StreamgaugeError
from pipeline.runtime.csv_files import PLAIN, CsvStyle
from pipeline.runtime.replay_files import FileRow, file_format, read_rows, time_ms

ROWS_PER_ODD_ONE = 100  # a row that does not fit is a mistake in a file, not a kind of row
TYPES = ("int", "float", "bool", "timestamp")  # narrowest first; a text is what is none of them
NUMBERS_PER_WORD = 10  # a column with at least as many numbers was meant as numbers
TRIED_FIRST = 20  # values that rule most formats out
# What is tried where no column has times as JSON has them. Days before months and the reverse are told by days over 12.
TIME_FORMATS = (
    *(f"%d.%m.%Y{clock}" for clock in (" %H:%M:%S", " %H:%M", "")),
    *(f"%Y/%m/%d{clock}" for clock in (" %H:%M:%S", " %H:%M", "")),
    *(f"{day}{clock}" for clock in (" %H:%M:%S", " %H:%M", "") for day in ("%d/%m/%Y", "%m/%d/%Y")),
    *(f"{day} {clock}" for clock in ("%I:%M:%S %p", "%I:%M %p") for day in ("%d/%m/%Y", "%m/%d/%Y")),
    "%d/%b/%Y:%H:%M:%S %z",
)
_DATED = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
# 1,234 with commas alone is a thousand to some, and a number with three decimals to others.
_UNDOUBTED = re.compile(r"[+-]?(?!\d{1,3}(?:,\d{3})+$)[\d.]+,\d+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Odd:
    """A row that does not fit the others."""

    line: int
    why: str


@dataclass(frozen=True, slots=True)
class Found:
    """A column by its title: its type, and its values in the rows that fit, None where there is none."""

    title: str
    type: str
    values: Sequence[Any]

    def only(self, kept: Sequence[int]) -> Found:
        return replace(self, values=[self.values[index] for index in kept])


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found in `rows` rows; `untyped` are the titles of columns of no one type, or without a value.

    `lines` are those of the rows that fit, whose values the columns have.
    """

    rows: int
    lines: Sequence[int]
    columns: Sequence[Found]
    untyped: Sequence[str]
    odd: Sequence[Odd]
    style: CsvStyle
    is_csv: bool

    def without_gaps_in(self, title: str) -> Looked:
        """The same without the rows that have no value in one column, where they are few."""
        (column,) = (each for each in self.columns if each.title == title)
        kept = [index for index, value in enumerate(column.values) if value is not None]
        gaps = [
            Odd(self.lines[index], f"{title} is empty") for index, value in enumerate(column.values) if value is None
        ]
        return replace(
            self,
            lines=[self.lines[index] for index in kept],
            columns=[each.only(kept) for each in self.columns],
            odd=_by_line([*self.odd, *gaps]),
        )


def look_at(path: Path, most: int, style: CsvStyle) -> Looked:
    """Look at the first rows of an NDJSON, CSV or Parquet file.

    Raises:
        StreamgaugeError: it is no such file, has no rows, too many of them are no rows, or its times can be read in two
            ways.
    """
    of_text = file_format(path) == "csv"
    rows = list(islice(read_rows(path, {}), most))
    if not rows:
        raise StreamgaugeError(f"{path}: there are no rows to look at. Name a file that has some.")
    lines, values, odd = _values(path, rows)
    if of_text:
        style = _style_of(path, values, style)
    columns: list[Found] = []
    untyped: list[str] = []
    misfits: dict[int, Odd] = {}
    for title, found in values.items():
        kind, read, bad = _typed(found, style if of_text else None)
        if kind is None:
            untyped.append(title)
            continue
        columns.append(Found(title, kind, read))
        for index in bad:
            misfits.setdefault(index, Odd(lines[index], f"{title} is {found[index]!r:.60}, not {_a(kind)}"))
    kept = [index for index in range(len(lines)) if index not in misfits]
    fitting = [each.only(kept) for each in columns]
    all_odd = _by_line([*odd, *misfits.values()])
    return Looked(len(rows), [lines[index] for index in kept], fitting, untyped, all_odd, style, of_text)


def words_among_numbers(texts: Sequence[str | None]) -> list[int]:
    """Which values alone keep a column of a CSV from being numbers; none where they are more than a few."""
    places = [index for index, text in enumerate(texts) if text]
    for style in (PLAIN, CsvStyle(decimal_comma=True)):
        read = style.reader("float")
        words = [index for index in places if not _is("float", read(texts[index] or ""))]
        if len(words) * NUMBERS_PER_WORD < len(places):
            return words
    return []


def _by_line(odd: Sequence[Odd]) -> Sequence[Odd]:
    return sorted(odd, key=lambda each: each.line)


def _a(kind: str) -> str:
    return {"int": "a whole number", "float": "a number", "bool": "true or false", "timestamp": "a time"}[kind]


def _values(path: Path, rows: Sequence[FileRow]) -> tuple[list[int], dict[str, list[Any]], list[Odd]]:
    """The values of rows that are objects, by column, with their lines; and the rows that are none."""
    lines: list[int] = []
    values: dict[str, list[Any]] = {}
    odd: list[Odd] = []
    for row in rows:
        found = _object(row)
        if isinstance(found, Odd):
            odd.append(found)
            continue
        for title, value in found.items():
            values.setdefault(title, [None] * len(lines)).append(value)
        lines.append(row.line)
        for column in values.values():
            column.extend([None] * (len(lines) - len(column)))
    if len(odd) > max(1, len(rows) // ROWS_PER_ODD_ONE) or len(odd) == len(rows) > 0:
        few = f"{len(odd):,} of {len(rows):,} rows are none; one in {ROWS_PER_ODD_ONE} may be, and one of any file"
        raise StreamgaugeError(f"{path}:{odd[0].line}: {odd[0].why} ({few}). Mend those rows, or take them out.")
    return lines, values, odd


def _object(row: FileRow) -> dict[str, Any] | Odd:
    try:
        found = msgspec.json.decode(row.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return Odd(row.line, f"not a row: {error}")
    return (
        found
        if isinstance(found, dict)
        else Odd(row.line, "the row has not as many cells as there are columns, or is no object")
    )


def _typed(values: Sequence[Any], style: CsvStyle | None) -> tuple[str | None, Sequence[Any], list[int]]:
    """The type of a column, its values read as that, and which of them are not; no type where there is none."""
    places = [index for index, value in enumerate(values) if value is not None]
    if not places or any(isinstance(values[index], list | dict) for index in places):
        return None, values, []
    fitting: tuple[str, Sequence[Any], list[int]] | None = None
    for kind in TYPES:
        read = values if style is None else _read(values, style.reader(kind))
        bad = [index for index in places if not _is(kind, read[index])]
        if not bad:
            return kind, read, []
        if len(bad) * ROWS_PER_ODD_ONE <= len(places) and (fitting is None or len(bad) < len(fitting[2])):
            fitting = kind, read, bad
    if fitting is not None:
        return fitting
    return ("string", values, []) if all(isinstance(values[index], str) for index in places) else (None, values, [])


def _read(values: Sequence[Any], read: CellReader) -> list[Any]:
    return [read(value) if isinstance(value, str) and value else value for value in values]


def _is(kind: str, value: Any) -> bool:
    match kind:
        case "int":
            return type(value) is int and abs(value) < 2**63
        case "float":
            return type(value) in (int, float)
        case "bool":
            return type(value) is bool
        case _:
            return isinstance(value, str) and _is_time(value)


def _is_time(text: str) -> bool:
    """Whether it is a date, with a clock or without: `now` and numbers in quotes are read as times elsewhere."""
    try:
        return _DATED.match(text) is not None and time_ms(text) is not None
    except ValueError:
        return False


# --- how a CSV writes times and decimals


def _style_of(path: Path, values: Mapping[str, Sequence[Any]], said: CsvStyle) -> CsvStyle:
    """The style that gives a column of times, and columns of numbers, where the file does not write them as JSON."""
    columns = {title: [value for value in found if value is not None] for title, found in values.items()}
    comma = said.decimal_comma or any(_has_comma_numbers(found) for found in columns.values())
    if said.time_format is not None or any(_mostly(found, PLAIN, "timestamp") for found in columns.values()):
        return CsvStyle(said.time_format, comma)
    for title, found in columns.items():
        formats = list(_formats_of(found))
        if len(formats) > 1:
            ways = " or ".join(f"--time-format '{each}'" for each in formats)
            raise StreamgaugeError(
                f"{path}: the times of '{title}', such as {found[0]!r}, can be read in two ways. Say which: {ways}."
            )
        if formats:
            return CsvStyle(formats[0], comma)
    return CsvStyle(None, comma)


def _has_comma_numbers(values: Sequence[str]) -> bool:
    """Whether a column is numbers if commas are decimal ones, and one of them can be read in no other way."""
    return (
        any(_UNDOUBTED.fullmatch(value.strip()) for value in values)
        and not any(_is("float", typed_cell("float", value)) and "." in value for value in values)
        and _mostly(values, CsvStyle(decimal_comma=True), "float")
    )


def _formats_of(values: Sequence[str]) -> Iterator[str]:
    for each in TIME_FORMATS:
        style = CsvStyle(each)
        first = values[:TRIED_FIRST]
        if _misfits(first, style, "timestamp") <= len(first) // 2 and _mostly(values, style, "timestamp"):
            yield each


def _mostly(values: Sequence[str], style: CsvStyle, kind: str) -> bool:
    return len(values) > 0 and _misfits(values, style, kind) * ROWS_PER_ODD_ONE <= len(values)


def _misfits(values: Sequence[str], style: CsvStyle, kind: str) -> int:
    read = style.reader(kind)
    return sum(not _is(kind, read(value)) for value in values)
