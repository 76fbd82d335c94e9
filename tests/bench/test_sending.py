"""The sender: every body once and in order, never too far ahead, and a refusal is an error with the server's words."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import pytest

from bench.sending import Post, Sender, SendingError, lead_of, send

TAKEN = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """Answers each request on any connection with `answer`, and keeps the bodies and how many were open at once."""

    def __init__(self, answer: bytes, hold: int = 0) -> None:
        self.answer = answer
        self.hold = hold  # so many bodies are not answered until all of them are there
        self.bodies: list[bytes] = []
        self.most_ahead = 0
        self._answered = 0
        self._turn = threading.Condition()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return  # closed: the test is over
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream:
            while length := _content_length(stream):
                self._take(stream.read(length))
                connection.sendall(self.answer)
                with self._turn:
                    self._answered += 1

    def _take(self, body: bytes) -> None:
        with self._turn:
            self.bodies.append(body)
            self.most_ahead = max(self.most_ahead, len(self.bodies) - self._answered)
            self._turn.notify_all()
            self._turn.wait_for(lambda: len(self.bodies) >= self.hold, timeout=5)


def _content_length(stream: BinaryIO) -> int:
    """Of the next request; 0 when there is none."""
    length = 0
    while (line := stream.readline()) not in (b"\r\n", b""):
        if line.lower().startswith(b"content-length:"):
            length = int(line[15:])
    return length


@contextmanager
def serving(answer: bytes = TAKEN, hold: int = 0) -> Iterator[Server]:
    server = Server(answer, hold)
    try:
        yield server
    finally:
        server.listener.close()


def bodies(n: int, size: int = 10) -> list[bytes]:
    return [str(number).encode() + b" " + b"x" * size for number in range(n)]


def test_every_body_is_sent_once_and_answered() -> None:
    with serving() as server:
        sent = send(server.port, Post("/", bodies(50), connections=3))

    assert sorted(server.bodies) == sorted(bodies(50))
    assert len(sent.answered_s) == 50
    assert min(sent.answered_s) >= sent.began_s


def test_a_body_larger_than_any_socket_buffer_arrives_whole() -> None:
    large = bodies(3, size=20_000_000)

    with serving() as server:
        send(server.port, Post("/", large, connections=1))

    assert server.bodies == large


def test_one_connection_keeps_the_order() -> None:
    with serving() as server:
        send(server.port, Post("/", bodies(30), connections=1))

    assert server.bodies == bodies(30)


def test_no_body_is_further_ahead_than_the_lead() -> None:
    with serving(hold=3) as server:
        send(server.port, Post("/", bodies(40), connections=8, lead=2))

    assert server.most_ahead == 3


def test_a_body_waits_until_it_is_due() -> None:
    with serving() as server:
        sent = send(server.port, Post("/", bodies(3), connections=1, due_s=(0.0, 0.05, 0.1)))

    assert sent.answered_s[2] - sent.began_s >= 0.1


def test_a_refusal_is_an_error_with_the_status_and_the_words_of_the_server_also_from_another_process() -> None:
    refusal = b"HTTP/1.1 415 Unsupported Media Type\r\ncontent-length: 9\r\n\r\nnot Arrow"

    with serving(refusal) as server:
        with pytest.raises(SendingError, match="body 0 was answered with 415: b'not Arrow'"):
            send(server.port, Post("/", bodies(1)))
        with pytest.raises(SendingError, match="not Arrow") as caught:
            Sender(server.port, Post("/", bodies(1))).join()

    assert caught.value.status == 415


def test_a_connection_that_is_closed_is_an_error_and_not_an_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True).start()
        with pytest.raises((SendingError, ConnectionError)):
            send(port, Post("/", bodies(1), connections=1))


def test_the_lead_leaves_no_more_event_time_under_way_than_may_overtake() -> None:
    assert (lead_of(5_000, 10) + 1) * 5_000 / 10 <= 7_500
    assert lead_of(100_000, 10) == 0


def test_sending_takes_the_processor_time_it_says() -> None:
    with serving() as server:
        before = time.process_time()
        sent = send(server.port, Post("/", bodies(100)))

    assert 0 < sent.cpu_s <= time.process_time() - before
