"""The `group_by` and `aggregates` of a stage: `slow: count(page) where load_ms > 1000`, checked against its columns.

The names of groups and aggregates become columns of one result row, so no two may be equal, nor equal to the row's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.core.aggregates import ARGUMENT_TYPES, USER_ARGUMENT_TYPES
from pipeline.core.column_types import type_text
from pipeline.core.definitions import AGGREGATE_FUNCTIONS, AggregateSpec
from pipeline.core.expressions import ExpressionError, compile_filter
from pipeline.core.registry import aggregates as registered
from pipeline.core.spelling import did_you_mean
from pipeline.runtime.config_columns import Columns, is_uncertain
from pipeline.runtime.config_report import Report
from pipeline.runtime.config_shapes import either, seen
from pipeline.runtime.config_streams import check_field_name
from pipeline.runtime.config_yaml import Path

RESULT_COLUMNS = ("window_start", "window_end", "state", "revision", "version")  # version: of rows downstream
SESSION_COLUMNS = ("first", "last", "closes_at", "sessions")  # and those of a session's result besides
GROUP_TYPES = ("string", "int", "bool", "timestamp")
MAX_TOP_K = 1_000
ELSEWHERE = {  # what SQL dialects and DataFrame libraries call them
    "avg": "mean",
    "average": "mean",
    "median": "quantile(name, 0.5)",
    "percentile": "quantile(name, 0.95)",
    "count_distinct": "distinct",
    "nunique": "distinct",
    "unique": "distinct",
    "cardinality": "distinct",
    "std": "stddev",
    "stdev": "stddev",
    "variance": "var",
    "inc": "increase",
}

# `where` begins after a bracket or a space; the rest of the text is its expression.
_CALL = re.compile(r"(\w+)\s*(?:\((.*?)\))?(?:(?:(?<=\))\s*|\s+)where\b(.*))?", re.DOTALL | re.IGNORECASE)
_FIELD = re.compile(r"[^\W\d]\w*")
_QUANTILE = re.compile(r"0|1|0?\.[0-9]{1,15}|1\.0{1,15}")
_COUNT = re.compile(r"[0-9]{1,9}")
_EXAMPLES = "count, mean(bytes), quantile(load_ms, 0.95) or count where status >= 500"

Call = tuple[str | None, float | int | None]  # the field, and quantile's q or topk's k


def check_group_by(report: Report, path: Path, names: Sequence[str], columns: Columns, taken: Sequence[str]) -> bool:
    """Report the groups that are unknown, of an unusable type, repeated, or named as a column of every result."""
    problems = [_group_problem(name, names[:index], columns, taken) for index, name in enumerate(names)]
    for index, problem in enumerate(problems):
        if problem is not None:
            report.add((*path, index), problem)
    return not any(problems)


def _group_problem(name: str, before: Sequence[str], columns: Columns, taken: Sequence[str]) -> str | None:
    if columns.unknown([name]):
        return _unknown_field(name, columns)
    if name in before:
        return f"'{name}' is here twice. Remove one."
    if name in taken:
        return f"every result has a column '{name}' of its own. Derive the field under another name."
    if columns.may_hold(name):
        return None
    kind = type_text(columns.known[name])
    if kind in GROUP_TYPES:
        return None
    way_out = "ROUND it and CAST it to BIGINT or VARCHAR" if kind == "float" else "Take one value out of it"
    return f"'{name}' is {kind}; groups are {either(GROUP_TYPES)}. {way_out} in a `derive`."


def check_value_name(report: Report, path: Path, name: str, groups: Sequence[str], taken: Sequence[str]) -> bool:
    """Report the name of an aggregate or a select that is not an identifier, or that a result's row has already."""
    named = check_field_name(report, path, name)
    if name in groups or name in taken:
        owner = "a field of group_by" if name in groups else "a column of every result"
        report.add(path, f"'{name}' is the name of {owner}. Choose another name.", at_key=True)
        return False
    return named


def build_aggregates(
    report: Report, path: Path, raw: Mapping[str, Any], groups: Sequence[str], columns: Columns, taken: Sequence[str]
) -> dict[str, AggregateSpec | None]:
    """Return the aggregates by name in the order of the file; None for one that has a problem."""
    if not raw:
        report.add(path, "needs at least one aggregate, such as `events: count`.", at_key=True)
    named = {name: check_value_name(report, (*path, name), name, groups, taken) for name in raw}
    specs = {name: _aggregate(report, (*path, name), name, value, columns) for name, value in raw.items()}
    return {name: spec if named[name] else None for name, spec in specs.items()}


