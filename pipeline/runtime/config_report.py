"""Collects every problem of a config file, each as one sentence at its place, in the order of the file.

pydantic finds what does not fit a shape; the words are ours.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from pipeline.core.spelling import did_you_mean
from pipeline.errors import ConfigError
from pipeline.runtime.config_shapes import seen
from pipeline.runtime.config_yaml import Document, Path, Position, path_text

ShapeT = TypeVar("ShapeT", bound=BaseModel)

_KINDS = {
    "string_type": "text",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


class Report:
    """The problems found so far in one document."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self._found: list[tuple[Position, str]] = list(document.problems)

    def add(self, path: Path, sentence: str, *, at_key: bool = False) -> None:
        """Add `path: sentence` at the value of `path`, or at its key."""
        place = path_text(path) or "the file"
        self._found.append((self.document.position(path, at_key=at_key), f"{place}: {sentence}"))

    def messages(self) -> list[str]:
        unique = dict.fromkeys(sorted(self._found))
        return [self.document.message(position, text) for position, text in unique]

    def raise_if_any(self) -> None:
        if self._found:
            raise ConfigError(self.messages())

    def fit(self, shape: type[ShapeT], path: Path, value: object, refused: Mapping[str, str]) -> ShapeT | None:
        """Return `value` as a `shape`, every misfit reported and left out; None where a needed part is left out.

        So what does fit is still checked against the rest of the file, and one run names every problem.

        `refused` gives, by setting below `path` (`dedup`, `window.hopping`), the sentence for those that we know and
        that cannot stand here.
        """
        try:
            return shape.model_validate(value)
        except ValidationError as error:
            misfits = error.errors()
        for misfit in misfits:
            self._misfit(shape, path, misfit, refused)
        try:
            return shape.model_validate(_without(value, [misfit["loc"] for misfit in misfits]))
        except ValidationError:
            return None

    def _misfit(self, shape: type[BaseModel], path: Path, misfit: Any, refused: Mapping[str, str]) -> None:
        loc: Path = misfit["loc"]
        here = (*path, *loc)
        kind: str = misfit["type"]
        if kind == "extra_forbidden":
            unknown = f"unknown setting.{did_you_mean(str(loc[-1]), settings_at(shape, loc[:-1]))}"
            self.add(here, refused.get(path_text(loc), unknown), at_key=True)
        elif kind == "missing":
            self.add(here[:-1], f"needs `{loc[-1]}`.", at_key=True)
        elif kind == "value_error":
            self.add(here, str(misfit["ctx"]["error"]))
        else:
            self.add(here, f"must be {_KINDS.get(kind, misfit['msg'])}, not {seen(misfit['input'])}.")


def _without(value: object, places: Collection[Path], above: Path = ()) -> object:
    """Return `value` without its entries at `places`."""
    if not isinstance(value, dict):
        return value
    return {key: _without(inner, places, (*above, key)) for key, inner in value.items() if (*above, key) not in places}


def settings_at(shape: type[BaseModel], loc: Path) -> list[str]:
    """Return the settings of the section `loc` of `shape`, as config.yaml names them."""
    inner: Any = shape
    for part in loc:
        inner = _inner(inner, part)
    return [_name(name, info) for name, info in inner.model_fields.items()]


def _inner(outer: Any, part: str | int) -> Any:
    """The model of the setting `part` of a model, or of one entry of a mapping."""
    if get_origin(outer) is dict:
        value = get_args(outer)[1]
        return get_args(value)[0] if get_origin(value) is Annotated else value
    return next(info.annotation for name, info in outer.model_fields.items() if _name(name, info) == part)


def _name(name: str, info: FieldInfo) -> str:
    return info.alias or name
