"""What a registered function may give back, what it may not, and how it is registered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import polars as pl
import pytest

from pipeline import transform
from pipeline.core.batches import ROW
from pipeline.core.column_types import type_of
from pipeline.core.python_calls import CallError, call
from pipeline.core.registered_transforms import TRANSFORMS

GIVEN = pl.DataFrame(
    {
        ROW: [3, 4, 4],
        "s": ["a", None, "c"],
        "i": [1, None, 3],
        "f": [0.5, None, 2.0],
        "b": [True, None, False],
        "t": pl.Series([0, None, 86_400_000]).cast(pl.Datetime("ms")),
        "l": [["x"], None, []],
        "times": pl.Series([[0], None, []], dtype=pl.List(pl.Int64)).cast(pl.List(pl.Datetime("ms"))),
    }
)
AFTER = {name: dtype for name, dtype in GIVEN.schema.items() if name != ROW}


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    before = dict(TRANSFORMS)
    yield
    TRANSFORMS.clear()
    TRANSFORMS.update(before)


def run(function: Callable[[Any], Any], engine: Any = "polars", **returns: str) -> pl.DataFrame:
    return call("f", function, engine, GIVEN, AFTER | {name: type_of(kind) for name, kind in returns.items()})


@pytest.mark.parametrize("engine", ["polars", "pandas"])
def test_what_a_function_does_not_touch_comes_back_as_it_was(engine: str) -> None:
    assert run(lambda frame: frame, engine).equals(GIVEN.select(ROW, *AFTER), null_equal=True)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("int", pl.Series([1, 2, 3], dtype=pl.Int8), [1, 2, 3]),
        ("int", pl.Series([1.0, float("nan"), None]), [1, None, None]),
        ("int", pl.Series([None, None, None]), [None, None, None]),
        ("float", pl.Series([1, 2, None]), [1.0, 2.0, None]),
        ("float", pl.Series([float("nan"), float("inf"), 1.5]), [None, None, 1.5]),
        ("string", pl.Series(["a", "b", None], dtype=pl.Categorical), ["a", "b", None]),
        ("timestamp?", pl.Series([0, 1, 2]).cast(pl.Datetime("us", "Europe/Paris")).dt.cast_time_unit("us"), None),
        ("list[int]", pl.Series([[1.0], [], None]), [[1], [], None]),
        ("bool", pl.Series([True, None, False]), [True, None, False]),
    ],
)
def test_a_new_column_becomes_the_type_it_was_announced_with(kind: str, values: pl.Series, expected: Any) -> None:
    done = run(lambda frame: frame.with_columns(values.alias("new")), new=kind)

    assert done.schema["new"] == type_of(kind)
    if expected is not None:
        assert done["new"].to_list() == expected


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("int", pd.Series([1.0, None, 3.0]), [1, None, 3]),
        ("int", pd.Series([1, None, 3], dtype="Int64"), [1, None, 3]),
        ("float", pd.Series([1, 2, 3]), [1.0, 2.0, 3.0]),
        ("string", pd.Series(["a", None, "c"]), ["a", None, "c"]),
        ("bool", pd.Series([True, False, True]), [True, False, True]),
        ("bool", pd.Series([True, None, True], dtype="boolean"), [True, None, True]),
        ("string", pd.Series(["a", "b", "a"], dtype="category"), ["a", "b", "a"]),
        ("list[int]", pd.Series([[1], None, []]), [[1], None, []]),
    ],
)
def test_a_new_column_of_pandas_too(kind: str, values: pd.Series[Any], expected: list[Any]) -> None:
    done = run(lambda frame: frame.assign(new=values), "pandas", new=kind)

    assert done["new"].to_list() == expected


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda frame: None, "returned NoneType; it has to return a polars DataFrame"),
        (lambda frame: frame.drop("i"), "returned no i"),
        (lambda frame: frame.drop(ROW), "returned no _row"),
        (lambda frame: frame.with_columns(extra=1), "returned extra, not named in its `returns`"),
        (lambda frame: frame.with_columns(pl.col("i").cast(pl.String)), "returned 'i' as string, and it is int"),
        (lambda frame: frame.with_columns(pl.col("f").alias("i")), "returned 'i' as float, and it is int"),
        (lambda frame: frame.with_columns(pl.col(ROW) + 1), "returned _row 5, 5, which it was not given"),
        (lambda frame: frame.with_columns(pl.lit(None).alias(ROW)), "returned _row None"),
        (lambda frame: frame.with_columns(pl.struct("i").alias("i")), "returned 'i' as struct"),
    ],
)
def test_what_was_not_announced_is_an_error_that_says_what_came(function: Any, message: str) -> None:
    with pytest.raises(CallError) as caught:
        run(function)

    assert caught.value.code == "function_result"
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda frame: frame["i"], "returned Series; it has to return a pandas DataFrame"),
        (lambda frame: pd.concat([frame, frame[["i"]]], axis=1), "returned the column 'i' twice"),
        (lambda frame: frame.assign(i=[1, "x", 2]), "returned 'i' with values of several types"),
    ],
)
def test_what_was_not_announced_is_an_error_from_pandas_too(function: Any, message: str) -> None:
    with pytest.raises(CallError, match="returned") as caught:
        run(function, "pandas")

    assert message in str(caught.value)


def test_rows_may_be_left_out_repeated_and_reordered() -> None:
    done = run(lambda frame: pl.concat([frame[2:], frame[:1], frame[2:]]))

    assert done.select(ROW, "s").rows() == [(3, "a"), (4, "c"), (4, "c")]


def test_what_a_function_does_to_its_frame_reaches_nobody() -> None:
    def destroy(frame: pl.DataFrame) -> pl.DataFrame:
        frame.replace_column(1, pl.Series("s", ["x", "y", "z"]))
        raise RuntimeError

    with pytest.raises(CallError):
        run(destroy)

    assert GIVEN["s"].to_list() == ["a", None, "c"]


def test_a_decorated_function_is_returned_unchanged_and_known_by_its_text() -> None:
    def plain(frame: pl.DataFrame) -> pl.DataFrame:
        return frame

    assert transform("plain", returns={})(plain) is plain
    first = TRANSFORMS["plain"]
    assert transform("plain", returns={})(plain) is plain  # a file that is executed again

    def other(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.head(0)

    with pytest.raises(ValueError, match=rf"'plain' is registered already, at .*test_python_calls.py:{first.line}"):
        transform("plain", returns={})(other)
    transform("other", returns={})(other)
    assert TRANSFORMS["other"].source_hash != first.source_hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "Bad Name", "returns": {}}, "cannot be a transform's name"),
        ({"name": "f", "returns": {"a": "str"}}, "one of string, int"),
        ({"name": "f", "returns": {"_row": "int"}}, "one of string, int"),
        ({"name": "f", "returns": {}, "engine": "dask"}, "engine must be polars or pandas"),
    ],
)
def test_a_registration_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transform(**arguments)


def test_a_function_whose_text_cannot_be_read_is_refused() -> None:
    names: dict[str, Any] = {}
    exec("def typed(frame):\n    return frame\n", names)

    with pytest.raises(ValueError, match="its source cannot be read"):
        transform("typed", returns={})(names["typed"])
