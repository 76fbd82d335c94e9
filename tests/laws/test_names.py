"""Columns of names do what lists of bytes do, with the native part and without it."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.connection import HiredisRespSerializer

from pipeline.core import names as module
from pipeline.core.cell_fields import cell_field
from pipeline.core.group_texts import text_fields
from pipeline.core.names import Directory, Names, arguments, joined
from pipeline.rim.packed_arguments import Packer
from pipeline.rim.packed_columns import packed_columns
from tests.laws.logs import law

alphabet = st.sampled_from(list(b'\x00\x01"[]abcdefg\xff'))
byte_strings = st.lists(alphabet, max_size=20).map(bytes)
lists = st.lists(byte_strings, max_size=40)


@pytest.fixture(params=[True, False], ids=["native", "pure"])
def built(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param and not module.IS_BUILT:
        pytest.skip("the native part was not built: no C compiler where this was installed")
    monkeypatch.setattr(module, "IS_BUILT", request.param)


@pytest.mark.usefixtures("built")
@law
@given(listed=lists, more=lists)
def test_a_column_is_a_list_of_bytes(listed: list[bytes], more: list[bytes]) -> None:
    names = Names.of(listed)
    everything = Names.together([names, Names.of(more), names[3:]])

    assert names == listed
    assert list(names) == listed
    assert len(names) == len(listed)
    assert everything == [*listed, *more, *listed[3:]]
    assert Names.one_after_the_other(*everything[2:7].packed()) == list(everything)[2:7]
    assert [listed[place] for place in names.order().tolist()] == sorted(listed)
    assert names.order().tolist() == sorted(range(len(listed)), key=listed.__getitem__)
    assert joined([b"<", names, names, b">"], len(names)) == [b"<" + name + name + b">" for name in listed]
    for prefix in (b"", b"a", b'["'):
        assert names.begin_with(prefix) == all(name.startswith(prefix) for name in listed)
        with_it = joined([prefix, names], len(names))
        assert with_it.begin_with(prefix)
        assert with_it.without(len(prefix)) == listed


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("n_parts", [1, 64, 65, 200])
def test_any_number_of_parts_is_joined(n_parts: int) -> None:
    parts = [b"%d," % number if number % 2 else Names.of([b"a%d" % number, b"b"]) for number in range(n_parts)]
    expected = [b"".join(part if isinstance(part, bytes) else part.tolist()[row] for part in parts) for row in (0, 1)]
    assert joined(parts, 2) == expected
    rows = [[part if isinstance(part, bytes) else part[row] for part in parts] for row in (0, 1)]
    assert arguments(parts, 2) == b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for row in rows for name in row)


@pytest.mark.usefixtures("built")
@law
@given(steps=st.lists(lists, max_size=6))
def test_a_directory_numbers_names_in_the_order_they_came_first(steps: list[list[bytes]]) -> None:
    directory, known = Directory(), dict[bytes, int]()
    for step in steps:
        numbers = directory.numbers(Names.of(step))
        for name in step:
            known.setdefault(name, len(known))
        assert numbers.tolist() == [known[name] for name in step]
        assert directory.names(numbers) == step
    assert directory.names() == list(known)
    assert len(directory) == len(known)


@pytest.mark.usefixtures("built")
@law
@given(listed=lists)
def test_packed_arguments_go_over_the_wire_as_arguments_do(listed: list[bytes]) -> None:
    names = Names.of(listed)
    packer = Packer(HiredisRespSerializer())

    one_by_one = b"".join(packer.pack("HSET", "key", 5, *(part for name in listed for part in (b"f", name))))
    together = b"".join(packer.pack("HSET", "key", 5, packed_columns([b"f", names], len(names))))

    assert together == one_by_one
    assert arguments([names], len(names)) == b"".join(b"$%d\r\n%b\r\n" % (len(name), name) for name in listed)


@law
@given(
    texts=st.lists(st.text(st.sampled_from('abcdé€\U0001f600 ,]["\\\x1f\x7f'), max_size=15), min_size=1, max_size=20)
)
def test_fields_of_texts_are_spelled_as_one_is(texts: list[str]) -> None:
    rows = np.arange(len(texts))[::-1].copy()
    fields = text_fields(pl.Series(texts), rows)

    if fields is None:
        assert any(character in text for text in texts for character in '"\\\x1f')
    else:
        assert fields == [cell_field([text]) for text in reversed(texts)]


def test_what_is_no_text_or_null_has_its_field_spelled_elsewhere() -> None:
    rows = np.arange(2)
    assert text_fields(pl.Series([1, 2]), rows) is None
    assert text_fields(pl.Series(["a", None]), rows) is None


@pytest.mark.skipif(not module.IS_BUILT, reason="the native part was not built")
@pytest.mark.parametrize(("starts", "ends"), [([-1], [1]), ([2], [1]), ([0], [4]), ([0, 1], [1]), ([2**62], [2**62])])
def test_names_outside_of_their_data_are_refused(starts: list[int], ends: list[int]) -> None:
    names = Names(b"abc", np.array(starts, dtype=np.int64), np.array(ends, dtype=np.int64))
    directory = Directory()
    uses = (names.order, lambda: directory.numbers(names), lambda: joined([names], 1), lambda: arguments([names], 1))
    for use in uses:
        with pytest.raises(ValueError, match="names"):
            use()
    with pytest.raises(ValueError, match="as many"):
        joined([Names.of([b"a"])], 2)
    with pytest.raises(ValueError, match="number"):
        Directory().names(np.array([0], dtype=np.int32))
