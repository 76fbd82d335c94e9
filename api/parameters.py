"""Query parameters of the reading side, checked in one place.

Invariant: nothing given is ignored. A parameter that is unknown, given twice or not built yet is refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args
from urllib.parse import unquote_to_bytes

from werkzeug.datastructures import MultiDict

from pipeline.core.cells import OTHER
from pipeline.core.definitions import Session, Stream
from pipeline.core.programs import Program
from pipeline.core.spelling import did_you_mean
from pipeline.core.times import parse_duration_ms, parse_time_ms
from pipeline.errors import BadRequestError
from pipeline.runtime.query import MAX_ROWS, MetricQuery, StateFilter

Arguments = MultiDict[str, str]
Format = Literal["json", "columns", "csv", "ndjson", "arrow"]

DEFAULT_ROWS = 10_000
DEFAULT_EVENTS = 20
DEFAULT_SOURCES = 20
MAX_SOURCES = 10_000
MAX_EVENTS = 1_000  # events of one answer: to look at a stream, not to copy it
DEFAULT_RAW_ROWS = 5_000
MAX_RAW_ROWS = 20_000  # of one page, and the rest of an entry: at most 10,000 more
ENTRY_ID = re.compile(r"\d{1,14}-\d{1,20}", re.ASCII)
DEFAULT_ASIDE = 100
MAX_ASIDE = 1_000  # rows of one page; a quarantined one has up to 64 kB
WHERE = "where."
PLUS_HINT = "A + in a URL means a space; write it %2B."

METRIC_PARAMETERS = ("start", "end", "step", "order", "limit", "format", "state")
NOT_BUILT = ("tz", "group_by", "agg", "fill", "cursor")  # of the contract (DESIGN 9), refused until they work
FORMATS: tuple[Format, ...] = get_args(Format)

_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1
_BOOLS = {"true": True, "false": False}


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
class EventRequest:
    """A checked request for the path of one event."""

    entry_id: str
    row: int | None
    partition: int | None


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A checked request for a page of a raw log."""

    partition: int
    after: bytes | None
    start_ms: int | None
    end_ms: int | None
    limit: int


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
        BadRequestError: a parameter is unknown, not built yet, given twice, or has a value that cannot be used.
    """
    _check_names(args, METRIC_PARAMETERS, where=True)
    start_ms, end_ms = _time(args, "start", now_ms), _time(args, "end", now_ms)
    if start_ms is not None and end_ms is not None and start_ms > end_ms:
        raise BadRequestError(
            f"start {args['start']} is after end {args['end']}; swap them or leave one out", code="start_after_end"
        )
    query = MetricQuery(
        metric=program.name,
        start_ms=start_ms,
        end_ms=end_ms,
        step_ms=_duration(args, "step"),
        where=_where(args, program),
        order=_order(args, program),
        limit=_whole_number(args, "limit", DEFAULT_ROWS, MAX_ROWS),
        state=_state(args),
    )
    return MetricRequest(query, _format(args))


def check_encoding(query: bytes) -> None:
    """Refuse a query string that is not UTF-8: werkzeug would put U+FFFD there, and so ask for another value.

    Raises:
        BadRequestError: 400, some parameter cannot be read.
    """
    for part in query.split(b"&"):
        try:
            unquote_to_bytes(part).decode()
        except UnicodeDecodeError:
            name = unquote_to_bytes(part.partition(b"=")[0]).decode(errors="replace")
            raise BadRequestError(
                f"the parameter '{_shown(name)}' is not UTF-8 text; escape its UTF-8 bytes, such as %C3%A9 for é",
                code="not_utf8",
            ) from None


def rolling_request(args: Arguments, program: Program, now_ms: int) -> RollingRequest:
    """Check the parameters of `GET /v1/metrics/{metric}/rolling`: `window`, and `at`, where it is not now.

    Raises:
        BadRequestError: `window` is missing, or a parameter is unknown or has a value that cannot be used.
    """
    _check_names(args, ("window", "at", "format"), where=True)
    window_ms = _duration(args, "window")
    if window_ms is None:
        raise BadRequestError("'window' is missing: how long the trailing window is, such as 5m", code="no_window")
    at_ms = _time(args, "at", now_ms)
    # without `at`, up to and with the pane that now is in, also where that begins just now
    return RollingRequest(window_ms, now_ms + 1 if at_ms is None else at_ms, _where(args, program), _format(args))


def latest_format(args: Arguments) -> Format:
    """Check the parameters of `GET /v1/metrics/{metric}/latest`, which takes only `format`."""
    _check_names(args, ("format",))
    return _format(args)


def event_limit(args: Arguments) -> int:
    """Check the parameters of `GET /v1/streams/{stream}/events`, which takes only `limit`."""
    _check_names(args, ("limit",))
    return _whole_number(args, "limit", DEFAULT_EVENTS, MAX_EVENTS)


def explain_request(args: Arguments, program: Program, now_ms: int) -> ExplainRequest:
    """Check the parameters of `GET /v1/metrics/{metric}/explain`: a window, and a group by its fields.

    A group field goes by its own name, or as `where.<field>` where that is taken.

    Raises:
        BadRequestError: `start` is missing, or a parameter is unknown or has a value that cannot be used.
    """
    fields = [name for name in program.stage.group_by if name not in ("start", "end")]
    _check_names(args, ("start", "end", *fields), where=True)
    start_ms = _time(args, "start", now_ms)
    if start_ms is None:
        raise BadRequestError("'start' is missing: where the window begins, such as 2026-05-17T10:05", code="no_start")
    named = MultiDict((f"{WHERE}{name}" if name in fields else name, value) for name, value in args.items(multi=True))
    return ExplainRequest(start_ms, _time(args, "end", now_ms), _where(named, program))


def event_request(args: Arguments, stream: Stream, entry_id: str) -> EventRequest:
    """Check `GET /v1/streams/{stream}/events/{entry}/explain`, which takes `row` and `partition`.

    Raises:
        BadRequestError: the id or a parameter cannot be used.
    """
    _check_names(args, ("row", "partition"))
    if not ENTRY_ID.fullmatch(entry_id):
        raise BadRequestError(f"'{_shown(entry_id)}' is not the id of an entry, such as 1763928012400-0", code="bad_id")
    row = args.get("row")
    if row is not None and not (row.isascii() and row.isdigit() and len(row) <= 6):
        raise BadRequestError(f"row: '{_shown(row)}' is not a whole number from 0", code="bad_row")
    return EventRequest(entry_id, None if row is None else int(row), partition_number(args, stream))


def raw_request(args: Arguments, stream: Stream, now_ms: int) -> RawRequest:
    """Check the parameters of `GET /v1/streams/{stream}/raw`; `start` and `end` are times of arrival.

    Raises:
        BadRequestError: a parameter is unknown or has a value that cannot be used.
    """
    _check_names(args, ("partition", "after", "start", "end", "limit"))
    partition = partition_number(args, stream)
    after = args.get("after")
    if after is not None and not ENTRY_ID.fullmatch(after):
        raise BadRequestError(
            f"after: '{_shown(after)}' is not the id of an entry, such as 1763928012400-0", code="bad_id"
        )
    return RawRequest(
        0 if partition is None else partition,
        None if after is None else after.encode(),
        _time(args, "start", now_ms),
        _time(args, "end", now_ms),
        _whole_number(args, "limit", DEFAULT_RAW_ROWS, MAX_RAW_ROWS),
    )


def partition_number(args: Arguments, stream: Stream) -> int | None:
    """The parameter `partition`, where it is given."""
    text = args.get("partition")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text) < stream.partitions):
        raise BadRequestError(
            f"partition: '{_shown(text)}' is none of {stream.name}, which has 0 to {stream.partitions - 1}",
            code="bad_partition",
        )
    return int(text)


def source_limit(args: Arguments) -> int:
    """Check the parameters of `GET /v1/streams/{stream}/skew`, which takes only `limit`."""
    _check_names(args, ("limit",))
    return _whole_number(args, "limit", DEFAULT_SOURCES, MAX_SOURCES)


@dataclass(frozen=True, slots=True)
class AsideRequest:
    """A checked request for rows that were put aside."""

    limit: int
    cursor: str | None
    reason: str | None


def aside_request(args: Arguments, owner: str) -> AsideRequest:
    """Check the parameters of `GET /v1/late` and its like; `owner` is what names whose rows: `stage` or `stream`."""
    _check_names(args, (owner, "limit", "cursor", "reason"))
    limit = _whole_number(args, "limit", DEFAULT_ASIDE, MAX_ASIDE)
    return AsideRequest(limit, args.get("cursor"), args.get("reason"))


def no_parameters(args: Arguments) -> None:
    """Refuse whatever was given to an endpoint that takes nothing."""
    _check_names(args, ())


def known_name(kind: str, name: str, known: Collection[str]) -> str:
    """Return a name from a path if it is one of ours; whatever else it holds never reaches Redis.

    Raises:
        BadRequestError: 404, there is no such thing.
    """
    if name not in known:
        raise BadRequestError(
            f"there is no {kind} '{_shown(name)}'.{did_you_mean(name, known)}", code=f"unknown_{kind}", status=404
        )
    return name


def _check_names(args: Arguments, allowed: Sequence[str], *, where: bool = False) -> None:
    for name, values in args.lists():
        if where and name.startswith(WHERE):
            continue
        if name in NOT_BUILT and name not in allowed:
            raise BadRequestError(f"the parameter '{name}' is not built yet; leave it out", code="not_built")
        if name not in allowed:
            known = (*allowed, *((f"{WHERE}<field>",) if where else ()))
            raise BadRequestError(
                f"there is no parameter '{_shown(name)}' here.{did_you_mean(name, known)}", code="unknown_parameter"
            )
        if len(values) > 1:
            raise BadRequestError(f"'{name}' is given {len(values)} times; give it once", code="repeated_parameter")


def _time(args: Arguments, name: str, now_ms: int) -> int | None:
    text = args.get(name)
    if text is None:
        return None
    try:
        return parse_time_ms(_plus_sign(text), now_ms)
    except ValueError as error:
        hint = f" {PLUS_HINT}" if " " in text else ""
        raise BadRequestError(f"{name}: {error}{hint}", code="bad_time") from None


def _plus_sign(text: str) -> str:
    """An unescaped `+` of an offset or of now+5m arrives as a space, which has no other meaning in those places."""
    head, space, tail = text.strip().rpartition(" ")
    is_offset = space and len(tail) == len("00:00") and "T" in head.upper()
    return f"{head}+{tail}" if is_offset or head == "now" else text


def _duration(args: Arguments, name: str) -> int | None:
    text = args.get(name)
    if text is None:
        return None
    try:
        return parse_duration_ms(text)
    except ValueError as error:
        raise BadRequestError(f"{name}: {error}", code="bad_duration") from None


def _where(args: Arguments, program: Program) -> Mapping[str, Sequence[Any]]:
    types = dict(program.group_types)
    wanted: dict[str, list[Any]] = {}
    for name, values in args.lists():
        if not name.startswith(WHERE):
            continue
        field = name.removeprefix(WHERE)
        if field not in types:
            raise BadRequestError(
                f"{program.name} is not grouped by '{_shown(field)}', so {_shown(name)} selects nothing."
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
                return _int64(text)
            case "bool":
                return _bool(text)
            case "timestamp":
                return _fixed_time(text)
            case _:
                return text
    except ValueError as error:
        raise BadRequestError(
            f"{name}: {str(error).rstrip('.')}; the field is of type {kind}", code="wrong_type"
        ) from None


def _int64(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19 and _MIN_INT <= int(text) <= _MAX_INT):
        raise ValueError(f"'{_shown(text)}' is not a whole number of 64 bits")
    return int(text)


def _bool(text: str) -> bool:
    if text not in _BOOLS:
        raise ValueError(f"'{_shown(text)}' is neither true nor false")
    return _BOOLS[text]


def _fixed_time(text: str) -> int:
    if text.startswith(("now", "+")) or (text.startswith("-") and not text[1:].isdigit()):
        raise ValueError(f"'{_shown(text)}' moves with the clock; write RFC 3339 or an epoch number")
    return parse_time_ms(_plus_sign(text), 0)


def _order(args: Arguments, program: Program) -> str:
    order = args.get("order", "window")
    known = ["window", *(name for name, kind in program.value_types.items() if kind != "list")]
    if program.value_types.get(order.removeprefix("-")) == "list":
        raise BadRequestError(
            f"order: '{_shown(order)}' is a list in {program.name}, and lists have no order.{did_you_mean('', known)}",
            code="unknown_order",
        )
    if order.removeprefix("-") not in known:
        raise BadRequestError(
            f"order: '{_shown(order)}' is neither window nor a value of {program.name}."
            f"{did_you_mean(order.removeprefix('-'), known)} A '-' before it means descending.",
            code="unknown_order",
        )
    return order


def _whole_number(args: Arguments, name: str, default: int, most: int) -> int:
    text = args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(most)) and 1 <= int(text) <= most):
        raise BadRequestError(f"{name}: '{_shown(text)}' is not a whole number from 1 to {most}", code=f"bad_{name}")
    return int(text)


def _state(args: Arguments) -> StateFilter:
    state = args.get("state")
    match state:
        case None:
            return "all"
        case "open" | "closed" | "final" | "retracted":
            return state
        case _:
            raise BadRequestError(
                f"state: '{_shown(state)}' is none of open, closed (which takes final ones too) and final; without it "
                "all are included",
                code="bad_state",
            )


def _format(args: Arguments) -> Format:
    text = args.get("format", "json")
    for form in FORMATS:
        if text == form:
            return form
    raise BadRequestError(
        f"format: '{_shown(text)}' is none of {', '.join(FORMATS)}.{did_you_mean(text, FORMATS)}", code="bad_format"
    )


def _shown(text: str) -> str:
    """What a client sent, short enough for a message."""
    return text if len(text) <= 60 else f"{text[:60]}…"


def allow_only(args: Arguments, allowed: Sequence[str], *, where: bool = False) -> None:
    """Refuse every parameter but `allowed`, and `where.<field>` if `where`; for endpoints with modules of their own."""
    _check_names(args, allowed, where=where)


def group_filters(args: Arguments, program: Program) -> Mapping[str, Sequence[Any]]:
    """The values that each `where.<field>` keeps.

    Raises:
        BadRequestError: the metric is not grouped by a field, or a value is not of its type.
    """
    return _where(args, program)
