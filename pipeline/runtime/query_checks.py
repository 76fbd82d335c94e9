"""Queries that cannot be answered exactly for a metric: refused before anything is read, with the way out (422)."""

from __future__ import annotations

from pipeline.core.definitions import Session
from pipeline.core.programs import Program
from pipeline.errors import BadRequestError
from pipeline.runtime.metric_query import MetricQuery

# They follow one series: of several that are mixed they would say something of none.
_OF_ONE_SERIES = frozenset({"increase", "rate", "time_weighted_mean"})


def check_query(program: Program, query: MetricQuery) -> None:
    """Refuse what this metric cannot answer exactly.

    Raises:
        BadRequestError: 422, or 400 where the parameters do not go together.
    """
    if isinstance(program.window, Session):
        _check_sessions(program, query)
    elif query.state == "retracted":
        raise BadRequestError(
            f"state=retracted: {program.name} has no sessions, and only they are retracted", code="bad_state"
        )
    if query.other and query.by_window:
        raise BadRequestError(
            "other=true goes with an order by a value, which says what groups come first: order=-views&other=true",
            code="bad_other",
        )
    if query.other and query.after is not None:
        raise BadRequestError(
            "other=true answers all groups at once and has no pages; leave cursor out", code="bad_other"
        )
    if query.other or query.group_by not in (None, program.stage.group_by):
        _check_merging(program, query)


def _check_sessions(program: Program, query: MetricQuery) -> None:
    given = {"group_by": query.group_by not in (None, program.stage.group_by), "fill": query.fill != "none"}
    given |= {"other": query.other, "tz": query.calendar is not None}
    for name in (name for name, is_given in given.items() if is_given):
        raise BadRequestError(
            f"{name}: {program.name} has sessions, which begin and end by group, so rows of several groups or of "
            f"silent times have no meaning; leave {name} out, or ask a metric with windows",
            code="not_for_sessions",
            status=422,
        )


def _check_merging(program: Program, query: MetricQuery) -> None:
    wanted = set(program.value_types if query.values is None else query.values) | {query.order.removeprefix("-")}
    read = wanted | program.selection.needs(wanted)
    specs = [each.spec for each in program.finishers if each.spec.name in read]
    alone = [spec for spec in specs if spec.function in _OF_ONE_SERIES]
    if alone:
        others = [name for name in program.value_types if name not in {spec.name for spec in alone}]
        name, function = alone[0].name, alone[0].function
        raise BadRequestError(
            f"{name} is computed by {function}, which follows the values of one group; of several mixed it says "
            f"nothing. Choose other values, such as agg={','.join(others[:2])}, or keep the groups apart",
            code="not_mergeable",
            status=422,
        )
