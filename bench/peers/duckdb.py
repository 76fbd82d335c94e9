"""DuckDB as a batch job over the whole file, on every core: the ceiling, since it need not answer before the end."""

from __future__ import annotations

import duckdb

from bench.peers.job import HOP_EVERY_MS, HOP_MS, WINDOW_MS, Job, Row, run

YAHOO = """
    SELECT event_time // {window} * {window} AS start, campaign_id, count(*)
    FROM read_json('{events}', format = 'newline_delimited',
                   columns = {{ad_id: 'VARCHAR', event_type: 'VARCHAR', event_time: 'BIGINT'}})
    JOIN read_csv('{ads}', header = true) USING (ad_id)
    WHERE event_type = 'view'
    GROUP BY ALL
"""
SENSORS = """
    SELECT ts // {every} * {every} - hop AS start, sensor, count(*), avg(value), min(value), max(value),
           quantile_disc(value, 0.95)
    FROM read_json('{events}', format = 'newline_delimited',
                   columns = {{ts: 'BIGINT', sensor: 'VARCHAR', value: 'DOUBLE'}}),
         range(0, {size}, {every}) AS hops(hop)
    GROUP BY ALL
"""


def yahoo(job: Job) -> list[Row]:
    with job.clock():
        rows = duckdb.execute(YAHOO.format(window=WINDOW_MS, events=job.events, ads=job.ads)).fetchall()
    return [(start, campaign, {"views": n}) for start, campaign, n in rows]


def sensors(job: Job) -> list[Row]:
    with job.clock():
        rows = duckdb.execute(SENSORS.format(every=HOP_EVERY_MS, size=HOP_MS, events=job.events)).fetchall()
    return [
        (start, sensor, {"n": n, "mean": mean, "low": low, "high": high, "p95": p95})
        for start, sensor, n, mean, low, high, p95 in rows
    ]


if __name__ == "__main__":
    run(yahoo=yahoo, sensors=sensors)
