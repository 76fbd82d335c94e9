"""The skew report: measured source by source, equal to a plain loop over the same log, bounded, and in sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, time, timedelta
from itertools import pairwise
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import pytest

import pipeline.runtime.skew as skew_module
from pipeline.core.definitions import (
    MINUTE_MS,
    Aggregate,
    AggregateSpec,
    Calendar,
    Config,
    Field,
    Hopping,
    Session,
    Stream,
    TimePolicy,
    Tumbling,
    Window,
)
from pipeline.core.partitioning import partition_of
from pipeline.core.skew import CANDIDATES_MS, Sample, measure
from pipeline.rim import keys
from pipeline.rim.store import redis_time_ms
from pipeline.runtime.skew import _sample, skew_report
from tests.line import Line, chunk_fields
from tests.servers import RunningServer

SECOND = 1_000
BASE = 1_700_000_040_000
GATEWAYS = Stream(
    "readings",
    (Field("ts", "timestamp", unit="ms"), Field("gateway", "string")),
    TimePolicy(field="ts", disorder_ms=5 * SECOND, idle_after_ms=10 * SECOND),
    partition_by="gateway",
    partitions=2,
)
COUNTS = Aggregate("counts", "readings", Tumbling(10 * SECOND), (), (AggregateSpec("n", "count"),))


@dataclass(frozen=True)
class Event:
    gateway: str
    time_ms: int
    arrival_ms: int

    @property
    def partition(self) -> int:
        return partition_of(self.gateway, 2)


def config(stream: Stream = GATEWAYS, *stages: Aggregate) -> Config:
    return Config(streams={"readings": stream}, stages={stage.name: stage for stage in stages or (COUNTS,)})


def fill(line: Line, events: Sequence[Event], *, chunks: bool = False) -> None:
    for number, event in enumerate(events):
        fields: dict[str, Any] = {"ts": event.time_ms, "gateway": event.gateway}
        if chunks:
            fields = chunk_fields([fields], [event.time_ms], position=number, at_ms=event.arrival_ms)
        line.entry("readings", fields, partition=event.partition, entry_id=f"{event.arrival_ms}-*")


def get(line: Line, query: str = "") -> dict[str, Any]:
    answer = line.http.get(f"/v1/streams/readings/skew{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.get_json()
    return found


STEADY = [Event("steady", BASE + s * SECOND, BASE + s * SECOND + 200) for s in range(0, 600, 2)]
UPLOADS = [
    Event("uploads", BASE + m * 5 * MINUTE_MS - s * SECOND, BASE + m * 5 * MINUTE_MS)
    for m in (1, 2)
    for s in range(300, 0, -10)
]
HURRIED = [Event("hurried", BASE + s * SECOND + 400, BASE + s * SECOND) for s in range(0, 600, 3)]


def test_each_source_is_measured_by_itself_the_longest_pause_first(server: RunningServer) -> None:
    line = Line(config(), server)
    fill(line, sorted([*STEADY, *UPLOADS, *HURRIED], key=lambda event: event.arrival_ms))

    said = get(line)

    assert (said["partition_by"], said["truncated"]) == ("gateway", False)
    assert said["sample"] | {"from": 0, "to": 0} == {
        "events": len(STEADY) + len(UPLOADS) + len(HURRIED),
        "unreadable": 0,
        "too_far_ahead": 0,
        "from": 0,
        "to": 0,
        "whole_log": True,
    }
    uploads, hurried, steady = said["sources"]
    assert (uploads["source"], uploads["events"], uploads["longest_pause_ms"]) == ("uploads", 60, 5 * MINUTE_MS)
    assert (uploads["max_delay_ms"], uploads["median_delay_ms"], uploads["ahead_share"]) == (300_000, 155_000, 0.0)
    assert (hurried["source"], hurried["longest_pause_ms"], hurried["max_delay_ms"]) == ("hurried", 3_000, -400)
    assert (hurried["ahead_share"], hurried["max_ahead_ms"]) == (1.0, 400)
    assert (steady["source"], steady["longest_pause_ms"], steady["median_delay_ms"]) == ("steady", 2_000, 200)
    assert said["idle_after"]["sentence"] == (
        "idle_after 10s does not hold: source uploads paused for 5m, and silence may move time past what comes after "
        "such a pause; set idle_after to more than 5m, or to none"
    )
    assert said["max_future"] == {
        "config_ms": 300_000,
        "needed_ms": 400,
        "holds": True,
        "sentence": "max_future 5m holds: an event of the sample came at most 400ms ahead of its arrival; "
        "what the door refused is not in it",
    }
    assert get(line, "?limit=1")["sources"] == [uploads]
    assert get(line, "?limit=1")["truncated"]


def test_the_disorder_that_is_recommended_keeps_every_event_in_time(server: RunningServer) -> None:
    """Given an upload beside a steady source; then with the bound that the report names a real run has nothing late."""
    beside = [replace_gateway(event, "steady") for event in UPLOADS]
    log = sorted([*STEADY, *beside], key=lambda event: event.arrival_ms)
    line = Line(config(), server)
    fill(line, log)
    said = get(line)["disorder"]
    assert said["holds"] is False
    assert f"an event came {said['needed_ms'] // 1000}s behind" in said["sentence"]
    line.settle()
    partition = partition_of("steady", 2)
    assert len(line.late("counts", partition)) == next(
        candidate["late"]["counts"] for candidate in get(line)["candidates"] if candidate["disorder_ms"] == 5_000
    )
    assert line.late("counts", partition)

    server.client.flushall()
    wide = replace(GATEWAYS, time=replace(GATEWAYS.time, disorder_ms=said["needed_ms"]))
    line = Line(config(wide), server)
    fill(line, log)
    line.settle()

    assert get(line)["disorder"]["holds"] is True
    assert line.late("counts", partition) == []


def replace_gateway(event: Event, gateway: str) -> Event:
    return Event(gateway, event.time_ms, event.arrival_ms)


@pytest.mark.parametrize("seed", range(12))
def test_every_number_equals_a_plain_loop_over_the_log(server: RunningServer, seed: int) -> None:
    random = Random(seed)
    events, arrival_ms = [], BASE
    for _ in range(random.randrange(1, 400)):
        arrival_ms += random.choice((0, 1, 10, 5_000))
        ahead_ms = random.choice((0, -10, -3_000, -40_000, -400_000, 2_000))
        events.append(Event(random.choice("abcd"), arrival_ms + ahead_ms, arrival_ms))
    windows: tuple[Window, ...] = (
        Tumbling(10_000),
        Hopping(60_000, 7_000),
        Calendar("day", "Europe/Paris"),
        Session(30_000),
    )
    stages = [replace(COUNTS, name=f"s{n}", window=w, allowed_lateness_ms=n * 500) for n, w in enumerate(windows)]
    line = Line(config(), server)
    fill(line, events, chunks=bool(seed % 2))

    found = measure(GATEWAYS, stages, [_sample(line.client, GATEWAYS, partition) for partition in (0, 1)])

    running: dict[int, int] = {}
    behind: dict[Event, list[int]] = {}
    watermarks = []
    for event in events:
        before_ms = running.get(event.partition)
        watermarks.append((event, before_ms))
        behind.setdefault(event, []).append(max(0, (before_ms or event.time_ms) - event.time_ms))
        running[event.partition] = max(before_ms or -(2**62), min(event.time_ms, event.arrival_ms))
    assert found.events == len(events)
    for source in found.sources:
        own = [event for event in events if event.gateway == source.source]
        arrivals = sorted({event.arrival_ms for event in own})
        pauses = [b - a for a, b in pairwise(arrivals)]
        depths = sorted(ms for event in {*own} for ms in behind[event])
        assert source.events == len(own)
        assert source.pause_ms == max(pauses, default=None)
        assert source.max_delay_ms == max(e.arrival_ms - e.time_ms for e in own)
        assert source.ahead_share == pytest.approx(sum(e.time_ms > e.arrival_ms for e in own) / len(own))
        assert source.behind_ms == depths[-1]
        assert sum(ms <= source.behind_999_ms for ms in depths) >= 0.999 * len(depths)
        assert sum(ms < source.behind_999_ms for ms in depths) < 0.999 * len(depths)
    assert [c.disorder_ms for c in found.candidates] == list(CANDIDATES_MS)
    for candidate in found.candidates:
        late = {
            stage.name: sum(
                before_ms is not None and final_ms(stage, event.time_ms) <= before_ms - candidate.disorder_ms
                for event, before_ms in watermarks
            )
            for stage in stages
        }
        assert dict(candidate.late) == late
        assert candidate.behind == sum(ms > candidate.disorder_ms for depths in behind.values() for ms in depths)


def final_ms(stage: Aggregate, time_ms: int) -> int:
    """The watermark from which an event is late for all of its windows, the plain way."""
    window = stage.window
    match window:
        case Tumbling():
            end_ms = time_ms // window.size_ms * window.size_ms + window.size_ms
        case Hopping():
            end_ms = time_ms // window.every_ms * window.every_ms + window.size_ms
        case Session():
            end_ms = time_ms + window.gap_ms
        case Calendar():
            zone = ZoneInfo(window.zone)
            tomorrow = datetime.fromtimestamp(time_ms / 1_000, zone).date() + timedelta(days=1)
            end_ms = int(datetime.combine(tomorrow, time.min, zone).timestamp()) * 1_000
        case _:
            raise AssertionError(window)
    return end_ms + stage.allowed_lateness_ms


def test_a_stream_that_spreads_evenly_is_one_source(server: RunningServer) -> None:
    line = Line(config(replace(GATEWAYS, partition_by=None)), server)
    fill(line, sorted([*STEADY, *UPLOADS], key=lambda event: event.arrival_ms))

    said = get(line)

    assert [source["source"] for source in said["sources"]] == [None]
    assert said["sources"][0]["longest_pause_ms"] == 2_000
    assert said["idle_after"]["sentence"] == "idle_after 10s holds: the longest pause was 2s, of the stream"


def test_a_stream_without_events_or_with_one_says_what_it_cannot_know(server: RunningServer) -> None:
    line = Line(config(), server)
    said = get(line)
    assert (said["sources"], said["sample"]["events"], said["sample"]["from"]) == ([], 0, None)
    assert [said[name]["holds"] for name in ("disorder", "idle_after", "max_future")] == [None, None, None]

    fill(line, STEADY[:1])
    said = get(line)
    assert [said[name]["holds"] for name in ("disorder", "idle_after", "max_future")] == [True, None, True]
    assert said["idle_after"]["sentence"].endswith("no source has arrived twice, so there is no pause to measure")


def test_what_has_no_time_is_counted_apart(server: RunningServer) -> None:
    line = Line(config(), server)
    fill(line, STEADY[:10])
    partition = STEADY[0].partition
    line.entry("readings", {"ts": "never", "gateway": "steady"}, partition=partition)
    line.entry("readings", {"ts": BASE, "gateway": "steady"}, partition=1 - partition)
    line.entry("readings", {"ts": redis_time_ms(line.client) + 3_600_000, "gateway": "steady"}, partition=partition)

    said = get(line)

    assert said["sample"]["events"] == 10
    assert (said["sample"]["unreadable"], said["sample"]["too_far_ahead"]) == (2, 1)
    assert said["max_future"]["holds"] is False
    assert "correct the clock" in said["max_future"]["sentence"]


def test_ticks_are_no_events_and_idle_after_none_always_holds(server: RunningServer) -> None:
    line = Line(config(replace(GATEWAYS, time=replace(GATEWAYS.time, idle_after_ms=None))), server)
    fill(line, STEADY[:2])
    line.tick("readings", BASE + MINUTE_MS, partition=STEADY[0].partition)
    line.entry("readings", {"ts": BASE, "gateway": "steady"}, partition=STEADY[0].partition)

    said = get(line)

    assert said["disorder"]["needed_ms"] == 2_000, "behind the events before it, not behind the tick"
    assert said["idle_after"]["sentence"] == "idle_after none holds: silence never moves time in this stream"


def test_the_sample_is_bounded_and_says_so(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(config(), server)
    fill(line, STEADY)
    monkeypatch.setattr(skew_module, "SAMPLE_EVENTS", 200)

    report = skew_report(line.client, line.config, "readings")

    assert 100 <= report.skew.events < len(STEADY)
    assert not report.skew.whole
    assert report.skew.together is not None
    assert report.skew.together.last_arrival_ms == STEADY[-1].arrival_ms
    monkeypatch.setattr(skew_module, "SAMPLE_EVENTS", 100_000)
    monkeypatch.setattr(skew_module, "SAMPLE_ENTRIES", 50)
    assert skew_report(line.client, line.config, "readings").skew.events < len(STEADY)


def test_a_partition_read_less_far_back_makes_no_pause_of_the_others(server: RunningServer) -> None:
    """Given a busy partition cut to its last minutes; then what only the other one shows before is no pause."""
    stream = replace(GATEWAYS, partition_by=None)
    line = Line(config(stream), server)
    fill(line, [Event("steady", BASE + m * MINUTE_MS, BASE + m * MINUTE_MS) for m in range(10)])
    elsewhere = next(name for name in "abcdefgh" if partition_of(name, 2) != STEADY[0].partition)
    other = [replace_gateway(event, elsewhere) for event in STEADY]
    fill(line, other)
    samples = [_sample(line.client, stream, partition) for partition in (0, 1)]
    busy = other[0].partition
    line.client.xtrim(keys.raw("readings", busy), maxlen=60, approximate=False)
    samples[busy] = Sample(_sample(line.client, stream, busy).batch, cut=True)

    found = measure(stream, [], samples)

    assert found.sources[0].pause_ms == 2_000


def test_a_source_limit_that_is_none_is_refused(server: RunningServer) -> None:
    line = Line(config(), server)
    for query in ("?limit=0", "?limit=many", "?limit=10001", "?source=a"):
        assert line.http.get(f"/v1/streams/readings/skew{query}").status_code == 400
    assert line.http.get("/v1/streams/reading/skew").status_code == 404
