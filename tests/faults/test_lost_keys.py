"""Keys of a stage that somebody deletes, at any moment: the numbers are those of the log again, and nothing twice.

Each line is compared with one of the same log (the same entry ids) to which nothing happened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pipeline.core.definitions import (
    Aggregate,
    AggregateSpec,
    Config,
    Field,
    Hopping,
    Session,
    Stream,
    TimePolicy,
    Transform,
    Tumbling,
)
from pipeline.core.partitioning import partition_of
from pipeline.rim import keys, store
from pipeline.runtime import runner as runner_module
from pipeline.runtime.ledger import check_ledger
from pipeline.runtime.scheduler import Housekeeping
from pipeline.runtime.setup import set_up
from pipeline.runtime.stage_groups import stage_groups
from pipeline.runtime.verify import verify
from pipeline.runtime.worker import Worker
from tests.examples import examples
from tests.line import Line
from tests.servers import RunningServer

BASE_MS = 1_700_000_000_000
STREAM = "h"
VALUES = (AggregateSpec("c", "count"), AggregateSpec("total", "sum", "v"), AggregateSpec("p50", "quantile", "v", 0.5))
CONFIG = Config(
    {
        STREAM: Stream(
            STREAM,
            (Field("ts", "timestamp", unit="ms"), Field("user", "string"), Field("v", "float")),
            TimePolicy("ts", disorder_ms=1_000),
            partition_by="user",
            partitions=2,
        )
    },
    {
        "kept": Transform("kept", STREAM, filter="v < 900", publish=True),
        "tumbling": Aggregate("tumbling", "kept", Tumbling(10_000), ("user",), VALUES, allowed_lateness_ms=3_000),
        "hopping": Aggregate("hopping", STREAM, Hopping(30_000, 10_000), (), VALUES),
        "session": Aggregate("session", STREAM, Session(4_000), ("user",), VALUES, allowed_lateness_ms=2_000),
    },
)
METRICS = ("tumbling", "hopping", "session")
GROUPS = stage_groups(CONFIG)
KEYS: dict[str, Callable[[int, str], str]] = {
    "checkpoint": lambda p, g: keys.checkpoint(STREAM, p, g),
    "pane marks": lambda p, g: keys.panes(STREAM, p, g),
    "due panes": lambda p, g: keys.due(STREAM, p, g),
    "live sessions": lambda p, g: keys.live_sessions(STREAM, p, g),
    "late rows": lambda p, g: keys.late(STREAM, p, g),
    "dead letters": lambda p, g: keys.dead(STREAM, p, g),
    "suspects": lambda p, g: keys.suspect(STREAM, p, g),
}
LOST = ("group", "a pane", *KEYS)
Row = dict[str, Any]
Found = tuple[dict[str, list[Row]], list[tuple[int, ...]], list[list[int]]]
NAMED = [f"u{number}" for number in range(20)]
USERS = [[user for user in NAMED if partition_of(user, 2) == partition][:2] for partition in range(2)]
ASIDE = {"late rows", "dead letters"}


def log_of(partition: int) -> list[tuple[int, dict[str, Any]]]:
    """(arrival, entry) of one partition: users come and go, some events are late, some out of order, one is damaged."""
    entries: list[tuple[int, dict[str, Any]]] = []
    for number in range(60):
        ts = BASE_MS + number * 1_500 - (20_000 if number % 13 == 12 else 700 * (number % 3))
        row = {"ts": ts, "user": USERS[partition][number // 7 % 2], "v": 1 + number % 10}
        entries.append((BASE_MS + 100_000 + number, row | ({"v": "x"} if number == 30 else {})))
    return entries


def write(line: Line, begin: int, end: int) -> None:
    for partition in range(2):
        for arrival_ms, entry in log_of(partition)[begin:end]:
            line.entry(STREAM, entry, partition=partition, entry_id=f"{arrival_ms}-1")


def finish(line: Line, worker: Worker) -> None:
    for partition in range(2):
        tick = {"_k": "tick", "t": BASE_MS + 300_000}
        line.entry(STREAM, tick, partition=partition, entry_id=f"{BASE_MS + 400_000}-1")
    poll(line, worker)


def poll(line: Line, worker: Worker) -> None:
    """What the beats and passes of a second do, until nothing changes."""
    for _ in range(3):
        worker._check_places()
        line.settle(worker)


def delete(line: Line, stage: str, partition: int, what: str) -> bool:
    """Delete one of a stage's keys; False when there was none."""
    group = GROUPS[stage]
    if what == "group":
        return bool(line.client.xgroup_destroy(keys.raw(STREAM, partition), group))
    if what == "a pane":
        starts = sorted(store.pane_marks(line.client, STREAM, partition, group))
        return bool(starts) and bool(line.client.delete(keys.pane(STREAM, partition, group, starts[-1])))
    return bool(line.client.delete(KEYS[what](partition, group)))


