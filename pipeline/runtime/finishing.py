"""Finished values of merged cells: what rows on read, the downstream stream and the `latest` hash show."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from pipeline.core.cells import OTHER, OTHERS, CellTable
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


def group_values(program: Program, group: bytes, fields: Sequence[str] | None = None) -> dict[str, Any]:
    """The values of a group's fields; of the groups above the cap each is `__other__`, whatever the field's type.

    Null would be the group that is null. `fields`: what the group is made of, where it is not the stage's `group_by`.
    """
    names = program.stage.group_by if fields is None else fields
    if group == OTHERS:
        return dict.fromkeys(names, OTHER)
    return dict(zip(names, msgspec.json.decode(group), strict=True))


def group_order(program: Program, row: Mapping[str, Any]) -> list[tuple[bool, bool, Any]]:
    """The key that orders rows of one window by their groups."""
    return order_of_values(row[name] for name in program.stage.group_by)


def order_of_values(values: Iterable[Any]) -> list[tuple[bool, bool, Any]]:
    """The key that orders groups: nulls last, before them `__other__` among numbers."""
    return [(value is None, isinstance(value, str), 0 if value is None else value) for value in values]


def finished_result(program: Program, result: store.Result) -> list[dict[str, Any]]:
    """The finished values of a published window, in the order of its groups."""
    table = CellTable(program.layout)
    cells = [(result.start_ms, group) for group in result.groups]
    table.merge(cells, program.layout.unpack(result.cells))
    return finished_rows(program, table.columns, table.slots(cells), [result.end_ms] * len(cells))
