"""What a user registers comes back unchanged, is found by name with the hash of its source, and is refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline import aggregate, transform
from pipeline.core import registry
from pipeline.core.accumulators import Values
from pipeline.core.aggregates import bind
from pipeline.core.definitions import AggregateSpec
from pipeline.core.sketch_user import UserPartials
from pipeline.errors import RegistrationError, UserCodeError


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "transforms", {})
    monkeypatch.setattr(registry, "aggregates", {})


class Longest:
    """The longest of a cell's strings."""

    def lift(self, value: str) -> str:
        return value

    def merge(self, a: str, b: str) -> str:
        return b if len(b) > len(a) else a

    def finish(self, partial: str) -> str:
        return partial


class Scaled:
    """A sum times a factor; two factors are two aggregates."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def lift(self, value: float) -> list[float]:
        return [value]

    def merge(self, a: list[float], b: list[float]) -> list[float]:
        return [a[0] + b[0]]

    def finish(self, partial: list[float]) -> float:
        return self.factor * partial[0]


def enrich(frame: pl.DataFrame) -> pl.DataFrame:
    return frame


def test_decorators_return_what_they_were_given() -> None:
    scaled = Scaled(2.0)

    assert aggregate("longest", returns="string")(Longest) is Longest
    assert aggregate("doubled")(scaled) is scaled
    assert transform("enrich")(enrich) is enrich


def test_a_registered_function_is_found_with_its_engine_and_the_hash_of_its_source() -> None:
    transform("enrich", engine="pandas")(enrich)

    found = registry.transforms["enrich"]

    assert found.function is enrich
    assert found.engine == "pandas"
    assert len(found.source_hash) == 32


def test_registering_the_same_source_again_is_nothing_new() -> None:
    transform("enrich")(enrich)
    transform("enrich")(enrich)
    aggregate("longest")(Longest)
    aggregate("longest")(Longest)

    assert list(registry.transforms) == ["enrich"]


def test_a_name_with_another_source_is_refused() -> None:
    transform("enrich")(enrich)
    aggregate("scaled")(Scaled(1.0))

    def other(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.head(1)

    with pytest.raises(RegistrationError, match="transform 'enrich' is registered already, from another source"):
        transform("enrich")(other)
    with pytest.raises(RegistrationError, match="aggregate 'scaled' is registered already"):
        aggregate("scaled")(Scaled(2.0))
    with pytest.raises(RegistrationError, match="aggregate 'scaled' is registered already"):
        aggregate("scaled", returns="int")(Scaled(1.0))


class NoFinish:
    def lift(self, value: int) -> int:
        return value

    def merge(self, a: int, b: int) -> int:
        return a + b


@pytest.mark.parametrize(
    ("register", "given", "message"),
    [
        (lambda: aggregate("sum"), Longest, "aggregate 'sum' is built in"),
        (lambda: aggregate("my sum"), Longest, "a name is letters, digits and _"),
        (lambda: aggregate("mine"), NoFinish, "aggregate 'mine' has no finish. It needs lift, merge, finish"),
        (lambda: aggregate("mine", returns="number"), Longest, "returns is one of int, float, .*not 'number'"),  # type: ignore[arg-type]
        (lambda: aggregate("mine"), Scaled(object()), "attributes of an object are part of its version"),  # type: ignore[arg-type]
        (lambda: transform("mine"), 5, "transform 'mine' is 5, which is not a function"),
        (lambda: transform("mine"), len, "its source cannot be read"),
        (lambda: transform("mine", engine="spark"), enrich, "engine is 'polars' or 'pandas', not 'spark'"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_registered_is_refused_in_words(register: Any, given: Any, message: str) -> None:
    with pytest.raises(RegistrationError, match=message):
        register()(given)


def test_an_aggregate_that_this_process_does_not_have_is_named() -> None:
    aggregate("longest")(Longest)

    with pytest.raises(RegistrationError, match=r"aggregate 'longst' is not registered in this process\. Did you mean"):
        bind(AggregateSpec("x", "longst", "f"), {"f": pl.String()})


def finished(spec: AggregateSpec, column: Any, dtype: pl.DataType) -> Any:
    finisher = bind(spec, {"f": dtype})
    sketch = finisher.parts[-1]
    assert isinstance(sketch, UserPartials)
    where = np.zeros(len(column), dtype=np.int64)
    _, partials = sketch.lift(Values(where.astype(np.intp), column, where, where, where))
    cell, _ = sketch.fold(sketch.empty(), partials[0])
    state = {"n(f)": np.array([len(column)]), sketch.name: np.empty(1, dtype=object)}
    state[sketch.name][0] = sketch.restore(sketch.dump(cell))
    return finisher.finish(state, np.array([0]))[0]


def test_a_registered_aggregate_finishes_to_its_type() -> None:
    aggregate("longest", returns="string")(Longest)
    aggregate("doubled")(Scaled(2.0))

    assert (
        finished(AggregateSpec("x", "longest", "f"), np.array(["a", "ccc", "bb"], dtype=object), pl.String()) == "ccc"
    )
    assert finished(AggregateSpec("x", "doubled", "f"), np.array([1.5, 2.0]), pl.Float64()) == 7.0
    assert finished(AggregateSpec("x", "doubled", "f"), np.array([1e308, 1e308]), pl.Float64()) is None
    assert bind(AggregateSpec("x", "longest", "f"), {"f": pl.String()}).type == "string"


class TypeName:
    """Says what type of value it was lifted from."""

    def lift(self, value: Any) -> str:
        return type(value).__name__

    def merge(self, a: str, b: str) -> str:
        return a

    def finish(self, partial: str) -> str:
        return partial


def test_a_bool_is_lifted_as_a_bool() -> None:
    aggregate("kind", returns="string")(TypeName)

    assert finished(AggregateSpec("x", "kind", "f"), np.array([1, 0]), pl.Boolean()) == "bool"
    assert finished(AggregateSpec("x", "kind", "f"), np.array([1, 0]), pl.Int64()) == "int"


class Broken:
    """Fails at the step and in the way of its name."""

    def __init__(self, way: str) -> None:
        self.way = way

    def lift(self, value: int) -> Any:
        if self.way == "raises":
            raise KeyError(value)
        return {1: value} if self.way == "number keys" else {"of": object()} if self.way == "no data" else value

    def merge(self, a: int, b: int) -> int:
        if self.way == "merge":
            raise ZeroDivisionError("no")
        return a + b

    def finish(self, partial: int) -> str:
        return "three"


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("raises", "mine.lift: KeyError: 1"),
        ("number keys", "mine.lift: a partial is plain data .*str keys"),
        ("no data", "mine.lift: a partial is plain data"),
        ("merge", "mine.merge: ZeroDivisionError: no"),
        ("finish", "mine.finish: returned 'three', and the aggregate was registered with returns='int'"),
    ],
)
def test_what_goes_wrong_in_a_user_s_code_is_one_error_that_names_it(way: str, message: str) -> None:
    aggregate("mine", returns="int")(Broken(way))

    with pytest.raises(UserCodeError, match=message) as caught:
        finished(AggregateSpec("x", "mine", "f"), np.array([1, 2]), pl.Int64())

    assert caught.value.name == "mine"


class Tuples:
    """A partial of tuples, which come back as lists: they do so from the first merge on."""

    def lift(self, value: int) -> tuple[int, ...]:
        return (value,)

    def merge(self, a: list[int], b: list[int]) -> tuple[int, ...]:
        assert isinstance(a, list)
        assert isinstance(b, list)
        return tuple(a + b)

    def finish(self, partial: list[int]) -> list[int]:
        return partial


def test_a_partial_is_the_same_whether_it_was_kept_or_read_back() -> None:
    aggregate("all", returns="list")(Tuples)

    assert finished(AggregateSpec("x", "all", "f"), np.array([3, 1, 2]), pl.Int64()) == [3, 1, 2]
