"""What users of the neighbours complain about (FACTS 26, 27): time that stands still, runs away, or makes things late.

Each complaint is a stream over minutes on a simulated clock, through the whole line: windows close while time passes,
no event that came in time is late, and every count equals what was sent.
"""

from __future__ import annotations

from random import Random

import pytest

from pipeline.core.definitions import (
    DAY_MS,
    MINUTE_MS,
    Aggregate,
    AggregateSpec,
    Config,
    Field,
    Stream,
    TimePolicy,
    Tumbling,
)
from pipeline.core.watermarks import FOLLOW_EVERY_MS, SETTLE_MS
from pipeline.runtime.scheduler import Housekeeping
from tests.line import Line
from tests.servers import RunningServer, wait_for
from tests.simulation import STEP_MS, Simulation

SECOND = 1_000
WINDOW_MS = 10 * SECOND
NOW = 1_800_000_000_000  # a multiple of five minutes
COUNTS = Aggregate("counts", "readings", Tumbling(WINDOW_MS), (), (AggregateSpec("n", "count"),))
FOLLOWED_MS = SETTLE_MS + FOLLOW_EVERY_MS + STEP_MS  # an idle partition is behind those it follows by at most this


def simulation(
    server: RunningServer, partitions: int, *, disorder_ms: int = SECOND, idle_after_ms: int = 10 * SECOND
) -> Simulation:
    policy = TimePolicy(field="ts", disorder_ms=disorder_ms, idle_after_ms=idle_after_ms)
    stream = Stream("readings", (Field("ts", "timestamp", unit="ms"),), policy, partitions=partitions)
    return Simulation(Line(Config(streams={"readings": stream}, stages={"counts": COUNTS}), server), NOW)


def test_one_partition_is_silent(server: RunningServer) -> None:
    """Given three partitions, of which one falls silent for three minutes and then speaks again."""
    sim = simulation(server, 3)

    def flow() -> None:
        sim.event(0)
        sim.event(1, behind_ms=300)

    sim.event(2)
    sim.run(8 * SECOND, flow)
    assert sim.closed() == {}, "it may be pausing"
    for _ in range(6):
        sim.run(30 * SECOND, flow)
        closed_to_ms = sim.closed_to_ms()
        # the follower is ticked when a window waits for it, and the disorder bound and a second's rest are behind that
        assert closed_to_ms >= sim.now_ms - SECOND - FOLLOWED_MS - 300 - WINDOW_MS
        assert sim.closed() == sim.expected(closed_to_ms)
    sim.event(2)
    sim.event(2, behind_ms=800)
    sim.run(MINUTE_MS, flow)
    sim.run(MINUTE_MS)

    assert sim.closed() == sim.expected()
    assert sim.late() == []
    ticks = [entry for entry in sim.line.stream("{readings.2}:raw") if entry.get("_k") == "tick"]
    assert {entry["by"] for entry in ticks[:-4]} == {"follow"}


def test_one_timestamp_is_four_minutes_ahead(server: RunningServer) -> None:
    """Given a clock typo within `max_future`: it counts in its own window, and makes nothing late meanwhile."""
    sim = simulation(server, 2)

    def flow() -> None:
        sim.event(0)
        sim.event(1, behind_ms=900)

    sim.run(MINUTE_MS, flow)
    ahead_ms = sim.now_ms + 4 * MINUTE_MS
    sim.upload(0, [ahead_ms])
    for _ in range(8):
        sim.run(15 * SECOND, flow)
        assert sim.now_ms - SECOND - 900 - WINDOW_MS <= sim.closed_to_ms() <= sim.now_ms
        assert sim.closed() == sim.expected(sim.closed_to_ms())
    assert ahead_ms // WINDOW_MS * WINDOW_MS not in sim.closed(), "its window has not come yet"
    sim.run(6 * MINUTE_MS, flow)
    sim.run(MINUTE_MS)

    assert sim.closed() == sim.expected()
    assert sim.late() == []