def answers(line: Line) -> dict[str, list[Row]]:
    """The values of every window and session (how often they were revised may differ), and all published rows."""
    found = {name: [{k: v for k, v in row.items() if k != "revision"} for row in line.closed(name)] for name in METRICS}
    for partition in range(2):
        found[f"kept {partition}"] = line.stream(keys.published_transform(STREAM, partition, "kept"))
    return found


def books(line: Line) -> list[tuple[int, ...]]:
    """What every stage has counted in each partition."""
    found: list[tuple[int, ...]] = []
    for name in GROUPS:
        for partition in range(2):
            at = store.load_checkpoint(line.client, STREAM, partition, GROUPS[name])
            found.append((at.read, at.accepted, at.filtered, at.late, at.dead, at.position))
    return found


def aside(line: Line) -> list[list[int]]:
    """How many late rows and dead letters there are of every stage, by partition."""
    return [
        [line.client.xlen(of(STREAM, p, GROUPS[name])) for of in (keys.late, keys.dead) for p in range(2)]
        for name in GROUPS
    ]


def emptied(server: RunningServer) -> Line:
    server.client.flushall()
    return Line(CONFIG, server)


@pytest.fixture
def server(any_server_in_time: RunningServer) -> RunningServer:
    return any_server_in_time


_expected: dict[str, Found] = {}  # by server: the log is always the same, down to its entry ids


@pytest.fixture
def expected(server: RunningServer) -> Found:
    if server.binary not in _expected:
        line = emptied(server)
        worker = line.worker()
        write(line, 0, 60)
        poll(line, worker)
        finish(line, worker)
        _expected[server.binary] = answers(line), books(line), aside(line)
    return _expected[server.binary]


def is_right(line: Line, expected: Found, damage: object, lost: set[str]) -> None:
    """Right is the log's answer everywhere; rows that were put aside may be gone for good, if it was said."""
    assert answers(line) == expected[0], damage
    assert books(line) == expected[1], damage
    if not lost & ASIDE:
        assert aside(line) == expected[2], damage
        assert check_ledger(line.client, CONFIG).ok, damage
    for report in verify(line.client, CONFIG):
        wrong = [each for each in report.differences if not (lost & ASIDE and each.where in ("late", "dead"))]
        assert report.unchecked or not wrong, (damage, wrong)
        assert line.programs[report.metric].window == Session(4_000) or report.windows > 5, (damage, report)


def deleted(line: Line, stage: str, damage: Sequence[str]) -> set[str]:
    """Delete keys; return those there were. Rows put aside that are gone are in the books at once."""
    found = {what for what in damage if delete(line, stage, 1, what)}
    if found & ASIDE and "checkpoint" not in found:
        sentences = [finding.sentence for finding in check_ledger(line.client, CONFIG).findings]
        assert any("was deleted, with rows that were put aside" in sentence for sentence in sentences)
    return found


SINGLE = [(one,) for one in LOST]
PAIRS = [("group", other) for other in LOST[1:]]
PAIRS += [("checkpoint", "pane marks"), ("checkpoint", "due panes"), ("pane marks", "due panes")]
STAGES = sorted(GROUPS)
# Each key of each stage, and every other pair of one stage: the law below draws pairs, `make faults` tries them all.
DEALT = {stage: [*SINGLE, *PAIRS[number :: 2 * len(STAGES)]] for number, stage in enumerate(STAGES)}
EVERY = {stage: [*SINGLE, *PAIRS] for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("restarts", "damages"),
    [
        pytest.param(False, DEALT, id="running"),
        pytest.param(False, EVERY, id="running, every pair", marks=pytest.mark.slow),
        pytest.param(True, EVERY, id="restarted", marks=pytest.mark.slow),
    ],
)
def test_any_one_or_two_lost_keys_of_a_stage_are_made_good_from_the_log(
    server: RunningServer,
    expected: Found,
    stage: str,
    restarts: bool,
    damages: dict[str, list[tuple[str, ...]]],
) -> None:
    for damage in damages[stage]:
        line = emptied(server)
        worker = line.worker()
        write(line, 0, 35)
        poll(line, worker)

        lost = deleted(line, stage, damage)
        if restarts:
            worker.drain()
            set_up(line.client, CONFIG)
            worker = line.worker("the next")
        write(line, 35, 60)
        poll(line, worker)
        finish(line, worker)

        is_right(line, expected, damage, lost)


