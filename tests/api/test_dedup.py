"""Events that were stored before are known by their ids: counted as duplicates in the answer, in the log once."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
import redis

from api.intake import Intake
from api.parts import IDS_A_STEP
from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Dedup, Field, Stream, TimePolicy, Tumbling
from pipeline.core.partitioning import partition_of
from pipeline.rim import keys
from pipeline.rim.scripts import Scripts
from tests.arrow_bodies import arrow_body
from tests.line import Line, Row
from tests.servers import RunningServer

NOW_MS = int(time.time() * 1_000)
FIELDS = (Field("ts", "timestamp"), Field("id", "string"), Field("user", "string"), Field("n", "int", nullable=True))
MAYBE = (*FIELDS[:1], Field("id", "int", nullable=True), *FIELDS[2:])
COUNT = (AggregateSpec("n", "count"),)
WITHIN_MS = 60_000
IDS, ORDER = keys.ids("strict", 0), keys.ids_order("strict", 0)
CONFIG = Config(
    {
        "s": Stream("s", FIELDS, TimePolicy("ts"), "id", partitions=3, dedup=Dedup("id", WITHIN_MS)),
        "by_user": Stream("by_user", MAYBE, TimePolicy("ts"), "user", partitions=2, dedup=Dedup("id", WITHIN_MS)),
        "strict": Stream(
            "strict", FIELDS, TimePolicy("ts"), "id", partitions=1, dedup=Dedup("id", WITHIN_MS), extra="refuse"
        ),
    },
    {f"count_{name}": Aggregate(f"count_{name}", name, Tumbling(10_000), (), COUNT) for name in ("s", "by_user")},
    default_stream="s",
)


@pytest.fixture
def line(server: RunningServer) -> Line:
    return Line(CONFIG, server)


def event(number: int, **fields: Any) -> Row:
    return {"ts": NOW_MS, "id": f"e{number}", "user": "ada", "n": number, **fields}


def post(line: Line, body: Any, stream: str = "s", path: str = "", status: int = 202, **headers: str) -> Any:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = line.http.post(f"/v1/streams/{stream}/events{path}", data=data, headers=named)
    assert answer.status_code == status, answer.text
    return answer.get_json()


def counted(said: Any) -> tuple[int, int, int]:
    return said["accepted"], said["duplicates"], said["rejected"]


def doors(line: Line, stream: str = "s") -> dict[str, int]:
    [found] = [each for each in line.http.get("/v1/streams").get_json()["streams"] if each["stream"] == stream]
    door = {name: found["door"][name] for name in ("received", "stored", "duplicate", "rejected")}
    assert door["received"] == door["stored"] + door["duplicate"] + door["rejected"]
    return door


def stored(line: Line, stream: str = "s") -> list[Any]:
    """The numbers of the events in the log."""
    events = line.http.get(f"/v1/streams/{stream}/events?limit=1000").get_json()["events"]
    return sorted(each["event"]["n"] for each in events)


def test_an_event_that_comes_again_is_a_duplicate_and_is_counted_once(line: Line) -> None:
    first = post(line, [event(1), event(2)])
    again = post(line, [event(2, n=77), event(3)])
    line.settle()

    assert (counted(first), counted(again)) == ((2, 0, 0), (1, 1, 0))
    assert stored(line) == [1, 2, 3], "the first of them is kept"
    assert doors(line) == {"received": 4, "stored": 3, "duplicate": 1, "rejected": 0}
    assert sum(row["n"] for row in line.rows("count_s")) == 3
    assert post(line, [event(1), event(2), event(3)])["ids"] == [], "nothing is written where all are known"


def test_an_id_twice_in_one_body_is_its_own_duplicate(line: Line) -> None:
    said = post(line, [event(1), event(1, n=5), event(2), event(1, n=6)])

    assert counted(said) == (2, 2, 0)
    assert stored(line) == [1, 2]
    assert doors(line)["duplicate"] == 2


@pytest.mark.parametrize("n", [1, IDS_A_STEP, 2 * IDS_A_STEP + 500])
def test_however_many_they_are_and_however_they_are_sent_an_event_has_one_id(line: Line, n: int) -> None:
    events = [event(number) for number in range(n)]
    as_csv = b"ts,id,user,n\n" + b"".join(b"%d,e%d,ada,%d\n" % (NOW_MS, number, number) for number in range(n))
    bodies: list[tuple[bytes, dict[str, Any]]] = [
        (json.dumps(events).encode(), {}),
        (b"\n".join(json.dumps(each).encode() for each in events), {}),
        (b"\n".join(json.dumps(each | {"more": [1]}).encode() for each in events), {}),  # not read natively
        (as_csv, {"Content_Type": "text/csv"}),
        (arrow_body(FIELDS, events), {}),
    ]

    said = [counted(post(line, body, **headers)) for body, headers in bodies]

    assert said == [(n, 0, 0)] + [(0, n, 0)] * 4
    assert doors(line) == {"received": 5 * n, "stored": n, "duplicate": 4 * n, "rejected": 0}


@pytest.mark.parametrize("form", ["ndjson", "careful", "arrow"])
def test_the_rest_of_a_body_is_stored_in_its_order(line: Line, form: str) -> None:
    """Given many rows of which every third is known; then the others stand in the log as they were sent."""
    n = 3_000
    post(line, [event(number) for number in range(0, n, 3)])
    events = [event(number) for number in range(n)]
    body = arrow_body(FIELDS, events)
    if form != "arrow":
        more = {"more": 1} if form == "careful" else {}
        body = b"\n".join(json.dumps(each | more).encode() for each in events)

    said = post(line, body)

    assert counted(said) == (n - n // 3, n // 3, 0)
    for partition in range(3):
        found = line.http.get(f"/v1/streams/s/raw?partition={partition}&limit=20000").get_json()["rows"]
        numbers = [row["event"]["n"] for row in found if "event" in row]
        expected = [number for number in range(n) if partition_of(f"e{number}", 3) == partition]
        assert numbers == [k for k in expected if k % 3 == 0] + [k for k in expected if k % 3]


def test_events_without_an_id_are_taken_each_time(line: Line) -> None:
    events = [event(1, id=None), event(2, id=7), event(3, id=None)]

    said = [counted(post(line, events, "by_user")) for _ in range(2)]

    assert said == [(3, 0, 0), (2, 1, 0)]
    assert stored(line, "by_user") == [1, 1, 2, 3, 3]


def test_an_event_of_another_partition_key_is_not_known(line: Line) -> None:
    """Ids are kept beside the log of their partition: `partition_by` has to be the same each time an event is sent."""
    users = {partition_of(user, 2): user for user in ("ada", "bob", "eve", "joe")}

    said = [counted(post(line, [event(1, id=7, user=users[partition])], "by_user")) for partition in (0, 1, 0)]

    assert said == [(1, 0, 0), (1, 0, 0), (0, 1, 0)]


def test_a_refused_row_is_not_remembered_and_counts_beside_duplicates(line: Line) -> None:
    bad, good = event(1, n="many"), event(2)
    assert counted(post(line, [good, bad])) == (1, 0, 1)

    said = post(line, [event(1), good, bad])

    assert counted(said) == (1, 1, 1)
    assert said["errors"][0]["index"] == 2
    assert doors(line) == {"received": 5, "stored": 2, "duplicate": 1, "rejected": 2}


def test_an_id_is_forgotten_after_its_time_and_what_is_kept_is_bounded(line: Line, server: RunningServer) -> None:
    assert counted(post(line, [event(1), event(2)], "strict")) == (2, 0, 0)
    older(server, WITHIN_MS - 20_000)
    assert counted(post(line, [event(1), event(3)], "strict")) == (1, 1, 0)
    older(server, 20_000)

    assert counted(post(line, [event(1)], "strict")) == (1, 0, 0)

    assert server.client.hlen(IDS) == 2, "2 has gone; 3 is still known, and 1 again"
    assert server.client.execute_command("LLEN", ORDER) == 2
    assert counted(post(line, [event(1), event(2), event(3)], "strict")) == (1, 2, 0)
    for key in (IDS, ORDER):
        assert WITHIN_MS < server.client.pttl(key) <= WITHIN_MS + 60_000, "they go when nothing comes any more"


def test_a_duplicate_does_not_prolong_the_time_of_its_id(line: Line, server: RunningServer) -> None:
    post(line, [event(1)], "strict")
    older(server, 1_000)
    before = server.client.hvals(IDS)

    post(line, [event(1)], "strict")

    assert server.client.hvals(IDS) == before


def older(server: RunningServer, by_ms: int) -> None:
    """As if all that is remembered had come so much earlier."""
    for name, since in server.client.hgetall(IDS).items():
        server.client.hset(IDS, name, int(since) - by_ms)
    for number, entry in enumerate(server.client.execute_command("LRANGE", ORDER, 0, -1)):
        since, _, hashes = entry.partition(b" ")
        server.client.execute_command("LSET", ORDER, number, b"%d %b" % (int(since) - by_ms, hashes))


def test_a_known_idempotency_key_goes_before_the_ids(line: Line) -> None:
    body = [event(1), event(2), event(2)]
    first = post(line, body, Idempotency_Key="k")

    again = post(line, body, Idempotency_Key="k")
    other = post(line, [event(9)], status=409, Idempotency_Key="k")
    under_another = post(line, body, Idempotency_Key="k2")

    assert [counted(said) for said in (first, again, under_another)] == [(2, 1, 0), (0, 3, 0), (0, 3, 0)]
    assert other["code"] == "idempotency_conflict"
    assert doors(line) == {"received": 9, "stored": 2, "duplicate": 7, "rejected": 0}


def test_one_published_event_is_known_too(line: Line) -> None:
    body = event(1)

    first = line.http.post("/publish", json=body)
    again = line.http.post("/publish", json=body)
    in_a_batch = post(line, [body])

    assert (first.status_code, first.get_json()["status"]) == (201, "Event published")
    assert (again.status_code, again.get_json()) == (201, {"event_id": None, "status": "Event known already"})
    assert counted(in_a_batch) == (0, 1, 0)
    assert doors(line) == {"received": 3, "stored": 1, "duplicate": 2, "rejected": 0}


def test_old_data_is_checked_as_everything_is(line: Line) -> None:
    post(line, [event(1)])

    assert counted(post(line, [event(1), event(2)], path="?backfill=true")) == (1, 1, 0)


def test_what_is_replayed_for_one_stage_is_not_asked_for_its_id(line: Line) -> None:
    """Given an event that is late; its id is known, and its replay counts it in its stage all the same."""
    early = event(1, ts=NOW_MS - 100_000)
    same = next(k for k in range(2, 99) if partition_of(f"e{k}", 3) == partition_of("e1", 3))
    post(line, [event(same), early])
    line.settle()
    late = line.http.get("/v1/late?stage=count_s").get_json()
    assert late["total"] == 1

    answer = line.http.post("/v1/late/replay", json={"stage": "count_s", "all": True, "up_to": late["up_to"]})
    line.settle()

    assert answer.get_json()["replayed"] == 1, answer.text
    assert counted(post(line, [early])) == (0, 1, 0)


def test_a_quarantined_row_is_replayed_by_its_id_once(line: Line) -> None:
    row = event(1, more=1)
    assert counted(post(line, [row, event(2)], "strict")) == (1, 0, 1)
    assert counted(post(line, [event(1)], "strict")) == (1, 0, 0), "its sender has corrected it meanwhile"

    assert doors(line, "strict") == {"received": 3, "stored": 2, "duplicate": 0, "rejected": 1}


def test_another_door_may_store_an_event_between_the_look_and_the_rest(line: Line, server: RunningServer) -> None:
    """Two API processes get the same events; the second is told of one, and before it sends the rest, of another."""
    intake = Intake(server.client, CONFIG.streams["strict"], ())
    other = Intake(server.client, CONFIG.streams["strict"], ())
    other.take(json.dumps(event(1)).encode(), "json")
    intake._scripts = Interleaved(server.client, lambda: other.take(json.dumps(event(2)).encode(), "json"))

    receipt = intake.take(json.dumps([event(1), event(2), event(3)]).encode(), "json")

    assert (receipt.accepted, receipt.duplicates) == (1, 2)
    assert stored(line, "strict") == [1, 2, 3]


class Interleaved(Scripts):
    """Something happens before the second call of a script."""

    def __init__(self, client: redis.Redis, then: Any) -> None:
        super().__init__(client)
        self._then, self._calls = then, 0

    def run(self, name: str, **asked: Any) -> Any:
        self._calls += 1
        if self._calls == 2:
            self._then()
        return super().run(name, **asked)
