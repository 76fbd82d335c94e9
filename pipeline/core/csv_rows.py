"""A CSV body taken apart (RFC 4180): its header, and its records with their cells and the bytes they were sent as.

    header    ts,user,page␍␊          names columns; cells are separated by commas
    record    1763928012000,ada,/␍␊   a line; as many cells as the header has
    record    …,"Ada ""A""␊Lovelace",/ a quoted cell may hold commas, line ends and doubled quotes

Invariant: a record is judged alone. Only a quoted cell that is never closed takes what follows it: it is part of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

QUOTE, NEWLINE = b'"', b"\n"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_COLUMNS = 1_000
MAX_HEADER_BYTES = 64_000  # it stands beside every quarantined record

_QUOTED = rb'"[^"]*(?:""[^"]*)*'  # up to its last quote
_CELL = rb'(?:%b"|[^",\r\n]*)' % _QUOTED
_RECORD = re.compile(rb"%b(?:,%b)*" % (_CELL, _CELL))
_OPENED = re.compile(rb"(?:%b,)*%b" % (_CELL, _QUOTED))  # its last cell is quoted and goes on behind it
_CELLS = re.compile(rf"(?:^|,)({_QUOTED.decode()}\"|[^\",]*)")  # of a record that was found to be one


class CsvBodyError(ValueError):
    """Not even records can be told apart; the message says why."""


@dataclass(frozen=True, slots=True)
class CsvRecord:
    """One record: the bytes it was sent as, without its line end, and its cells, or (None) what is wrong with it."""

    sent: bytes
    cells: list[str] | None
    code: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class CsvBody:
    """The names of the columns, the line they stood in, and the records, blank lines left out."""

    names: list[str]
    header: bytes
    records: list[CsvRecord]


def read_csv(body: bytes) -> CsvBody:
    """Take a body apart.

    Raises:
        CsvBodyError: its header names no columns, or not each once.
    """
    sent = _records(body.removeprefix(BYTE_ORDER_MARK))
    header = next(sent, b"")
    names = names_of(header)
    return CsvBody(names, header, [_record(record, len(names)) for record in sent])


def _records(body: bytes) -> Iterator[bytes]:
    """The bytes of each record: lines, joined where a quoted cell holds a line end. Blank lines are none."""
    lines = iter(body.split(NEWLINE))
    for line in lines:
        record = line
        if QUOTE in line and _goes_on(line):
            parts = [line]
            for more in lines:
                parts.append(more)
                if QUOTE in more and not _goes_on(QUOTE + more):
                    break
            record = NEWLINE.join(parts)
        if record := record.removesuffix(b"\r"):
            yield record


def _goes_on(line: bytes) -> bool:
    """Whether the last cell is quoted and not closed: the record goes on in the next line."""
    line = line.removesuffix(b"\r")
    return _RECORD.fullmatch(line) is None and _OPENED.fullmatch(line) is not None


def names_of(header: bytes) -> list[str]:
    """The names of the columns.

    Raises:
        CsvBodyError: it names none, or one twice, or too many.
    """
    if len(header) > MAX_HEADER_BYTES:
        raise CsvBodyError(f"its header has {len(header):,} bytes; at most {MAX_HEADER_BYTES:,} are read")
    found = _record(header, None)
    if found.cells is None:
        raise CsvBodyError(f"its header, the first line, cannot be read: {found.problem}")
    names = [name.strip() for name in found.cells]
    if len(names) > MAX_COLUMNS:
        raise CsvBodyError(f"it has {len(names):,} columns; at most {MAX_COLUMNS:,} are read")
    if not any(names):
        raise CsvBodyError("its first line has to name the columns, and is empty")
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise CsvBodyError(f"its header names a column twice: '{twice[0][:80]}'")
    return names


def _record(sent: bytes, n_columns: int | None) -> CsvRecord:
    try:
        text = sent.decode()
    except UnicodeDecodeError:
        return CsvRecord(sent, None, "not_utf8", "the row is not UTF-8 text")
    if '"' not in text:
        cells = text.split(",")
    elif _RECORD.fullmatch(sent) is None:
        opened = _OPENED.fullmatch(sent) is not None
        why = "a quote that opens a cell is not closed" if opened else "a quote stands inside a cell"
        return CsvRecord(sent, None, "malformed", f"{why}; quote the whole cell, and write a quote in it twice")
    else:
        cells = [_unquoted(cell) for cell in _CELLS.findall(text)]
    if n_columns is not None and len(cells) != n_columns:
        problem = f"{len(cells)} cells, and the header names {n_columns} columns; quote a cell that holds a comma"
        return CsvRecord(sent, None, "malformed", problem)
    return CsvRecord(sent, cells)


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if cell.startswith('"') else cell
