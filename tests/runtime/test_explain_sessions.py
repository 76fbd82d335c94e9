"""`explain` of sessions: every event is accounted for one by one, values are recomputed, one event has its session."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Session
from pipeline.rim import keys, session_store
from pipeline.rim.scripts import Scripts
from pipeline.rim.trim import trim_stream
from pipeline.runtime.stage_groups import groups_of
from tests.clicks import CONFIG, PARTITIONS, STREAM, USERS, filled_with_sessions, partition, send
from tests.line import Line, Row
from tests.servers import RunningServer
from tests.visits import BASE_MS

Judged = tuple[str, str, int, int, tuple[int, str, int]]  # fate, user, time, watermark before it, place


def explained(line: Line, metric: str, status: int = 200, **query: Any) -> Any:
    answer = line.http.get(f"/v1/metrics/{metric}/explain", query_string=query)
    assert answer.status_code == status, answer.text
    return answer.get_json(force=True)


def of_row(line: Line, metric: str, row: Row, **query: Any) -> Any:
    group = {name: row[name] for name in ("user",) if name in row}
    return explained(line, metric, start=row["window_start"], end=row["window_end"], **group, **query)


def judged(line: Line, stage: Aggregate) -> list[Judged]:
    """Every readable event, judged by plain Python."""
    assert isinstance(stage.window, Session)
    waits_ms = stage.window.gap_ms + stage.allowed_lateness_ms
    found: list[Judged] = []
    for number in range(PARTITIONS):
        newest_ms = -(2**60)
        page = line.http.get(f"/v1/streams/clicks/raw?partition={number}&limit=20000").get_json()["rows"]
        for row in (row for row in page if "error" not in row):
            time_ms = row["tick"] if row["kind"] == "tick" else row["time"]
            if row["kind"] != "tick":
                entry, _, at = row["position"].partition("/")
                watermark_ms = newest_ms - STREAM.time.disorder_ms
                fate = "late" if time_ms + waits_ms <= watermark_ms else "accepted"
                if stage.source == "people" and row["event"].get("bot"):
                    fate = "filtered"
                place = (number, entry, int(at))
                found.append((fate, row["event"]["user"], time_ms, watermark_ms, place))
            newest_ms = max(newest_ms, min(time_ms, row["arrival"]))
    return found


def time_of(stage: Aggregate, row: Row) -> range:
    """The times of a session: up to its end, or to where `max` cuts it."""
    assert isinstance(stage.window, Session)
    longest_ms = stage.window.max_ms
    cut_ms = 2**62 if longest_ms is None else (row["window_start"] // longest_ms + 1) * longest_ms
    return range(row["window_start"], min(row["window_end"], cut_ms))


@pytest.mark.parametrize("metric", ["stays", "shifts", "counted"])
def test_a_session_is_what_its_events_say_one_by_one(server: RunningServer, metric: str) -> None:
    line = filled_with_sessions(server)
    stage = CONFIG.stages[metric]
    assert isinstance(stage, Aggregate)
    events = judged(line, stage)
    totals: Counter[str] = Counter()
    for row in line.rows(metric):
        found = of_row(line, metric, row)
        mine = [event for event in events if event[1] == row["user"] and event[2] in time_of(stage, row)]
        counts = Counter(fate for fate, *_ in mine)
        accepted = [event for event in mine if event[0] == "accepted"]
        assert found["accounts"] == {
            "read": counts["accepted"] + counts["late"],
            "accepted": counts["accepted"],
            "late": counts["late"],
            "partial": 0,
            "filtered": None,
            "dead": None,
            "duplicate": None,
            "revised": sum(watermark_ms >= row["window_end"] for *_, watermark_ms, _ in accepted),
        }
        first, last = found["first_entry"], found["last_entry"]
        places = sorted(place for *_, place in accepted)
        assert [(e["partition"], e["id"], e["row"]) for e in (first, last)] == [places[0], places[-1]]
        assert found["values"] == found["recomputed"] == {spec.name: row[spec.name] for spec in stage.aggregates}
        assert found["window"]["state"] == row["state"]
        assert (found["group"], found["groups"]) == ({"user": row["user"]}, 1)
        assert found["log"] == {"complete": True, "from": None, "truncated": False}
        totals += counts + Counter(revised=found["accounts"]["revised"])
    ledger = line.http.get(f"/v1/stages/{metric}").get_json()["ledger"]
    assert totals["accepted"] == ledger["accepted"]
    assert totals["late"] > 0
    assert (totals["revised"] > 0) == (stage.allowed_lateness_ms > 0)


def one_line(server: RunningServer, window: Session | None = None, lateness_ms: int = 0, partitions: int = 2) -> Line:
    stage = Aggregate(
        "stays",
        "people",
        window or Session(1_000),
        ("user",) if partitions > 1 else (),
        (AggregateSpec("n", "count"), AggregateSpec("total", "sum", "ms")),
        allowed_lateness_ms=lateness_ms,
    )
    streams = {"clicks": replace(STREAM, partitions=partitions)}
    return Line(Config(streams, {"people": CONFIG.stages["people"], "stays": stage}), server)


ADA, BOB = USERS[0], USERS[4]  # in the partitions 0 and 1
EVE = USERS[1]  # in 0


def click(ts: int, user: str = ADA, **more: Any) -> dict[str, Any]:
    return {"ts": BASE_MS + ts, "user": user, "ms": 1.5, **more}


def test_an_open_session_a_closed_and_a_final_one_say_what_they_wait_for(server: RunningServer) -> None:
    line = one_line(server, lateness_ms=5_000)
    send(line, [click(0), click(500), click(4_000, EVE), click(1_000, BOB)])
    line.settle()

    found = explained(line, "stays", start=BASE_MS, user=ADA)
    assert found["window"] == {"start": BASE_MS, "end": BASE_MS + 1_500, "state": "open", "revision": None}
    assert (found["values"], found["recomputed"]) == ({"n": 2, "total": 3.0},) * 2
    assert [share["holds_back"] for share in found["partitions"]] == [False, True]
    assert found["closes_when"] == (
        "It closes when the watermark of partition 1 reaches 2023-11-14T22:14:01.500+00:00: an event (or a tick) of "
        "2023-11-14T22:14:03.500+00:00 or later there."
    )

    line.tick("clicks", BASE_MS + 60_000, partition=1)
    line.settle()
    closed = explained(line, "stays", start=BASE_MS, end=BASE_MS + 1_500, user=ADA)
    assert (closed["window"]["state"], closed["window"]["revision"]) == ("closed", 0)
    assert closed["closes_when"] == (
        "It is closed, late events may still revise it, and it becomes final when the watermark of partition 0 "
        "reaches 2023-11-14T22:14:07.500+00:00: an "
        "event (or a tick) of 2023-11-14T22:14:09.500+00:00 or later there."
    )
    assert [share["holds_back"] for share in closed["partitions"]] == [True, False]
    assert closed["would_close_at"] is None

    send(line, [click(200), click(20_000, EVE)])
    line.settle()
    final = explained(line, "stays", start=BASE_MS, user=ADA)
    assert (final["window"]["state"], final["window"]["revision"]) == ("final", 1)
    assert (final["accounts"]["accepted"], final["accounts"]["revised"]) == (3, 1)
    assert final["closes_when"] == ("It is final: partition 0's watermark has passed 2023-11-14T22:14:07.500+00:00.")


def test_a_value_changed_by_hand_shows_beside_what_the_log_says(server: RunningServer) -> None:
    line = one_line(server)
    send(line, [click(0), click(900), click(30_000), click(30_000, BOB)])
    line.settle()
    program = line.programs["stays"]
    bucket = session_store.bucket_of(program.window, BASE_MS)  # type: ignore[arg-type]
    key = keys.session_rows("stays", program.version, bucket)
    name = session_store.session_field(BASE_MS, BASE_MS + 900, f'["{ADA}"]'.encode())
    stored = line.client.execute_command("HGET", key, name)
    cell = session_store.parse_published(name, stored).cell
    more = cell[:1] + (3).to_bytes(8, "little") + cell[9:]
    line.client.execute_command("HSET", key, name, stored[: -len(cell)] + more)

    found = explained(line, "stays", start=BASE_MS, user=ADA)

    assert (found["values"]["n"], found["recomputed"]["n"], found["accounts"]["accepted"]) == (3, 2, 2)


def test_several_sessions_with_the_same_ends_are_told_together_and_others_are_not_counted(
    server: RunningServer,
) -> None:
    line = one_line(server)
    send(line, [click(0), click(0, EVE), click(0, BOB), click(700, BOB), click(600, EVE, bot=True)])
    line.settle()

    both = explained(line, "stays", start=BASE_MS, end=BASE_MS + 1_000)
    assert (both["groups"], both["values"]["n"], both["recomputed"]["n"]) == (2, 2, 2)
    assert (both["accounts"]["read"], both["accounts"]["filtered"]) == (2, None)
    assert (both["group"], both["first_entry"]["partition"]) == (None, 0)

    said = explained(line, "stays", 422, start=BASE_MS)["detail"]
    assert said.startswith(f"end: windows that start at {BASE_MS} end at {BASE_MS + 1_000} (2023-11-14T22:14:01.000")
    assert f"{BASE_MS + 1_700} (2023-11-14T22:14:01.700+00:00)" in said
    assert explained(line, "stays", start=BASE_MS, user=BOB)["window"]["end"] == BASE_MS + 1_700


def test_a_session_that_is_not_there_is_refused_with_the_one_that_goes_on_then(server: RunningServer) -> None:
    line = one_line(server, lateness_ms=60_000)
    send(line, [click(900), click(20_000, EVE), click(20_000, BOB)])
    line.settle()
    send(line, [click(0)])
    line.settle()
    assert line.rows("stays", state="retracted")

    retracted = explained(line, "stays", 422, start=BASE_MS + 900, user=ADA)
    assert retracted["code"] == "no_window"
    assert retracted["detail"] == (
        f"start: no session of stays that stands begins at {BASE_MS + 900} (2023-11-14T22:14:00.900+00:00); one goes "
        f"on then, from {BASE_MS} (2023-11-14T22:14:00.000+00:00) to {BASE_MS + 1_900}"
    )
    nothing = explained(line, "stays", 422, start=BASE_MS - 5, user=ADA)["detail"]
    assert nothing.endswith("and none of those asked for goes on then; GET /v1/metrics/stays lists them")
    other = explained(line, "stays", 422, start=BASE_MS, user=EVE)["detail"]
    assert "none of those asked for" in other
    end = explained(line, "stays", 422, start=BASE_MS, end=BASE_MS + 1, user=ADA)["detail"]
    assert f"end at {BASE_MS + 1_900}" in end


def test_a_session_without_groups_accounts_for_what_was_filtered_and_dead_too(server: RunningServer) -> None:
    line = one_line(server, Session(1_000, max_ms=2_000), partitions=1)
    base = BASE_MS + 1_500  # the cut is half a second later
    rows = [
        click(1_500),
        click(1_600, bot=True),
        click(2_000),  # behind the cut: the next session, though the first ends later
        click(1_700, bot=True),
        click(60_000),
        click(1_800),
    ]
    line.chunk("clicks", rows, times_ms=[row["ts"] for row in rows])
    line.settle()

    found = explained(line, "stays", start=base)

    assert found["window"]["end"] == base + 1_000
    accounts = found["accounts"]
    assert [accounts[name] for name in ("read", "accepted", "filtered", "late", "dead")] == [4, 1, 2, 1, 0]
    assert explained(line, "stays", start=BASE_MS + 2_000)["accounts"]["accepted"] == 1


def test_after_a_trim_the_account_of_a_session_says_that_it_is_not_whole(server: RunningServer) -> None:
    line = filled_with_sessions(server)
    row = line.rows("stays", state="final")[-1]
    stream = replace(STREAM, retention_ms=1)
    trim_stream(server.client, Scripts(server.client), stream, groups_of(CONFIG, "clicks"), 2**61)

    found = of_row(line, "stays", row)

    assert found["accounts"]["read"] == 0
    assert (found["values"]["views"], found["recomputed"]) == (row["views"], None)
    assert found["log"]["complete"] is False
    assert found["log"]["from"] > row["window_start"]


def test_a_counted_event_has_the_session_that_it_is_in_by_now(server: RunningServer) -> None:
    line = one_line(server, lateness_ms=60_000)
    send(line, [click(0), click(1_800), click(20_000, EVE), click(20_000, BOB)])
    line.settle()
    [entry] = line.entry_ids("stays")

    def told(row: int, **query: Any) -> Any:
        path = f"/v1/streams/clicks/events/{entry}/explain"
        answer = line.http.get(path, query_string={"row": row, "partition": 0}).get_json()
        [stage] = answer["stages"]
        [counted] = stage["counted"]
        assert (counted["pane"], counted["from_end"]) == (None, None)
        return counted["group"], [(w["start"] - BASE_MS, w["end"] - BASE_MS, w["state"]) for w in counted["windows"]]

    assert told(0) == ({"user": ADA}, [(0, 1_000, "closed")])
    assert told(1) == ({"user": ADA}, [(1_800, 2_800, "closed")])
    assert told(2) == ({"user": EVE}, [(20_000, 21_000, "open")])

    send(line, [click(900)])
    line.settle()
    assert told(0)[1] == told(1)[1] == [(0, 2_800, "closed")]


def test_the_partition_of_the_test_users_is_what_the_door_would_say() -> None:
    assert [partition(user) for user in (ADA, EVE, BOB)] == [0, 0, 1]
