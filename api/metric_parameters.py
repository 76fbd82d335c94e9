"""The query parameters of metrics, checked against the metric they are asked of.

Invariant: nothing given is ignored; names of fields and values are those of the program that answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from werkzeug.datastructures import MultiDict

from api.cursors import read_cursor
from api.parameter_values import (
    WHERE,
    Arguments,
    bool_value,
    check_names,
    duration_value,
    fixed_time,
    flag,
    int64_value,
    name_list,
    shown,
    time_value,
    whole_number,
)
from pipeline.core.cell_fields import OTHER
from pipeline.core.definitions import Calendar, CalendarUnit, Session
from pipeline.core.programs import Program
from pipeline.core.spelling import did_you_mean
from pipeline.core.zones import check_zone
from pipeline.errors import BadRequestError
from pipeline.runtime.filling import FILLS
from pipeline.runtime.metric_query import MAX_ROWS, MetricQuery, StateFilter

Format = Literal["json", "columns", "csv", "ndjson", "arrow"]
FORMATS: tuple[Format, ...] = get_args(Format)
_Choice = TypeVar("_Choice", bound=str)

DEFAULT_ROWS = 10_000
_UNITS: Mapping[str, CalendarUnit] = {
    "1d": "day",
    "day": "day",
    "1w": "week",
    "7d": "week",
    "week": "week",
    "month": "month",
}
_DURATIONS = ("1d", "1w", "7d")  # of them: what a step without a zone may be too
METRIC_PARAMETERS = (
    "start",
    "end",
    "step",
    "tz",
    "group_by",
    "agg",
    "order",
    "limit",
    "other",
    "fill",
    "state",
    "format",
    "cursor",
)


@dataclass(frozen=True, slots=True)
class MetricRequest:
    """A checked request for a metric: what is asked of the pipeline, and how the answer is written."""

    query: MetricQuery
    format: Format


@dataclass(frozen=True, slots=True)
class ExplainRequest:
    """A checked request for the account of a window; `where` chooses its groups."""

    start_ms: int
    end_ms: int | None
    where: Mapping[str, Sequence[Any]]


@dataclass(frozen=True, slots=True)
class RollingRequest:
    """A checked request for a trailing window."""

    window_ms: int
    at_ms: int
    where: Mapping[str, Sequence[Any]]
    format: Format


def metric_request(args: Arguments, program: Program, now_ms: int) -> MetricRequest:
    """Check the parameters of `GET /v1/metrics/{metric}`; `now_ms` is Redis's clock.

    Raises:
        BadRequestError: a parameter is unknown, given twice, or has a value that cannot be used.
    """
    check_names(args, METRIC_PARAMETERS, where=True)
    start_ms, end_ms = time_value(args, "start", now_ms), time_value(args, "end", now_ms)
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise BadRequestError(
            f"start {args['start']} is after end {args['end']}; swap them or leave one out", code="start_after_end"
        )
    calendar = _calendar(args)
    page = read_cursor(args, program)
    query = MetricQuery(
        metric=program.name,
        start_ms=start_ms if page is None else page.start_ms,
        end_ms=end_ms if page is None else page.end_ms,
        step_ms=duration_value(args, "step") if calendar is None else None,
        where=group_filters(args, program),
        order=_order(args, program),
        limit=whole_number(args, "limit", DEFAULT_ROWS, MAX_ROWS),
        state=_state(args),
        calendar=calendar,
        group_by=name_list(args, "group_by", program.stage.group_by, f"group field of {program.name}"),
        values=_values(args, program),
        fill=_one_of(args, "fill", FILLS, code="bad_fill"),
        other=flag(args, "other"),
        after=None if page is None else page.after,
    )
    return MetricRequest(query, _one_of(args, "format", FORMATS, code="bad_format"))


def _calendar(args: Arguments) -> Calendar | None:
    """Steps that are days, weeks or months of a zone."""
    zone, step = args.get("tz"), args.get("step")
    if zone is None:
        if step in _UNITS and step not in _DURATIONS:
            raise BadRequestError(
                f"step={step} is that of a time zone; say which, such as tz=Europe/Paris", code="bad_step"
            )
        return None
    try:
        check_zone(shown(zone))
    except ValueError as error:
        raise BadRequestError(f"tz: {error}", code="unknown_zone") from None
    unit = None if step is None else _UNITS.get(step)
    if unit is None:
        given = "" if step is None else f", not {shown(step)}"
        raise BadRequestError(
            f"tz goes with steps of the calendar: step=1d, 1w or month{given}. "
            "Shorter steps are the same in every zone; leave tz out for them",
            code="bad_step",
        )
    return Calendar(unit, zone)


def _values(args: Arguments, program: Program) -> tuple[str, ...] | None:
    names = name_list(args, "agg", program.value_types, f"value of {program.name}")
    if names == ():
        raise BadRequestError(
            f"agg names no value; {program.name} has {', '.join(program.value_types)}", code="bad_agg"
        )
    return names


def _one_of(args: Arguments, name: str, choices: Sequence[_Choice], *, code: str) -> _Choice:
    """What a parameter chooses; the first where it is not there."""
    text = args.get(name, choices[0])
    for choice in choices:
        if text == choice:
            return choice
    raise BadRequestError(f"{name}: there is no '{shown(text)}'.{did_you_mean(text, choices)}", code=code)


def rolling_request(args: Arguments, program: Program, now_ms: int) -> RollingRequest:
    """Check the parameters of `GET /v1/metrics/{metric}/rolling`: `window`, and `at`, where it is not now.

    Raises:
        BadRequestError: `window` is missing, or a parameter is unknown or has a value that cannot be used.
    """
    check_names(args, ("window", "at", "format"), where=True)
    window_ms = duration_value(args, "window")
    if window_ms is None:
        raise BadRequestError("'window' is missing: how long the trailing window is, such as 5m", code="no_window")
    at_ms = time_value(args, "at", now_ms)
    # without `at`, up to and with the pane that now is in, also where that begins just now
    return RollingRequest(
        window_ms,
        now_ms + 1 if at_ms is None else at_ms,
        group_filters(args, program),
        _one_of(args, "format", FORMATS, code="bad_format"),
    )


def latest_format(args: Arguments) -> Format:
    """Check the parameters of `GET /v1/metrics/{metric}/latest`, which takes only `format`."""
    check_names(args, ("format",))
    return _one_of(args, "format", FORMATS, code="bad_format")


def explain_request(args: Arguments, program: Program, now_ms: int) -> ExplainRequest:
    """Check the parameters of `GET /v1/metrics/{metric}/explain`: a window, and a group by its fields.

    A group field goes by its own name, or as `where.<field>` where that is taken.

    Raises:
        BadRequestError: `start` is missing, or a parameter is unknown or has a value that cannot be used.
    """
    fields = [name for name in program.stage.group_by if name not in ("start", "end")]
    check_names(args, ("start", "end", *fields), where=True)
    start_ms = time_value(args, "start", now_ms)
    if start_ms is None:
        raise BadRequestError("'start' is missing: where the window begins, such as 2026-05-17T10:05", code="no_start")
    named = MultiDict((f"{WHERE}{name}" if name in fields else name, value) for name, value in args.items(multi=True))
    return ExplainRequest(start_ms, time_value(args, "end", now_ms), group_filters(named, program))


def group_filters(args: Arguments, program: Program) -> Mapping[str, Sequence[Any]]:
    """The values that each `where.<field>` keeps.

    Raises:
        BadRequestError: the metric is not grouped by a field, or a value is not of its type.
    """
    types = dict(program.group_types)
    wanted: dict[str, list[Any]] = {}
    for name, values in args.lists():
        if not name.startswith(WHERE):
            continue
        field = name.removeprefix(WHERE)
        if field not in types:
            raise BadRequestError(
                f"{program.name} is not grouped by '{shown(field)}', so {shown(name)} selects nothing."
                f"{did_you_mean(field, types)}",
                code="unknown_field",
            )
        has_others = not isinstance(program.window, Session)
        wanted[field] = [
            OTHER if text == OTHER and has_others else _group_value(name, types[field], text) for text in values
        ]
    return wanted


def _group_value(name: str, kind: str, text: str) -> Any:
    """A value as groups hold it: epoch milliseconds of a timestamp, exactly as written of a string."""
    try:
        match kind:
            case "int":
                return int64_value(text)
            case "bool":
                return bool_value(text)
            case "timestamp":
                return fixed_time(text)
            case _:
                return text
    except ValueError as error:
        raise BadRequestError(
            f"{name}: {str(error).rstrip('.')}; the field is of type {kind}", code="wrong_type"
        ) from None


def _order(args: Arguments, program: Program) -> str:
    order = args.get("order", "window")
    known = ["window", *(name for name, kind in program.value_types.items() if kind != "list")]
    if program.value_types.get(order.removeprefix("-")) == "list":
        raise BadRequestError(
            f"order: '{shown(order)}' is a list in {program.name}, and lists have no order.{did_you_mean('', known)}",
            code="unknown_order",
        )
    if order.removeprefix("-") not in known:
        raise BadRequestError(
            f"order: '{shown(order)}' is neither window nor a value of {program.name}."
            f"{did_you_mean(order.removeprefix('-'), known)} A '-' before it means descending.",
            code="unknown_order",
        )
    return order


def _state(args: Arguments) -> StateFilter:
    state = args.get("state")
    match state:
        case None:
            return "all"
        case "open" | "closed" | "final" | "retracted":
            return state
        case _:
            raise BadRequestError(
                f"state: '{shown(state)}' is none of open, closed (which takes final ones too), final and retracted "
                "(sessions alone); without it all are included",
                code="bad_state",
            )
