"""Flink SQL over the file, as a stream with a watermark; of three runs in one virtual machine the last counts.

Before that its compiler warms up. The table is a map in the query: a plain join would lose event time, and one with a
versioned table keeps every event until time has passed it.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pyflink.table import EnvironmentSettings, TableEnvironment

from bench.peers.job import Job, Row, run

CORES = 2
RUNS = 3
EVENTS = """
    CREATE TABLE events ({fields}, moment AS TO_TIMESTAMP_LTZ({time}, 3),
                         WATERMARK FOR moment AS moment - INTERVAL '10' SECOND)
    WITH ('connector' = 'filesystem', 'path' = 'file://{path}', 'format' = 'json')
"""
YAHOO = """
    SELECT window_start, campaign_id, COUNT(*)
    FROM TABLE(TUMBLE(DATA => TABLE ad_views, TIMECOL => DESCRIPTOR(moment), SIZE => INTERVAL '10' SECOND))
    GROUP BY window_start, window_end, campaign_id
"""
SENSORS = """
    SELECT window_start, sensor, COUNT(*), AVG(`value`), MIN(`value`), MAX(`value`), PERCENTILE(`value`, 0.95)
    FROM TABLE(HOP(DATA => TABLE events, TIMECOL => DESCRIPTOR(moment), SLIDE => INTERVAL '10' SECOND,
                   SIZE => INTERVAL '60' SECOND))
    GROUP BY window_start, window_end, sensor
"""


def yahoo(job: Job) -> list[Row]:
    tables = _tables()
    fields = "ad_id STRING, event_type STRING, event_time BIGINT"
    tables.execute_sql(EVENTS.format(fields=fields, time="event_time", path=job.events))
    pairs = ", ".join(f"'{ad}', '{campaign}'" for ad, campaign in job.campaigns().items())
    tables.execute_sql(
        f"CREATE TEMPORARY VIEW ad_views AS SELECT moment, MAP[{pairs}][ad_id] AS campaign_id "
        "FROM events WHERE event_type = 'view'"
    )
    rows = _answers(job, tables, YAHOO)
    return [(_epoch_ms(start), campaign, {"views": n}) for start, campaign, n in rows]


def sensors(job: Job) -> list[Row]:
    tables = _tables()
    fields = "ts BIGINT, sensor STRING, `value` DOUBLE"
    tables.execute_sql(EVENTS.format(fields=fields, time="ts", path=job.events))
    names = ("n", "mean", "low", "high", "p95")
    return [
        (_epoch_ms(start), sensor, dict(zip(names, values, strict=True)))
        for start, sensor, *values in _answers(job, tables, SENSORS)
    ]


def _tables() -> Any:
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for name, value in (
        ("parallelism.default", str(CORES)),
        ("table.local-time-zone", "UTC"),
        ("table.exec.mini-batch.enabled", "false"),
    ):
        tables.get_config().set(name, value)
    return tables


def _answers(job: Job, tables: Any, query: str) -> list[Any]:
    rows: list[Any] = []
    for _ in range(RUNS):
        with job.clock():
            rows = [list(row) for row in tables.execute_sql(query).collect()]
    return rows


def _epoch_ms(start: datetime) -> int:
    return round(start.replace(tzinfo=UTC).timestamp() * 1000)


if __name__ == "__main__":
    run(yahoo=yahoo, sensors=sensors)
