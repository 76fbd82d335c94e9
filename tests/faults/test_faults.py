"""Real processes, killed, paused and restarted while events come in: no event is lost, doubled, or published twice.

The short storm runs with every `make test`, the long one with `make faults`. Both are held against the producer's own
record and against a recount of the raw log by plain Python.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.rim import keys, store
from pipeline.runtime.answer import Row
from pipeline.runtime.metric_query import MetricQuery
from pipeline.runtime.query import Metrics
from pipeline.runtime.verify_report import MetricReport
from tests.faults.harness import BASE_MS, DISORDER_MS, METRIC, RARE, STAYS, STAYS_RULE, STREAM, Storm
from tests.faults.model import Cells, Model, Sessions, read_log, read_sessions, rows_of
from tests.servers import RunningServer, wait_for

Plan = list[tuple[float, Callable[[], object]]]
MANY = 10_000_000


# --- the storms


@pytest.mark.faults
def test_killed_and_paused_workers_and_a_killed_server_change_no_number(
    storm_server: RunningServer, tmp_path: Path
) -> None:
    under_way: list[MetricReport] = []
    with Storm(storm_server, tmp_path, partitions=4, rate=6_000) as storm:
        kills: Plan = [(at_s, storm.kill_worker) for at_s in (1.0, 3.0, 5.0, 7.0, 9.0)]
        looks: Plan = [(at_s, lambda: under_way.extend(storm.verified())) for at_s in (3.2, 7.2)]
        storm.run([*kills, *looks, (0.5, storm.pause_worker), (4.0, storm.kill_server), (10.0, do_nothing)])
        version = storm.group.partition("@")[2]
        wait_for(lambda: bool(storm.client.exists(keys.windows(METRIC, version))), "a window to be published")
        under_way += storm.verified()
        storm.settle()

    assert [report.differences for report in under_way] == [[]] * 6, "verify is safe while the pipeline runs"
    windows, sessions = under_way[-2:]
    assert windows.windows > 0
    assert sessions.windows + sessions.pending + sessions.live_sessions + sessions.moved > 0
    assert storm.producer.sent >= 50_000
    assert retracted(storm) > 0, "late events extended and merged sessions that were published"
    assert_nothing_lost_or_doubled(storm)
    assert_answers_are_what_the_log_says(storm)


@pytest.mark.faults
def test_after_a_rollback_of_the_server_the_answers_are_those_of_the_log_that_survived(
    storm_server: RunningServer, tmp_path: Path
) -> None:
    with Storm(storm_server, tmp_path, partitions=4, rate=6_000, seed=2) as storm:
        storm.run([(2.0, storm.roll_back_server), (3.0, storm.kill_worker), (5.0, storm.roll_back_server)])
        storm.settle()

    assert_answers_are_what_the_log_says(storm)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_long_storm_changes_no_number(
    storm_server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Storm(storm_server, tmp_path, partitions=8, rate=22_000, seed=3) as storm:
        kills: Plan = [(1.0 + 1.5 * number, storm.kill_worker) for number in range(25)]
        pauses: Plan = [(2.0 + 7.0 * number, storm.pause_worker) for number in range(5)]
        storm.run([*kills, *pauses, (12.2, storm.kill_server), (27.2, storm.kill_server)])
        storm.settle()
    with capsys.disabled():
        print(figures(storm))

    assert (storm.fleet.kills, storm.pauses, storm.server_kills) == (25, 5, 2)
    assert storm.producer.sent >= 300_000
    assert storm.producer.sent / storm.producer.seconds >= 20_000
    assert_nothing_lost_or_doubled(storm)
    assert_answers_are_what_the_log_says(storm)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [4, 5, 6])
def test_a_long_storm_with_rollbacks_answers_what_the_surviving_log_says(
    storm_server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    with Storm(storm_server, tmp_path, partitions=4, rate=22_000, seed=seed) as storm:
        kills: Plan = [(1.0 + 2.0 * number, storm.kill_worker) for number in range(6)]
        storm.run([*kills, (0.5, storm.pause_worker), (4.1, storm.roll_back_server), (9.2, storm.roll_back_server)])
        storm.settle()
    with capsys.disabled():
        print(figures(storm))

    assert len(storm.log_cut_bytes) == 2
    assert_answers_are_what_the_log_says(storm)


def do_nothing() -> None:
    """The end of a plan: events keep coming until then."""


# --- what must hold


def assert_nothing_lost_or_doubled(storm: Storm) -> None:
    """Every event that was answered is in the log once, and the doors add up."""
    logged = Counter(numbers_in_log(storm))
    sent = range(storm.producer.sent)
    assert [number for number in sent if number not in logged] == [], "events lost"
    assert {number: times for number, times in logged.items() if times > 1} == {}, "events doubled"
    assert len(logged) == len(sent), "events that nobody sent"
    for partition in range(storm.partitions):
        door = {n.decode(): int(v) for n, v in doors(storm, partition).items() if b"_id" not in n}
        assert door["received"] == door["stored"] + door["duplicate"] + door["rejected"]


def assert_answers_are_what_the_log_says(storm: Storm) -> None:
    model = read_log(storm.client, STREAM, storm.partitions, disorder_ms=DISORDER_MS)
    assert model.cells, "the log is empty"
    assert differences(answered(storm), model.cells) == {}
    assert_downstream_is_what_was_published(storm, model)
    sessions = read_sessions(storm.client, STREAM, storm.partitions, STAYS_RULE)
    assert differences(answered_sessions(storm), sessions) == {}
    compared = {METRIC: len({start for start, _ in model.cells}), STAYS: len(sessions)}
    for report in storm.verified():
        assert (report.unchecked, report.differences, report.pending) == (None, [], 0)
        assert report.windows == compared.pop(report.metric)
        assert report.live_sessions == 0
    assert not compared
    for partition in range(storm.partitions):
        ledger = store.load_checkpoint(storm.client, STREAM, partition, storm.group)
        counted = (ledger.read, ledger.accepted, ledger.filtered, ledger.late, ledger.dead)
        assert counted == model.ledgers[partition], f"ledger of partition {partition}"
        assert late_rows(storm, partition) == model.late[partition], f"late rows of partition {partition}"
        assert rare_rows(storm, partition) == model.rare[partition], f"published rows of partition {partition}"
        assert not storm.client.exists(keys.dead(STREAM, partition, storm.group))


def assert_downstream_is_what_was_published(storm: Storm, model: Model) -> None:
    """No row twice with the same revision, and the newest revision of each is the result."""
    rows = [row for _, row in rows_of(storm.client, keys.rows(METRIC))]
    sent = Counter((int(row[b"window_start"]), row[b"g"].decode(), int(row[b"revision"])) for row in rows)
    assert {row: times for row, times in sent.items() if times > 1} == {}, "published twice with one revision"
    newest: Cells = {}
    for row in sorted(rows, key=lambda row: int(row[b"revision"])):
        newest[int(row[b"window_start"]), row[b"g"].decode()] = (int(row[b"n"]), int(row[b"sum_k"]))
    assert differences(newest, model.cells) == {}


def differences(found: Mapping[Any, Any], expected: Mapping[Any, Any]) -> dict[Any, Any]:
    """What differs, as (window start, group) → (found, expected)."""
    every = found.keys() | expected.keys()
    return {key: (found.get(key), expected.get(key)) for key in sorted(every) if found.get(key) != expected.get(key)}


def answered(storm: Storm) -> Cells:
    """What the product answers, over every window; all of them closed."""
    query = MetricQuery(METRIC, start_ms=BASE_MS - 100_000, end_ms=BASE_MS + MANY, limit=MANY)
    rows = Metrics(storm.config, storm.client).query(query).rows
    assert {row["state"] for row in rows} == {"final"}
    return {(row["window_start"], row["g"]): (row["n"], row["sum_k"]) for row in rows}


def answered_sessions(storm: Storm) -> Sessions:
    """The sessions that the product answers; all of them final."""
    metrics, found = Metrics(storm.config, storm.client), list[Row]()
    for start_ms in range(BASE_MS - 100_000, BASE_MS + 2 * storm.producer.sent, 60_000):  # an answer has its limits
        found += metrics.query(MetricQuery(STAYS, start_ms=start_ms, end_ms=start_ms + 60_000, limit=MANY)).rows
    assert {row["state"] for row in found} == {"final"}
    return {(row["u"], row["first"], row["last"]): (row["n"], row["sum_k"]) for row in found}


def numbers_in_log(storm: Storm) -> list[int]:
    bodies = [
        fields[b"body"]
        for partition in range(storm.partitions)
        for _, fields in rows_of(storm.client, keys.raw(STREAM, partition))
        if fields[b"_k"] == b"chunk"
    ]
    return [json.loads(line)["k"] for body in bodies for line in body.splitlines()]


def doors(storm: Storm, partition: int) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = storm.client.execute_command("HGETALL", keys.door(STREAM, partition))
    return found


def late_rows(storm: Storm, partition: int) -> list[tuple[bytes, int]]:
    rows = rows_of(storm.client, keys.late(STREAM, partition, storm.group))
    return [(row[b"entry"], int(row[b"row"])) for _, row in rows]


def rare_rows(storm: Storm, partition: int) -> list[tuple[int, str, int | None]]:
    rows = rows_of(storm.client, keys.published_transform(STREAM, partition, RARE))
    return [(int(row[b"ts"]), row[b"g"].decode(), int(row[b"k"])) for _, row in rows]


def retracted(storm: Storm) -> int:
    return sum(row[b"state"] == b"retracted" for _, row in rows_of(storm.client, keys.rows(STAYS)))


def figures(storm: Storm) -> str:
    """What the storm was, in one line."""
    producer = storm.producer
    checkpoints = [
        store.load_checkpoint(storm.client, STREAM, partition, group)
        for group in storm.groups
        for partition in range(storm.partitions)
    ]
    return (
        f"\n{producer.sent} events at {producer.sent / producer.seconds:.0f}/s, {producer.retries} sends again; "
        f"{storm.fleet.kills} worker kills, {storm.pauses} pauses, {storm.server_kills} server kills, "
        f"log cut by {storm.log_cut_bytes or 'nothing'}; {sum(c.commit for c in checkpoints)} commits, "
        f"{storm.fleet.count('fenced off')} fenced off, {retracted(storm)} sessions retracted, "
        f"{sum(c.late for c in checkpoints)} late, {storm.client.xlen(keys.rows(METRIC))} rows downstream"
    )
