"""`GET /metrics/windows`: the newest closed window of every metric as Prometheus gauges, one family for each value.

    metric pages, value views, group by section   ──▶   streamgauge_window_pages_views{section="docs"} 12

Invariant: a scrape is bounded, whatever groups events make: at most SERIES_A_METRIC groups of a metric, and what is
left out is counted. No two samples have the same name and labels, which would cost the whole scrape.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import redis
from flask import Blueprint, Response, request
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from api.answers import measure
from api.parameters import no_parameters
from pipeline.core.definitions import Config
from pipeline.runtime.answer import Answer
from pipeline.runtime.query import Metrics

SERIES_A_METRIC = 1_000  # groups; what a Prometheus on one small machine takes from one of many targets
LABEL_CHARS = 200  # of a value: a label is a name, and a field may hold a megabyte
PREFIX = "streamgauge_window"
NUMBERS = ("int", "float", "bool", "timestamp")  # types of values that are numbers; texts and lists are none
SECOND_MS = 1_000


def window_gauges_blueprint(config: Config, client: redis.Redis) -> Blueprint:
    """The endpoint; `client` is only read from."""
    blueprint = Blueprint("window_gauges", __name__)
    metrics = Metrics(config, client)

    @blueprint.get("/metrics/windows")
    def windows() -> Response:
        no_parameters(request.args)
        registry = CollectorRegistry(auto_describe=False)
        registry.register(WindowCollector(metrics))
        return Response(generate_latest(registry), 200, content_type=CONTENT_TYPE_LATEST)

    return blueprint


@dataclass(frozen=True, slots=True, eq=False)  # the registry keeps collectors by identity
class WindowCollector(Collector):
    """The newest closed window of each metric as metric families."""

    metrics: Metrics

    def collect(self) -> Iterator[Metric]:
        ends = GaugeMetricFamily(
            f"{PREFIX}_end_seconds", "Where the newest closed window ends, as seconds of the epoch.", labels=["metric"]
        )
        left_out = GaugeMetricFamily(
            f"{PREFIX}_series_left_out", "Groups of the newest closed window that have no samples.", labels=["metric"]
        )
        taken = {ends.name, left_out.name}
        for name in self.metrics.programs:
            answer = self.metrics.latest(name)
            series = shown_series(answer)
            yield from value_families(answer, series, taken)
            left_out.add_metric([name], len(answer) - len(series))
            if answer.columns["window_end"]:
                ends.add_metric([name], max(answer.columns["window_end"]) / SECOND_MS)
        yield from (ends, left_out)


def shown_series(answer: Answer) -> dict[int, tuple[str, ...]]:
    """The rows that are shown, each with its labels: the first by group, and the first of those that look alike."""
    columns = [answer.columns[name] for name in answer.program.stage.group_by]
    shown: dict[tuple[str, ...], int] = {}
    for place in range(len(answer)):
        if len(shown) == SERIES_A_METRIC:
            break
        shown.setdefault(tuple(label_text(column[place]) for column in columns), place)
    return {place: labels for labels, place in shown.items()}


def value_families(answer: Answer, series: Mapping[int, Sequence[str]], taken: set[str]) -> Iterator[Metric]:
    """A gauge for each value that is a number; null has no sample. `taken` are the names of other families."""
    program = answer.program
    units = {finisher.spec.name: measure(program, finisher) for finisher in program.finishers}
    for name, kind in program.value_types.items():
        if kind not in NUMBERS:
            continue
        unit = f", in {units[name]}" if units.get(name) else ""
        told = f"{name} of {program.name} in its newest closed window{unit}."
        family = GaugeMetricFamily(
            unique(f"{PREFIX}_{program.name}_{name}", taken), told, labels=program.stage.group_by
        )
        for place, values in series.items():
            value = answer.columns[name][place]
            if value is not None:
                family.add_metric(values, value / SECOND_MS if kind == "timestamp" else float(value))
        yield family


def unique(name: str, taken: set[str]) -> str:
    """A name that no other family has: value `c` of metric `a_b` and value `b_c` of metric `a` would share one."""
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def label_text(value: Any) -> str:
    """A group's value as a label: null is the empty label, which Prometheus takes for none; the empty text is `""`."""
    match value:
        case None:
            return ""
        case "":
            return '""'
        case bool():
            return str(value).lower()
        case _:
            text = str(value)
            return text if len(text) <= LABEL_CHARS else f"{text[: LABEL_CHARS - 1]}…"
