"""Spark Structured Streaming over the file: everything there is, in one batch of the stream; the second run counts.

The first run, of a session of its own in the same virtual machine, warms up its compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

from pyspark.sql import SparkSession
from pyspark.sql import functions as f

from bench.peers.job import DISORDER_MS, HOP_EVERY_MS, HOP_MS, WINDOW_MS, Job, Row, run

CORES = 2
RUNS = 2


def yahoo(job: Job) -> list[Row]:
    def query(spark: Any) -> Any:
        events = _stream(spark, job, "ad_id STRING, event_type STRING, event_time LONG", "event_time")
        ads = spark.read.csv(str(job.ads), header=True)
        views = events.filter("event_type = 'view'").join(f.broadcast(ads), "ad_id")
        window = f.window("at", f"{WINDOW_MS} milliseconds").alias("window")
        return views.groupBy(window, "campaign_id").agg(f.count("*").alias("views"))

    rows = _answers(job, query)
    return [(_start(row), row["campaign_id"], {"views": row["views"]}) for row in rows]


def sensors(job: Job) -> list[Row]:
    def query(spark: Any) -> Any:
        readings = _stream(spark, job, "ts LONG, sensor STRING, value DOUBLE", "ts")
        window = f.window("at", f"{HOP_MS} milliseconds", f"{HOP_EVERY_MS} milliseconds").alias("window")
        answers = (
            f.count("*").alias("n"),
            f.avg("value").alias("mean"),
            f.min("value").alias("low"),
            f.max("value").alias("high"),
            f.percentile_approx("value", 0.95, 10_000).alias("p95"),
        )
        return readings.groupBy(window, "sensor").agg(*answers)

    names = ("n", "mean", "low", "high", "p95")
    return [(_start(row), row["sensor"], {name: row[name] for name in names}) for row in _answers(job, query)]


def _stream(spark: Any, job: Job, schema: str, time: str) -> Any:
    # It reads folders, and this one has other files too.
    events = spark.readStream.schema(schema).option("pathGlobFilter", job.events.name).json(str(job.folder))
    moment = f.timestamp_millis(time).alias("at")
    return events.select("*", moment).withWatermark("at", f"{DISORDER_MS} milliseconds")


def _answers(job: Job, query: Callable[[Any], Any]) -> list[Any]:
    spark = (
        SparkSession.builder.master(f"local[{CORES}]")
        .config("spark.sql.shuffle.partitions", CORES)
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.driver.memory", "4g")
        .getOrCreate()
    )
    spark.sparkContext.setLogLevel("ERROR")
    for _ in range(RUNS):
        # Complete: the last windows never come out of `append`, which waits for a watermark that nothing brings.
        stream = query(spark).writeStream.outputMode("complete").format("memory").queryName("answers")
        with job.clock():
            stream.trigger(availableNow=True).start().awaitTermination()
    rows: list[Any] = spark.sql("SELECT * FROM answers").collect()
    spark.stop()
    return rows


def _start(row: Any) -> int:
    start: datetime = row["window"]["start"]
    return round(start.timestamp() * 1000)


if __name__ == "__main__":
    run(yahoo=yahoo, sensors=sensors)