def test_one_timestamp_is_four_minutes_ahead_of_a_stream_that_then_stops(server: RunningServer) -> None:
    """Silence closes the windows as the clock goes on: the last one when its time has come, not at once."""
    sim = simulation(server, 1)
    sim.event(0)
    ahead_ms = sim.now_ms + 4 * MINUTE_MS
    sim.upload(0, [ahead_ms])
    sim.run(3 * MINUTE_MS)
    assert sim.closed() == {NOW: 1}
    sim.run(4 * MINUTE_MS)
    assert sim.closed() == sim.expected()
    assert sim.line.get("counts")["meta"]["complete_by"] == "silence"


def test_a_stream_stops(server: RunningServer) -> None:
    """Then its last window closes: after `idle_after`, and as soon as silence is long enough to say that it is over."""
    sim = simulation(server, 4)

    def flow() -> None:
        sim.event(0)
        sim.event(1)

    sim.run(35 * SECOND, flow)
    stopped_ms = sim.now_ms
    assert sim.closed_to_ms() < stopped_ms
    sim.run(9 * SECOND)
    assert sim.closed() == sim.expected(NOW + 30 * SECOND), "it may be pausing"

    sim.run(11 * SECOND)

    assert sim.now_ms == stopped_ms + 20 * SECOND
    assert sim.closed() == sim.expected()
    assert sim.late() == []
    assert sim.line.get("counts")["meta"]["complete_by"] == "silence"
    length = sum(sim.line.client.xlen(f"{{readings.{partition}}}:raw") for partition in range(4))
    sim.run(10 * MINUTE_MS)
    after = sum(sim.line.client.xlen(f"{{readings.{partition}}}:raw") for partition in range(4))
    assert after == length, "a stream whose windows have closed is left alone"


def test_a_stream_stops_and_begins_again_and_nothing_of_it_is_late(server: RunningServer) -> None:
    sim = simulation(server, 2)
    random = Random(3)
    for _ in range(5):
        sim.run(25 * SECOND, lambda: sim.event(random.randrange(2), behind_ms=random.randrange(900)))
        sim.run(random.choice((12, 31, 95)) * SECOND)
    sim.run(MINUTE_MS)
    assert sim.closed() == sim.expected()
    assert sim.late() == []


@pytest.mark.parametrize("ago_ms", [DAY_MS, pytest.param(365 * DAY_MS, marks=pytest.mark.slow)])
def test_a_stream_is_replayed_at_a_tenth_of_its_speed_as_it_was_and_at_full_speed(
    server: RunningServer, ago_ms: int
) -> None:
    """Given four minutes of history, out of order within the bound; then the same windows, and nothing is late."""
    random = Random(5)
    history = [
        (partition, NOW - ago_ms + second * SECOND - random.randrange(3 * SECOND))
        for second in range(0, 240, 2)
        for partition in (0, 1)
    ]
    first_ms = history[0][1]
    outcomes = []
    for speed in (0.1, 1.0, None):
        server.client.flushall()
        sim = simulation(server, 3, disorder_ms=3 * SECOND)
        rest = list(history)

        def send(sim: Simulation = sim, rest: list[tuple[int, int]] = rest, speed: float | None = speed) -> None:
            due_ms = None if speed is None else (sim.now_ms - NOW) * speed
            while rest and (due_ms is None or rest[0][1] - first_ms <= due_ms):
                partition, time_ms = rest.pop(0)
                sim.upload(partition, [time_ms])

        sim.run(round(244 * SECOND / (speed or 1.0)), send)
        assert rest == []
        sim.run(2 * MINUTE_MS)
        assert sim.closed() != sim.expected(), "history is not ended by silence"
        sim.end()
        assert sim.late() == []
        assert sim.closed() == sim.expected()
        outcomes.append(sim.closed())
    assert outcomes[0] == outcomes[1] == outcomes[2]


UPLOAD_MS = 5 * MINUTE_MS
PHASE_MS = 4 * SECOND  # uploads fall into the middle of a window: half of it comes five minutes after the other half


def uploaded(sim: Simulation, partition: int) -> None:
    """What a gateway has collected since its last upload, one reading a second, the newest a second old."""
    if (sim.now_ms - NOW - PHASE_MS) % UPLOAD_MS == 0:
        sim.upload(partition, range(sim.now_ms - UPLOAD_MS, sim.now_ms, SECOND))


