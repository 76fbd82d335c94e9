"""The `select` of a stage: each SQL expression checked against the finished aggregates it computes with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from pipeline.core.aggregates import bind
from pipeline.core.definitions import AggregateSpec
from pipeline.core.expressions import ExpressionError
from pipeline.core.selection import Selection
from pipeline.runtime.config_aggregates import check_value_name
from pipeline.runtime.config_columns import Columns, is_uncertain
from pipeline.runtime.config_report import Report
from pipeline.runtime.config_yaml import Path


def check_select(
    report: Report,
    path: Path,
    select: Mapping[str, str],
    specs: Mapping[str, AggregateSpec | None],
    groups: Sequence[str],
    columns: Columns,
    taken: Sequence[str],
) -> None:
    """Report the selects that cannot be computed from the aggregates `specs`, which read `columns`."""
    types = _value_types(specs, columns)
    for name, text in select.items():
        here = (*path, name)
        if name in specs:
            report.add(here, f"'{name}' is the name of an aggregate. Choose another name.", at_key=True)
        else:
            check_value_name(report, here, name, groups, taken)
        try:
            if not is_uncertain(text, Columns(dict.fromkeys(types, pl.Float64()), frozenset(specs.keys() - types))):
                Selection.compile({name: text}, types)
        except ExpressionError as error:
            report.add(here, _explained(str(error), name, select, groups))


def _value_types(specs: Mapping[str, AggregateSpec | None], columns: Columns) -> dict[str, str]:
    """Name → type of the finished aggregates that have no problem, and read a field that has none."""
    good = [spec for spec in specs.values() if spec is not None and not columns.may_hold(spec.field or "")]
    return {spec.name: bind(spec, columns.known).type for spec in good}


def _explained(message: str, name: str, select: Mapping[str, str], groups: Sequence[str]) -> str:
    """Say why a name that is there for a person is not there for an expression."""
    if sibling := next((each for each in select if each != name and f"unknown field '{each}'" in message), None):
        return f"'{sibling}' is a select too, and one cannot compute with another. Write it out in '{name}'."
    if group := next((each for each in groups if f"unknown field '{each}'" in message), None):
        return f"'{group}' is a field of group_by, and a select computes with aggregates."
    return message.replace("unknown field", "unknown aggregate", 1)
