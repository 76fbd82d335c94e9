"""What brought time to where it is: events, heartbeats or silence; and who wrote a tick."""

from __future__ import annotations

import pytest

from pipeline.core.completeness import CompleteBy, least_sure, moved_by
from pipeline.core.entries import Tick, parse_entry
from pipeline.core.entry_header import TickCause


@pytest.mark.parametrize(
    ("max_event_ms", "max_beat_ms", "said"),
    [
        (10_000, None, "events"),
        (10_000, 20_000, "events"),
        (9_999, 10_000, "heartbeat"),
        (None, 10_000, "heartbeat"),
        (9_999, 9_999, "silence"),
        (None, None, "silence"),
    ],
)
def test_time_was_moved_by_the_surest_that_came_so_far(
    max_event_ms: int | None, max_beat_ms: int | None, said: CompleteBy
) -> None:
    assert moved_by(10_000, max_event_ms, max_beat_ms) == said


def test_partitions_together_are_as_sure_as_the_least_sure_of_them() -> None:
    assert least_sure(["events", "events"]) == "events"
    assert least_sure(["events", "heartbeat"]) == "heartbeat"
    assert least_sure(["heartbeat", "silence", "events"]) == "silence"
    assert least_sure([]) == "silence"


@pytest.mark.parametrize(
    ("fields", "by"),
    [
        ({b"by": b"heartbeat"}, "heartbeat"),
        ({b"by": b"end"}, "end"),
        ({b"by": b"follow"}, "follow"),
        ({b"by": b"silence"}, "silence"),
        ({}, "silence"),
        ({b"by": b"boredom"}, "silence"),
    ],
)
def test_a_tick_without_a_known_cause_reads_as_silence(fields: dict[bytes, bytes], by: TickCause) -> None:
    assert parse_entry(b"7-0", {b"_k": b"tick", b"t": b"5"} | fields) == Tick(b"7-0", 7, 5, by)