def _aggregate(report: Report, path: Path, name: str, value: object, columns: Columns) -> AggregateSpec | None:
    match = _CALL.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        report.add(path, f"must be an aggregate such as {_EXAMPLES}, not {seen(value)}.{_quoting(value)}")
        return None
    function, where = match[1], match[3]
    call = _call(function, match[2], columns)
    if isinstance(call, str):
        report.add(path, call)
    problem = _where_problem(where, columns)
    if problem is not None:
        report.add(path, problem)
    if isinstance(call, str) or problem is not None:
        return None
    return AggregateSpec(name, function, *call, where.strip() if where is not None else None)


def _quoting(value: object) -> str:
    is_cut = isinstance(value, str) and value.count("(") > value.count(")")
    return " In {…} a comma ends a value: put the whole of it in quotes." if is_cut else ""


def _call(function: str, text: str | None, columns: Columns) -> Call | str:
    """Return (field, argument), or the sentence that says why not."""
    if function not in AGGREGATE_FUNCTIONS and function not in registered:
        return f"unknown aggregate '{function}'.{_meant(function)}"
    if text is None:
        return (None, None) if function == "count" else f"{function} needs a field: {_usage(function)}."
    field, comma, rest = (part.strip() for part in text.partition(","))
    problem = _field_problem(function, field, columns)
    if problem is not None:
        return problem
    if function == "quantile":
        return (field, float(rest)) if _QUANTILE.fullmatch(rest) else _quantile_problem(rest)
    if function == "topk":
        is_count = _COUNT.fullmatch(rest) and 1 <= int(rest) <= MAX_TOP_K
        return (field, int(rest)) if is_count else _top_problem(rest)
    if comma:
        return f"{function} takes one field and nothing else: {_usage(function)}."
    return field, None


def _meant(function: str) -> str:
    """The aggregate that goes by another name elsewhere, or one that is spelt like it."""
    if percent := re.fullmatch(r"p(?:ercentile)?_?([1-9][0-9]?)", function):
        return f" Did you mean 'quantile(name, 0.{percent[1].zfill(2).rstrip('0')})'?"
    if function in ELSEWHERE:
        return f" Did you mean '{ELSEWHERE[function]}'?"
    return did_you_mean(function, (*AGGREGATE_FUNCTIONS, *registered))


def _usage(function: str) -> str:
    return {"quantile": "quantile(name, 0.95)", "topk": "topk(name, 10)"}.get(function, f"{function}(name)")


def _quantile_problem(text: str) -> str:
    if not text:
        return f"quantile needs the part of the values that is below it, from 0 to 1: {_usage('quantile')}."
    percent = f" Percentile {text} is 0.{text.zfill(2)}." if re.fullmatch(r"[1-9]?[0-9]", text) else ""
    return f"quantile takes a number from 0 to 1, not {seen(text)}.{percent}"


def _top_problem(text: str) -> str:
    if not text:
        return f"topk needs how many values to keep, from 1 to {MAX_TOP_K:,}: {_usage('topk')}."
    return f"topk keeps a whole number of values from 1 to {MAX_TOP_K:,}, not {seen(text)}."


def _field_problem(function: str, name: str, columns: Columns) -> str | None:
    if not name or name == "*":
        return "write `count` without brackets." if function == "count" else f"{function} needs a field."
    if not _FIELD.fullmatch(name):
        compute = "Compute it in a `derive` of a transform"
        return f"{function} takes the name of a field, not {seen(name)}: {_usage(function)}. {compute}."
    if columns.unknown([name]):
        return _unknown_field(name, columns)
    if columns.may_hold(name):
        return None
    kind = type_text(columns.known[name])
    allowed = ARGUMENT_TYPES.get(function, USER_ARGUMENT_TYPES)
    if function == "count" or kind in allowed:
        return None
    return f"{function} needs {either(allowed)}, and '{name}' is {kind}."


def _where_problem(text: str | None, columns: Columns) -> str | None:
    if text is None:
        return None
    if not text.strip():
        return "a condition is missing after `where`: count where status >= 500."
    try:
        if not is_uncertain(text, columns):
            compile_filter(text, columns.known)
    except ExpressionError as error:
        return f"where: {error}"
    return None


def _unknown_field(name: str, columns: Columns) -> str:
    return f"unknown field '{name}'.{did_you_mean(name, columns.known)}"
