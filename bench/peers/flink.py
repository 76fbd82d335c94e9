"""Flink SQL over the file, as a stream with a watermark: the job's own time, of the last of three runs in one machine.

The runs before warm up its compiler. It counts by ad before it joins, which is less work: an event-time join keeps
what it gets until time has passed it, and a plain one would lose event time.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
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
ADS = """
    CREATE TABLE ads_file (ad_id STRING, campaign_id STRING, since AS TO_TIMESTAMP_LTZ(0, 3),
                           WATERMARK FOR since AS since)
    WITH ('connector' = 'filesystem', 'path' = 'file://{path}', 'format' = 'csv')
"""
ANSWERS = """
    CREATE TABLE answers (start_at TIMESTAMP(3), {columns})
    WITH ('connector' = 'filesystem', 'path' = 'file://{path}', 'format' = 'csv')
"""
# The newest row of each ad: what makes a table a versioned one.
ADS_VERSIONS = """
    CREATE TEMPORARY VIEW ads AS
    SELECT ad_id, campaign_id, since
    FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY ad_id ORDER BY since DESC) AS place FROM ads_file)
    WHERE place = 1
"""
VIEWS = "CREATE TEMPORARY VIEW ad_views AS SELECT moment, ad_id FROM events WHERE event_type = 'view'"
BY_AD = """
    CREATE TEMPORARY VIEW by_ad AS
    SELECT window_time AS moment, ad_id, COUNT(*) AS n
    FROM TABLE(TUMBLE(DATA => TABLE ad_views, TIMECOL => DESCRIPTOR(moment), SIZE => INTERVAL '10' SECOND))
    GROUP BY window_start, window_end, window_time, ad_id
"""
JOINED = """
    CREATE TEMPORARY VIEW joined AS
    SELECT by_ad.moment, ads.campaign_id, by_ad.n
    FROM by_ad JOIN ads FOR SYSTEM_TIME AS OF by_ad.moment ON by_ad.ad_id = ads.ad_id
"""
YAHOO = """
    INSERT INTO answers
    SELECT window_start, campaign_id, SUM(n)
    FROM TABLE(TUMBLE(DATA => TABLE joined, TIMECOL => DESCRIPTOR(moment), SIZE => INTERVAL '10' SECOND))
    GROUP BY window_start, window_end, campaign_id
"""
SENSORS = """
    INSERT INTO answers
    SELECT window_start, sensor, COUNT(*), AVG(`value`), MIN(`value`), MAX(`value`), PERCENTILE(`value`, 0.95)
    FROM TABLE(HOP(DATA => TABLE events, TIMECOL => DESCRIPTOR(moment), SLIDE => INTERVAL '10' SECOND,
                   SIZE => INTERVAL '60' SECOND))
    GROUP BY window_start, window_end, sensor
"""


def yahoo(job: Job) -> list[Row]:
    tables = _tables(job, "campaign_id STRING, n BIGINT")
    fields = "ad_id STRING, event_type STRING, event_time BIGINT"
    for statement in (
        EVENTS.format(fields=fields, time="event_time", path=job.events),
        ADS.format(path=job.ads),
        *(ADS_VERSIONS, VIEWS, BY_AD, JOINED),
    ):
        tables.execute_sql(statement)
    _run(job, tables, YAHOO)
    return [(start, campaign, {"views": int(n)}) for start, campaign, n in _written(job)]


def sensors(job: Job) -> list[Row]:
    names = ("mean", "low", "high", "p95")
    tables = _tables(job, "sensor STRING, n BIGINT, " + ", ".join(f"{name} DOUBLE" for name in names))
    fields = "ts BIGINT, sensor STRING, `value` DOUBLE"
    tables.execute_sql(EVENTS.format(fields=fields, time="ts", path=job.events))
    _run(job, tables, SENSORS)
    return [
        (start, sensor, {"n": int(n), **dict(zip(names, map(float, values), strict=True))})
        for start, sensor, n, *values in _written(job)
    ]


def _tables(job: Job, columns: str) -> Any:
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    tables.get_config().set("parallelism.default", str(CORES))
    tables.get_config().set("table.local-time-zone", "UTC")
    tables.execute_sql(ANSWERS.format(columns=columns, path=job.folder / "answers"))
    return tables


def _run(job: Job, tables: Any, statement: str) -> None:
    for _ in range(RUNS):
        shutil.rmtree(job.folder / "answers", ignore_errors=True)
        with job.clock():
            done = tables.execute_sql(statement)
            done.wait()
    # Without starting its cluster, which is new for every job.
    job.seconds = done.get_job_client().get_job_execution_result().result().get_net_runtime() / 1000


def _written(job: Job) -> Iterator[tuple[Any, ...]]:
    """The rows of the answer, times in epoch milliseconds."""
    for file in (job.folder / "answers").rglob("part-*"):
        for line in file.read_text().splitlines():
            start, *values = line.split(",")
            at = datetime.fromisoformat(start.strip('"')).replace(tzinfo=UTC)
            yield round(at.timestamp() * 1000), *(value.strip('"') for value in values)


if __name__ == "__main__":
    run(yahoo=yahoo, sensors=sensors)
