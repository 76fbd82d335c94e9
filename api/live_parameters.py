"""Query parameters of the live streams, and where a reader left off."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from werkzeug.datastructures import MultiDict

from api.metric_parameters import group_filters
from api.parameter_values import WHERE, Arguments, check_names
from api.parameters import known_name
from pipeline.core.programs import Program
from pipeline.core.spelling import did_you_mean
from pipeline.errors import BadRequestError
from pipeline.runtime.live_positions import Position, parse_positions

MAX_METRICS = 50  # of one stream: their positions are an event's id, which a client sends back in a header
LAST_EVENT_ID = "last_event_id"

Wheres = Mapping[str, Mapping[str, Sequence[Any]]]


@dataclass(frozen=True, slots=True)
class LastEvent:
    """What a reader had before: a position in each metric; None where what it sent is no position of ours."""

    positions: Mapping[str, Position] | None


def check_live_names(args: Arguments, *, several: bool) -> None:
    """Refuse parameters that a live stream does not take, before any is looked at."""
    check_names(args, (*(("metrics",) if several else ()), LAST_EVENT_ID), where=True)


def live_metrics(args: Arguments, known: Collection[str]) -> list[str]:
    """The metrics of `?metrics=a,b`, each once.

    Raises:
        BadRequestError: there are none or too many, or one is unknown (404).
    """
    names = list(dict.fromkeys(name for name in args.get("metrics", "").split(",") if name))
    if not names:
        raise BadRequestError(
            f"'metrics' is missing: which metrics to follow, such as metrics={','.join(sorted(known)[:2])}",
            code="no_metrics",
        )
    if len(names) > MAX_METRICS:
        raise BadRequestError(
            f"metrics: {len(names)} are too many for one stream; at most {MAX_METRICS}", code="too_many_metrics"
        )
    return [known_name("metric", name, known) for name in names]


def live_wheres(args: Arguments, programs: Sequence[Program]) -> Wheres:
    """What each metric's rows are filtered by: every `where.<field>` counts in the metrics that have the field.

    Raises:
        BadRequestError: no metric has a field, or a value is not of the field's type.
    """
    fields = {name for program in programs for name in program.stage.group_by}
    for name in args:
        field = name.removeprefix(WHERE)
        if name.startswith(WHERE) and field not in fields:
            metrics = ", ".join(program.name for program in programs)
            raise BadRequestError(
                f"none of {metrics} is grouped by '{field[:60]}', so {name[:60]} selects nothing."
                f"{did_you_mean(field, sorted(fields))}",
                code="unknown_field",
            )
    return {program.name: group_filters(_own(args, program), program) for program in programs}


def last_event(args: Arguments, header: str | None) -> LastEvent:
    """Where a reader left off: the header, which a browser sends by itself when it connects again, or the parameter."""
    text = header or args.get(LAST_EVENT_ID)
    return LastEvent(parse_positions(text) if text else {})


def _own(args: Arguments, program: Program) -> Arguments:
    own = {f"{WHERE}{name}" for name in program.stage.group_by}
    return MultiDict([(name, value) for name, value in args.items(multi=True) if name in own])
