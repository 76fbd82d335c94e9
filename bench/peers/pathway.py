"""Pathway over the file, read as one static batch of its incremental engine, which is where it is fastest."""

from __future__ import annotations

from typing import Any

import pathway as pw

from bench.peers.job import HOP_EVERY_MS, HOP_MS, WINDOW_MS, Job, Row, readings_of, run


class Event(pw.Schema):
    ad_id: str
    event_type: str
    event_time: int


class Ad(pw.Schema):
    ad_id: str = pw.column_definition(primary_key=True)
    campaign_id: str


class Reading(pw.Schema):
    ts: int
    sensor: str
    value: float


def _rows_of(job: Job, table: Any) -> list[dict[str, Any]]:
    """Run everything, and keep each row as it is at the end."""
    found: dict[Any, dict[str, Any]] = {}

    def change(key: Any, row: dict[str, Any], time: int, is_addition: bool) -> None:
        if is_addition:
            found[key] = row
        elif found.get(key) == row:
            del found[key]

    pw.io.subscribe(table, on_change=change)
    with job.clock():
        pw.run(monitoring_level=pw.MonitoringLevel.NONE)
    return list(found.values())


def yahoo(job: Job) -> list[Row]:
    events = pw.io.jsonlines.read(str(job.events), schema=Event, mode="static")
    ads = pw.io.csv.read(str(job.ads), schema=Ad, mode="static")
    views = events.filter(pw.this.event_type == "view")
    joined = views.join(ads, views.ad_id == ads.ad_id).select(views.event_time, ads.campaign_id)
    windows = joined.windowby(
        joined.event_time, window=pw.temporal.tumbling(duration=WINDOW_MS), instance=joined.campaign_id
    )
    counts = windows.reduce(start=pw.this._pw_window_start, campaign=pw.this._pw_instance, views=pw.reducers.count())
    return [(row["start"], row["campaign"], {"views": row["views"]}) for row in _rows_of(job, counts)]


def sensors(job: Job) -> list[Row]:
    readings = pw.io.jsonlines.read(str(job.events), schema=Reading, mode="static")
    windows = readings.windowby(
        readings.ts, window=pw.temporal.sliding(hop=HOP_EVERY_MS, duration=HOP_MS), instance=readings.sensor
    )
    # It has no quantile: the values of a window are kept, and the 95th percentile is taken of them.
    collected = windows.reduce(
        start=pw.this._pw_window_start, sensor=pw.this._pw_instance, values=pw.reducers.sorted_tuple(pw.this.value)
    )
    rows = _rows_of(job, collected)
    return [(row["start"], row["sensor"], readings_of(list(row["values"]))) for row in rows]


if __name__ == "__main__":
    run(yahoo=yahoo, sensors=sensors)
