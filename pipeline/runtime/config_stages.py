"""The `stages:` section: the graph of transforms and aggregates, checked against the columns that reach each stage.

A stage's columns are its source's plus what it derives; a problem is reported once, where it is, and not again in the
stages below, which are checked with the columns that are good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pipeline.core.definitions import Aggregate, Session, Stage, Stream, Transform
from pipeline.core.expressions import ExpressionError, compile_expression, compile_filter
from pipeline.core.spelling import did_you_mean
from pipeline.runtime.config_aggregates import RESULT_COLUMNS, SESSION_COLUMNS, build_aggregates, check_group_by
from pipeline.runtime.config_columns import Columns, is_uncertain
from pipeline.runtime.config_report import Report
from pipeline.runtime.config_select import check_select
from pipeline.runtime.config_shapes import AggregateShape, TransformShape
from pipeline.runtime.config_streams import check_field_name, check_name
from pipeline.runtime.config_transforms import Sources, build_lookups, called, exploded
from pipeline.runtime.config_windows import build_rollups, build_window, check_sessions
from pipeline.runtime.config_yaml import Path

# Words that stand where a published transform's name stands in a key (`{pageviews.0}:human_views`), or may come to.
KEY_WORDS = frozenset(
    (
        *(
            "raw",
            "door",
            "idem",
            "idem_times",
            "quarantine",
            "lease",
            "ids",
            "ids_order",
            "cuts",
            "cut",
            "record",
            "tables",
            "table",
        ),
        *("ids", "ids_order"),
        *("cp", "panes", "pane", "due", "late", "dead", "suspect", "replayed"),
        *("versions", "result", "windows", "ages", "published", "expired", "emit", "rows", "latest"),
        *("staging", "staging_latest", "workers", "tier", "tier_due", "tier_ages"),
        *("live_sessions", "session_rows", "session_accounts"),
    )
)

_OF_TRANSFORMS = "belongs to a transform: a stage of its own, without a window, that this one reads with `from`."
_OF_AGGREGATES = "belongs to an aggregate, which has a `window` and `aggregates`."
_TRANSFORM_SETTINGS = ("filter", "derive", "lookup", "explode", "python", "publish")
_AGGREGATE_SETTINGS = (
    *("group_by", "select", "allowed_lateness", "emit", "output", "max_groups", "rollups", "retention"),
)
_REFUSED_IN_AGGREGATE = dict.fromkeys(_TRANSFORM_SETTINGS, _OF_TRANSFORMS)
_REFUSED_IN_TRANSFORM = dict.fromkeys(_AGGREGATE_SETTINGS, _OF_AGGREGATES)


@dataclass(slots=True)
class _Graph:
    """What is known while stages are checked; `columns` of a stage is None when it cannot be read at all.

    `streams` are the columns of every stream, `built` those streams that have no problem, `raw` the stages as written.
    """

    report: Report
    streams: Mapping[str, Columns]
    built: Mapping[str, Stream]
    raw: Mapping[str, Any]
    shapes: dict[str, TransformShape | AggregateShape | None]
    sources: Sources
    columns: dict[str, Columns | None] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)


def build_stages(
    report: Report,
    raw: dict[str, Any],
    streams: Mapping[str, Columns],
    built: Mapping[str, Stream],
    sources: Sources,
) -> dict[str, Stage]:
    """Return the stages that have no problem, in the order of the file; `built` are the streams that have none."""
    shapes = {name: _shape(report, name, value, streams) for name, value in raw.items()}
    graph = _Graph(report, streams, built, raw, shapes, sources)
    _refuse_circles(graph)
    for name in shapes:
        _columns_after(graph, name)
    return {name: graph.stages[name] for name in raw if name in graph.stages}


def _shape(
    report: Report, name: str, value: object, streams: Mapping[str, Columns]
) -> TransformShape | AggregateShape | None:
    path: Path = ("stages", name)
    named = check_name(report, path, name)
    if name in KEY_WORDS:
        report.add(
            path, f"'{name}' is the name of a key of ours, and a stage's name becomes one. Rename it.", at_key=True
        )
        named = False
    if name in streams:
        report.add(path, f"a stream is named '{name}' too; the two share one namespace. Rename one.", at_key=True)
        named = False
    shape = _fit(report, path, value)
    return shape if named else None


def _fit(report: Report, path: Path, value: object) -> TransformShape | AggregateShape | None:
    if not isinstance(value, dict) or not {"window", "aggregates"} & value.keys():
        return report.fit(TransformShape, path, value, _REFUSED_IN_TRANSFORM)
    shape = report.fit(AggregateShape, path, value, _REFUSED_IN_AGGREGATE)
    # Without its window or aggregates, what is left is still checked; a misfit seen twice is one message.
    return shape or report.fit(AggregateShape, path, _completed(value), _REFUSED_IN_AGGREGATE)


def _completed(value: dict[str, Any]) -> dict[str, Any]:
    """An aggregate with what it must have besides `from`."""
    window, aggregates = value.get("window"), value.get("aggregates")
    return {
        **value,
        "window": window if isinstance(window, dict) else {},
        "aggregates": aggregates if isinstance(aggregates, dict) else {"events": "count"},
    }


def _refuse_circles(graph: _Graph) -> None:
    """Report each circle once, at its first stage in the file, and take its stages out."""
    for name in list(graph.shapes):
        walked = [name]
        while (shape := graph.shapes.get(walked[-1])) is not None and shape.source not in walked:
            walked.append(shape.source)
        if shape is not None and shape.source == name:
            way = " -> ".join([*walked, name])
            graph.report.add(("stages", name, "from"), f"stages read one another in a circle: {way}.")
            for each in walked:
                graph.shapes[each] = None


def _columns_after(graph: _Graph, name: str) -> Columns | None:
    """Return the columns that a stage gives to its readers, checking it on the first visit."""
    if name not in graph.columns:
        shape = graph.shapes[name]
        graph.columns[name] = None
        source = _source_columns(graph, name, shape.source) if shape is not None else None
        source = source or Columns({}, open=True)
        if isinstance(shape, TransformShape):
            graph.columns[name] = _transform(graph, name, shape, source)
        elif isinstance(shape, AggregateShape):
            _aggregate(graph, name, shape, source)
    return graph.columns[name]


def _source_columns(graph: _Graph, name: str, source: str) -> Columns | None:
    if source in graph.streams:
        return graph.streams[source]
    path: Path = ("stages", name, "from")
    if source not in graph.shapes:
        transforms = [each for each, shape in graph.shapes.items() if isinstance(shape, TransformShape)]
        known = [each for each in (*graph.streams, *transforms) if each != name]
        graph.report.add(path, f"unknown stream or stage '{source}'.{did_you_mean(source, known)}")
        return None
    if isinstance(graph.shapes[source], AggregateShape):
        way_out = f"Coarser windows of a metric are its rollups: stages.{source}.rollups: {{1h: 90d}}."
        graph.report.add(path, f"'{source}' is a metric; a stage reads a stream or a transform. {way_out}")
        return None
    return _columns_after(graph, source)


def _transform(graph: _Graph, name: str, shape: TransformShape, source: Columns) -> Columns:
    path: Path = ("stages", name)
    derived = {each: _derived(graph.report, path, each, text, shape, source) for each, text in shape.derive.items()}
    if shape.filter is not None:
        _check_filter(graph.report, (*path, "filter"), shape.filter, source)
    typed = {each: dtype for each, dtype in derived.items() if dtype is not None}
    failed = source.failed | (derived.keys() - typed.keys() - source.known.keys())
    after = Columns({**source.known, **typed}, failed, source.open)
    lookup, after = build_lookups(graph.report, (*path, "lookup"), shape.lookup, after, graph.sources)
    if shape.explode is not None:
        after = exploded(graph.report, (*path, "explode"), shape.explode, after)
    python, after = called(graph.report, (*path, "python"), shape.python, after, graph.sources)
    graph.stages[name] = Transform(
        name, shape.source, shape.filter, dict(shape.derive), shape.publish, lookup, shape.explode, python
    )
    return after


def _derived(
    report: Report, stage: Path, name: str, text: str, shape: TransformShape, source: Columns
) -> pl.DataType | None:
    path = (*stage, "derive", name)
    if not check_field_name(report, path, name):
        return None
    if name in source.known or name in source.failed:
        report.add(path, f"'{name}' is a field already. Give the derived one another name.", at_key=True)
        return None
    try:
        return None if is_uncertain(text, source) else compile_expression(text, source.known).dtype
    except ExpressionError as error:
        report.add(path, _with_sibling_hint(str(error), name, shape))
        return None


def _with_sibling_hint(message: str, name: str, shape: TransformShape) -> str:
    """All derives of a stage see the columns of its source, and so not one another."""
    sibling = next((each for each in shape.derive if each != name and f"unknown field '{each}'" in message), None)
    if sibling is None:
        return message
    return f"'{sibling}' is derived in this same stage. Derive '{name}' in a stage that reads this one."


def _check_filter(report: Report, path: Path, text: str, source: Columns) -> None:
    try:
        if not is_uncertain(text, source):
            compile_filter(text, source.known)
    except ExpressionError as error:
        report.add(path, str(error))


def _aggregate(graph: _Graph, name: str, shape: AggregateShape, source: Columns) -> None:
    report, path = graph.report, ("stages", name)
    groups, raw_window = shape.group_by, graph.raw[name].get("window")
    window = build_window(report, (*path, "window"), raw_window, shape.window)
    is_session = isinstance(raw_window, dict) and "session" in raw_window
    taken = (*RESULT_COLUMNS, *SESSION_COLUMNS) if is_session else RESULT_COLUMNS
    grouped = check_group_by(report, (*path, "group_by"), groups, source, taken)
    specs = build_aggregates(report, (*path, "aggregates"), shape.aggregates, groups, source, taken)
    check_select(report, (*path, "select"), shape.select, specs, groups, source, taken)
    rollups = build_rollups(report, (*path, "rollups"), shape.rollups, window)
    stream = _head(graph, shape.source)
    if isinstance(window, Session) and grouped and stream is not None:
        check_sessions(report, (*path, "window"), groups, stream)
    if isinstance(window, Session) and "max_groups" in shape.model_fields_set:
        report.add((*path, "max_groups"), "sessions have no cap on their groups. Remove it.", at_key=True)
    if isinstance(window, Session) and shape.emit == "on_update":
        report.add(
            (*path, "emit"), "sessions are sent when they close, and again when they grow. Remove it.", at_key=True
        )
    good = tuple(spec for spec in specs.values() if spec is not None)
    if window is None or rollups is None or len(good) < len(specs):
        return
    graph.stages[name] = Aggregate(
        name=name,
        source=shape.source,
        window=window,
        group_by=tuple(groups),
        aggregates=good,
        retention_ms=shape.retention,
        select=dict(shape.select),
        allowed_lateness_ms=shape.allowed_lateness,
        emit=shape.emit,
        output=shape.output,
        max_groups=shape.max_groups,
        rollups=rollups,
    )


def _head(graph: _Graph, source: str) -> Stream | None:
    """The stream at the head of a chain; None where something between has a problem."""
    while (shape := graph.shapes.get(source)) is not None:
        source = shape.source
    return graph.built.get(source)
