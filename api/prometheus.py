"""The numbers of `GET /metrics`, read from Redis at each scrape.

Invariant: no process keeps a counter of its own, so every API process answers the same, and a restart resets nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import redis
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from api.readiness import WORKER_HEARD_MS
from pipeline.core.definitions import Config
from pipeline.rim.status import memory_bytes, workers_alive
from pipeline.runtime.ledger import findings
from pipeline.runtime.status import OUTCOMES, StageStatus, Status, read_status

DOOR_HELP = {
    "received": "Events that came to the door.",
    "stored": "Events that were appended to the log.",
    "duplicate": "Events of a request that was answered before.",
    "rejected": "Events that were refused and quarantined.",
}


def metrics_text(client: redis.Redis, config: Config) -> bytes:
    """Everything in the Prometheus text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(client, config))
    return generate_latest(registry)


@dataclass(frozen=True, slots=True, eq=False)  # the registry keeps collectors by identity
class StatusCollector(Collector):
    """One reading of Redis as metric families."""

    client: redis.Redis
    config: Config

    def collect(self) -> Iterator[Metric]:
        status = read_status(self.client, self.config)
        yield from door_counters(status)
        yield from stage_families(status)
        yield from entry_families(status)
        yield ledger_family(status)
        yield _gauge("redis_memory_bytes", "What Redis has allocated.", memory_bytes(self.client))
        alive = workers_alive(self.client, WORKER_HEARD_MS)
        yield _gauge("workers", "Workers heard of in the last 10 s.", len(alive))


def door_counters(status: Status) -> Iterator[Metric]:
    for name, what in DOOR_HELP.items():
        family = CounterMetricFamily(f"streamgauge_events_{name}", what, labels=["stream"])
        for stream, found in status.streams.items():
            family.add_metric([stream], found.door[name])
        yield family


def stage_families(status: Status) -> Iterator[Metric]:
    """What stages have done with events, and how far they are; a fused transform counts in the stage that reads it."""
    stages = {name: stage for name, stage in status.stages.items() if stage.group is not None}
    outcomes = CounterMetricFamily(
        "streamgauge_stage_events", "Events a stage has read, by what became of them.", labels=["stage", "outcome"]
    )
    for name, stage in stages.items():
        for outcome in OUTCOMES:
            outcomes.add_metric([name, outcome], stage.ledger[outcome])
    yield outcomes
    yield from _old_data(stages)
    lag = GaugeMetricFamily("streamgauge_stage_lag_events", "Events stored and not yet committed.", labels=["stage"])
    seconds = GaugeMetricFamily(
        "streamgauge_stage_lag_seconds", "Age of the oldest event that is not yet committed.", labels=["stage"]
    )
    for name, stage in stages.items():
        if stage.lag is not None:
            lag.add_metric([name], stage.lag.events)
            seconds.add_metric([name], stage.lag.seconds)
    yield from (lag, seconds, *_watermarks(status, stages))


def _old_data(stages: dict[str, StageStatus]) -> Iterator[Metric]:
    backfilled = CounterMetricFamily(
        "streamgauge_stage_backfilled_events", "Accepted events of old data.", labels=["stage"]
    )
    replayed = CounterMetricFamily(
        "streamgauge_stage_replayed_events", "Events read again, out of what was put aside.", labels=["stage"]
    )
    for name, stage in stages.items():
        backfilled.add_metric([name], stage.backfilled)
        replayed.add_metric([name], stage.replayed)
    yield from (backfilled, replayed)


def _watermarks(status: Status, stages: dict[str, StageStatus]) -> Iterator[Metric]:
    mark = GaugeMetricFamily(
        "streamgauge_watermark_seconds", "Event time a stage has reached, as seconds of the epoch.", labels=["stage"]
    )
    delay = GaugeMetricFamily(
        "streamgauge_watermark_delay_seconds", "How far the watermark is behind Redis's clock.", labels=["stage"]
    )
    for name, stage in stages.items():
        if stage.watermark_ms is not None:
            mark.add_metric([name], stage.watermark_ms / 1_000)
            delay.add_metric([name], (status.now_ms - stage.watermark_ms) / 1_000)
    yield from (mark, delay)


def entry_families(status: Status) -> Iterator[Metric]:
    quarantine = GaugeMetricFamily(
        "streamgauge_quarantine_entries", "Rows in the quarantine stream.", labels=["stream"]
    )
    for name, stream in status.streams.items():
        quarantine.add_metric([name], sum(partition.state.quarantined for partition in stream.partitions))
    late = GaugeMetricFamily("streamgauge_late_entries", "Rows in the late stream.", labels=["stage"])
    dead = GaugeMetricFamily("streamgauge_dead_entries", "Entries in the dead-letter stream.", labels=["stage"])
    for name, stage in status.stages.items():
        if stage.group is not None:
            late.add_metric([name], sum(partition.state.late_entries for partition in stage.partitions))
            dead.add_metric([name], sum(partition.state.dead_entries for partition in stage.partitions))
    yield from (quarantine, late, dead)


def ledger_family(status: Status) -> Metric:
    family = GaugeMetricFamily(
        "streamgauge_ledger_balanced", "1 where the books add up, else 0.", labels=["scope", "name"]
    )
    wrong = {(finding.scope, finding.name) for finding in findings(status)}
    for name in status.streams:
        family.add_metric(["stream", name], float(("stream", name) not in wrong))
    for name, stage in status.stages.items():
        if stage.group is not None:
            family.add_metric(["stage", name], float(("stage", name) not in wrong))
    return family


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"streamgauge_{name}", what, value=value)