@settings(max_examples=examples(8, whole=40), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    stage=st.sampled_from(sorted(GROUPS)),
    damage=st.lists(st.sampled_from(LOST), min_size=1, max_size=2, unique=True),
    cuts=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    at=st.integers(0, 60),
    restarts=st.booleans(),
    unseen=st.booleans(),
)
def test_keys_may_be_lost_at_any_moment(
    server: RunningServer,
    expected: Found,
    stage: str,
    damage: list[str],
    cuts: list[int],
    at: int,
    restarts: bool,
    unseen: bool,
) -> None:
    line = emptied(server)
    worker = line.worker()
    places, lost = sorted({*cuts, at, 60}), set[str]()
    begin = 0
    for place in places:
        write(line, begin, place)
        begin = place
        if place == at:
            worker.poll_once()
            lost = deleted(line, stage, damage)
            if restarts:
                worker.drain()
                set_up(line.client, CONFIG)
                worker = line.worker("the next")
        if not unseen:
            poll(line, worker)
    poll(line, worker)
    finish(line, worker)

    is_right(line, expected, (stage, damage, places, at), lost)


# --- one stage's keys are no matter of the others


def said(logged: Sequence[Any], event: str) -> list[Any]:
    return [entry for entry in logged if event in entry["event"]]


def test_a_lost_group_is_made_again_at_the_checkpoint_and_it_is_said(server: RunningServer, expected: Found) -> None:
    line = emptied(server)
    worker = line.worker()
    write(line, 0, 35)
    poll(line, worker)
    before = store.load_checkpoint(line.client, STREAM, 1, GROUPS["tumbling"])

    line.client.xgroup_destroy(keys.raw(STREAM, 1), GROUPS["tumbling"])
    with capture_logs() as logged:
        set_up(line.client, CONFIG)
        poll(line, worker)

    [warning] = said(logged, "made again at the checkpoint")
    assert (warning["group"], warning["key"]) == (GROUPS["tumbling"], "{h.1}:raw")
    assert not said(logged, "rebuilding")
    after = store.load_checkpoint(line.client, STREAM, 1, GROUPS["tumbling"])
    assert (after.read, after.commit) == (before.read, before.commit)
    write(line, 35, 60)
    poll(line, worker)
    finish(line, worker)
    is_right(line, expected, "group", set())


@pytest.mark.parametrize("what", ["checkpoint", "pane marks", "due panes", "dead letters"])
def test_a_key_that_holds_something_else_stops_its_stage_and_no_other(
    server: RunningServer, expected: Found, what: str
) -> None:
    # Given a stage of which a key is somebody's string, at a start and while it runs
    line = emptied(server)
    worker = line.worker()
    write(line, 0, 25)
    poll(line, worker)
    worker.drain()
    foreign = KEYS[what](1, GROUPS["tumbling"])
    line.client.set(foreign, "mine")

    # When everything starts again, and goes on
    with capture_logs() as logged:
        set_up(line.client, CONFIG)
        worker = line.worker("the next")
        write(line, 25, 60)
        for _ in range(5):
            worker.poll_once()
            worker._check_places()

    # Then the log names the stage and the partition, and the other stages have counted all of it
    resting = said(logged, "stage rests")
    assert {(entry["stage"], entry["partition"]) for entry in resting} == {("tumbling", 1)}
    for name, group in GROUPS.items():
        for partition in range(2):
            if (name, partition) != ("tumbling", 1):
                assert store.load_checkpoint(line.client, STREAM, partition, group).read == 60

    # And when the key is gone, the stage is right again by itself
    line.client.delete(foreign)
    for work in worker._work.values():
        for runner in work.runners:
            runner.resting_until_s = 0.0
    poll(line, worker)
    finish(line, worker)
    is_right(line, expected, what, {what})


def test_windows_that_have_expired_do_not_come_back_in_part(server: RunningServer) -> None:
    """The other partitions' panes of them are gone: what one partition knows of an expired window is not its answer."""
    line = emptied(server)
    worker = line.worker()
    write(line, 0, 60)
    poll(line, worker)
    finish(line, worker)
    later_ms = store.redis_time_ms(line.client) + CONFIG.aggregates()[0].retention_ms + 1
    assert Housekeeping(CONFIG, line.client).expire_once(later_ms).results > 0
    assert line.closed("tumbling") == line.closed("hopping") == []

    for name in ("tumbling", "hopping"):
        line.client.delete(keys.checkpoint(STREAM, 1, GROUPS[name]))
    poll(line, worker)

    assert line.closed("tumbling") == line.closed("hopping") == []
    for report in verify(line.client, CONFIG):
        assert not report.differences, report


