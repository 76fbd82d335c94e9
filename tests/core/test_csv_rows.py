"""CSV taken apart as RFC 4180 says: what Python's own reader makes of it, and records that cannot be read alone."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.csv_rows import MAX_COLUMNS, MAX_HEADER_BYTES, CsvBodyError, CsvRecord, read_csv
from tests.laws.logs import law

cell = st.text(st.sampled_from('a",;\n\r é\0'), max_size=6)


def cells_of(body: bytes) -> list[list[str] | None]:
    return [record.cells for record in read_csv(body).records]


@law
@given(rows=st.lists(st.tuples(cell, cell, cell), max_size=6), end=st.sampled_from(["\r\n", "\n"]), last=st.booleans())
def test_what_a_csv_writer_writes_is_read_back(rows: list[tuple[str, str, str]], end: str, last: bool) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator=end, quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *rows])
    body = text.getvalue() if last else text.getvalue().removesuffix(end)

    found = read_csv(body.encode())

    assert found.names == ["a", "b", "c"]
    assert [tuple(record.cells or ()) for record in found.records] == rows


@law
@given(
    before=st.lists(st.sampled_from(["1,2", '"x","y"', ","]), max_size=3),
    odd=st.text(st.sampled_from('a", '), max_size=8).filter(lambda text: '"' not in text or text.count('"') != 1),
    after=st.lists(st.sampled_from(["3,4", '"a,b",c']), max_size=3),
)
def test_rows_without_a_quoted_line_end_keep_their_neighbours_whatever_they_are(
    before: list[str], odd: str, after: list[str]
) -> None:
    """What is not a record takes no other with it, unless it opens a cell that it does not close."""
    body = "\n".join(["a,b", *before, odd, *after, ""]).encode()
    alone = read_csv(f"a,b\n{odd}\n".encode()).records
    if alone and "is not closed" in alone[0].problem:
        return

    found = read_csv(body).records

    assert found == [*read("\n".join(before)), *alone, *read("\n".join(after))]


def read(rows: str) -> list[CsvRecord]:
    return read_csv(f"a,b\n{rows}\n".encode()).records


def test_a_quoted_cell_may_hold_line_ends_commas_and_quotes() -> None:
    assert cells_of(b'a,b\r\n"1\r\n2","x,""y"""\r\n3,4') == [["1\r\n2", 'x,"y"'], ["3", "4"]]


def test_a_record_keeps_the_bytes_it_was_sent_as() -> None:
    body = read_csv(b'\xef\xbb\xbfa,b\r\n1, "x"\r\n"2\n",y\r\n')

    assert body.header == b"a,b"
    assert [record.sent for record in body.records] == [b'1, "x"', b'"2\n",y']
    assert [record.cells for record in body.records] == [None, ["2\n", "y"]]


@pytest.mark.parametrize(
    ("row", "code", "said"),
    [
        (b"1", "malformed", "1 cells, and the header names 2 columns"),
        (b"1,2,3", "malformed", "3 cells, and the header names 2 columns"),
        (b'1,5" pipe', "malformed", "a quote stands inside a cell"),
        (b'1,"a"b', "malformed", "a quote stands inside a cell"),
        (b"1,\xff", "not_utf8", "the row is not UTF-8 text"),
    ],
)
def test_a_record_that_cannot_be_read_is_named_and_the_others_are_read(row: bytes, code: str, said: str) -> None:
    first, bad, last = read_csv(b"a,b\n1,2\n" + row + b"\n3,4\n").records

    assert (first.cells, last.cells) == (["1", "2"], ["3", "4"])
    assert (bad.cells, bad.code, bad.sent) == (None, code, row)
    assert said in bad.problem


def test_a_quoted_cell_that_is_never_closed_takes_what_follows_it() -> None:
    first, rest = read_csv(b'a,b\n1,2\n3,"x\n5,6\n7,8\n').records

    assert first.cells == ["1", "2"]
    assert (rest.cells, rest.sent) == (None, b'3,"x\n5,6\n7,8\n')
    assert "is not closed" in rest.problem


def test_blank_lines_are_no_records() -> None:
    assert cells_of(b"\n\r\na,b\n\n1,2\r\n\r\n") == [["1", "2"]]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "its first line has to name the columns"),
        (b" , \n1,2\n", "its first line has to name the columns"),
        (b"a,b,a\n1,2,3\n", "its header names a column twice: 'a'"),
        (b'a,"b\n1,2\n', "its header, the first line, cannot be read: a quote that opens a cell is not closed"),
        (b"a,\xff\n1,2\n", "its header, the first line, cannot be read: the row is not UTF-8 text"),
        (b"a" * (MAX_HEADER_BYTES + 1), "its header has 64,001 bytes"),
        (",".join(f"c{n}" for n in range(MAX_COLUMNS + 1)).encode(), "it has 1,001 columns"),
    ],
)
def test_a_header_that_names_no_columns_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(CsvBodyError, match=said):
        read_csv(body)


def test_a_body_of_quotes_is_taken_apart_in_linear_time() -> None:
    """Quotes that open and never close, in as many ways as fit: looking again from each would take minutes."""
    for unit in (b'"\n', b'",\n', b'""",\n', b'"a"",""\n', b'x,"\n"'):
        body = b"a,b\n" + unit * (100_000 // len(unit))
        assert sum(len(record.sent) for record in read_csv(body).records) <= len(body)
