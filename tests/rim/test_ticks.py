"""Ticks on a real server: written only behind the entry that was seen, and the door's account stays true."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError

from pipeline.core.definitions import DAY_MS, HOUR_MS, Field, Stream, TimePolicy, Tumbling
from pipeline.core.windows import Horizon
from pipeline.errors import BadRequestError
from pipeline.rim import keys
from pipeline.rim.clocks import Look, look
from pipeline.rim.replies import parse_entries, parse_hash
from pipeline.rim.scripts import Argument, Scripts
from pipeline.rim.store import redis_time_ms
from pipeline.rim.ticks import TimeKeeper
from tests.servers import RunningServer

IDLE_MS = 10_000
STREAM = Stream(
    "readings",
    (Field("ts", "timestamp", unit="ms"), Field("value", "float", nullable=True)),
    TimePolicy(field="ts", disorder_ms=1_000, idle_after_ms=IDLE_MS),
    partitions=2,
)
TEN_SECONDS = Tumbling(10_000)


def keeper(server: RunningServer, stream: Stream = STREAM) -> TimeKeeper:
    return TimeKeeper(server.client, Scripts(server.client), stream, (Horizon(TEN_SECONDS),), ("stage@v1",))


def add_row(server: RunningServer, partition: int, time_ms: object, **fields: str) -> str:
    """One event as any Redis client writes it."""
    key = keys.raw(STREAM.name, partition)
    parts = [part for pair in ({"ts": time_ms} | fields).items() for part in pair]
    return str(server.client.execute_command("XADD", key, "*", *parts).decode())


def door(server: RunningServer, partition: int) -> dict[bytes, bytes]:
    return parse_hash(server.client.execute_command("HGETALL", keys.door(STREAM.name, partition)))


def log_of(server: RunningServer, partition: int) -> list[dict[bytes, bytes]]:
    found = parse_entries(server.client.execute_command("XRANGE", keys.raw(STREAM.name, partition), "-", "+"))
    return [entry.fields or {} for entry in found]


def tick(server: RunningServer, last_id: str, time_ms: int, partition: int = 0, by: str = "silence") -> str:
    found = Scripts(server.client).run(
        "tick",
        keys=[keys.raw(STREAM.name, partition), keys.door(STREAM.name, partition)],
        args=[last_id, time_ms, by],
    )
    return str(found.decode())


def test_a_tick_is_an_entry_and_moves_the_door_but_not_the_last_arrival(any_server: RunningServer) -> None:
    now_ms = redis_time_ms(any_server.client)
    seen = door_after(any_server, now_ms - 5_000)

    entry_id = tick(any_server, seen[b"last_id"].decode(), now_ms - 2_000)

    assert log_of(any_server, 0)[-1] == {b"_k": b"tick", b"t": b"%d" % (now_ms - 2_000), b"by": b"silence"}
    after = door(any_server, 0)
    assert after == seen | {
        b"last_id": entry_id.encode(),
        b"max_seen_ms": b"%d" % (now_ms - 2_000),
        b"last_tick_ms": entry_id.partition("-")[0].encode(),
    }


def door_after(server: RunningServer, time_ms: int) -> dict[bytes, bytes]:
    add_row(server, 0, time_ms)
    look(server.client, Scripts(server.client), STREAM, ())
    return door(server, 0)


def test_a_tick_is_capped_by_its_arrival(server: RunningServer) -> None:
    seen = door_after(server, 1_000)
    entry_id = tick(server, seen[b"last_id"].decode(), redis_time_ms(server.client) + DAY_MS)
    assert door(server, 0)[b"max_seen_ms"] == entry_id.partition("-")[0].encode()


def test_a_tick_never_moves_the_running_maximum_back(server: RunningServer) -> None:
    seen = door_after(server, 5_000)
    tick(server, seen[b"last_id"].decode(), 1_000)
    assert door(server, 0)[b"max_seen_ms"] == b"5000"


def test_a_tick_is_refused_when_an_event_came_after_the_look(any_server: RunningServer) -> None:
    seen = door_after(any_server, 5_000)
    add_row(any_server, 0, 6_000)
    assert tick(any_server, seen[b"last_id"].decode(), 9_000) == ""
    assert door(any_server, 0) == seen
    assert len(log_of(any_server, 0)) == 2


def test_the_second_of_two_schedulers_is_refused(server: RunningServer) -> None:
    seen = door_after(server, 5_000)
    assert tick(server, seen[b"last_id"].decode(), 9_000) != ""
    assert tick(server, seen[b"last_id"].decode(), 9_000) == ""


def test_a_tick_decided_from_a_log_that_was_rolled_back_is_refused(server: RunningServer) -> None:
    seen = door_after(server, 5_000)
    server.client.flushall()
    assert tick(server, seen[b"last_id"].decode(), 9_000) == ""


def test_a_tick_may_be_the_first_entry_of_a_partition(server: RunningServer) -> None:
    assert tick(server, "0-0", 9_000) != ""
    assert door(server, 0)[b"max_seen_ms"] == b"9000"
    assert b"last_arrival_ms" not in door(server, 0)


def test_rows_by_plain_xadd_correct_the_door(any_server: RunningServer) -> None:
    now_ms = redis_time_ms(any_server.client)
    ids = [add_row(any_server, 0, now_ms - ahead) for ahead in (9_000, 2_000, 5_000)]
    ids += [add_row(any_server, 0, now_ms + 60_000)]

    seen = look(any_server.client, Scripts(any_server.client), STREAM, ())

    clock = seen.clocks[0]
    arrival_ms = int(ids[-1].partition("-")[0])
    assert seen.complete
    assert clock.last_id == ids[-1]
    assert (clock.max_seen_ms, clock.max_ts_ms, clock.last_arrival_ms) == (arrival_ms, now_ms + 60_000, arrival_ms)
    assert door(any_server, 0) == {
        b"last_id": ids[-1].encode(),
        b"max_seen_ms": b"%d" % arrival_ms,
        b"max_ts_ms": b"%d" % (now_ms + 60_000),
        b"last_arrival_ms": b"%d" % arrival_ms,
    }


def test_rows_that_fail_validation_do_not_move_time(server: RunningServer) -> None:
    now_ms = redis_time_ms(server.client)
    add_row(server, 0, 7_000)
    add_row(server, 0, "yesterday")
    add_row(server, 0, 8_000, value="warm")
    last_id = add_row(server, 0, now_ms + DAY_MS)

    clock = look(server.client, Scripts(server.client), STREAM, ()).clocks[0]

    assert (clock.max_seen_ms, clock.max_ts_ms) == (7_000, 7_000)
    assert clock.last_id == last_id


def test_chunks_that_follow_a_row_are_counted_by_their_header(server: RunningServer) -> None:
    add_row(server, 0, 7_000)
    chunk = {"_k": "chunk", "v": 1, "n": 2, "seq": 0, "crc": 0, "at": 9_500, "lo": 1, "hi": 9_000, "coding": "ndjson"}
    parts = [part for pair in (chunk | {"body": "x"}).items() for part in pair]
    server.client.execute_command("XADD", keys.raw(STREAM.name, 0), "*", *parts)
    add_row(server, 0, 8_000)
    clock = look(server.client, Scripts(server.client), STREAM, ()).clocks[0]
    assert (clock.max_seen_ms, clock.max_ts_ms) == (9_000, 9_000)


def test_a_long_backlog_of_rows_is_caught_up_over_several_looks_without_ticks(server: RunningServer) -> None:
    pipe = server.client.pipeline(transaction=False)
    for row in range(3_000):
        pipe.execute_command("XADD", keys.raw(STREAM.name, 0), "*", "ts", 1_000 + row)
    pipe.execute()
    scripts = Scripts(server.client)
    looks: list[Look] = []
    while not (looks and looks[-1].complete):
        looks.append(look(server.client, scripts, STREAM, (), steps=4))
    assert len(looks) > 1
    assert looks[-1].clocks[0].max_ts_ms == 3_999


def test_a_checkpoint_ahead_of_the_door_saves_reading_up_to_it(server: RunningServer) -> None:
    add_row(server, 0, 1_000)
    cursor = add_row(server, 0, 2_000)
    said = ("cursor", cursor, "max_seen_ms", 5_000, "max_ts_ms", 6_000)  # not what the rows say: they are not read
    server.client.execute_command("HSET", keys.checkpoint(STREAM.name, 0, "stage@v1"), *said)
    clock = look(server.client, Scripts(server.client), STREAM, ("stage@v1",), steps=1).clocks[0]
    assert (clock.last_id, clock.max_seen_ms, clock.max_ts_ms) == (cursor, 5_000, 6_000)
    assert clock.last_arrival_ms == int(cursor.partition("-")[0])


def test_a_correction_from_an_old_look_is_refused(server: RunningServer) -> None:
    seen = door_after(server, 5_000)
    for started_from, stored in (("0-0", 0), (seen[b"last_id"].decode(), 1)):
        done = Scripts(server.client).run(
            "correct", keys=[keys.door(STREAM.name, 0)], args=[started_from, "9-9", 4_000, 6_000, "", ""]
        )
        assert done == stored
    assert door(server, 0) == seen | {b"last_id": b"9-9", b"max_ts_ms": b"6000"}


def test_silence_is_ticked_through_the_log(server: RunningServer) -> None:
    now_ms = redis_time_ms(server.client)
    for partition in (0, 1):
        add_row(server, partition, now_ms)
    keeping = keeper(server)
    assert keeping.tick_idle(now_ms) == []
    assert keeping.tick_idle(now_ms + IDLE_MS - 1_000) == []
    arrived = [clock.last_arrival_ms or 0 for clock in keeping._look().clocks]

    later_ms = max(arrived) + IDLE_MS
    ids = keeping.tick_idle(later_ms)

    assert len(ids) == 2
    for partition in (0, 1):
        assert log_of(server, partition)[-1][b"t"] == b"%d" % (now_ms + later_ms - arrived[partition])
    assert keeping.tick_idle(later_ms) == []


def test_a_never_used_partition_follows_once_the_others_have_settled(server: RunningServer) -> None:
    now_ms = redis_time_ms(server.client)
    add_row(server, 0, now_ms - 3_000)
    keeping = keeper(server)
    assert keeping.tick_idle(now_ms) == []
    assert len(keeping.tick_idle(now_ms + 1_000)) == 1
    assert log_of(server, 1) == [{b"_k": b"tick", b"t": b"%d" % (now_ms - 3_000), b"by": b"follow"}]


def test_an_end_tick_closes_the_last_window_of_a_historic_stream_in_every_partition(any_server: RunningServer) -> None:
    add_row(any_server, 0, 12_345)
    ticked = keeper(any_server).end()
    assert ticked.time_ms == 20_000 + STREAM.time.disorder_ms
    assert len(ticked.ids) == 2
    for partition in (0, 1):
        assert log_of(any_server, partition)[-1] == {b"_k": b"tick", b"t": b"%d" % ticked.time_ms, b"by": b"end"}
        assert door(any_server, partition)[b"max_seen_ms"] == b"%d" % ticked.time_ms


def test_the_end_of_a_stream_without_events_is_nothing(server: RunningServer) -> None:
    ticked = keeper(server).end()
    assert (ticked.ids, ticked.time_ms) == ((), None)
    assert log_of(server, 0) == []


def test_an_end_tick_is_written_again_behind_an_event_that_came_first(server: RunningServer) -> None:
    add_row(server, 0, 12_345)
    raced: list[str] = []

    class Raced(Scripts):
        """An event comes in between the look and the first tick."""

        def run(self, name: str, *, keys: Sequence[str | bytes], args: Sequence[Argument] = ()) -> Any:
            if name == "tick" and not raced:
                raced.append(add_row(server, 0, 33_333))
            return super().run(name, keys=keys, args=args)

    racing = TimeKeeper(server.client, Raced(server.client), STREAM, (Horizon(TEN_SECONDS),), ())
    ticked = racing.end()

    assert ticked.time_ms == 40_000 + STREAM.time.disorder_ms
    assert [entry.get(b"t") for entry in log_of(server, 0)][-1] == b"%d" % ticked.time_ms
    assert door(server, 1)[b"max_seen_ms"] == b"%d" % ticked.time_ms


def test_a_heartbeat_moves_time_in_every_partition(server: RunningServer) -> None:
    now_ms = redis_time_ms(server.client)
    ticked = keeper(server).heartbeat(now_ms - HOUR_MS, now_ms)
    assert ticked.time_ms == now_ms - HOUR_MS
    assert [len(log_of(server, partition)) for partition in (0, 1)] == [1, 1]


def test_a_heartbeat_from_the_future_is_refused_with_the_numbers(server: RunningServer) -> None:
    now_ms = redis_time_ms(server.client)
    with pytest.raises(BadRequestError, match="ahead of the server's clock"):
        keeper(server).heartbeat(now_ms + HOUR_MS, now_ms)
    assert log_of(server, 0) == []


def test_a_tick_says_who_wrote_it(server: RunningServer) -> None:
    now_ms = redis_time_ms(server.client)
    add_row(server, 0, now_ms - 1_000)
    keeping = keeper(server)
    keeping.tick_idle(now_ms)
    keeping.tick_idle(now_ms + 1_000)
    keeping.heartbeat(now_ms - 500, now_ms)
    keeping.end()
    assert [entry.get(b"by") for entry in log_of(server, 1)] == [b"follow", b"heartbeat", b"end"]


def test_a_tick_without_a_known_cause_is_refused_before_anything_is_written(server: RunningServer) -> None:
    seen = door_after(server, 5_000)
    with pytest.raises(ResponseError, match=r"not a cause: boredom"):
        tick(server, seen[b"last_id"].decode(), 9_000, by="boredom")
    assert door(server, 0) == seen
