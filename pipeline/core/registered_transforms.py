"""Python functions that transforms call, registered by name: `from pipeline import transform`.

The hash of a function's source is part of the version of every stage that calls it: another text is another stage.
What the function calls in turn is not hashed, so a change there is made known by a change of the function itself.
"""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from pipeline.core.definitions import Engine, PythonFunction

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_SCALAR = "string|int|float|bool|timestamp"
_TYPE = re.compile(rf"(?:{_SCALAR}|list\[(?:{_SCALAR})\])\??")
_HASH_BYTES = 16


@dataclass(frozen=True, slots=True)
class RegisteredTransform:
    """A function over DataFrames, the columns it adds (by config type), and where it stands."""

    name: str
    function: Callable[[Any], Any]
    returns: Mapping[str, str]
    engine: Engine
    source_hash: str
    file: str
    line: int

    @property
    def definition(self) -> PythonFunction:
        return PythonFunction(self.name, self.returns, self.source_hash, self.engine)


TRANSFORMS: dict[str, RegisteredTransform] = {}


def transform(name: str, *, returns: Mapping[str, str], engine: Engine = "polars") -> Callable[[FunctionT], FunctionT]:
    """Register a function from DataFrame to DataFrame under `name`, and return it unchanged.

    The function gets some rows of a stream: a column for each field, and `_row`, the number of the event a row was made
    from. It returns them with the columns of `returns` (name → config type) added; rows whose `_row` does not come back
    are filtered. What it gives for a row must depend on that row alone, and be the same on any day: rows come in
    batches cut anywhere, and are computed again after a crash.

    Raises:
        ValueError: a name or type that cannot be, a name that is taken, or a function whose source cannot be read.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be a transform's name: lower-case letters, digits and _, at most 48.")
    if engine not in get_args(Engine):
        raise ValueError(f"transform '{name}': engine must be polars or pandas, not {engine!r}.")
    for column, kind in returns.items():
        if not _FIELD.fullmatch(column) or not _TYPE.fullmatch(kind):
            raise ValueError(
                f"transform '{name}' returns {column!r}: {kind!r}; write the name of a column and one of string, int, "
                "float, bool, timestamp or list[…] of them."
            )

    def register(function: FunctionT) -> FunctionT:
        registered = _registered(name, function, dict(returns), engine)
        known = TRANSFORMS.get(name)
        if known is not None and (known.file, known.source_hash) != (registered.file, registered.source_hash):
            raise ValueError(f"transform '{name}' is registered already, at {known.file}:{known.line}.")
        TRANSFORMS[name] = registered
        return function

    return register


def _registered(name: str, function: Any, returns: Mapping[str, str], engine: Engine) -> RegisteredTransform:
    try:
        source = inspect.getsource(function)
        file, line = inspect.getsourcefile(function) or "", inspect.getsourcelines(function)[1]
    except (OSError, TypeError) as error:
        raise ValueError(f"transform '{name}': its source cannot be read ({error}). Define it in a file.") from error
    digest = hashlib.blake2b(source.encode(), digest_size=_HASH_BYTES).hexdigest()
    return RegisteredTransform(name, function, returns, engine, digest, file, line)
