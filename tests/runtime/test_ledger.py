"""The books of a running line add up, and whoever changes one number by hand, or takes an entry, raises the alarm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from pipeline.core.definitions import MINUTE_MS, Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Tumbling
from pipeline.rim import keys
from pipeline.rim.ledger import Verdict, load_verdict, store_verdict
from pipeline.rim.store import load_checkpoint, redis_time_ms
from pipeline.runtime.doctor import check_redis
from pipeline.runtime.ledger import findings
from pipeline.runtime.scheduler import Housekeeping
from pipeline.runtime.setup import set_up
from pipeline.runtime.status import read_status
from tests.line import Line
from tests.servers import RunningServer

SECOND = 1_000
STREAM = Stream(
    "readings",
    (Field("ts", "timestamp", unit="ms"), Field("value", "float", nullable=True)),
    TimePolicy(field="ts", disorder_ms=SECOND),
    partitions=2,
)
COUNTS = Aggregate("counts", "readings", Tumbling(10 * SECOND), (), (AggregateSpec("n", "count"),))
CONFIG = Config(streams={"readings": STREAM}, stages={"counts": COUNTS})


@pytest.fixture
def line(server: RunningServer) -> Line:
    return Line(CONFIG, server)


def send(line: Line, n: int, at_ms: int | None = None, **headers: str) -> None:
    """A batch of `n` good events and one that is refused, over HTTP."""
    now_ms = redis_time_ms(line.client) if at_ms is None else at_ms
    events: list[dict[str, Any]] = [{"ts": now_ms - n + row, "value": row} for row in range(n)]
    answer = line.http.post("/v1/streams/readings/events", json=[*events, {"ts": "never"}], headers=headers)
    assert answer.status_code == 202, answer.text


def sentences(line: Line) -> list[str]:
    return [finding.sentence for finding in findings(read_status(line.client, line.config))]


def ledger_check(line: Line) -> dict[str, Any]:
    found: dict[str, Any] = next(
        check for check in line.http.get("/readyz").get_json(force=True)["checks"] if check["name"] == "ledger"
    )
    return found


def balanced(line: Line) -> dict[tuple[str, str], float]:
    families = text_string_to_metric_families(line.http.get("/metrics").text)
    return {
        (sample.labels["scope"], sample.labels["name"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name == "streamgauge_ledger_balanced"
    }


def checkpoint_key(line: Line, partition: int = 0) -> str:
    return keys.checkpoint("readings", partition, line.programs["counts"].group)


def test_after_a_normal_run_the_books_add_up_everywhere(line: Line) -> None:
    """Given batches, a batch sent twice, a refused row in each, rows by plain XADD between them, and ticks."""
    for n in (3, 40, 500):
        send(line, n)
        for partition in (0, 1):
            line.row("readings", {"ts": str(redis_time_ms(line.client))}, partition=partition)
            line.row("readings", {"ts": "never"}, partition=partition)
    now_ms = redis_time_ms(line.client)
    for _ in range(2):
        send(line, 7, now_ms, **{"Idempotency-Key": "once"})
    line.tick("readings", redis_time_ms(line.client))
    line.settle()

    verdict = Housekeeping(CONFIG, line.client).ledger_once()

    assert verdict.ok, verdict.findings
    assert load_verdict(line.client) == verdict
    assert ledger_check(line)["ok"]
    assert "the scheduler looked" in ledger_check(line)["detail"]
    assert set(balanced(line).values()) == {1.0}
    checkpoints = [load_checkpoint(line.client, "readings", p, line.programs["counts"].group) for p in (0, 1)]
    assert sum(c.read for c in checkpoints) == 3 + 40 + 500 + 7 + 12
    assert sum(c.dead for c in checkpoints) == 6


def test_the_books_add_up_at_every_moment_of_a_run(line: Line) -> None:
    """A look between any two steps of the line: entries stored and not read, read and not committed, committed."""
    worker = line.worker()
    for round_number in range(12):
        send(line, 50 + round_number)
        assert sentences(line) == []
        line.row("readings", {"ts": str(redis_time_ms(line.client))}, partition=round_number % 2)
        worker.poll_once()
        assert sentences(line) == []
    line.settle(worker)
    assert sentences(line) == []


@pytest.mark.parametrize("name", ["read", "accepted", "position", "offset"])
def test_a_counter_of_a_stage_that_was_changed_by_hand_raises_the_alarm(line: Line, name: str) -> None:
    send(line, 20)
    line.settle()
    housekeeping = Housekeeping(CONFIG, line.client)
    assert housekeeping.ledger_once().ok
    line.client.hincrby(checkpoint_key(line), name, 3)

    verdict = housekeeping.ledger_once()

    assert not verdict.ok
    assert {finding.scope for finding in verdict.findings} == {"stage"}
    check = ledger_check(line)
    assert not check["ok"]
    assert "counts on partition 0 of readings: " in check["detail"]
    assert "please report it with these numbers" in check["advice"]
    assert balanced(line) == {("stream", "readings"): 1.0, ("stage", "counts"): 0.0}
    books = {check.name: check for check in check_redis(lambda: line.server.url, allow_volatile=True)}["ledger"]
    assert (books.ok, books.seen) == (False, "; ".join(finding.sentence for finding in verdict.findings))

    line.client.hincrby(checkpoint_key(line), name, -3)
    assert not ledger_check(line)["ok"], "the scheduler has not looked again"
    assert housekeeping.ledger_once().ok
    assert ledger_check(line)["ok"]


@pytest.mark.parametrize("name", ["received", "duplicate", "rejected"])
def test_a_counter_of_the_door_that_was_changed_by_hand_raises_the_alarm(line: Line, name: str) -> None:
    send(line, 20)
    line.settle()
    line.client.hincrby(keys.door("readings", 1), name, 1)

    assert [text.split(":")[0] for text in sentences(line)] == ["the door of partition 1 of readings"]
    assert not ledger_check(line)["ok"]
    assert balanced(line) == {("stream", "readings"): 0.0, ("stage", "counts"): 1.0}


@pytest.mark.parametrize("place", ["in the middle", "at the end"])
def test_an_entry_that_was_taken_out_of_the_log_before_it_was_read_raises_the_alarm(line: Line, place: str) -> None:
    stream = replace(STREAM, partitions=1)
    line = Line(Config(streams={"readings": stream}, stages={"counts": COUNTS}), emptied(line.server))
    for n in (10, 20, 30):
        send(line, n)
    ids = line.entry_ids("counts")
    line.client.xdel(keys.raw("readings", 0), ids[1 if place == "in the middle" else 2])
    assert sentences(line) == [], "nobody has looked for it yet"

    worker = line.worker()
    for _ in range(5):
        worker.poll_once()

    lost = 20 if place == "in the middle" else 30
    assert sentences(line) == [
        f"counts on partition 0 of readings: the door stored at least {lost} events that the log did not bring"
    ]
    assert "XDEL" in ledger_check(line)["advice"]


def emptied(server: RunningServer) -> RunningServer:
    server.client.flushall()
    return server


def test_a_stage_that_begins_after_a_trim_balances_with_what_is_left(line: Line) -> None:
    """Given a log of which the beginning was trimmed; then a stage that is new has an offset and no gap."""
    for n in (10, 20, 30):
        send(line, n)
    line.settle()
    cursors = [load_checkpoint(line.client, "readings", p, line.programs["counts"].group) for p in (0, 1)]
    for partition, cursor in enumerate(cursors):
        assert cursor.max_seen_ms is not None
        line.client.hset(
            keys.cut("readings", partition),
            mapping={"cursor": cursor.cursor, "max_seen_ms": cursor.max_seen_ms, "max_ts_ms": cursor.max_ts_ms or 0},
        )
        line.client.xtrim(keys.raw("readings", partition), maxlen=0)
    changed = replace(COUNTS, window=Tumbling(20 * SECOND))
    line = Line(Config(streams={"readings": STREAM}, stages={"counts": changed}), line.server)
    set_up(line.client, line.config)
    assert sentences(line) == [], "it has read nothing and is at the end of an empty log"
    send(line, 40)
    send(line, 50)
    line.settle()

    assert sentences(line) == []
    begun = [load_checkpoint(line.client, "readings", p, line.programs["counts"].group) for p in (0, 1)]
    assert [c.offset for c in begun if c.read] == [cursors[p].position for p, c in enumerate(begun) if c.read]


def test_what_does_not_add_up_is_logged_once(line: Line) -> None:
    send(line, 20)
    line.settle()
    line.client.hincrby(checkpoint_key(line), "accepted", 1)
    housekeeping = Housekeeping(CONFIG, line.client)
    with capture_logs() as logs:
        housekeeping.ledger_once()
        housekeeping.ledger_once()
    assert [entry["event"] for entry in logs] == ["the books do not add up"]
    line.client.hincrby(checkpoint_key(line), "accepted", -1)
    with capture_logs() as logs:
        housekeeping.ledger_once()
    assert [entry["event"] for entry in logs] == ["the books add up again"]


def test_a_scheduler_that_no_longer_looks_is_not_taken_for_books_that_add_up(line: Line) -> None:
    assert ledger_check(line)["detail"] == "the books add up; no scheduler has looked yet"
    store_verdict(line.client, Verdict(redis_time_ms(line.client) - 12 * MINUTE_MS - 1, ()))

    check = ledger_check(line)

    assert (check["ok"], check["detail"]) == (False, "nobody has looked at the books for over 12 minutes")
    assert "streamgauge scheduler" in check["advice"]


def test_doctor_does_not_pass_books_that_nobody_has_looked_at(line: Line) -> None:
    books = {check.name: check for check in check_redis(lambda: line.server.url, allow_volatile=True)}["ledger"]
    assert not books.ok
    assert "no scheduler has looked" in books.seen
    assert books.fix.endswith("start it: streamgauge scheduler")
