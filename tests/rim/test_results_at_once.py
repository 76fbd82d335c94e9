"""Reading published windows together: each as it was published, whatever its size, small ones in one round trip."""

from __future__ import annotations

from itertools import chain
from typing import Any

import pytest
import redis

from pipeline.core.blocks import Packed, encode_block
from pipeline.core.names import Names
from pipeline.rim import keys, store
from pipeline.rim.store import Result, load_results
from tests.servers import RunningServer

METRIC, VERSION = "means", "v1"
Groups = list[list[bytes]]  # those of each block


def publish(server: RunningServer, window: tuple[int, int], blocks: Groups) -> None:
    """A result as `publish.lua` leaves it."""
    about: dict[str, Any] = {"revision": window[0] % 3, "state": "closed", "published_ms": 7, "marks": "1-1"}
    about |= {"groups": sum(map(len, blocks)), "seq": window[0]}
    about |= {f"b{number}": encode_block(packed(names)) for number, names in enumerate(blocks)}
    server.client.execute_command("HSET", keys.result(METRIC, VERSION, *window), *chain.from_iterable(about.items()))


def packed(names: list[bytes]) -> Packed:
    return Packed(Names.of(names), b"12345678" * len(names), [], [])


def read(server: RunningServer, *windows: tuple[int, int]) -> list[Result]:
    return load_results(server.client, METRIC, VERSION, windows)


def groups_of(results: list[Result]) -> dict[tuple[int, int], list[bytes]]:
    return {(result.start_ms, result.end_ms): result.groups for result in results}


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the commands that were sent one by one."""
    sent: list[str] = []
    execute: Any = redis.Redis.execute_command

    def noted(client: redis.Redis, *words: Any, **options: Any) -> Any:
        sent.append(words[0])
        return execute(client, *words, **options)

    monkeypatch.setattr(redis.Redis, "execute_command", noted)
    return sent


def test_a_result_is_read_as_it_was_published(any_server: RunningServer, commands: list[str]) -> None:
    blocks: dict[tuple[int, int], Groups] = {
        (-10, 0): [],
        (0, 10): [[b'["a"]', b'["b"]']],
        (10, 20): [[b'["a"]'], [b'["c"]', b'["d"]']],
        (20, 30): [[b'["%d"]' % number] for number in range(5)],
    }
    for window, of_it in blocks.items():
        publish(any_server, window, of_it)
    read(any_server, (0, 10))  # the server knows the script from here on
    commands.clear()

    found = read(any_server, (10, 20), (30, 40), *blocks)

    assert commands == ["EVALSHA"]
    assert groups_of(found) == {window: list(chain.from_iterable(of_it)) for window, of_it in blocks.items()}
    assert [result.start_ms for result in found] == [10, -10, 0, 10, 20], "in the order they were asked for"
    assert [(each.revision, each.state, each.published_ms, each.seq) for each in found[1:3]] == [
        (2, "closed", 7, -10),
        (0, "closed", 7, 0),
    ]
    assert [block.records for block in found[-1].blocks] == [b"12345678"] * 5
    assert read(any_server) == []


def test_windows_of_many_groups_are_read_by_themselves(
    any_server: RunningServer, monkeypatch: pytest.MonkeyPatch, commands: list[str]
) -> None:
    monkeypatch.setattr(store, "SMALL_RESULT", 3)
    blocks = {(n, n + 1): [[b"[%d]" % (100 * n + k)] for k in range(n)] for n in (1, 3, 4, 5, 2)}
    for window, of_it in blocks.items():
        publish(any_server, window, of_it)

    found = read(any_server, *blocks)

    assert list(groups_of(found)) == list(blocks)
    assert groups_of(found) == {window: list(chain.from_iterable(of_it)) for window, of_it in blocks.items()}
    assert commands.count("HGETALL") == 2


@pytest.mark.parametrize(("enough", "at_once"), [(1, 500), (60, 4), (10**6, 1)])
def test_windows_of_many_bytes_are_read_in_turns(
    any_server: RunningServer, monkeypatch: pytest.MonkeyPatch, enough: int, at_once: int
) -> None:
    monkeypatch.setattr(store, "ENOUGH_BYTES", enough)
    monkeypatch.setattr(store, "RESULTS_A_READ", at_once)
    windows = [(n, n + 1) for n in range(20)]
    for window in windows[::2]:
        publish(any_server, window, [[b"[%d]" % n] for n in range(window[0] % 5)])

    assert list(groups_of(read(any_server, *windows))) == windows[::2]


def test_a_result_that_does_not_say_how_it_was_published_is_named(any_server: RunningServer) -> None:
    any_server.client.execute_command("HSET", keys.result(METRIC, VERSION, 0, 10), "groups", 0, "state", "closed")
    with pytest.raises(ValueError, match=r"window \(0, 10\)"):
        read(any_server, (0, 10))
