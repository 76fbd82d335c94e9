"""The `stages:` section: the graph of transforms and aggregates, checked against the columns that reach each stage.

A stage's columns are its source's plus what it derives; a problem is reported once, where it is, and not again in the
stages below, which are checked with the columns that are good.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from pipeline.core.definitions import Aggregate, Stage, Transform, Tumbling
from pipeline.core.expressions import (
    ExpressionError,
    compile_expression,
    compile_filter,
    expression_names,
    unknown_name,
)
from pipeline.core.spelling import did_you_mean
from pipeline.runtime.config_aggregates import build_aggregates, check_group_by
from pipeline.runtime.config_columns import Columns
from pipeline.runtime.config_report import Report
from pipeline.runtime.config_shapes import AggregateShape, TransformShape, not_built
from pipeline.runtime.config_streams import check_field_name, check_name
from pipeline.runtime.config_transforms import Sources, build_lookups, called, exploded
from pipeline.runtime.config_yaml import Path

# Words that stand where a published transform's name stands in a key (`{pageviews.0}:human_views`), or may come to.
KEY_WORDS = frozenset(
    (
        *("raw", "door", "idem", "idem_times", "quarantine", "lease", "cuts", "cut", "record", "tables", "table"),
        *("cp", "panes", "pane", "due", "late", "dead", "suspect"),
        *("versions", "result", "windows", "ages", "published", "emit", "rows", "latest"),
        *("staging", "staging_latest", "workers"),
    )
)

_UNBUILT = {name: not_built(name) for name in ("select", "rollups", "max_groups", "output")}
_UNBUILT_WINDOWS = ("hopping", "session", "cumulating", "calendar")
_OF_TRANSFORMS = "belongs to a transform: a stage of its own, without a window, that this one reads with `from`."
_OF_AGGREGATES = "belongs to an aggregate, which has a `window` and `aggregates`."
_TRANSFORM_SETTINGS = ("filter", "derive", "lookup", "explode", "python", "publish")
_REFUSED_IN_AGGREGATE = _UNBUILT | dict.fromkeys(_TRANSFORM_SETTINGS, _OF_TRANSFORMS)
_REFUSED_IN_TRANSFORM = _UNBUILT | dict.fromkeys(("group_by", "emit", "retention", "allowed_lateness"), _OF_AGGREGATES)


@dataclass(slots=True)
class _Graph:
    """What is known while stages are checked; `columns` of a stage is None when it cannot be read at all."""

    report: Report
    streams: Mapping[str, Columns]
    shapes: dict[str, TransformShape | AggregateShape | None]
    sources: Sources
    columns: dict[str, Columns | None] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)


def build_stages(
    report: Report, raw: dict[str, Any], streams: Mapping[str, Columns], sources: Sources
) -> dict[str, Stage]:
    """Return the stages that have no problem, in the order of the file."""
    shapes = {name: _shape(report, name, value, streams) for name, value in raw.items()}
    graph = _Graph(report, streams, shapes, sources)
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
    window = value.get("window")
    unbuilt = [kind for kind in _UNBUILT_WINDOWS if isinstance(window, dict) and kind in window]
    for kind in unbuilt:
        report.add((*path, "window", kind), f"{not_built(kind)} There is tumbling.", at_key=True)
    if unbuilt:
        # The rest of the stage is checked as if its window were one that is built.
        value = {**value, "window": {"tumbling": "1s"}}
    shape = report.fit(AggregateShape, path, value, _REFUSED_IN_AGGREGATE)
    # Without its window or aggregates, what is left is still checked; a misfit seen twice is one message.
    return shape or report.fit(AggregateShape, path, _completed(value), _REFUSED_IN_AGGREGATE)


def _completed(value: dict[str, Any]) -> dict[str, Any]:
    """An aggregate with what it must have besides `from`; its window is gone, since it may be what does not fit."""
    aggregates = value.get("aggregates")
    usable = aggregates if isinstance(aggregates, dict) else {"events": "count"}
    return {**value, "window": {"tumbling": "1s"}, "aggregates": usable}


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
        rollups = "Coarser steps of a metric are rollups, which are not built yet in this version"
        graph.report.add(path, f"'{source}' is a metric; a stage reads a stream or a transform. {rollups}.")
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
        return None if _is_uncertain(text, source) else compile_expression(text, source.known).dtype
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
        if not _is_uncertain(text, source):
            compile_filter(text, source.known)
    except ExpressionError as error:
        report.add(path, str(error))


def _is_uncertain(text: str, source: Columns) -> bool:
    """True where an expression reads a field with a problem of its own; one that is nowhere is told all the same."""
    names = expression_names(text)
    if not source.uncertain(names):
        return False
    for name in source.unknown(names):
        raise ExpressionError(unknown_name(name, source.known))
    return True


def _aggregate(graph: _Graph, name: str, shape: AggregateShape, source: Columns) -> None:
    path: Path = ("stages", name)
    check_group_by(graph.report, (*path, "group_by"), shape.group_by, source)
    specs = build_aggregates(graph.report, (*path, "aggregates"), shape.aggregates, shape.group_by, source)
    if specs is None:
        return
    graph.stages[name] = Aggregate(
        name=name,
        source=shape.source,
        window=Tumbling(shape.window.tumbling, shape.window.offset),
        group_by=tuple(shape.group_by),
        aggregates=specs,
        retention_ms=shape.retention,
    )
