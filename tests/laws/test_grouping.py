"""The dense codes of a batch's groups are those a plain dictionary of tuples gives: same rows together, no other."""

from __future__ import annotations

from typing import Any

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.grouping import column_codes, combined_codes, compact, group_tuples, integer_codes
from tests.laws.logs import ints, law

SCHEMA: dict[str, Any] = {"text": pl.String, "number": pl.Int64, "flag": pl.Boolean, "at": pl.Datetime("ms")}
rows = st.lists(
    st.tuples(
        st.none() | st.sampled_from(["", "a", "b", "ü", "\x00"]),
        st.none() | ints,
        st.none() | st.booleans(),
        st.none() | st.integers(-(10**12), 10**12),
    ),
    max_size=40,
)
chosen = st.lists(st.sampled_from(sorted(SCHEMA)), unique=True)


@law
@given(rows=rows, names=chosen)
def test_rows_have_one_code_exactly_when_their_groups_are_equal(rows: list[tuple[Any, ...]], names: list[str]) -> None:
    frame = pl.DataFrame(rows, schema=SCHEMA | {"at": pl.Int64}, orient="row").cast({"at": pl.Datetime("ms")})
    groups = [tuple(row[list(SCHEMA).index(name)] for name in names) for row in rows]

    codes, representative = combined_codes([column_codes(frame[name]) for name in names], len(rows))
    found = group_tuples(frame, names, representative)

    assert [found[code] for code in codes] == groups
    assert len(found) == len(set(groups))
    assert sorted(set(codes.tolist())) == list(range(len(found)))


@law
@given(codes=st.lists(st.integers(0, 50), max_size=40), size=st.sampled_from([51, 10_000, 2**40]))
def test_compacting_keeps_codes_apart_and_leaves_no_holes(codes: list[int], size: int) -> None:
    compacted, representative = compact(pl.Series(codes, dtype=pl.Int64).to_numpy(), size)

    assert [codes[first] for first in representative[compacted]] == codes
    assert sorted(set(compacted.tolist())) == list(range(len(set(codes))))
    assert representative.tolist() == [codes.index(codes[first]) for first in representative]


@law
@given(values=st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3), max_size=40))
def test_integers_have_one_code_exactly_when_they_are_equal(values: list[int]) -> None:
    codes, size = integer_codes(pl.Series(values, dtype=pl.Int64).to_numpy())

    assert size == len(set(values))
    assert sorted(set(codes.tolist())) == list(range(size))
    assert len(set(zip(codes.tolist(), values, strict=True))) == size


def test_many_integers_are_told_apart() -> None:
    """More than the table of codes begins with, so that it grows, twice each."""
    values = pl.Series([n * n - 10**6 for n in range(9_000)] * 2)

    codes, size = integer_codes(values.to_numpy())

    assert size == 9_000
    assert codes.tolist() == [*range(9_000)] * 2