def test_a_gateway_uploads_every_five_minutes_alone_in_its_stream_with_idle_after_6m(server: RunningServer) -> None:
    """Given three uploads and then none; then each closes what the one before it opened, and silence the last."""
    sim = simulation(server, 2, idle_after_ms=6 * MINUTE_MS)
    rest_ms = 2 * SECOND  # the partition that was never used follows when a window waits for it
    sim.run(PHASE_MS + rest_ms)
    for number in range(1, 4):
        sim.run(UPLOAD_MS, lambda: uploaded(sim, 1))
        assert sim.closed() == sim.expected(NOW + number * UPLOAD_MS)
    assert sim.late() == []
    sim.run(6 * MINUTE_MS - rest_ms - STEP_MS)
    assert len(sim.closed()) == len(sim.expected()) - 1, "it may be pausing"
    sim.run(2 * SECOND)
    assert sim.closed() == sim.expected()
    assert sim.line.get("counts")["meta"]["complete_by"] == "silence"


def test_with_an_idle_after_below_its_pause_the_same_gateway_is_late_and_the_skew_report_says_why(
    server: RunningServer,
) -> None:
    """The setting is what makes the test before this one pass."""
    sim = simulation(server, 2, idle_after_ms=10 * SECOND)
    sim.run(2 * UPLOAD_MS + 2 * PHASE_MS, lambda: uploaded(sim, 1))
    sim.closed()
    said = sim.line.http.get("/v1/streams/readings/skew").get_json()

    assert (said["idle_after"]["holds"], said["idle_after"]["needed_ms"]) == (False, UPLOAD_MS)
    assert {row["window_start"] for row in sim.late()} == {str(NOW), str(NOW + UPLOAD_MS)}


@pytest.mark.parametrize(
    "partition",
    [
        pytest.param(0, id="in a partition that flows"),
        pytest.param(1, id="another", marks=pytest.mark.slow),
        pytest.param(2, id="in one of its own"),
    ],
)
def test_a_gateway_uploads_every_five_minutes_beside_others_with_disorder_5m(
    server: RunningServer, partition: int
) -> None:
    sim = simulation(server, 3, disorder_ms=5 * MINUTE_MS)

    def flow() -> None:
        sim.event(0)
        sim.event(1, behind_ms=700)
        uploaded(sim, partition)

    for _ in range(4):
        sim.run(4 * MINUTE_MS, flow)
        closed_to_ms = sim.closed_to_ms()
        assert closed_to_ms >= sim.now_ms - 5 * MINUTE_MS - FOLLOWED_MS - 700 - WINDOW_MS
        assert sim.closed() == sim.expected(closed_to_ms)
        assert sim.late() == []
    sim.run(8 * MINUTE_MS)

    assert sim.closed() == sim.expected()
    assert sim.late() == []
    assert sim.line.http.get("/v1/streams/readings/skew").get_json()["disorder"]["holds"] is True


def test_on_the_real_clock_a_silent_partition_and_a_stop_close_their_windows(server: RunningServer) -> None:
    """The same scaled to milliseconds: over HTTP, with the scheduler's own ticks, as fast as time goes."""
    policy = TimePolicy(field="ts", disorder_ms=50, idle_after_ms=300)
    stream = Stream("readings", (Field("ts", "timestamp", unit="ms"),), policy, partitions=3)
    stage = Aggregate("counts", "readings", Tumbling(200), (), (AggregateSpec("n", "count"),))
    line = Line(Config(streams={"readings": stream}, stages={"counts": stage}), server)
    housekeeping, worker = Housekeeping(line.config, line.client), line.worker()
    sent = 0

    def step() -> None:
        housekeeping.tick_once()
        worker.poll_once()
        for _ in line.close():
            pass

    def send_one() -> bool:
        nonlocal sent
        clock = line.client.time()
        now_ms = int(clock[0]) * 1_000 + int(clock[1]) // 1_000
        line.post("readings", {"ts": now_ms})  # spread: the partitions take turns, and one is left out of the last
        sent += 1
        step()
        return any(row["n"] for row in line.closed("counts"))

    wait_for(send_one, "a window to close while events flow")

    def all_closed() -> bool:
        step()
        return sent == sum(int(row["n"]) for row in line.closed("counts"))

    wait_for(all_closed, "silence to close the last window")
    assert [row for partition in range(3) for row in line.late("counts", partition)] == []
    assert line.get("counts")["meta"]["complete_by"] == "silence"
