"""Where every event of the web log went, at four disorder bounds: by stage, and by window from the other side.

DuckDB counts; the stage's ledger must say the same, and so must `GET /v1/metrics/{metric}/explain` of each window. The
stage leaves robots out, and a derive fails on answers with status 500. The file has a minute of every hour, so a
session is a part of such a minute.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import pytest

from pipeline.core.definitions import (
    SECOND_MS,
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
    Window,
)
from pipeline.core.programs import compile_programs
from tests.laws.logs import Logged, as_bytes
from tests.line import CHUNK_ROWS, Line, chunk_fields
from tests.oracle import core_line, duck
from tests.oracle.duck import Account, Fate
from tests.oracle.real_files import WEB_LOG, chunks, web_log_events
from tests.servers import RunningServer

METRIC, STREAM, PARTITIONS = "by_status", "weblog", 2
KEPT = "agent NOT ILIKE '%bot%'"
FATE = Fate(
    kept=KEPT, dead=f"status = 500 AND {KEPT}", derive={"checked": "1::BIGINT"}
)  # a filter comes before what is derived beside it
FAILING = "CAST(CASE WHEN status = 500 THEN 'no number' ELSE '1' END AS BIGINT)"
DEALT = f"(line // {CHUNK_ROWS}) % {PARTITIONS}"
BY_STATUS = f"status % {PARTITIONS}"  # a session's events are in one partition
WINDOWS: dict[str, Window] = {
    "tumbling": Tumbling(10 * SECOND_MS),
    "hopping": Hopping(20 * SECOND_MS, 10 * SECOND_MS),
    "session": Session(8 * SECOND_MS),
    "session with max": Session(10 * SECOND_MS, max_ms=20 * SECOND_MS),
}
DISORDERS = [0, 5 * SECOND_MS, 30 * SECOND_MS, 60 * SECOND_MS]
PANES, SESSIONS = ("tumbling", "hopping"), ("session", "session with max")
POSSIBLE = list(product(PANES, DISORDERS))
# Of the end of the file, where something is dead: to ask about every window takes the square of it.
LINES = [2_000, pytest.param(10_000, marks=pytest.mark.slow)]
ASKED = 30  # windows that are explained at each disorder: those with the most causes first


def config(kind: str, disorder_ms: int) -> Config:
    fields = (
        Field("ts", "timestamp", unit="ms"),
        *(Field(name, "string") for name in ("user", "method", "page", "referrer", "agent")),
        *(Field(name, "int") for name in ("status", "bytes")),
    )
    stream = Stream(STREAM, fields, TimePolicy("ts", disorder_ms=disorder_ms), partitions=PARTITIONS)
    people = Transform("people", STREAM, filter=KEPT, derive={"checked": FAILING})
    values = (AggregateSpec("requests", "count"), AggregateSpec("checked", "sum", "checked"))
    stage = Aggregate(METRIC, "people", WINDOWS[kind], ("status",), values)
    return Config({STREAM: stream}, {"people": people, METRIC: stage})


def stage_of(config: Config) -> tuple[Aggregate, TimePolicy]:
    stage = config.stages[METRIC]
    assert isinstance(stage, Aggregate)
    return stage, config.streams[STREAM].time


@cache
def the_log() -> list[list[Logged]]:
    """The web log as it is stored: its chunks dealt out over the partitions."""
    logs: list[list[Logged]] = [[] for _ in range(PARTITIONS)]
    for number, rows in enumerate(chunks(web_log_events())):
        fields = chunk_fields(rows, [row["ts"] for row in rows], position=0, at_ms=2**45)
        logs[number % PARTITIONS].append(Logged(f"1700000000000-{number}", as_bytes(fields)))
    return logs


@pytest.mark.parametrize(("kind", "disorder_ms"), POSSIBLE)
def test_the_ledger_of_a_stage_accounts_for_every_line_of_the_web_log(kind: str, disorder_ms: int) -> None:
    asked = config(kind, disorder_ms)

    ledger = core_line.run(compile_programs(asked)[METRIC], the_log()).ledger

    expected = duck.account(duck.web_log(WEB_LOG, part=DEALT), *stage_of(asked), FATE)
    counts = (ledger.read, ledger.accepted, ledger.filtered, ledger.late, ledger.dead, ledger.partial)
    assert Account(*counts) == expected
    assert expected.read == 10_000 == expected.accepted + expected.filtered + expected.late + expected.dead
    assert expected.dead > 0
    assert (expected.late > 0) == (disorder_ms < DISORDERS[-1]), "the file is up to 59 s out of order"


@pytest.mark.parametrize(("kind", "disorder_ms"), POSSIBLE)
def test_the_accounts_of_the_windows_add_up_to_the_account_of_the_stage(kind: str, disorder_ms: int) -> None:
    """Of DuckDB alone: an event is in as many windows as its kind says, and in each of them has one fate."""
    stage, time = stage_of(config(kind, disorder_ms))
    events = duck.web_log(WEB_LOG, part=DEALT)

    of_stage = duck.account(events, stage, time, FATE)
    of_windows = duck.window_accounts(events, stage, time, FATE)

    each = 2 if kind == "hopping" else 1
    assert sum(map(total, of_windows)) == each * of_stage.read
    assert sum(row["filtered"] for row in of_windows) == each * of_stage.filtered
    assert sum(row["dead"] for row in of_windows) == each * of_stage.dead
    late = sum(row["late"] for row in of_windows)
    assert each * of_stage.late + of_stage.partial <= late <= each * of_stage.late + (each - 1) * of_stage.partial
    shown = {(row["window_start"], row["status"]): row["requests"] for row in duck.windows(events, stage, time, FATE)}
    assert shown == {(row["window_start"], row["status"]): row["accepted"] for row in of_windows if row["accepted"]}


@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize(("kind", "disorder_ms"), POSSIBLE)
def test_explain_accounts_for_every_event_of_a_window(
    server: RunningServer, kind: str, disorder_ms: int, lines: int
) -> None:
    asked = config(kind, disorder_ms)
    line, events = Line(asked, server), web_log_events()[-lines:]
    for number, rows in enumerate(chunks(events)):
        line.chunk(STREAM, rows, partition=number % PARTITIONS, times_ms=[row["ts"] for row in rows])
    line.end(STREAM, max(event["ts"] for event in events))
    line.settle()

    stage, time = stage_of(asked)
    events_in_windows = duck.window_accounts(last(lines, DEALT), replace(stage, group_by=()), time, FATE)
    for row in telling(events_in_windows):
        assert explained(line, row) == {name: row[name] for name in CAUSES}, row


def last(lines: int, part: str = "0") -> duck.Events:
    return duck.web_log(WEB_LOG, part=part).filter(f"line >= {10_000 - lines}")


@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("disorder_ms", DISORDERS)
@pytest.mark.parametrize("kind", SESSIONS)
def test_the_accounts_of_all_sessions_add_up_to_what_the_stage_accepted(
    server: RunningServer, kind: str, disorder_ms: int, lines: int
) -> None:
    asked, events = config(kind, disorder_ms), web_log_events()[-lines:]
    line = Line(asked, server)
    for number in range(PARTITIONS):
        mine = [event for event in events if event["status"] % PARTITIONS == number]
        for rows in chunks(mine):
            line.chunk(STREAM, rows, partition=number, times_ms=[row["ts"] for row in rows])
    line.end(STREAM, max(event["ts"] for event in events))
    line.settle()

    expected = duck.window_accounts(last(lines, BY_STATUS), *stage_of(asked), FATE)
    found: list[duck.Row] = []
    for session in line.rows(METRIC):
        row, answer = account_of(line, session, status=session["status"])
        assert answer["values"] == answer["recomputed"] == {n: session[n] for n in ("requests", "checked")}
        assert (answer["groups"], answer["window"]["state"]) == (1, "final")
        found.append(row)

    columns = ("window_start", "window_end", "status", "accepted", "late")
    assert found == [{name: row[name] for name in columns} for row in expected]
    books = duck.account(last(lines, BY_STATUS), *stage_of(asked), FATE)
    assert sum(row["accepted"] for row in found) == books.accepted
    assert (books.late > 0) == (disorder_ms < DISORDERS[-1])
    assert disorder_ms > 0 or sum(row["late"] for row in found) > 0, "some are late in the middle of a session"


@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("disorder_ms", DISORDERS)
def test_sessions_of_everything_account_for_what_was_filtered_and_dead_too(
    server: RunningServer, disorder_ms: int, lines: int
) -> None:
    asked = config("session", disorder_ms)
    stage, time = stage_of(asked)
    stage, stream = replace(stage, group_by=()), replace(asked.streams[STREAM], partitions=1)
    asked = replace(asked, streams={STREAM: stream}, stages={**asked.stages, METRIC: stage})
    line, events = Line(asked, server), web_log_events()[-lines:]
    for rows in chunks(events):
        line.chunk(STREAM, rows, times_ms=[row["ts"] for row in rows])
    line.end(STREAM, max(event["ts"] for event in events))
    line.settle()

    found = [account_of(line, session)[0] for session in line.rows(METRIC)]

    expected = duck.window_accounts(last(lines), stage, time, FATE)
    assert found == expected
    books = duck.account(last(lines), stage, time, FATE)
    assert sum(row["accepted"] for row in found) == books.accepted
    assert 0 < sum(row["filtered"] for row in found) <= books.filtered
    assert sum(row["dead"] for row in found) <= books.dead


def account_of(line: Line, session: duck.Row, **group: Any) -> tuple[duck.Row, Any]:
    """(the account of a session as DuckDB writes it, the whole answer)."""
    span = {name: session[name] for name in ("window_start", "window_end")}
    answer = line.http.get(
        f"/v1/metrics/{METRIC}/explain",
        query_string={"start": span["window_start"], "end": span["window_end"], **group},
    )
    assert answer.status_code == 200, answer.text
    said = answer.get_json()
    counted = {name: said["accounts"][name] for name in CAUSES if said["accounts"][name] is not None}
    return span | group | counted, said


CAUSES = ("accepted", "late", "filtered", "dead")


def total(row: duck.Row) -> int:
    return sum(row[name] for name in CAUSES)


def telling(rows: Sequence[duck.Row]) -> list[duck.Row]:
    """The windows in which the most different things happened to events."""
    return sorted(rows, key=lambda row: (-sum(row[name] > 0 for name in CAUSES), -total(row)))[:ASKED]


def explained(line: Line, row: duck.Row) -> dict[str, Any]:
    """What the API says became of the events of one window."""
    asked = {"start": row["window_start"], "end": row["window_end"]}
    answer = line.http.get(f"/v1/metrics/{METRIC}/explain", query_string=asked)
    assert answer.status_code == 200, answer.text
    account = answer.get_json()["accounts"]
    return {name: account[name] for name in CAUSES}
