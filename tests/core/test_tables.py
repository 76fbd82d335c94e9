"""Contents of lookup tables: canonical bytes, the types a lookup reads them as, and what it refuses."""

from __future__ import annotations

import polars as pl
import pytest

from pipeline.core.definitions import Lookup, ScalarType
from pipeline.core.table_names import TableError, content_hash
from pipeline.core.tables import Table, check, column_kind, decode, encode

FRAME = pl.DataFrame({"id": ["1", "007", "3"], "limit": ["1.5", None, "2"], "name": ["a", "b", None]})


def lookup(column: str, kind: ScalarType, key: str = "id", key_type: ScalarType = "string") -> Lookup:
    return Lookup("t.csv", "on", key, column, kind, key_type)


def test_equal_contents_have_equal_bytes_and_others_have_another_hash() -> None:
    pieces = pl.concat([FRAME[:1], FRAME[1:]], rechunk=False)

    assert encode(pieces) == encode(FRAME)
    assert content_hash(encode(FRAME)) != content_hash(encode(FRAME.reverse()))
    assert decode(encode(FRAME)).frame.equals(FRAME)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["1", "-20", None], "int"),
        (["1", "2.5"], "float"),
        (["1e3", "0.5"], "float"),
        (["007", "008"], "string"),
        (["9223372036854775808"], "float"),
        (["true", "false"], "bool"),
        (["true", "1"], "string"),
        (["nan", "inf"], "string"),
        ([None, None], "string"),
        (["", "1"], "string"),
    ],
)
def test_the_texts_of_a_csv_are_what_all_of_them_are(texts: list[str | None], kind: str) -> None:
    assert column_kind(pl.DataFrame({"c": pl.Series(texts, dtype=pl.String)}), "c") == kind


def test_a_content_is_read_as_the_types_of_the_lookup() -> None:
    texts, numbers = pl.Series(["3", "007", "7", None, "1"]), pl.Series([7, None, 3, 2])

    assert Table(FRAME).values_of(lookup("limit", "float"), texts).to_list() == [2.0, None, None, None, 1.5]
    assert Table(FRAME).values_of(lookup("name", "string", key_type="int"), numbers).to_list() == [
        "b",
        None,
        None,
        None,
    ]


def test_an_older_content_gives_null_for_what_it_did_not_have() -> None:
    table = Table(pl.DataFrame({"id": ["1", "x", None, "1"], "limit": ["high", "2", "3", "4"]}))

    assert table.values_of(lookup("limit", "int", key_type="int"), pl.Series([1, 2])).to_list() == [None, None]
    assert table.values_of(lookup("limit", "int"), pl.Series(["x", "1"])).to_list() == [2, None]
    assert table.values_of(lookup("missing", "bool"), pl.Series(["1"])).to_list() == [None]
    assert table.values_of(lookup("id", "string", key="missing"), pl.Series(["1", None])).to_list() == [None, None]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (lookup("owner", "string"), "has no column 'owner'. Its columns are: id, limit, name."),
        (lookup("name", "string", key="nr"), "has no column 'nr'"),
        (lookup("name", "int"), "has 'a', 'b' in its column 'name', which is read as int."),
        (lookup("name", "string", key="limit"), "has 1 rows without a 'limit', its key."),
        (lookup("limit", "string", key_type="int"), None),
    ],
)
def test_a_content_that_a_lookup_cannot_use_is_refused(wanted: Lookup, message: str | None) -> None:
    if message is None:
        check(FRAME, wanted)
        return
    with pytest.raises(TableError) as caught:
        check(FRAME, wanted)
    assert message in str(caught.value)


def test_keys_that_are_there_twice_are_named_also_those_that_only_their_type_makes_equal() -> None:
    frame = pl.DataFrame({"id": ["7", "007", "a", "b", "a", "b", "c", "c", "d", "d"], "v": ["x"] * 10})

    with pytest.raises(TableError, match="more than one row for 'a', 'b', 'c' and 1 more"):
        check(frame, lookup("v", "string"))
    with pytest.raises(TableError, match="more than one row for 7"):
        check(frame[:2], lookup("v", "string", key_type="int"))
