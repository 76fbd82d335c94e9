"""Reply shapes: each parser gives one value under RESP2 and RESP3, from redis-py and from the wire, on every server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from pipeline.rim import replies
from pipeline.rim.connection import writer
from pipeline.rim.replies import Claimed, Entry, Group, Pending, PendingEntry, StreamRead
from tests.servers import RunningServer

ONE = Entry(b"1-0", {b"a": b"1", b"b": b"2"})
TWO = Entry(b"2-0", {b"a": b"3"})


class Sender:
    """Sends a command so that redis-py shapes its reply, or so that it does not (a name in bytes has no callback)."""

    def __init__(self, client: redis.Redis, *, shaped: bool) -> None:
        self._client = client
        self._shaped = shaped

    def __call__(self, command: str, *args: str | int) -> Any:
        return self._client.execute_command(command if self._shaped else command.encode(), *args)


@pytest.fixture(params=[True, False], ids=["redis-py", "wire"])
def send(any_server: RunningServer, protocol: int, request: pytest.FixtureRequest) -> Iterator[Sender]:
    client = writer(f"{any_server.url}?protocol={protocol}")
    client.execute_command("XADD", "s", "1-0", "a", "1", "b", "2")
    client.execute_command("XADD", "s", "2-0", "a", "3")
    client.execute_command("XGROUP", "CREATE", "s", "g", "0")
    yield Sender(client, shaped=request.param)
    client.close()


@pytest.fixture(params=[2, 3], ids=["resp2", "resp3"])
def protocol(request: pytest.FixtureRequest) -> int:
    assert request.param in (2, 3)
    return int(request.param)


def test_xread_gives_entries_by_stream(send: Sender) -> None:
    send("XADD", "t", "7-0", "x", "y")

    read = replies.parse_streams(send("XREAD", "STREAMS", "s", "t", "0", "0"))

    assert read == [StreamRead(b"s", [ONE, TWO]), StreamRead(b"t", [Entry(b"7-0", {b"x": b"y"})])]


def test_xread_of_one_entry_is_one_entry(send: Sender) -> None:
    assert replies.parse_streams(send("XREAD", "COUNT", 1, "STREAMS", "s", "0")) == [StreamRead(b"s", [ONE])]


def test_xread_of_nothing_new_is_empty(send: Sender) -> None:
    assert replies.parse_streams(send("XREAD", "STREAMS", "s", "2-0")) == []


def test_xreadgroup_gives_new_entries(send: Sender) -> None:
    read = replies.parse_streams(send("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">"))

    assert read == [StreamRead(b"s", [ONE, TWO])]
    assert replies.parse_streams(send("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")) == []


@pytest.mark.parametrize("id_deleted", ["1-0", "2-0"])
def test_a_pending_entry_that_was_trimmed_has_no_fields(send: Sender, id_deleted: str) -> None:
    send("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    send("XDEL", "s", id_deleted)

    read = replies.parse_streams(send("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", "0"))

    left = [Entry(e.id, None) if e.id == id_deleted.encode() else e for e in (ONE, TWO)]
    assert read == [StreamRead(b"s", left)]


def test_an_empty_history_is_a_stream_without_entries(send: Sender) -> None:
    assert replies.parse_streams(send("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", "0")) == [StreamRead(b"s", [])]


def test_xautoclaim_names_what_it_claimed_and_what_is_gone(send: Sender) -> None:
    send("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")
    send("XDEL", "s", "1-0")

    claimed = replies.parse_autoclaim(send("XAUTOCLAIM", "s", "g", "d", 0, "0-0"))

    assert claimed == Claimed(b"0-0", [TWO], [b"1-0"])


def test_xautoclaim_says_where_to_go_on(send: Sender) -> None:
    send("XREADGROUP", "GROUP", "g", "c", "STREAMS", "s", ">")

    claimed = replies.parse_autoclaim(send("XAUTOCLAIM", "s", "g", "d", 0, "0-0", "COUNT", 1))

    assert claimed == Claimed(b"2-0", [ONE], [])


def test_xpending_counts_by_consumer(send: Sender) -> None:
    send("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", "s", ">")
    send("XREADGROUP", "GROUP", "g", "d", "STREAMS", "s", ">")

    assert replies.parse_pending(send("XPENDING", "s", "g")) == Pending(2, b"1-0", b"2-0", {b"c": 1, b"d": 1})


def test_xpending_of_nothing_has_no_ids(send: Sender) -> None:
    assert replies.parse_pending(send("XPENDING", "s", "g")) == Pending(0, None, None, {})


@pytest.mark.parametrize("pending", [1, 4])
def test_xpending_lists_entries(send: Sender, pending: int) -> None:
    for n in range(3, pending + 1):
        send("XADD", "s", f"{n}-0", "a", "x")
    send("XREADGROUP", "GROUP", "g", "c", "COUNT", pending, "STREAMS", "s", ">")

    rows = replies.parse_pending_range(send("XPENDING", "s", "g", "-", "+", 10))

    idle_ms = rows[0].idle_ms
    assert 0 <= idle_ms < 60_000
    assert rows[0] == PendingEntry(b"1-0", b"c", idle_ms, 1)
    assert [row.id for row in rows] == [f"{n}-0".encode() for n in range(1, pending + 1)]


def test_xrange_gives_entries_in_order(send: Sender) -> None:
    assert replies.parse_entries(send("XRANGE", "s", "-", "+")) == [ONE, TWO]
    assert replies.parse_entries(send("XREVRANGE", "s", "+", "-", "COUNT", 1)) == [TWO]
    assert replies.parse_entries(send("XRANGE", "none", "-", "+")) == []


def test_xinfo_groups_gives_each_group(send: Sender) -> None:
    send("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", "s", ">")

    assert replies.parse_groups(send("XINFO GROUPS", "s")) == [Group(b"g", 1, 1, b"1-0", 1, 1)]


def test_a_lag_the_server_does_not_know_is_none(send: Sender) -> None:
    send("XGROUP CREATE", "s", "h", "1-5")

    unknown = {group.name: group.lag for group in replies.parse_groups(send("XINFO GROUPS", "s"))}[b"h"]

    assert unknown is None


def test_xinfo_stream_gives_length_and_ends(send: Sender) -> None:
    send("XDEL", "s", "1-0")

    info = replies.parse_stream_info(send("XINFO STREAM", "s"))

    assert (info.length, info.last_id, info.entries_added, info.max_deleted_id) == (1, b"2-0", 2, b"1-0")
    assert (info.groups, info.first, info.last) == (1, TWO, TWO)


def test_xinfo_of_an_empty_stream_has_no_ends(send: Sender) -> None:
    send("XTRIM", "s", "MAXLEN", 0)

    info = replies.parse_stream_info(send("XINFO STREAM", "s"))

    assert (info.length, info.first, info.last) == (0, None, None)


def test_hgetall_gives_bytes(send: Sender) -> None:
    send("HSET", "h", "a", "1", "b", "")

    assert replies.parse_hash(send("HGETALL", "h")) == {b"a": b"1", b"b": b""}
    assert replies.parse_hash(send("HGETALL", "none")) == {}


def test_replies_inside_a_script_have_the_same_shapes(send: Sender) -> None:
    entries = send("EVAL", "return redis.call('XRANGE', KEYS[1], '-', '+')", 1, "s")
    summary = send("EVAL", "return redis.call('XPENDING', KEYS[1], 'g')", 1, "s")

    assert replies.parse_entries(entries) == [ONE, TWO]
    assert replies.parse_pending(summary).total == 0
