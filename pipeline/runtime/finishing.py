"""Finished values of merged cells: what rows on read, the downstream stream and the `latest` hash show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pipeline.core.cells import OTHER, OTHERS, CellTable
from pipeline.core.programs import Program
from pipeline.rim import store
from pipeline.runtime.user_failures import say_failures


def finished_rows(
    program: Program, columns: Mapping[str, Any], slots: Any, ends_ms: Sequence[int]
) -> list[dict[str, Any]]:
    """The finished values of cells, one mapping a cell; `ends_ms` are the ends of their windows."""
    values = [finisher.finish(columns, slots, ends_ms) for finisher in program.finishers]
    names = [finisher.spec.name for finisher in program.finishers]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    program.selection.apply(rows)
    say_failures(program)
    return rows


def group_values(program: Program, group: bytes) -> dict[str, Any]:
    """The values of a group's fields; of the groups above the cap each is `__other__`, whatever the field's type.

    Null would be the group that is null.
    """
    if group == OTHERS:
        return dict.fromkeys(program.stage.group_by, OTHER)
    return dict(zip(program.stage.group_by, msgspec.json.decode(group), strict=True))


def group_order(program: Program, row: Mapping[str, Any]) -> list[tuple[bool, bool, Any]]:
    """The key that orders rows of one window by their groups: nulls last, before them `__other__` among numbers."""
    values = (row[name] for name in program.stage.group_by)
    return [(value is None, isinstance(value, str), 0 if value is None else value) for value in values]


def finished_result(program: Program, result: store.Result) -> list[dict[str, Any]]:
    """The finished values of a published window, in the order of its groups."""
    table = CellTable(program.layout)
    cells = [(result.start_ms, group) for group in result.groups]
    table.merge(cells, program.layout.unpack(result.cells))
    return finished_rows(program, table.columns, table.slots(cells), [result.end_ms] * len(cells))
