"""An answer that a page shows beside a real one: the same members, of the same types, whatever the values are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# Their members are named by the config: by its fields, groups, values, stages and reasons.
NAMED_BY_THE_CONFIG = frozenset(
    {"schema", "event", "group", "values", "recomputed", "unit", "reasons", "late", "window", "candidates"}
)
OF_EVERY_ROW = frozenset({"window_start", "window_end", "state", "revision"})  # of a metric; the rest is the config's


def differences(said: object, real: object, place: str = "") -> list[str]:
    """Name where the two have other members or types; null stands for a value of any type."""
    if said is None or real is None:
        return []
    if isinstance(said, Mapping) and isinstance(real, Mapping):
        return _members(said, real, place)
    if _is_list(said) and _is_list(real):
        assert isinstance(said, Sequence)
        assert isinstance(real, Sequence)
        return differences(said[0], real[0], f"{place}[0]") if said and real else []
    if _kind(said) == _kind(real):
        return []
    return [f"{place}: {said!r:.60} on the page, really {real!r:.60}"]


def _members(said: Mapping[str, Any], real: Mapping[str, Any], place: str) -> list[str]:
    if said.keys() >= OF_EVERY_ROW:
        said, real = ({name: row[name] for name in OF_EVERY_ROW if name in row} for row in (said, real))
    found = [f"{place}.{name}: only on the page" for name in said if name not in real]
    found += [f"{place}.{name}: not on the page" for name in real if name not in said]
    for name in said.keys() & real.keys() - NAMED_BY_THE_CONFIG:
        found += differences(said[name], real[name], f"{place}.{name}")
    return found


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "number"
    return type(value).__name__
