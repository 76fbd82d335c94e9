"""The independent oracle: DuckDB computes a stage's answer over the same events, from the stage's definition alone.

A table of events has, beside the stream's fields, four columns: `event_ms` (event time), `arrival_ms`, `part`
(partition) and `position` (in the partition's log, from 0). Of the pipeline only the definitions are used here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from pipeline.core.definitions import Aggregate, AggregateSpec, TimePolicy

Row = dict[str, Any]
RELATIVE_ERROR = 1e-9  # of float sums: DuckDB adds in another order
NEVER_MS = 2**62  # arrival of files that nobody watched arriving: later than every event


def web_log(path: Path, *, part: str = "0") -> duckdb.DuckDBPyRelation:
    """The lines of a web log in file order; `part` is an SQL expression over `line` that gives a line's partition."""
    columns = (
        "{ts: 'BIGINT', user: 'VARCHAR', method: 'VARCHAR', page: 'VARCHAR', "
        "status: 'BIGINT', bytes: 'BIGINT', referrer: 'VARCHAR', agent: 'VARCHAR'}"
    )
    lines = f"SELECT *, row_number() OVER () - 1 AS line FROM read_json('{path}', columns={columns})"
    return _placed(f"SELECT *, ts AS event_ms, {part} AS part FROM ({lines})")


def machine_temperature(path: Path) -> duckdb.DuckDBPyRelation:
    """The rows of the sensor's file in file order, its local times read as UTC."""
    columns = "{timestamp: 'TIMESTAMP', value: 'DOUBLE'}"
    lines = f"SELECT *, row_number() OVER () - 1 AS line FROM read_csv('{path}', header=true, columns={columns})"
    return _placed(f"SELECT *, epoch_ms(timestamp) AS event_ms, 0 AS part FROM ({lines})")


def _placed(events: str) -> duckdb.DuckDBPyRelation:
    """Number the events of each partition in the order of the file."""
    position = "row_number() OVER (PARTITION BY part ORDER BY line) - 1 AS position"
    connection = duckdb.connect()
    connection.execute("SET threads = 1; SET preserve_insertion_order = true")
    return connection.sql(f"SELECT *, {NEVER_MS}::BIGINT AS arrival_ms, {position} FROM ({events})")


def judged(events: duckdb.DuckDBPyRelation, stage: Aggregate, time: TimePolicy) -> duckdb.DuckDBPyRelation:
    """The events with their window and `late`: its end is at or before the watermark before them."""
    size, offset = stage.window.size_ms, stage.window.offset_ms
    floor = f"event_ms - (((event_ms - {offset}) % {size}) + {size}) % {size}"
    before = "PARTITION BY part ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING"
    watermark = f"max(least(event_ms, arrival_ms)) OVER ({before}) - {time.disorder_ms}"
    windows = events.project(f"*, {floor} AS window_start, {watermark} AS watermark_ms")
    late = "coalesce(window_end <= watermark_ms, false)"
    return windows.project(f"*, window_start + {size} AS window_end").project(f"*, {late} AS late")


def windows(events: duckdb.DuckDBPyRelation, stage: Aggregate, time: TimePolicy) -> list[Row]:
    """The rows of a metric over these events: window_start, window_end, groups, values; by window, then group."""
    keys = ["window_start", "window_end", *(f'"{name}"' for name in stage.group_by)]
    values = [f'{_value(spec)} AS "{spec.name}"' for spec in stage.aggregates]
    in_time = judged(events, stage, time).filter("NOT late")
    order = ", ".join(f"{key} NULLS LAST" for key in keys)
    return _rows(in_time.aggregate(", ".join([*keys, *values]), ", ".join(keys)).order(order))


def late_rows(events: duckdb.DuckDBPyRelation, stage: Aggregate, time: TimePolicy) -> list[Row]:
    """The late events in the order of the log: position, event_ms, late_by_ms, window_start, window_end."""
    late = judged(events, stage, time).filter("late")
    columns = "position, event_ms, watermark_ms - event_ms AS late_by_ms, window_start, window_end"
    return _rows(late.order("part, position").project(columns))


def _value(spec: AggregateSpec) -> str:
    if spec.field is None:
        return "count(*)"
    name = f'"{spec.field}"'
    # ties at equal times go by partition, then position; nulls are left out
    edge = f"({name} ORDER BY event_ms, part, position) FILTER (WHERE {name} IS NOT NULL)"
    match spec.function:
        case "count" | "min" | "max":
            return f"{spec.function}({name})"
        case "sum":
            return f"coalesce(sum({name}), 0)"
        case "mean":
            return f"avg({name})"
        case "first" | "last":
            return f"{spec.function}{edge}"


def _rows(relation: duckdb.DuckDBPyRelation) -> list[Row]:
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def assert_same_rows(found: Sequence[Row], expected: Sequence[Row]) -> None:
    """Compare row by row: every expected column equal; floats to a relative error, all else exactly and in type."""
    assert len(found) == len(expected)
    for number, (row, wanted) in enumerate(zip(found, expected, strict=True)):
        differing = [name for name, value in wanted.items() if not same(row[name], value)]
        assert not differing, f"row {number}: {differing}: {row} is not {wanted}"


def same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(found, float):
        return math.isclose(found, wanted, rel_tol=RELATIVE_ERROR, abs_tol=0.0)
    return type(found) is type(wanted) and bool(found == wanted)
