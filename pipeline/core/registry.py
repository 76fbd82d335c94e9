"""A user's own aggregates, registered by name: `@aggregate("geomean")`.

What is registered decides numbers, so each carries the hash of its source: another source is another version of the
stages that use it. The decorator returns what it was given, unchanged.
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

Returns = Literal["int", "float", "string", "bool", "timestamp", "list"]
_NAME = re.compile(r"[A-Za-z_]\w*")
_STEPS = ("lift", "merge", "finish")
Given = TypeVar("Given")


class UserAggregate(Protocol):
    """What a registered aggregate brings. A partial is plain data: None, bool, int, float, str, bytes, list, dict.

    `merge` is associative, has no other effect than its answer, may change and return `a`, and must not change `b`.
    Dicts have string keys. A partial comes back as msgpack gives it: a tuple as a list.
    """

    def lift(self, value: Any) -> Any: ...
    def merge(self, a: Any, b: Any) -> Any: ...
    def finish(self, partial: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class RegisteredAggregate:
    """An object with lift, merge and finish; `returns` is the type of what it finishes to, `file` where it stands."""

    function: UserAggregate
    source_hash: str
    returns: Returns
    file: str = ""


aggregates: dict[str, RegisteredAggregate] = {}


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
        _check_name(name)
        if name in AGGREGATE_FUNCTIONS:
            raise RegistrationError(f"aggregate '{name}' is built in. Register yours under another name.")
        made: Any = given() if isinstance(given, type) else given
        missing = [step for step in _STEPS if not callable(getattr(made, step, None))]
        if missing:
            raise RegistrationError(
                f"aggregate '{name}' has no {' and no '.join(missing)}. It needs {', '.join(_STEPS)}."
            )
        text = _source(name, type(made)) + _attributes(name, made)
        entry = RegisteredAggregate(made, _hash(text), returns, inspect.getsourcefile(type(made)) or "")
        before = aggregates.get(name)
        if before is not None and (before.source_hash, before.returns) != (entry.source_hash, entry.returns):
            raise RegistrationError(
                f"aggregate '{name}' is registered already, from another source. Give one of the two another name."
            )
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
            "Name the file with its @aggregate under `functions:`."
        )
    return aggregates[name]


def registered_sources() -> dict[str, str]:
    """The hash of the source of every aggregate that is registered in this process."""
    return {name: entry.source_hash for name, entry in aggregates.items()}


@dataclass(frozen=True, slots=True)
class _Gone:
    """Stands for an aggregate whose source this process does not have: its values are null, and say why."""

    name: str

    def lift(self, value: Any) -> Any:
        raise self._error()

    def merge(self, a: Any, b: Any) -> Any:
        raise self._error()

    def finish(self, partial: Any) -> Any:
        raise self._error()

    def _error(self) -> RegistrationError:
        return RegistrationError(
            f"aggregate '{self.name}' has another source now, or none; its old values are not read."
        )


def aggregate_of_source(name: str, source_hash: str | None) -> RegisteredAggregate:
    """Return a registered aggregate as it was at one source; where it has another now, one that can only fail."""
    known = aggregates.get(name)
    if known is not None and known.source_hash == source_hash:
        return known
    return RegisteredAggregate(_Gone(name), source_hash or "", "float" if known is None else known.returns)


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise RegistrationError(
            f"aggregate {name!r}: a name is letters, digits and _, and does not begin with a digit."
        )


def _source(name: str, code: Any) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError) as error:
        raise RegistrationError(
            f"aggregate '{name}': its source cannot be read ({error}), and the version of a stage is made from it. "
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
