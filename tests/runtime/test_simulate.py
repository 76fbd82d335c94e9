"""Simulated events: the same seed makes the same ones, late and doubled as real ones are."""

from __future__ import annotations

import json
from itertools import islice, pairwise
from statistics import mean

import pytest

from pipeline.core.definitions import DAY_MS
from pipeline.errors import StreamgaugeError
from pipeline.runtime.door import SendResult, StreamView, UnavailableError
from pipeline.runtime.simulate import SIMULATIONS, Simulated, simulate_stream
from pipeline.runtime.simulate_send import Simulation, run_simulation, wait_for_streams

START_MS = 1_700_000_000_000


def some(
    stream: str, count: int = 20_000, *, seed: int = 1, start_ms: int = START_MS, rate: float = 100
) -> list[Simulated]:
    return list(islice(simulate_stream(stream, seed, start_ms, rate), count))


class Door:
    """Takes rows, except while it is away."""

    def __init__(self) -> None:
        self.rows: list[dict[str, object]] = []
        self.keys: list[str] = []
        self.away = 0

    def stream(self, name: str) -> StreamView:
        if self.away:
            self.away -= 1
            raise UnavailableError("no answer")
        return StreamView(name)

    def post_rows(self, stream: str, body: bytes, count: int, key: str, *, backfill: bool = False) -> SendResult:
        if self.away:
            self.away -= 1
            raise UnavailableError("no answer")
        self.rows += [json.loads(line) for line in body.splitlines()]
        self.keys.append(key)
        return SendResult(accepted=count)

    def end(self, stream: str) -> None:
        raise AssertionError("a simulation does not end a stream")


@pytest.mark.parametrize("stream", SIMULATIONS)
def test_the_same_seed_and_start_make_the_same_events(stream: str) -> None:
    assert some(stream, 500) == some(stream, 500)
    assert some(stream, 500) != some(stream, 500, seed=2)


@pytest.mark.parametrize("stream", SIMULATIONS)
def test_events_come_at_the_rate_asked_for_and_never_before_they_happen(stream: str) -> None:
    events = some(stream)
    assert events[-1].at_ms == START_MS + 199_990
    assert all(event.row["ts"] < event.at_ms for event in events)


@pytest.mark.parametrize("stream", SIMULATIONS)
def test_a_few_are_late_fewer_too_late_and_some_come_twice(stream: str) -> None:
    events = some(stream)
    delays = [event.at_ms - event.row["ts"] for event in events]
    doubles = sum(a.row == b.row for a, b in pairwise(events))
    assert mean(delay > 500 for delay in delays) == pytest.approx(0.022, abs=0.005)
    assert mean(delay > 5_500 for delay in delays) == pytest.approx(0.002, abs=0.0015)
    assert doubles / len(events) == pytest.approx(0.005, abs=0.002)


def test_temperature_follows_the_day_and_humidity_opposes_it() -> None:
    day = some("sensors", rate=20_000 / (DAY_MS / 1000), start_ms=START_MS // DAY_MS * DAY_MS)
    one = [event.row for event in day if event.row["sensor"] == "m01"]
    morning = [row for row in one if row["ts"] % DAY_MS < DAY_MS // 2]
    evening = [row for row in one if row["ts"] % DAY_MS >= DAY_MS // 2]
    assert mean(r["temperature"] for r in morning) > mean(r["temperature"] for r in evening) + 5
    assert mean(r["humidity"] for r in morning) < mean(r["humidity"] for r in evening) - 5


def test_visitors_have_bots_among_them() -> None:
    agents = [event.row["agent"] for event in some("pageviews")]
    assert mean("bot" in agent.lower() for agent in agents) == pytest.approx(0.12, abs=0.02)


def test_what_is_due_is_sent_and_nothing_else() -> None:
    door = Door()
    simulation = Simulation(door, ["sensors"], 100, 1, START_MS, print)
    assert simulation.poll_once(START_MS) == 1
    assert simulation.poll_once(START_MS + 99) == 9
    assert simulation.poll_once(START_MS + 99) == 0
    assert door.rows == [dict(event.row) for event in some("sensors", 10)]
    assert len(set(door.keys)) == len(door.keys) == 2


def test_a_simulation_outlives_an_api_that_goes_away() -> None:
    door, said = Door(), list[str]()
    simulation = Simulation(door, ["sensors"], 100, 1, START_MS, said.append)
    simulation.poll_once(START_MS + 99)
    door.away = 2
    for beat in range(2, 6):
        simulation.poll_once(START_MS + beat * 100 - 1)
    assert (len(door.rows), simulation.result.accepted, simulation.dropped) == (30, 30, 20)
    assert [line.partition(" ")[0] for line in said] == ["no", "The"], "said once when it went, once when it was back"


def test_a_simulation_runs_for_its_seconds() -> None:
    door, now = Door(), [START_MS]

    def sleep(seconds: float) -> None:
        now[0] += round(seconds * 1000)

    simulation = Simulation(door, ["sensors", "pageviews"], 100, 1, START_MS, print)
    run_simulation(simulation, 2, clock_ms=lambda: now[0], sleep=sleep)
    assert len(door.rows) == 200
    assert now[0] == START_MS + 2_000


def test_it_waits_for_the_api_but_not_for_a_stream_that_is_not_there() -> None:
    door, naps, said = Door(), list[float](), list[str]()
    door.away = 3
    wait_for_streams(door, ["sensors"], said.append, naps.append)
    assert len(naps) == 3
    assert len(said) == 1

    class Empty(Door):
        def stream(self, name: str) -> StreamView:
            raise StreamgaugeError(f"there is no stream {name!r}")

    with pytest.raises(StreamgaugeError, match="no stream 'sensors'"):
        wait_for_streams(Empty(), ["sensors"], said.append, naps.append)
