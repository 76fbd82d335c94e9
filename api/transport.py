"""One kept-alive HTTP connection that repeats what may be repeated.

Invariant: everything sent through it is safe to send twice (reads, ticks, and posts that carry an `Idempotency-Key`),
so a lost reply is answered by sending again, for at most `patience_s`.
"""

from __future__ import annotations

import contextlib
import http.client
import random
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlencode, urlsplit

from api.client_errors import error_from_answer
from pipeline.errors import StreamgaugeError
from pipeline.runtime.door import UnavailableError

SOCKET_TIMEOUT_S = 60.0  # above the 5 s of ?wait=applied and the slowest range read
FIRST_CONTACT_S = 2.0  # an API that has never answered is more likely not running than restarting
FIRST_WAIT_S = 0.05  # a kept-alive connection the server closed while idle: try again at once
LONGEST_WAIT_S = 5.0  # between two tries when the server names no time
LONGEST_RETRY_AFTER_S = 60.0  # believed of a server that names one
RETRIED_STATUSES = frozenset({429, 503})


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer below 400, or one of the statuses the caller said it would read itself."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes


class Transport:
    """A connection to one API; not for two threads at once."""

    def __init__(
        self,
        url: str,
        *,
        patience_s: float,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection_to(url, SOCKET_TIMEOUT_S)
        self.url = url.rstrip("/")
        self._prefix = urlsplit(url).path.rstrip("/")
        self._patience_s = patience_s
        self._sleep = sleep
        self._clock = clock
        self._answered = False

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | list[str]] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        expect: frozenset[int] = frozenset(),
    ) -> Answer:
        """Return the answer; statuses of 400 and above raise unless they are in `expect`.

        Raises:
            UnavailableError: no answer, or only 429 and 503, for as long as patience lasts.
            ApiError: the API refused.
        """
        target = self._prefix + path + (f"?{urlencode(query, doseq=True)}" if query else "")
        began, wait_s = self._clock(), FIRST_WAIT_S
        while True:
            try:
                answer = self._once(method, target, body, headers or {})
            except (OSError, http.client.HTTPException) as error:
                failure: StreamgaugeError = self._unreachable(error)
                pause_s = wait_s * random.uniform(0.5, 1.0)
                patience_s = self._patience_s if self._answered else min(FIRST_CONTACT_S, self._patience_s)
            else:
                if answer.status < 400 or answer.status in expect:
                    return answer
                failure = error_from_answer(answer.status, answer.body)
                if answer.status not in RETRIED_STATUSES:
                    raise failure
                pause_s, patience_s = retry_after_s(answer, wait_s), self._patience_s
            if self._clock() - began + pause_s > patience_s:
                raise failure
            self._sleep(pause_s)
            wait_s = min(wait_s * 2, LONGEST_WAIT_S)

    def _once(self, method: str, target: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        try:
            # A server may answer (413, 429) and close before it has read the body: that answer is what counts.
            with contextlib.suppress(BrokenPipeError):
                self._connection.request(method, target, body=body, headers=dict(headers))
            response = self._connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        except (OSError, http.client.HTTPException):
            self._connection.close()
            raise
        self._answered = True
        return answer

    def _unreachable(self, error: Exception) -> UnavailableError:
        why = str(error) or type(error).__name__
        hint = (
            ""
            if self._answered
            else " Is it running? `streamgauge up` starts it; or name another address (--url, STREAMGAUGE_URL)."
        )
        return UnavailableError(f"no answer from {self.url}: {why}.{hint}")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def connection_to(url: str, timeout_s: float) -> http.client.HTTPConnection:
    """Return a connection to the API at `url`, not opened yet.

    Raises:
        StreamgaugeError: `url` is no address of an API.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise StreamgaugeError(f"{url!r} is not the address of an API; it looks like http://127.0.0.1:8080")
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=context)
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)


def retry_after_s(answer: Answer, otherwise_s: float) -> float:
    """Return the wait the server asks for; a date instead of seconds counts as not said."""
    said = answer.headers.get("retry-after", "")
    return min(float(said), LONGEST_RETRY_AFTER_S) if said.isdigit() else otherwise_s
