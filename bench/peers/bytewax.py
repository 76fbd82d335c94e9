"""Bytewax, one worker over the file, event time with ten seconds of disorder."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import bytewax.operators as op
import bytewax.operators.windowing as win
import msgspec
from bytewax.connectors.files import FileSource
from bytewax.dataflow import Dataflow
from bytewax.testing import TestingSink, run_main

from bench.peers.job import DISORDER_MS, HOP_EVERY_MS, HOP_MS, WINDOW_MS, Job, Row, readings_of, run

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LINES_A_STEP = 1_000


class Event(msgspec.Struct):
    ad_id: str
    event_type: str
    event_time: int


class Reading(msgspec.Struct):
    ts: int
    sensor: str
    value: float


def _milliseconds(ms: int) -> timedelta:
    return timedelta(milliseconds=ms)


def _append(values: list[float], reading: Reading) -> list[float]:
    values.append(reading.value)
    return values


def yahoo(job: Job) -> list[Row]:
    decode = msgspec.json.Decoder(Event).decode
    campaigns = job.campaigns()

    def view(line: str) -> tuple[str, int] | None:
        event = decode(line)
        return (campaigns[event.ad_id], event.event_time) if event.event_type == "view" else None

    found: list[Any] = []
    flow = Dataflow("yahoo")
    lines = op.input("read", flow, FileSource(job.events, batch_size=LINES_A_STEP))
    views = op.filter_map("view", lines, view)
    clock = win.EventClock(lambda ms: EPOCH + timedelta(milliseconds=ms), _milliseconds(DISORDER_MS))
    windows = win.TumblingWindower(length=_milliseconds(WINDOW_MS), align_to=EPOCH)
    counts = win.fold_window("count", views, clock, windows, lambda: 0, lambda n, _: n + 1, lambda a, b: a + b)
    op.output("keep", counts.down, TestingSink(found))
    with job.clock():
        run_main(flow)
    return [(window * WINDOW_MS, campaign, {"views": n}) for campaign, (window, n) in found]


def sensors(job: Job) -> list[Row]:
    decode = msgspec.json.Decoder(Reading).decode

    def keyed(line: str) -> tuple[str, Reading]:
        reading = decode(line)
        return reading.sensor, reading

    found: list[Any] = []
    flow = Dataflow("sensors")
    lines = op.input("read", flow, FileSource(job.events, batch_size=LINES_A_STEP))
    readings = op.map("key", lines, keyed)
    clock = win.EventClock(lambda reading: EPOCH + timedelta(milliseconds=reading.ts), _milliseconds(DISORDER_MS))
    windows = win.SlidingWindower(length=_milliseconds(HOP_MS), offset=_milliseconds(HOP_EVERY_MS), align_to=EPOCH)
    collected = win.fold_window("collect", readings, clock, windows, list, _append, lambda a, b: a + b)
    answers = op.map_value("answer", collected.down, lambda pair: (pair[0], readings_of(pair[1])))
    op.output("keep", answers, TestingSink(found))
    with job.clock():
        run_main(flow)
    return [(window * HOP_EVERY_MS, sensor, answer) for sensor, (window, answer) in found]


if __name__ == "__main__":
    run(yahoo=yahoo, sensors=sensors)
