"""The watermark as an object: who holds it back and why, what brought it there, and `idle_after: none` end to end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipeline.core.definitions import (
    HOUR_MS,
    MINUTE_MS,
    Aggregate,
    AggregateSpec,
    Config,
    Field,
    Stream,
    TimePolicy,
    Tumbling,
)
from pipeline.core.next_tick import next_tick_ms
from pipeline.core.watermarks import PartitionClock, idle_ticks
from pipeline.core.windows import Horizon
from pipeline.rim.store import redis_time_ms
from pipeline.runtime.scheduler import Housekeeping
from pipeline.runtime.status import read_status
from pipeline.runtime.stream_time import StreamTime, stream_time
from pipeline.runtime.time_keepers import horizons_of
from tests.line import Line
from tests.servers import RunningServer

SECOND = 1_000
DISORDER_MS = 1 * SECOND
POLICY = TimePolicy(field="ts", disorder_ms=DISORDER_MS, idle_after_ms=10 * SECOND)
STREAM = Stream("readings", (Field("ts", "timestamp", unit="ms"),), POLICY, partitions=3)
COUNTS = Aggregate("counts", "readings", Tumbling(10 * SECOND), (), (AggregateSpec("n", "count"),))


def config(policy: TimePolicy = POLICY) -> Config:
    return Config(streams={"readings": replace(STREAM, time=policy)}, stages={"counts": COUNTS})


def add(line: Line, partition: int, time_ms: int, *, arrival_ms: int | None = None) -> None:
    """A row that arrives when it happens, unless said."""
    entry_id = f"{time_ms if arrival_ms is None else arrival_ms}-*"
    line.entry("readings", {"ts": str(time_ms)}, partition=partition, entry_id=entry_id)


def look(line: Line, now_ms: int) -> StreamTime:
    status = read_status(line.client, line.config, ["readings"])
    return stream_time(status.streams["readings"], horizons_of(line.config, "readings"), now_ms)


def watermark(line: Line) -> dict[str, Any]:
    answer = line.http.get("/v1/streams/readings/watermark")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.get_json()
    return found


def holders(found: StreamTime) -> dict[int, str]:
    return {each.status.state.partition: each.why for each in found.partitions if each.why is not None}


def test_a_stream_that_never_had_an_event_is_held_back_by_every_partition(server: RunningServer) -> None:
    said = watermark(Line(config(), server))

    assert (said["watermark"], said["complete_by"], said["next_tick"]) == (None, None, None)
    assert said["held_back_by"] == [0, 1, 2]
    assert {each["why"] for each in said["partitions"]} == {"no partition has had an event"}


def test_the_answer_names_every_partition_with_its_time(server: RunningServer) -> None:
    line = Line(config(), server)
    start_ms = redis_time_ms(line.client) // (10 * SECOND) * 10 * SECOND
    times_ms = [start_ms + ms for ms in (1_000, 2_000, 3_000)]
    for partition, time_ms in enumerate(times_ms):
        add(line, partition, time_ms)
    line.settle()

    said = watermark(line)

    assert said["stream"] == "readings"
    assert said["watermark"] == start_ms
    assert said["max_watermark"] == start_ms + 2_000
    assert (said["held_back_by"], said["complete_by"]) == ([0], "events")
    assert (said["disorder_ms"], said["idle_after_ms"]) == (DISORDER_MS, 10 * SECOND)
    assert said["next_tick"] == times_ms[2] + 10 * SECOND, "no window waits for partition 0 alone"
    assert said["partitions"][0] == {
        "partition": 0,
        "watermark": start_ms,
        "max_ts": times_ms[0],
        "last_event": times_ms[0],
        "idle_since": None,
        "lag": {"entries": 0, "events": 0, "seconds": 0.0},
        "complete_by": "events",
        "holds_back": True,
        "why": "flows, 2000 ms behind the furthest partition",
    }
    assert [each["holds_back"] for each in said["partitions"]] == [True, False, False]
    listed = line.http.get("/v1/streams").get_json()["streams"][0]["partitions"]
    own = ("idle_since", "complete_by", "holds_back", "why")
    assert [[each[name] for name in own] for each in listed] == [
        [each[name] for name in own] for each in said["partitions"]
    ]


def test_a_single_partition_that_flows_is_behind_the_clock(server: RunningServer) -> None:
    line = Line(Config(streams={"readings": replace(STREAM, partitions=1)}, stages={"counts": COUNTS}), server)
    now_ms = redis_time_ms(line.client)
    add(line, 0, now_ms)
    line.settle()
    assert holders(look(line, now_ms + 500)) == {0: "flows, 1500 ms behind Redis's clock"}


def test_what_the_workers_have_not_read_is_named_as_their_lag(server: RunningServer) -> None:
    line = Line(config(), server)
    now_ms = redis_time_ms(line.client)
    for partition in range(3):
        add(line, partition, now_ms)
    line.settle()
    add(line, 1, now_ms + 1, arrival_ms=now_ms + 1)
    add(line, 1, now_ms + 2, arrival_ms=now_ms + 2)

    assert holders(look(line, now_ms + 100))[1].startswith("worker lag of 2 entries, the oldest for ")


def test_an_unused_partition_says_that_it_follows(server: RunningServer) -> None:
    line = Line(config(), server)
    now_ms = redis_time_ms(line.client)
    add(line, 0, now_ms)
    add(line, 1, now_ms)
    line.settle()
    found = look(line, now_ms)
    assert holders(found) == {2: "never had an event: it follows the others as far as a window waits for it"}
    assert found.next_tick_ms == now_ms, "nothing but a moment to settle is missing"


def test_silence_is_named_with_the_tick_that_is_due(server: RunningServer) -> None:
    line = Line(config(), server)
    base_ms = redis_time_ms(line.client) - MINUTE_MS
    for partition in range(3):
        add(line, partition, base_ms)
    line.settle()

    before, after = look(line, base_ms + 9_999), look(line, base_ms + 12_000)

    assert before.next_tick_ms == base_ms + 10_000
    assert [each.idle_since_ms for each in before.partitions] == [None] * 3
    assert [each.idle_since_ms for each in after.partitions] == [base_ms] * 3
    assert holders(after)[0] == (
        "no event for 12 seconds: time goes on by ticks, the next one in 0 ms if no event comes"
    )


def test_a_silent_stream_whose_windows_have_closed_waits_for_nothing(server: RunningServer) -> None:
    line = Line(config(), server)
    base_ms = redis_time_ms(line.client) - MINUTE_MS
    for partition in range(3):
        add(line, partition, base_ms)
    Housekeeping(line.config, line.client).tick_once(redis_time_ms(line.client))
    line.settle()

    found = look(line, redis_time_ms(line.client))

    assert found.next_tick_ms is None
    assert found.complete_by == "silence"
    assert holders(found)[0].endswith("and no window waits for it")


def test_events_of_long_ago_wait_for_an_end(server: RunningServer) -> None:
    line = Line(config(), server)
    now_ms = redis_time_ms(line.client)
    for partition in range(3):
        add(line, partition, now_ms - 5 * HOUR_MS, arrival_ms=now_ms - MINUTE_MS)
    line.settle()
    found = look(line, now_ms)
    assert 'send {"end": true}' in holders(found)[0]
    assert found.next_tick_ms == now_ms - MINUTE_MS + HOUR_MS


def test_the_next_tick_is_when_the_scheduler_would_write_one() -> None:
    """Given clocks of every kind; then nothing is due before the moment that is said, and something is at it."""
    now_ms = 1_800_000_000_000
    used = PartitionClock(0, "1-0", now_ms - 3_000, now_ms - 3_000, now_ms - 2_500)
    worlds = [
        [used],
        [used, PartitionClock(1)],
        [used, replace(used, partition=1, last_arrival_ms=now_ms - 30_000, max_seen_ms=now_ms - 30_000)],
        [replace(used, last_arrival_ms=now_ms - 50_000, last_tick_ms=now_ms - 7_000)],
        [replace(used, max_ts_ms=now_ms - 3 * HOUR_MS, max_seen_ms=now_ms - 3 * HOUR_MS)],
    ]
    horizons = [Horizon(Tumbling(10 * SECOND))]
    for clocks in worlds:
        due_ms = next_tick_ms(now_ms, POLICY, clocks, horizons)
        settled = [replace(clock, settled_ms=clock.max_seen_ms) for clock in clocks]
        assert due_ms is not None
        assert idle_ticks(due_ms, POLICY, settled, horizons)
        step_ms = max(1, (due_ms - now_ms) // 1_000)
        assert not any(idle_ticks(ms, POLICY, settled, horizons) for ms in range(now_ms, due_ms, step_ms))
    assert next_tick_ms(now_ms, replace(POLICY, idle_after_ms=None), [used], horizons) is None


def test_with_idle_after_none_a_used_partition_holds_and_says_so_and_a_heartbeat_moves_it(
    server: RunningServer,
) -> None:
    """Given one partition that flows, one that stopped a day ago by the scheduler's clock, one never used."""
    line = Line(config(replace(POLICY, idle_after_ms=None)), server)
    housekeeping = Housekeeping(line.config, line.client)
    base_ms = redis_time_ms(line.client) - 5 * MINUTE_MS
    add(line, 1, base_ms)
    for second in range(0, 240, 5):
        add(line, 0, base_ms + second * SECOND)
        housekeeping.tick_once(base_ms + second * SECOND)
    for hour in range(1, 25):
        housekeeping.tick_once(base_ms + hour * HOUR_MS)
    line.settle()

    found = look(line, base_ms + 240 * SECOND)
    group = line.programs["counts"].group
    assert [each.status.state.groups[group].checkpoint.ticks for each in found.partitions] == [0, 0, 1]
    assert line.closed("counts") == []
    assert found.status.watermark_ms == base_ms - DISORDER_MS
    assert holders(found)[1] == (
        "waiting for events; idle_after none (no event for 240 seconds): an event or a heartbeat moves it"
    )
    assert found.next_tick_ms is None

    beat_ms = base_ms + 60 * SECOND
    answer = line.http.post("/v1/streams/readings/time", json={"heartbeat": beat_ms})
    assert answer.status_code == 202, answer.text
    line.settle()

    closed_to_ms = (beat_ms - DISORDER_MS) // (10 * SECOND) * 10 * SECOND
    assert {row["window_end"] for row in line.closed("counts")} == set(
        range(base_ms // (10 * SECOND) * 10 * SECOND + 10 * SECOND, closed_to_ms + 1, 10 * SECOND)
    )
    meta = line.get("counts")["meta"]
    assert (meta["complete_to"], meta["complete_by"]) == (closed_to_ms, "heartbeat")
    assert line.late("counts", 0) == line.late("counts", 1) == []


@pytest.mark.parametrize(("told", "said"), [({"heartbeat": 0}, "heartbeat"), ({"end": True}, "silence")])
def test_an_answer_says_whether_a_heartbeat_or_silence_has_completed_it(
    server: RunningServer, told: dict[str, Any], said: str
) -> None:
    line = Line(config(), server)
    base_ms = (redis_time_ms(line.client) - MINUTE_MS) // (10 * SECOND) * 10 * SECOND
    for partition in range(3):
        add(line, partition, base_ms)
    if "heartbeat" in told:
        told = {"heartbeat": base_ms + 11 * SECOND}
    assert line.http.post("/v1/streams/readings/time", json=told).status_code == 202
    line.settle()

    meta = line.get("counts")["meta"]
    assert (meta["complete_to"], meta["complete_by"]) == (base_ms + 10 * SECOND, said)
    assert watermark(line)["complete_by"] == said


def test_an_event_ahead_of_its_arrival_does_not_pass_for_events_that_came(server: RunningServer) -> None:
    """Given an event four minutes ahead and then silence; then it is silence that has completed the windows."""
    line = Line(config(), server)
    now_ms = redis_time_ms(line.client)
    base_ms = (now_ms - MINUTE_MS) // (10 * SECOND) * 10 * SECOND
    for partition in range(3):
        add(line, partition, base_ms + 3 * MINUTE_MS, arrival_ms=base_ms)
        line.tick("readings", base_ms + 21 * SECOND, partition=partition)
    line.settle()
    assert watermark(line)["complete_by"] == "silence"


def test_the_watermark_of_an_unknown_stream_is_not_found(server: RunningServer) -> None:
    line = Line(config(), server)
    assert line.http.get("/v1/streams/reading/watermark").status_code == 404
    assert line.http.get("/v1/streams/readings/watermark?partition=1").status_code == 400
