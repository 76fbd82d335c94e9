"""A live stream of the API (Server-Sent Events), read for as long as it is wanted, whatever becomes of connections.

Invariant: a reader never loses its place: a connection that breaks, ends or falls silent is opened again after the last
position it was told, with pauses that are bounded, until patience runs out.
"""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode, urlsplit

from api.client_errors import error_from_answer
from api.client_queries import Query
from api.transport import (
    LONGEST_RETRY_AFTER_S,
    RETRIED_STATUSES,
    Answer,
    connection_to,
    retry_after_s,
)
from pipeline.errors import StreamgaugeError
from pipeline.runtime.door import UnavailableError

SILENCE_S = 40.0  # the server says something at least every 15 s: after this much the connection is taken for dead
PAUSE_S = 2.0  # before a connection is opened again, where the server names no `retry`
LINE_BYTES = 64_000_000  # of one line: more than any answer of the API


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """One event: `snapshot`, `rows` or `reset`, and its JSON."""

    name: str
    data: dict[str, Any]


@dataclass(slots=True)
class Place:
    """What the next connection needs to know: the last position, and how long to wait before it is opened."""

    position: str | None = None
    pause_s: float = PAUSE_S


@dataclass(slots=True)
class EventLines:
    """Lines to events, as https://html.spec.whatwg.org/multipage/server-sent-events.html has them."""

    place: Place
    _name: str = ""
    _data: list[str] = field(default_factory=list)
    _position: str | None = None  # of the event being read: one that is cut off moves nothing

    def take(self, line: str) -> LiveEvent | None:
        """Take a line without its end; return the event that an empty line completes.

        Raises:
            StreamgaugeError: its data is not a JSON object.
        """
        if not line:
            return self._complete()
        name, _, value = line.partition(":")  # a comment has no name before it
        value = value.removeprefix(" ")
        match name:
            case "event":
                self._name = value
            case "data":
                self._data.append(value)
            case "id" if "\0" not in value:
                self._position = value
            case "retry" if value.isascii() and value.isdigit():
                self.place.pause_s = min(int(value) / 1000, LONGEST_RETRY_AFTER_S)
        return None

    def _complete(self) -> LiveEvent | None:
        if self._position is not None:
            self.place.position = self._position or None
        name, data = self._name, "\n".join(self._data)
        self._name, self._data, self._position = "", [], None
        if not data:
            return None
        try:
            said = json.loads(data)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            raise StreamgaugeError(f"the data of a live event is not a JSON object: {data[:80]!r}")
        return LiveEvent(name or "message", said)


@dataclass(slots=True)
class LiveReader:
    """One live stream at `url` + `path`; `events()` is read to its end, or closed."""

    url: str
    path: str
    query: Query
    patience_s: float
    duration_s: float | None  # None: for ever
    sleep: Callable[[float], None]
    clock: Callable[[], float]
    _place: Place = field(default_factory=Place)
    _ends: float | None = None
    _failing_since: float | None = None  # None: the last thing that happened was a line

    def events(self) -> Iterator[LiveEvent]:
        """Yield events until `duration_s` is over.

        Raises:
            UnavailableError: no connection that says anything, for `patience_s`.
            ApiError: the API refused.
        """
        failure: StreamgaugeError
        self._ends = None if self.duration_s is None else self.clock() + self.duration_s
        while not self._is_over():
            try:
                yield from self._connection()
                failure, pause_s = UnavailableError(f"{self.url}{self.path}: the stream ended"), self._place.pause_s
            except (OSError, http.client.HTTPException) as error:
                why = str(error) or type(error).__name__
                failure, pause_s = UnavailableError(f"{self.url}{self.path}: {why}"), self._place.pause_s
            except _BusyError as busy:
                failure, pause_s = busy.failure, busy.pause_s
            if self._failing_since is None:
                self._failing_since = self.clock()
            if self._is_over():
                return
            if self.clock() - self._failing_since + pause_s > self.patience_s:
                raise failure
            self.sleep(pause_s if self._ends is None else min(pause_s, max(0.0, self._ends - self.clock())))

    def _is_over(self) -> bool:
        return self._ends is not None and self.clock() >= self._ends

    def _connection(self) -> Iterator[LiveEvent]:
        """The events of one connection; it ends when the server ends it, or when time is up."""
        with contextlib.closing(connection_to(self.url, SILENCE_S)) as connection:
            connection.connect()
            socket = connection.sock  # http.client forgets it once an answer has no length
            lines = EventLines(self._place)
            with contextlib.closing(self._answer(connection)) as answer:
                while not self._is_over():
                    socket.settimeout(SILENCE_S if self._ends is None else self._patience_of_a_read())
                    try:
                        line = answer.readline(LINE_BYTES)
                    except TimeoutError:
                        if self._is_over():
                            return
                        raise
                    if not line.endswith(b"\n"):
                        _refuse_endless(line)
                        return  # cut off: an event that is not complete does not count
                    self._failing_since = None
                    if event := lines.take(line.decode("utf-8").rstrip("\r\n")):
                        yield event

    def _patience_of_a_read(self) -> float:
        assert self._ends is not None
        return min(SILENCE_S, max(0.01, self._ends - self.clock()))

    def _answer(self, connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        target = urlsplit(self.url).path.rstrip("/") + self.path
        if self.query:
            target += f"?{urlencode(self.query, doseq=True)}"
        connection.request("GET", target, headers=self._headers())
        answer = connection.getresponse()
        if answer.status == 200:
            return answer
        body = answer.read()
        failure = error_from_answer(answer.status, body)
        if answer.status in RETRIED_STATUSES:
            headers = {name.lower(): value for name, value in answer.getheaders()}
            raise _BusyError(failure, retry_after_s(Answer(answer.status, headers, body), self._place.pause_s))
        raise failure

    def _headers(self) -> Mapping[str, str]:
        position = self._place.position
        return {"Accept": "text/event-stream"} | ({} if position is None else {"Last-Event-ID": position})


def _refuse_endless(line: bytes) -> None:
    if len(line) >= LINE_BYTES:
        raise StreamgaugeError(
            f"a line of the live stream has more than {LINE_BYTES:,} bytes; choose groups with where"
        )


class _BusyError(Exception):
    """The API has no room, or Redis is away: it said when to come back."""

    def __init__(self, failure: StreamgaugeError, pause_s: float) -> None:
        self.failure = failure
        self.pause_s = pause_s
