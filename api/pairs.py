"""`field=value`, as commands take it: asked of a metric, or looked for in events.

Invariant: a value is text here; the API, or the event it is compared with, says what it means.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer

NOTHING = ("null", "")  # how a person writes that there is no value


def read_pairs(pairs: Iterable[str]) -> list[tuple[str, str]]:
    """Return `--where` options as fields and values."""
    found = []
    for pair in pairs:
        field, equals, value = pair.partition("=")
        if not equals or not field:
            raise typer.BadParameter(f"{pair!r} is not field=value", param_hint="--where")
        found.append((field, value))
    return found


def matches(event: Mapping[str, Any], wanted: Sequence[tuple[str, str]]) -> bool:
    """Whether an event has, in each field that is named, one of the values named for it."""
    fields = dict.fromkeys(field for field, _ in wanted)
    return all(any(_is(event.get(field), text) for each, text in wanted if each == field) for field in fields)


def _is(value: Any, text: str) -> bool:
    if value is None:
        return text in NOTHING
    if isinstance(value, str):
        return value == text
    try:
        meant = json.loads(text)
    except ValueError:
        return False
    return isinstance(meant, bool) == isinstance(value, bool) and bool(meant == value)  # 1 is not true
