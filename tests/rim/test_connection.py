"""The connection factory: nothing is sent twice by a writer, whatever the URL says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from pipeline.rim.connection import RedisUrlError, is_away, reader, writer
from tests.servers import RunningServer


class ReplyLoser:
    """A proxy that passes every command on and loses the first `losses` replies to commands with `word`."""

    def __init__(self, server_path: str, word: bytes, losses: int) -> None:
        self._server_path = server_path
        self._word = word
        self.losses_left = losses
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed: the test is over
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as upstream:
            upstream.connect(self._server_path)
            while command := client.recv(65536):
                upstream.sendall(command)
                reply = upstream.recv(65536)
                if self._word in command and self.losses_left > 0:
                    self.losses_left -= 1
                    return
                client.sendall(reply)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def losing(server: RunningServer) -> Iterator[Callable[[bytes, int], ReplyLoser]]:
    made: list[ReplyLoser] = []

    def lose(word: bytes, losses: int) -> ReplyLoser:
        made.append(ReplyLoser(str(server.folder / "redis.sock"), word, losses))
        return made[-1]

    yield lose
    for proxy in made:
        proxy.close()


@contextmanager
def closing(client: redis.Redis) -> Iterator[redis.Redis]:
    try:
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("query", ["", "?retry_on_timeout=true&retry_on_error=ConnectionError"])
def test_a_writer_that_loses_a_reply_has_sent_its_command_once(
    server: RunningServer, losing: Callable[[bytes, int], ReplyLoser], query: str
) -> None:
    proxy = losing(b"XADD", 1)

    with closing(writer(proxy.url + query)) as client, pytest.raises(redis.exceptions.ConnectionError):
        client.xadd("s", {"a": "1"})

    assert server.client.xlen("s") == 1


def test_a_writer_works_again_after_a_lost_reply(
    server: RunningServer, losing: Callable[[bytes, int], ReplyLoser]
) -> None:
    proxy = losing(b"XADD", 1)

    with closing(writer(proxy.url)) as client:
        with pytest.raises(redis.exceptions.ConnectionError):
            client.xadd("s", {"a": "1"})
        client.xadd("s", {"a": "2"})

    assert server.client.xlen("s") == 2


def test_a_reader_repeats_a_read_whose_reply_was_lost(
    server: RunningServer, losing: Callable[[bytes, int], ReplyLoser]
) -> None:
    server.client.xadd("s", {"a": "1"})

    with closing(reader(losing(b"XLEN", 2).url)) as client:
        assert client.xlen("s") == 1


def test_a_reader_gives_up_after_a_bounded_number_of_tries(losing: Callable[[bytes, int], ReplyLoser]) -> None:
    proxy = losing(b"XLEN", 100)

    with closing(reader(proxy.url)) as client, pytest.raises(redis.exceptions.ConnectionError):
        client.xlen("s")

    assert proxy.losses_left == 97


def test_a_reader_waits_longer_for_a_reply_than_it_blocks() -> None:
    with closing(reader("redis://127.0.0.1:1", block_ms=60_000)) as client:
        assert client.connection_pool.connection_kwargs["socket_timeout"] > 60


def test_the_url_cannot_turn_replies_into_text(server: RunningServer) -> None:
    with closing(writer(server.url + "?decode_responses=true")) as client:
        client.set("a", "1")
        assert client.get("a") == b"1"


@pytest.mark.parametrize("protocol", [2, 3])
def test_the_url_chooses_the_protocol(server: RunningServer, protocol: int) -> None:
    with closing(writer(f"{server.url}?protocol={protocol}")) as client:
        assert f"resp={protocol}".encode() in client.execute_command("CLIENT", "INFO", NEVER_DECODE=True)


def test_one_client_serves_many_threads(server: RunningServer) -> None:
    with closing(writer(server.url)) as client, ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(lambda n: client.incrby("n", 1), range(500)))

    assert sorted(answers) == list(range(1, 501))


def test_a_url_that_cannot_be_used_is_refused_with_the_ones_that_can() -> None:
    with pytest.raises(RedisUrlError, match=r"redis://HOST:PORT/DB.*unix://") as refused:
        writer("http://me:secret@127.0.0.1:6379")

    assert "secret" not in str(refused.value)


def test_a_tls_url_makes_tls_connections() -> None:
    with closing(writer("rediss://127.0.0.1:6379")) as client:
        assert client.connection_pool.connection_class is redis.SSLConnection


def test_no_server_is_away(tmp_path: Path) -> None:
    with closing(writer(f"unix://{tmp_path}/none.sock")) as client:
        with pytest.raises(redis.exceptions.ConnectionError) as failed:
            client.ping()
        assert is_away(failed.value)


def test_a_full_server_is_away_also_to_a_script(throwaway_server: RunningServer) -> None:
    client = throwaway_server.client
    client.config_set("maxmemory", 1)

    for command in (("SET", "a", "1"), ("EVAL", "return redis.call('SET', KEYS[1], '1')", 1, "a")):
        with pytest.raises(redis.exceptions.ResponseError) as failed:
            client.execute_command(*command)
        assert is_away(failed.value), failed.value


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), True),
        (redis.exceptions.TimeoutError("Timeout reading from socket"), True),
        (redis.exceptions.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), True),
        (redis.exceptions.ResponseError("NOREPLICAS Not enough good replicas to write."), True),
        (redis.exceptions.AuthenticationError("invalid username-password pair or user is disabled."), False),
        (redis.exceptions.NoPermissionError("this user has no permissions to run the 'xadd' command"), False),
        (redis.exceptions.ResponseError("WRONGTYPE Operation against a key"), False),
        (ValueError("OOM"), False),
    ],
)
def test_away_means_that_waiting_may_help(error: Exception, away: bool) -> None:
    assert is_away(error) is away
