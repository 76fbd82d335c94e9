"""Senders that only move bytes: one process, one thread, raw sockets, requests whose bytes are ready before the clock.

Invariant: no body is sent before all those `lead` ahead of it are answered. On a busy machine one connection may stand
still for a second, and what the others send meanwhile must stay within the stream's disorder.
"""

from __future__ import annotations

import multiprocessing
import re
import selectors
import socket
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

LEAD_MS = 7_500  # of event time that may overtake, where streams allow 10 s of disorder
ANSWER_TIMEOUT_S = 60.0
READ_BYTES = 65_536
NDJSON = "application/x-ndjson"
HEAD_END = b"\r\n\r\n"
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
TAKEN = (b"HTTP/1.1 202", b"HTTP/1.1 201", b"HTTP/1.1 204")


class SendingError(Exception):
    """A request was not taken: what the server said, to which body; `status` is that of the answer, if any."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    def __reduce__(self) -> tuple[type[SendingError], tuple[str, int | None]]:
        return SendingError, (str(self), self.status)  # it comes from another process


@dataclass(frozen=True, slots=True)
class Post:
    """What to send: each body is one POST to `path`."""

    path: str
    bodies: Sequence[bytes]
    content_type: str = NDJSON
    connections: int = 3
    lead: int | None = None  # bodies; None: any
    due_s: Sequence[float] = ()  # of each body, after the start; none: at once

    def requests(self) -> list[tuple[memoryview, ...]]:
        """What goes over the wire, a request each: a small one in one piece, a large one with its body uncopied."""
        start = f"POST {self.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {self.content_type}\r\nContent-Length: "
        found: list[tuple[memoryview, ...]] = []
        for body in self.bodies:
            head = f"{start}{len(body)}\r\n\r\n".encode()
            is_small = len(body) < READ_BYTES
            found.append((memoryview(head + body),) if is_small else (memoryview(head), memoryview(body)))
        return found


@dataclass(frozen=True, slots=True)
class Sent:
    """How it went: `began_s` and each answer on the monotonic clock, and the CPU time that sending took."""

    began_s: float
    answered_s: Sequence[float]
    cpu_s: float


def lead_of(batch: int, events_per_ms: float) -> int:
    """How many bodies of `batch` events may be under way beside the oldest one: 0 sends one at a time."""
    return max(0, int(LEAD_MS * events_per_ms) // batch - 1)


@dataclass(slots=True)
class _Line:
    """One connection and the request under way on it."""

    connection: socket.socket
    number: int = -1  # of the body; -1: idle
    rest: list[memoryview] = field(default_factory=list)  # still to be written
    answer: bytearray = field(default_factory=bytearray)

    def begin(self, number: int, request: Iterable[memoryview]) -> None:
        self.number = number
        self.rest = list(request)
        self.answer.clear()

    def write(self) -> None:
        try:
            written = self.connection.sendmsg(self.rest)
        except BlockingIOError:
            return
        while self.rest and written >= len(self.rest[0]):
            written -= len(self.rest.pop(0))
        if self.rest:
            self.rest[0] = self.rest[0][written:]

    def read(self) -> bool:
        """Read what has come; True when the answer is whole.

        Raises:
            SendingError: the connection was closed, or the answer is not 2xx.
        """
        part = self.connection.recv(READ_BYTES)
        if not part:
            raise SendingError(f"the server closed the connection before it answered body {self.number}")
        self.answer += part
        head_end = self.answer.find(HEAD_END)
        length = CONTENT_LENGTH.search(self.answer, 0, head_end)
        body_at = head_end + len(HEAD_END)
        if head_end < 0 or len(self.answer) < body_at + (int(length[1]) if length else 0):
            return False
        if not self.answer.startswith(TAKEN):
            status, said = int(self.answer[9:12]), bytes(self.answer[body_at : body_at + 300])
            raise SendingError(f"body {self.number} was answered with {status}: {said!r}", status)
        return True


def send(port: int, post: Post) -> Sent:
    """Post every body once, in order; return when each was answered.

    Raises:
        SendingError: a body was refused, or nothing was answered for ANSWER_TIMEOUT_S.
    """
    requests = post.requests()
    with selectors.DefaultSelector() as selector:
        lines = [_Line(_connected(port)) for _ in range(post.connections)]
        try:
            for line in lines:
                selector.register(line.connection, selectors.EVENT_READ, line)
            cpu_s, began_s = time.process_time(), time.monotonic()
            answered_s = _send(selector, lines, requests, post, began_s)
            return Sent(began_s, answered_s, time.process_time() - cpu_s)
        finally:
            for line in lines:
                line.connection.close()


def _connected(port: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setblocking(False)
    return connection


def _send(
    selector: selectors.BaseSelector,
    lines: Sequence[_Line],
    requests: Sequence[Iterable[memoryview]],
    post: Post,
    began_s: float,
) -> list[float]:
    answered_s = [0.0] * len(requests)
    idle = list(lines)
    after, oldest = 0, 0  # next to send, first without an answer
    while oldest < len(requests):
        wait_s = ANSWER_TIMEOUT_S
        while idle and after < len(requests) and (post.lead is None or after - oldest <= post.lead):
            if post.due_s and (pause_s := post.due_s[after] - (time.monotonic() - began_s)) > 0:
                wait_s = pause_s
                break
            line = idle.pop()
            line.begin(after, requests[after])
            line.write()
            if line.rest:
                selector.modify(line.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, line)
            after += 1
        ready = selector.select(wait_s)
        if not ready and wait_s == ANSWER_TIMEOUT_S:
            raise SendingError(f"no answer to body {oldest} within {ANSWER_TIMEOUT_S:g} s")
        for key, events in ready:
            line = key.data
            if events & selectors.EVENT_WRITE and line.rest:
                line.write()
                if not line.rest:
                    selector.modify(line.connection, selectors.EVENT_READ, line)
            if events & selectors.EVENT_READ and line.read():
                answered_s[line.number] = time.monotonic()
                idle.append(line)
        while oldest < after and answered_s[oldest]:
            oldest += 1
    return answered_s


class Sender:
    """A process of its own that sends: forked with the bodies in its memory."""

    def __init__(self, port: int, post: Post) -> None:
        context = multiprocessing.get_context("fork")
        self._answers, answers = context.Pipe(duplex=False)
        self._process = context.Process(target=_send_and_tell, args=(port, post, answers))
        self._process.start()
        answers.close()  # the sender has its own: when it dies, ours must say so

    def join(self) -> Sent:
        """Wait until everything is sent.

        Raises:
            SendingError: as `send`, or the process died.
        """
        try:
            found: Any = self._answers.recv()
        except EOFError:
            found = SendingError("the sender died")
        self._process.join()
        if isinstance(found, SendingError):
            raise found
        return Sent(*found)


def _send_and_tell(port: int, post: Post, answers: Connection) -> None:
    try:
        sent = send(port, post)
    except SendingError as error:
        answers.send(error)
    except OSError as error:
        answers.send(SendingError(f"the connection broke: {error}"))
    else:
        answers.send((sent.began_s, sent.answered_s, sent.cpu_s))