def rebuilds(logged: Sequence[Any]) -> set[tuple[str, int]]:
    return {(entry["stage"], entry["partition"]) for entry in said(logged, "rebuilding")}


@pytest.mark.parametrize(
    ("stage", "what"),
    [("tumbling", "pane marks"), ("hopping", "due panes"), ("hopping", "a pane"), ("session", "live sessions")],
)
def test_a_commit_does_not_fill_a_deleted_key_again_with_a_part_of_it(
    server: RunningServer, expected: Found, stage: str, what: str
) -> None:
    line = emptied(server)
    worker = line.worker()
    write(line, 0, 35)
    poll(line, worker)

    assert delete(line, stage, 1, what)
    write(line, 35, 60)
    with capture_logs() as logged:
        line.settle(worker)  # no beat comes in between that would look

    assert rebuilds(logged) == {(stage, 1)}
    finish(line, worker)
    is_right(line, expected, what, set())


def test_a_stage_that_rested_goes_on_when_nothing_more_comes(
    server: RunningServer, expected: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner_module, "REST_S", 0.0)
    line = emptied(server)
    worker = line.worker()
    write(line, 0, 60)
    poll(line, worker)
    finish(line, worker)
    key = KEYS["live sessions"](1, GROUPS["session"])
    assert not line.client.exists(key)
    line.client.set(key, "mine")
    with capture_logs() as logged:
        worker._check_places()
    assert [entry["stage"] for entry in said(logged, "stage rests")] == ["session"]

    line.client.delete(key)
    line.settle(worker)

    runners = [runner for work in worker._work.values() for runner in work.runners]
    assert all(runner.state is not None for runner in runners)
    is_right(line, expected, "live sessions", set())


@pytest.mark.parametrize(
    ("stage", "what"), [("tumbling", "due panes"), ("hopping", "pane marks"), ("session", "live sessions")]
)
def test_a_key_that_is_deleted_when_nothing_more_comes_is_missed_by_the_next_look(
    server: RunningServer, expected: Found, stage: str, what: str
) -> None:
    line = emptied(server)
    worker = line.worker()
    write(line, 0, 35)
    poll(line, worker)
    assert delete(line, stage, 1, what)

    with capture_logs() as logged:
        poll(line, worker)

    assert rebuilds(logged) == {(stage, 1)}
    write(line, 35, 60)
    poll(line, worker)
    finish(line, worker)
    is_right(line, expected, what, set())


def test_a_window_is_not_published_without_a_pane_that_was_counted(server: RunningServer, expected: Found) -> None:
    line = emptied(server)
    worker = line.worker()
    write(line, 0, 60)
    poll(line, worker)
    group = GROUPS["tumbling"]
    start = max(store.due_panes(line.client, STREAM, 2, group)[1])  # of the window that is still open

    line.client.delete(keys.pane(STREAM, 1, group, start))
    for partition in range(2):
        tick = {"_k": "tick", "t": BASE_MS + 300_000}
        line.entry(STREAM, tick, partition=partition, entry_id=f"{BASE_MS + 400_000}-1")
    line.settle(worker)

    assert start not in {row["window_start"] for row in line.closed("tumbling")}
    assert store.load_checkpoint(line.client, STREAM, 1, group).torn
    poll(line, worker)
    is_right(line, expected, "a pane", set())


# --- the lists of a metric's results

LISTS: dict[str, Callable[[str, str], str]] = {"by end": keys.windows, "by age": keys.ages}


@pytest.mark.parametrize("stage", METRICS)
@pytest.mark.parametrize("lost", [("by end",), ("by age",), ("by end", "by age")], ids=" and ".join)
def test_a_deleted_list_of_results_is_made_again(
    server: RunningServer, expected: Found, stage: str, lost: tuple[str, ...]
) -> None:
    line = emptied(server)
    worker = line.worker()
    write(line, 0, 35)
    poll(line, worker)
    version = GROUPS[stage].partition("@")[2]
    lists = [of(stage, version) for of in LISTS.values()]
    before = [line.client.zrange(key, 0, -1, withscores=True) for key in lists]
    for what in lost:
        assert line.client.delete(LISTS[what](stage, version))

    housekeeping = Housekeeping(CONFIG, line.client)
    with capture_logs() as logged:
        housekeeping.ledger_once()

    [restored] = said(logged, "missing in a list")
    assert (restored["stage"], restored["results"]) == (stage, len(before[0]))
    assert [line.client.zrange(key, 0, -1, withscores=True) for key in lists] == before
    assert housekeeping.restore_lists_once() == 0
    write(line, 35, 60)
    poll(line, worker)
    finish(line, worker)
    is_right(line, expected, lost, set())
