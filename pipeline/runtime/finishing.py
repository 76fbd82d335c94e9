"""Finished values of merged cells: what rows on read, the downstream stream and the `latest` hash show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pipeline.core.cells import OTHERS, CellTable
from pipeline.core.programs import Program
from pipeline.rim import store
from pipeline.runtime.user_failures import say_failures

OTHER = "__other__"  # what a text field of the group above a metric's cap shows; other fields are null


def finished_rows(
    program: Program, columns: Mapping[str, Any], slots: Any, ends_ms: Sequence[int] | None
) -> list[dict[str, Any]]:
    """The finished values of cells, one mapping a cell; `ends_ms` are the ends of their windows (None: sessions)."""
    values = [finisher.finish(columns, slots, ends_ms) for finisher in program.finishers]
    names = [finisher.spec.name for finisher in program.finishers]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]
    program.selection.apply(rows)
    say_failures(program)
    return rows


def group_values(program: Program, group: bytes) -> dict[str, Any]:
    """The values of a group's fields; the groups above the cap are `__other__` in text, null elsewhere."""
    if group == OTHERS:
        return {name: OTHER if kind == "string" else None for name, kind in program.group_types}
    return dict(zip(program.stage.group_by, msgspec.json.decode(group), strict=True))


def finished_result(program: Program, result: store.Result) -> list[dict[str, Any]]:
    """The finished values of a published window, in the order of its groups."""
    table = CellTable(program.layout)
    cells = [(result.start_ms, group) for group in result.groups]
    table.merge(cells, program.layout.unpack(result.cells))
    return finished_rows(program, table.columns, table.slots(cells), [result.end_ms] * len(cells))
