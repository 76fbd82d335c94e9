"""The real files: their lines as events, and the stages that the shipped config.yaml computes from them."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from pipeline.core.definitions import Aggregate, Config, Tumbling
from pipeline.runtime.config import load_config
from tests.line import CHUNK_ROWS, Line

ROOT = Path(__file__).parents[2]
WEB_LOG = ROOT / "tests/data/weblog.ndjson.gz"
TEMPERATURE = ROOT / "tests/data/machine_temperature.csv"

Event = Mapping[str, Any]


def shipped(metric: str, window: Tumbling | None = None, **time: Any) -> tuple[Config, Aggregate]:
    """The part of config.yaml that one metric needs, its window and its stream's time policy changed as asked."""
    whole = load_config(ROOT / "config.yaml", {})
    stage = whole.stages[metric]
    assert isinstance(stage, Aggregate)
    stream = whole.stream_of(stage)
    stage = replace(stage, window=window or stage.window)
    stream = replace(stream, time=replace(stream.time, **time))
    return Config(streams={stream.name: stream}, stages={metric: stage}), stage


def web_log_events() -> list[Event]:
    with gzip.open(WEB_LOG) as lines:
        return [msgspec.json.decode(line) for line in lines]


def temperature_events() -> list[Event]:
    with TEMPERATURE.open(newline="") as lines:
        return [{"timestamp": row["timestamp"], "value": float(row["value"])} for row in csv.DictReader(lines)]


def chunks(events: Sequence[Event]) -> Iterator[Sequence[Event]]:
    for at in range(0, len(events), CHUNK_ROWS):
        yield events[at : at + CHUNK_ROWS]


def through(line: Line, stream: str, events: Sequence[Event], newest_ms: int) -> None:
    """Send a file as replay does, its chunks dealt out over the partitions, and let one worker finish it."""
    partitions = line.config.streams[stream].partitions
    for number, chunk in enumerate(chunks(events)):
        line.chunk(stream, chunk, partition=number % partitions)
    line.end(stream, newest_ms)
    line.settle()
