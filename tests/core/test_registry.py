"""An aggregate that a user registers comes back unchanged, is found by name, and is refused in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline import aggregate
from pipeline.core import registry
from pipeline.core.accumulators import Values
from pipeline.core.aggregates import bind
from pipeline.core.definitions import AggregateSpec
from pipeline.core.sketch_user import UserPartials
from pipeline.errors import RegistrationError, UserCodeError


@pytest.fixture(autouse=True)
def empty_registry(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_decorator_returns_what_it_was_given() -> None:
    scaled = Scaled(2.0)

    assert aggregate("longest", returns="string")(Longest) is Longest
    assert aggregate("doubled")(scaled) is scaled


def test_registering_the_same_source_again_is_nothing_new() -> None:
    aggregate("longest")(Longest)
    aggregate("longest")(Longest)

    assert list(registry.aggregates) == ["longest"]
    assert len(registry.aggregates["longest"].source_hash) == 32
    assert registry.aggregates["longest"].file == __file__


def test_a_name_with_another_source_is_refused() -> None:
    aggregate("scaled")(Scaled(1.0))

    with pytest.raises(RegistrationError, match="aggregate 'scaled' is registered already"):
        aggregate("scaled")(Scaled(2.0))
    with pytest.raises(RegistrationError, match="aggregate 'scaled' is registered already"):
        aggregate("scaled", returns="int")(Scaled(1.0))


Sourceless = type("Sourceless", (Longest,), {"__module__": "nowhere"})


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
        (lambda: aggregate("mine"), Sourceless, "its source cannot be read"),
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
    ],
)
def test_a_lift_that_goes_wrong_is_one_error_that_names_it(way: str, message: str) -> None:
    aggregate("mine", returns="int")(Broken(way))

    with pytest.raises(UserCodeError, match=message) as caught:
        finished(AggregateSpec("x", "mine", "f"), np.array([1, 2]), pl.Int64())

    assert caught.value.name == "mine"


@pytest.mark.parametrize(
    ("way", "step", "message"),
    [
        ("merge", "merge", "mine.merge: ZeroDivisionError: no"),
        ("finish", "finish", "mine.finish: returned 'three', and the aggregate was registered with returns='int'"),
    ],
)
def test_a_merge_or_finish_that_goes_wrong_makes_the_value_null_and_is_said_once(
    way: str, step: str, message: str
) -> None:
    aggregate("mine", returns="int")(Broken(way))
    finisher = bind(AggregateSpec("x", "mine", "f"), {"f": pl.Int64()})
    sketch = finisher.parts[-1]
    assert isinstance(sketch, UserPartials)
    state = {"n(f)": np.array([2]), sketch.name: np.empty(1, dtype=object)}
    state[sketch.name][0] = sketch.restore(sketch.dump([1, 2]))

    assert finisher.finish(state, np.array([0])) == [None]
    assert finisher.failed(state, np.array([0]))
    finisher.finish(state, np.array([0]))
    (said,) = sketch.problems.take().items()
    assert said[0] == step
    assert said[1].startswith(message)
    assert sketch.problems.take() == {}


def test_a_failed_partial_stays_failed_whatever_it_is_merged_with_and_in_any_order() -> None:
    aggregate("mine", returns="int")(Broken("merge"))
    sketch = bind(AggregateSpec("x", "mine", "f"), {"f": pl.Int64()}).parts[-1]
    assert isinstance(sketch, UserPartials)
    failed, good = sketch.dump([1, 2]), sketch.dump([7])

    merged = [
        sketch.dump(sketch.merge(sketch.restore(into), sketch.restore(other)))
        for into, other in ((failed, good), (good, failed), (failed, failed), (failed, sketch.dump([])))
    ]

    assert set(merged) == {failed}
    assert sketch.dump(sketch.fold(sketch.restore(failed), [7])[0]) == failed
    assert good != failed


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
