"""A user's own Python functions, registered by name: `@aggregate("geomean")` and `@transform("enrich_geo")`.

What is registered decides numbers, so each carries the hash of its source: another source is another version of the
stages that use it. The decorators return what they were given, unchanged.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, get_args

import msgspec

from pipeline.core.definitions import AGGREGATE_FUNCTIONS
from pipeline.core.spelling import did_you_mean
from pipeline.errors import RegistrationError

Engine = Literal["polars", "pandas"]
Returns = Literal["int", "float", "string", "bool", "timestamp", "list"]
_NAME = re.compile(r"[A-Za-z_]\w*")
_STEPS = ("lift", "merge", "finish")
Given = TypeVar("Given")
Function = TypeVar("Function", bound=Callable[..., Any])


class UserAggregate(Protocol):
    """What a registered aggregate brings. A partial is plain data: None, bool, int, float, str, bytes, list, dict.

    `merge` is associative, has no other effect than its answer, may change and return `a`, and must not change `b`.
    Dicts have string keys. A partial comes back as msgpack gives it: a tuple as a list.
    """

    def lift(self, value: Any) -> Any: ...
    def merge(self, a: Any, b: Any) -> Any: ...
    def finish(self, partial: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class Registered:
    """A function DataFrame -> DataFrame; `engine` is the kind of frame it takes and returns."""

    function: Callable[..., Any]
    source_hash: str
    engine: Engine


@dataclass(frozen=True, slots=True)
class RegisteredAggregate:
    """An object with lift, merge and finish; `returns` is the type of what it finishes to."""

    function: UserAggregate
    source_hash: str
    returns: Returns


transforms: dict[str, Registered] = {}
aggregates: dict[str, RegisteredAggregate] = {}


def transform(name: str, *, engine: Engine = "polars") -> Callable[[Function], Function]:
    """Register a function DataFrame -> DataFrame under `name`, for `python:` of a transform stage.

    Raises:
        RegistrationError: the name is no name or taken by another source, or the source cannot be read.
    """
    if engine not in get_args(Engine):
        raise RegistrationError(f"transform '{name}': engine is 'polars' or 'pandas', not {engine!r}.")

    def register(function: Function) -> Function:
        if not callable(function):
            raise RegistrationError(f"transform '{name}' is {function!r}, which is not a function.")
        _check_name("transform", name)
        entry = Registered(function, _hash(_source("transform", name, function)), engine)
        before = transforms.get(name)
        if before is not None and (before.source_hash, before.engine) != (entry.source_hash, entry.engine):
            raise RegistrationError(_taken("transform", name))
        transforms[name] = entry
        return function

    return register


def aggregate(name: str, *, returns: Returns = "float") -> Callable[[Given], Given]:
    """Register a class (made without arguments) or an object with lift, merge and finish under `name`.

    Raises:
        RegistrationError: the name is no name, built in, or taken by another source; a step is missing; an object's
            attributes are not plain data; or the source cannot be read.
    """
    if returns not in get_args(Returns):
        raise RegistrationError(
            f"aggregate '{name}': returns is one of {', '.join(get_args(Returns))}, not {returns!r}."
        )

    def register(given: Given) -> Given:
        _check_name("aggregate", name)
        if name in AGGREGATE_FUNCTIONS:
            raise RegistrationError(f"aggregate '{name}' is built in. Register yours under another name.")
        made: Any = given() if isinstance(given, type) else given
        missing = [step for step in _STEPS if not callable(getattr(made, step, None))]
        if missing:
            raise RegistrationError(
                f"aggregate '{name}' has no {' and no '.join(missing)}. It needs {', '.join(_STEPS)}."
            )
        text = _source("aggregate", name, type(made)) + _attributes(name, made)
        entry = RegisteredAggregate(made, _hash(text), returns)
        before = aggregates.get(name)
        if before is not None and (before.source_hash, before.returns) != (entry.source_hash, entry.returns):
            raise RegistrationError(_taken("aggregate", name))
        aggregates[name] = entry
        return given

    return register


def registered_aggregate(name: str) -> RegisteredAggregate:
    """Return a registered aggregate.

    Raises:
        RegistrationError: there is none of this name in this process.
    """
    if name not in aggregates:
        raise RegistrationError(
            f"aggregate '{name}' is not registered in this process.{did_you_mean(name, aggregates)} "
            "Import the file with its @aggregate before the config is read."
        )
    return aggregates[name]


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise RegistrationError(f"{what} {name!r}: a name is letters, digits and _, and does not begin with a digit.")


def _taken(what: str, name: str) -> str:
    return f"{what} '{name}' is registered already, from another source. Give one of the two another name."


def _source(what: str, name: str, code: Any) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError) as error:
        raise RegistrationError(
            f"{what} '{name}': its source cannot be read ({error}), and the version of a stage is made from it. "
            "Put it in a file that is imported."
        ) from error


def _attributes(name: str, made: Any) -> str:
    """The attributes of an object as text: `Trimmed(0.1)` and `Trimmed(0.2)` are two aggregates of one source."""
    attributes = getattr(made, "__dict__", {})
    try:
        return msgspec.json.encode(attributes, order="sorted").decode() if attributes else ""
    except (TypeError, ValueError) as error:
        raise RegistrationError(
            f"aggregate '{name}': the attributes of an object are part of its version, so they have to be plain data: "
            f"{error}."
        ) from error


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
