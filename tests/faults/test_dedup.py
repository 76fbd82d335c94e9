"""Dedup under faults: a reply lost at any call and the body sent again, two doors at once, and the guard taken out."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.intake import Intake
from pipeline.core.definitions import Dedup, Field, Stream, TimePolicy
from pipeline.errors import BackpressureError
from pipeline.rim import keys
from pipeline.rim.replies import parse_entries, parse_hash
from pipeline.rim.scripts import Script, Scripts
from tests.arrow_bodies import arrow_body
from tests.faults.line import without
from tests.laws.logs import small_law
from tests.servers import RunningServer

FIELDS = (Field("ts", "timestamp", unit="ms"), Field("id", "string"), Field("n", "int", nullable=True))
WITHIN_MS = 600_000
STREAM = Stream("s", FIELDS, TimePolicy("ts"), "id", partitions=2, dedup=Dedup("id", WITHIN_MS))
THE_LOOK = "  if #seen > 1 then return seen end\n"
NOW_MS = 1_700_000_000_000


class Lossy(Scripts):
    """Scripts whose n-th call is lost: before it ran, or after, on the way back."""

    def __init__(self, client: redis.Redis, nth: int, *, has_run: bool) -> None:
        super().__init__(client)
        self._left, self._has_run = nth, has_run

    def run(self, name: str, **asked: Any) -> Any:
        self._left -= 1
        if self._left:
            return super().run(name, **asked)
        if self._has_run:
            super().run(name, **asked)
        raise redis.exceptions.ConnectionError("the reply was lost")


def intake(server: RunningServer, scripts: Scripts | None = None, stream: Stream = STREAM) -> Intake:
    made = Intake(server.client, stream, ())
    made._scripts = scripts or made._scripts
    return made


def mutated(server: RunningServer, scripts: Mapping[str, Script]) -> Scripts:
    return Scripts(server.client, scripts)


def body_of(ids: list[int], bad: int = 0) -> bytes:
    rows: list[dict[str, Any]] = [{"ts": NOW_MS, "id": f"e{number}", "n": number} for number in ids]
    return "\n".join(json.dumps(row) for row in rows + [{"ts": NOW_MS}] * bad).encode()


def logged(server: RunningServer) -> Counter[int]:
    """How often each event stands in the log; chunks of so few are lines."""
    found: Counter[int] = Counter()
    for partition in range(STREAM.partitions):
        for _, fields in parse_entries(server.client.execute_command("XRANGE", keys.raw("s", partition), "-", "+")):
            assert fields is not None
            found.update(json.loads(line)["n"] for line in fields[b"body"].split(b"\n"))
    return found


def doors(server: RunningServer) -> Counter[str]:
    """The doors of all partitions together; each of them balances."""
    total: Counter[str] = Counter()
    for partition in range(STREAM.partitions):
        stored = parse_hash(server.client.execute_command("HGETALL", keys.door("s", partition)))
        door = {name: int(stored.get(name.encode(), 0)) for name in ("received", "stored", "duplicate", "rejected")}
        assert door["received"] == door["stored"] + door["duplicate"] + door["rejected"]
        total.update(door)
    return total


@pytest.mark.parametrize("key", [None, "k"])
@pytest.mark.parametrize("has_run", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_reply_that_is_lost_and_a_body_that_is_sent_again_store_every_event_once(
    server: RunningServer, nth: int, has_run: bool, key: str | None
) -> None:
    """Given three known events of eight in two partitions, so that a look, and the rest, go to each."""
    known, ids = [1, 2, 3], [*range(8), 7]
    intake(server).take(body_of(known), "json")

    try:
        intake(server, Lossy(server.client, nth, has_run=has_run)).take(body_of(ids, bad=1), "json", key)
    except redis.exceptions.ConnectionError:
        receipt = intake(server).take(body_of(ids, bad=1), "json", key)
        assert receipt.accepted + receipt.duplicates + len(receipt.refusals) == len(ids) + 1

    assert logged(server) == Counter(range(8))
    door = doors(server)
    assert (door["stored"], door["received"] - door["rejected"]) == (8, door["stored"] + door["duplicate"])


def test_without_the_look_at_the_ids_a_retry_doubles_events(server: RunningServer) -> None:
    blind = mutated(server, without("append", THE_LOOK))
    for _ in range(2):
        intake(server, blind).take(body_of([1, 2]), "json")

    assert logged(server) == {1: 2, 2: 2}


def test_when_too_many_ids_are_remembered_the_door_waits_until_some_are_old(server: RunningServer) -> None:
    one = Stream("s", FIELDS, TimePolicy("ts"), "id", partitions=1, dedup=Dedup("id", WITHIN_MS))
    few = mutated(
        server, without("append", "local KEEP_IDS, MAX_IDS, HASH = 10000000,", "local KEEP_IDS, MAX_IDS, HASH = 3,")
    )
    intake(server, few, one).take(body_of([1, 2]), "json")
    before = doors(server)

    with pytest.raises(BackpressureError, match="set a shorter") as refused:
        intake(server, few, one).take(body_of([3, 4]), "json")

    assert 1 <= refused.value.retry_after_s <= 60
    assert (logged(server), doors(server)) == (Counter([1, 2]), before)
    order = keys.ids_order("s", 0)
    since, _, hashes = server.client.execute_command("LINDEX", order, 0).partition(b" ")
    old_ms = int(since) - WITHIN_MS
    server.client.execute_command("LSET", order, 0, b"%d %b" % (old_ms, hashes))
    for name in server.client.hkeys(keys.ids("s", 0)):
        server.client.hset(keys.ids("s", 0), name, old_ms)
    assert intake(server, few, one).take(body_of([3, 4]), "json").accepted == 2
    assert server.client.hlen(keys.ids("s", 0)) == 2


ids = st.lists(st.integers(0, 12), min_size=1, max_size=9)
requests = st.lists(
    st.tuples(ids, st.sampled_from(["json", "csv", "arrow"]), st.sampled_from([None, "a", "b"]), st.integers(1, 9)),
    min_size=1,
    max_size=6,
)


@settings(small_law, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sent=requests)
def test_whatever_is_sent_lost_and_sent_again_the_log_holds_each_event_once(
    server: RunningServer, sent: list[tuple[list[int], Any, str | None, int]]
) -> None:
    """Every request is lost at some call, or at none, and sent again until it is answered."""
    server.client.flushall()
    answered = 0
    for number, (numbers, form, key, nth) in enumerate(sent):
        name = key and f"{key} {number}"
        body = as_form(numbers, form)
        try:
            receipt = intake(server, Lossy(server.client, nth, has_run=nth % 2 == 0)).take(body, form, name)
        except redis.exceptions.ConnectionError:
            receipt = intake(server).take(body, form, name)
        assert receipt.accepted + receipt.duplicates == len(numbers)
        answered += len(numbers)

    assert logged(server) == Counter({number for numbers, *_ in sent for number in numbers})
    assert doors(server)["received"] >= answered


def as_form(numbers: list[int], form: str) -> bytes:
    match form:
        case "csv":
            return b"ts,id,n\n" + b"".join(b"%d,e%d,%d\n" % (NOW_MS, number, number) for number in numbers)
        case "arrow":
            return arrow_body(FIELDS, [{"ts": NOW_MS, "id": f"e{number}", "n": number} for number in numbers])
    return body_of(numbers)
