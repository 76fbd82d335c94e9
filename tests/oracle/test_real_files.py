"""The real files, through chunks, a worker and the query, against DuckDB over the same files, row by row."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pipeline.core.definitions import MINUTE_MS, Tumbling
from tests.line import CHUNK_ROWS, Line
from tests.oracle import duck
from tests.oracle.real_files import (
    TEMPERATURE,
    WEB_LOG,
    Event,
    shipped,
    temperature_events,
    through,
    web_log_events,
)
from tests.servers import RunningServer

LINES_OF_WEB_LOG = 10_000
LINES_OF_TEMPERATURE = 22_695


def test_bytes_by_status_and_minute_of_the_web_log(server: RunningServer) -> None:
    config, stage = shipped("weblog_by_status")
    stream = config.streams["weblog"]
    assert stream.time.disorder_ms == MINUTE_MS, "the file is up to 59 s out of order"
    line, events = Line(config, server), web_log_events()
    assert len(events) == LINES_OF_WEB_LOG

    through(line, "weblog", events, max(event["ts"] for event in events))

    dealt = f"(line // {CHUNK_ROWS}) % {stream.partitions}"
    expected = duck.windows(duck.web_log(WEB_LOG, part=dealt), stage, stream.time)
    assert sum(row["requests"] for row in expected) == LINES_OF_WEB_LOG
    duck.assert_same_rows(line.closed("weblog_by_status"), expected)


def test_hours_of_the_machine_temperature(server: RunningServer) -> None:
    config, stage = shipped("temperature_hourly")
    time = config.streams["machine_temperature"].time
    line, events = Line(config, server), temperature_events()
    assert len(events) == LINES_OF_TEMPERATURE

    through(line, "machine_temperature", events, max(map(time_of, events)))

    relation = duck.sensor(TEMPERATURE)
    duck.assert_same_rows(line.closed("temperature_hourly"), duck.windows(relation, stage, time))
    assert duck.late_rows(relation, stage, time) == [], "the file's clock goes back within one hour only"
    assert line.late("temperature_hourly") == []


@pytest.mark.parametrize("disorder_ms", [0, 1_000, 20_000])
def test_late_lines_of_the_web_log_are_those_behind_the_running_maximum(
    server: RunningServer, disorder_ms: int
) -> None:
    # the file's disorder stays within its minutes, so late lines take shorter windows
    config, stage = shipped("weblog_by_status", window=Tumbling(10_000), disorder_ms=disorder_ms)
    time = config.streams["weblog"].time
    line, events = Line(config, server), web_log_events()
    for at in range(0, len(events), CHUNK_ROWS):
        line.chunk("weblog", events[at : at + CHUNK_ROWS], partition=0)
    line.end("weblog", max(event["ts"] for event in events))
    line.settle()

    relation = duck.web_log(WEB_LOG)
    expected = duck.late_rows(relation, stage, time)
    assert expected, "the law is empty without late lines"
    assert_same_late_rows(line, "weblog_by_status", expected)
    duck.assert_same_rows(line.closed("weblog_by_status"), duck.windows(relation, stage, time))


def assert_same_late_rows(line: Line, metric: str, expected: list[duck.Row]) -> None:
    late = line.late(metric)
    chunk_of = {entry: number for number, entry in enumerate(line.entry_ids(metric))}
    found = [
        {
            "position": chunk_of[row["entry"]] * CHUNK_ROWS + int(row["row"]),
            "event_ms": int(row["time"]),
            "late_by_ms": int(row["late_by_ms"]),
            "window_start": int(row["window_start"]),
            "window_end": int(row["window_end"]),
        }
        for row in late
    ]
    assert found == expected
    assert all(row["reason"] == "late" for row in late)


def time_of(event: Event) -> int:
    return int(datetime.fromisoformat(event["timestamp"]).replace(tzinfo=UTC).timestamp() * 1_000)
