"""The `group_by` and `aggregates` of a stage: `bytes_mean: mean(bytes)`, each checked against the columns it reads.

The names of groups and aggregates become columns of one result row, so no two may be equal, nor equal to the row's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.core.column_types import type_text
from pipeline.core.definitions import AGGREGATE_FUNCTIONS, AggregateFunction, AggregateSpec
from pipeline.core.spelling import did_you_mean
from pipeline.runtime.config_columns import Columns
from pipeline.runtime.config_report import Report
from pipeline.runtime.config_shapes import not_built, seen
from pipeline.runtime.config_streams import check_field_name
from pipeline.runtime.config_yaml import Path

RESULT_COLUMNS = ("window_start", "window_end", "state", "revision")
GROUP_TYPES = ("string", "int", "bool", "timestamp")
UNBUILT_FUNCTIONS = (
    *("var", "stddev", "quantile", "histogram", "distinct", "distinct_exact"),
    *("topk", "rate", "increase", "time_weighted_mean"),
)
_SCALARS = ("string", "int", "float", "bool", "timestamp")
ARGUMENT_TYPES: dict[AggregateFunction, tuple[str, ...]] = {
    "sum": ("int", "float"),
    "mean": ("int", "float"),
    "min": ("int", "float", "timestamp"),
    "max": ("int", "float", "timestamp"),
    "first": _SCALARS,
    "last": _SCALARS,
}  # count takes any

_CALL = re.compile(r"(\w+)\s*(?:\((.*)\))?", re.DOTALL)
_WHERE = re.compile(r"\bwhere\b", re.IGNORECASE)


def check_group_by(report: Report, path: Path, names: Sequence[str], columns: Columns) -> None:
    """Report the groups that are unknown, of an unusable type, repeated, or named as a result's own column."""
    problems = [_group_problem(name, names[:index], columns) for index, name in enumerate(names)]
    for index, problem in enumerate(problems):
        if problem is not None:
            report.add((*path, index), problem)


def _group_problem(name: str, before: Sequence[str], columns: Columns) -> str | None:
    if columns.unknown([name]):
        return _unknown_field(name, columns)
    if name in before:
        return f"'{name}' is here twice. Remove one."
    if name in RESULT_COLUMNS:
        return f"every result has a column '{name}' of its own. Derive the field under another name."
    if columns.may_hold(name):
        return None
    kind = type_text(columns.known[name])
    if kind in GROUP_TYPES:
        return None
    way_out = "ROUND it and CAST it to BIGINT or VARCHAR" if kind == "float" else "Take one value out of it"
    return f"'{name}' is {kind}; groups are {_either(GROUP_TYPES)}. {way_out} in a `derive`."


def build_aggregates(
    report: Report, path: Path, raw: Mapping[str, Any], groups: Sequence[str], columns: Columns
) -> tuple[AggregateSpec, ...] | None:
    """Return the aggregates in the order of the file, or None when one has a problem."""
    if not raw:
        report.add(path, "needs at least one aggregate, such as `events: count`.", at_key=True)
        return None
    specs = [_aggregate(report, (*path, name), name, value, groups, columns) for name, value in raw.items()]
    built = tuple(spec for spec in specs if spec is not None)
    return built if len(built) == len(specs) else None


def _aggregate(
    report: Report, path: Path, name: str, value: object, groups: Sequence[str], columns: Columns
) -> AggregateSpec | None:
    named = check_field_name(report, path, name)
    if name in groups or name in RESULT_COLUMNS:
        owner = "a field of group_by" if name in groups else "a column of every result"
        report.add(path, f"'{name}' is the name of {owner}. Give the aggregate another name.", at_key=True)
        named = False
    parsed = _parse(value, columns)
    if isinstance(parsed, str):
        report.add(path, parsed)
        return None
    return AggregateSpec(name, *parsed) if named else None


def _parse(value: object, columns: Columns) -> tuple[AggregateFunction, str | None] | str:
    """Return (function, field), or the sentence that says why not."""
    has_where = "where" in value if isinstance(value, dict) else isinstance(value, str) and _WHERE.search(value)
    if has_where:
        return f"{not_built('where')} Filter in a transform and read that one with `from`."
    match = _CALL.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        return f"must be an aggregate such as count or mean(bytes), not {seen(value)}."
    word, argument = match[1], match[2]
    if word in UNBUILT_FUNCTIONS:
        return f"{not_built(word)} There are: {', '.join(AGGREGATE_FUNCTIONS)}."
    function = next((each for each in AGGREGATE_FUNCTIONS if each == word), None)
    if function is None:
        return f"unknown aggregate '{word}'.{did_you_mean(word, AGGREGATE_FUNCTIONS)}"
    if argument is None:
        return (function, None) if function == "count" else f"{function} needs a field: {function}(name)."
    problem = _argument_problem(function, argument.strip(), columns)
    return problem if problem is not None else (function, argument.strip())


def _argument_problem(function: AggregateFunction, name: str, columns: Columns) -> str | None:
    if not re.fullmatch(r"\w+", name):
        if not name or name == "*":
            return "write `count` without brackets." if function == "count" else f"{function} needs a field."
        return f"{function} takes the name of one field, not {seen(name)}. Compute it in a `derive` of a transform."
    if columns.unknown([name]):
        return _unknown_field(name, columns)
    if columns.may_hold(name):
        return None
    kind = type_text(columns.known[name])
    allowed = ARGUMENT_TYPES.get(function)
    if allowed is None or kind in allowed:
        return None
    return f"{function} needs {_either(allowed)}, and '{name}' is {kind}."


def _unknown_field(name: str, columns: Columns) -> str:
    return f"unknown field '{name}'.{did_you_mean(name, columns.known)}"


def _either(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
