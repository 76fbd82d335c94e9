"""Distinct values: within the stated error on any data, exact where that is said, and hashed alike everywhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import reduce
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.accumulators import Column, Values
from pipeline.core.hashing import LONG_BYTES, hash_values
from pipeline.core.sketch_distinct import (
    EXACT_UP_TO,
    STANDARD_ERROR,
    Distinct,
    DistinctExact,
    Partial,
    estimate,
    is_registers,
)
from pipeline.core.sketches import Sketch
from tests.laws.logs import law
from tests.laws.sketch_cases import column_of, floats, ints, texts

SKETCH = Distinct("f")
MASK = 2**64 - 1


def batch(values: Column) -> Values:
    where = np.zeros(len(values), dtype=np.int64)
    return Values(where.astype(np.intp), values, where, where, where)


def partial_of(values: Column) -> Partial:
    _, [fresh] = SKETCH.lift(batch(values))
    return SKETCH.fold(SKETCH.empty(), fresh)[0]


KINDS: dict[str, Callable[[Any], Column]] = {
    "integers in a row": lambda numbers: numbers,
    "multiples of a thousand": lambda numbers: numbers * 1_000,
    "milliseconds": lambda numbers: 1_767_225_600_000 + numbers * 60_000,
    "tenths": lambda numbers: numbers / 10,
    "names with a number": lambda numbers: column_of([f"user-{number}" for number in numbers]),
    "numbers with a name": lambda numbers: column_of([f"{number}@example.com" for number in numbers]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("count", "sets"), [(1_000, 40), (20_000, 15), (100_000, 5)])
def test_the_estimate_has_the_stated_standard_error(kind: str, count: int, sets: int) -> None:
    errors = [
        estimate(partial_of(KINDS[kind](np.arange(number * 10**7, number * 10**7 + count)))) / count - 1
        for number in range(sets)
    ]

    spread = math.sqrt(sum(error**2 for error in errors) / sets)
    # of so few sets the root mean square itself varies: four standard deviations of it
    assert spread <= STANDARD_ERROR * (1 + 4 / math.sqrt(2 * sets)), (spread, errors)
    assert max(map(abs, errors)) <= 5 * STANDARD_ERROR


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, 10, 100, 300, EXACT_UP_TO - 1, EXACT_UP_TO])
def test_few_values_are_counted_exactly(kind: str, count: int) -> None:
    """In registers two of ten values meet once in 360 times, and two of 512 nearly always."""
    partials = [partial_of(KINDS[kind](np.arange(at * 10**7, at * 10**7 + count))) for at in range(100)]

    assert {estimate(partial) for partial in partials} == {count}
    assert {estimate(SKETCH.restore(SKETCH.dump(partial))) for partial in partials} == {count}


@pytest.mark.parametrize("kind", KINDS)
def test_just_above_the_estimate_takes_over_within_its_error(kind: str) -> None:
    partials = [partial_of(KINDS[kind](np.arange(at * 10**7, at * 10**7 + EXACT_UP_TO + 1))) for at in range(40)]

    assert all(is_registers(SKETCH.restore(SKETCH.dump(partial))) for partial in partials)
    errors = [estimate(partial) / (EXACT_UP_TO + 1) - 1 for partial in partials]
    assert max(map(abs, errors)) <= 5 * STANDARD_ERROR


def test_the_estimate_holds_for_millions() -> None:
    partial: Partial = SKETCH.empty()
    for part in range(5):
        partial = SKETCH.merge(partial, partial_of(np.arange(part * 10**6, (part + 1) * 10**6)))

    assert estimate(partial) == pytest.approx(5 * 10**6, rel=3 * STANDARD_ERROR)


def test_how_often_values_repeat_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    values = rng.zipf(1.2, 200_000) % 50_000

    assert estimate(partial_of(values)) == estimate(partial_of(np.unique(values)))
    assert estimate(partial_of(values)) == pytest.approx(len(np.unique(values)), rel=4 * STANDARD_ERROR)


def test_no_values_are_zero() -> None:
    assert estimate(SKETCH.empty()) == 0


def scalar_hash(data: bytes) -> int:
    """The hash of one value, byte by byte in Python integers: what the columns are checked with."""
    m = 0xC6A4A7935BD1E995
    found = len(data) * m & MASK
    for at in range(0, len(data), 8):
        word = int.from_bytes(data[at : at + 8], "little") * m & MASK
        word = (word ^ (word >> 47)) * m & MASK
        found = (found ^ word) * m & MASK
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        found = (found ^ (found >> 33)) * factor & MASK
    return found ^ (found >> 33)


@law
@given(values=st.lists(texts, max_size=8))
def test_strings_hash_as_their_bytes(values: list[str]) -> None:
    short = [value for value in values if len(value.encode()) <= LONG_BYTES]

    assert hash_values(column_of(["", *short])).tolist()[1:] == [scalar_hash(value.encode()) for value in short]
    assert hash_values(column_of(["", *values])).tolist() == [hash_of(value) for value in ["", *values]]


def hash_of(value: str) -> int:
    return int(hash_values(column_of([value]))[0])


@law
@given(values=st.lists(ints, min_size=1, max_size=8))
def test_integers_hash_as_eight_bytes(values: list[int]) -> None:
    expected = [scalar_hash(value.to_bytes(8, "little", signed=True)) for value in values]

    assert hash_values(column_of(values)).tolist() == expected


def test_hashes_never_change() -> None:
    """Fixed numbers: they are stored, so another hash needs another PROGRAM_FORMAT."""
    assert hash_values(np.array([0, 1, -1, 2**63 - 1])).tolist() == FIXED_INTS
    assert hash_values(np.array([0.0, 1.5, np.nan, np.inf])).tolist() == FIXED_FLOATS
    assert hash_values(column_of(["", "a", "user-1000001", "naïve", "x" * 300])).tolist() == FIXED_TEXTS


FIXED_INTS = [4322525906155294990, 7813799233464950466, 85038828917138853, 8984135203295578115]
FIXED_FLOATS = [4322525906155294990, 14691190770852588818, 11056451831316517764, 1928305973639886368]
FIXED_TEXTS = [0, 7406548671835351704, 13304777167712840463, 16037620421778168598, 13107072802862189862]


def test_one_value_has_one_hash_however_it_is_spelled() -> None:
    zeros = hash_values(np.array([0.0, -0.0]))
    nans = hash_values(np.array([np.nan, -np.nan, np.uint64(0x7FF8000000000001).view(np.float64)]))

    assert len(set(zeros.tolist())) == 1
    assert len(set(nans.tolist())) == 1


def test_strings_that_differ_only_behind_the_long_limit_are_two() -> None:
    assert hash_of("x" * 300 + "a") != hash_of("x" * 300 + "b")


def forms(count: int) -> Iterator[Partial]:
    """The same values, come by in different ways: at once, repeated, and some after the other from nothing."""
    values = np.arange(count)
    yield partial_of(values)
    yield partial_of(np.repeat(values, 5)[::-1].copy())
    slow, pieces = SKETCH.empty(), [SKETCH.dump(SKETCH.empty())]
    for part in np.array_split(values, 37):
        if len(part):
            slow, admitted = SKETCH.fold(slow, partial_of(part))
            pieces.append(SKETCH.dump(admitted))
    yield slow
    yield SKETCH.restore(SKETCH.dump(slow))
    for order in (pieces, pieces[::-1]):
        yield reduce(SKETCH.merge, map(SKETCH.restore, order), SKETCH.empty())
    halves = [partial_of(values[: 2 * count // 3 + 1]), partial_of(values[count // 3 :])]  # which overlap
    yield SKETCH.merge(SKETCH.restore(SKETCH.dump(halves[0])), halves[1])
    yield SKETCH.merge(SKETCH.restore(SKETCH.dump(halves[1])), halves[0])


@pytest.mark.parametrize("count", [1, 30, 511, 512, 513, 514, 530, 1_024, 2_049, 4_000, 4_700, 5_000, 20_000])
def test_the_dump_does_not_tell_how_the_values_were_come_by(count: int) -> None:
    assert len({SKETCH.dump(each) for each in forms(count)}) == 1
    assert len({estimate(each) for each in forms(count)}) == 1
    assert {is_registers(SKETCH.restore(SKETCH.dump(each))) for each in forms(count)} == {count > EXACT_UP_TO}


@law
@given(
    parts=st.lists(st.tuples(st.integers(0, 900), st.integers(1, 400)), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_unions_around_the_cap_are_the_same_in_any_order(parts: list[tuple[int, int]], order: Random) -> None:
    ranges = [np.arange(first, first + count) for first, count in parts]
    whole = np.unique(np.concatenate(ranges))
    expected = SKETCH.dump(partial_of(whole))

    order.shuffle(ranges)
    folded: Partial = SKETCH.empty()
    for part in ranges:
        folded, _ = SKETCH.fold(folded, partial_of(part))
    merged = reduce(SKETCH.merge, [SKETCH.restore(SKETCH.dump(partial_of(part))) for part in ranges], SKETCH.empty())
    again = SKETCH.merge(SKETCH.merge(SKETCH.empty(), folded), merged)

    assert [SKETCH.dump(each) for each in (folded, merged, again)] == [expected] * 3
    assert (estimate(folded) == len(whole)) or len(whole) > EXACT_UP_TO


def test_what_raises_no_register_is_not_written_again() -> None:
    values = np.arange(3_000)
    whole, first = SKETCH.fold(SKETCH.empty(), partial_of(values))

    _, again = SKETCH.fold(whole, partial_of(values))

    assert len(SKETCH.dump(first)) > 5_000
    assert len(SKETCH.dump(again)) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x04",
        b"\x01\x00\x00",  # cut off
        b"\x01\x00\x40\x01",  # register 16,384
        b"\x01\x01\x00\x01\x00\x01\x01",  # a register twice
        b"\x01\x01\x00\x00",  # a rank of 0
        b"\x01\x01\x00\x34",  # a rank above 51
        b"\x01",  # no register at all
        b"\x03" + bytes(7),  # cut off
        b"\x03" + bytes(16),  # a hash twice
        b"\x03" + bytes(7) + b"\x02" + bytes(7) + b"\x01",  # hashes that fall
        b"\x03" + np.arange(513).astype("<u8").tobytes(),  # more hashes than are kept
        b"\x02" + bytes(12_287),
        b"\x02" + bytes(12_288),  # few registers written as many
        b"\x02" + b"\xff" * 12_288,  # ranks of 63
    ],
)
def test_registers_that_cannot_be_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a dump of distinct"):
        SKETCH.restore(data)


@law
@given(data=st.data(), values=st.sampled_from([ints, floats, texts]))
def test_the_exact_set_counts_as_python_does(data: st.DataObject, values: st.SearchStrategy[Any]) -> None:
    drawn = data.draw(st.lists(values, min_size=1, max_size=30))
    sketch: Sketch = DistinctExact("f")

    _, (partial,) = sketch.lift(batch(column_of(drawn)))

    nans = sum(value != value for value in drawn)
    assert DistinctExact.size(partial) == len({value for value in drawn if value == value}) + bool(nans)


def test_the_exact_set_is_null_above_its_cap_whichever_way_it_got_there() -> None:
    sketch = DistinctExact("f", cap=100)
    _, (full,) = sketch.lift(batch(np.arange(100)))
    _, (other,) = sketch.lift(batch(np.arange(99, 101)))
    _, (over,) = sketch.lift(batch(np.arange(101)))

    assert DistinctExact.size(full) == 100
    assert over is None
    assert full is not None
    assert sketch.merge(set(full), other) is None
    assert sketch.fold(set(full), other) == (None, None)
    assert sketch.fold(None, other) == (None, set())
    assert DistinctExact.is_over(None)
    assert not DistinctExact.is_over(full)
