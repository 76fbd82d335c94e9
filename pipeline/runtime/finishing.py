"""Finished values of merged cells: what rows on read, the downstream stream and the `latest` hash show."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from pipeline.core.cell_fields import OTHER, OTHERS
from pipeline.core.json_names import json_names
from pipeline.core.names import Names, joined
from pipeline.core.programs import Program
from pipeline.rim import store
from pipeline.runtime.user_failures import say_failures


def finished_columns(
    program: Program,
    columns: Mapping[str, Any],
    slots: Any,
    ends_ms: Sequence[int] | Any,
    names: Collection[str] | None = None,
) -> dict[str, list[Any]]:
    """The finished values of cells (those of `names`), a list of each; `ends_ms` are the ends of the cells' windows."""
    needed = None if names is None else program.selection.needs(names).union(names)
    values = {
        finisher.spec.name: finisher.finish(columns, slots, ends_ms)
        for finisher in program.finishers
        if needed is None or finisher.spec.name in needed
    }
    values |= program.selection.computed(values, len(slots), names)
    say_failures(program)
    return {name: values[name] for name in program.value_types if names is None or name in names}


def finished_rows(
    program: Program, columns: Mapping[str, Any], slots: Any, ends_ms: Sequence[int]
) -> list[dict[str, Any]]:
    """The finished values of cells, one mapping a cell."""
    return as_rows(finished_columns(program, columns, slots, ends_ms))


def as_rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Columns as flat rows."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def latest_texts(span: tuple[int, int], values: Mapping[str, list[Any]], count: int) -> Names:
    """The finished values of a window's groups as the `latest` hash has them."""
    return joined([b'{"window_start":%d,"window_end":%d' % span, *members_of(values), b"}"], count)


def members_of(values: Mapping[str, list[Any]]) -> list[bytes | Names]:
    """Finished values as further members of JSON objects, to be joined."""
    columns = ((b",%b:" % msgspec.json.encode(name), json_names(column)) for name, column in values.items())
    return [part for column in columns for part in column]


def group_values(program: Program, group: bytes, fields: Sequence[str] | None = None) -> dict[str, Any]:
    """The values of a group's fields; of the groups above the cap each is `__other__`, whatever the field's type.

    Null would be the group that is null. `fields`: what the group is made of, where it is not the stage's `group_by`.
    """
    names = program.stage.group_by if fields is None else fields
    if group == OTHERS:
        return dict.fromkeys(names, OTHER)
    return dict(zip(names, msgspec.json.decode(group), strict=True))


def groups_values(program: Program, groups: Sequence[bytes]) -> list[dict[str, Any]]:
    """The same of many groups, decoded together."""
    names = program.stage.group_by
    return [
        dict.fromkeys(names, OTHER) if values == OTHER else dict(zip(names, values, strict=True))
        for values in msgspec.json.decode(b"[" + b",".join(groups) + b"]")
    ]


def group_order(program: Program, row: Mapping[str, Any]) -> list[tuple[bool, bool, Any]]:
    """The key that orders rows of one window by their groups."""
    return order_of_values(row[name] for name in program.stage.group_by)


def order_of_values(values: Iterable[Any]) -> list[tuple[bool, bool, Any]]:
    """The key that orders groups: nulls last, before them `__other__` among numbers."""
    return [(value is None, isinstance(value, str), 0 if value is None else value) for value in values]


def finished_result(program: Program, result: store.Result) -> dict[str, list[Any]]:
    """The finished values of a published window by name, in the order of its groups."""
    every = np.arange(len(result.groups))
    return finished_columns(program, result.columns(program.layout), every, [result.end_ms] * len(every))
