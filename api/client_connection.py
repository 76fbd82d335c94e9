"""A connection to one API: any of its paths, with retries and exceptions of the client's.

Invariant: what is sent through it may be sent twice (see `Transport`), and what comes back is a JSON object, text or
bytes, or an exception.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import msgspec

from api.client_errors import ApiError
from api.transport import Answer, Transport

DEFAULT_URL = "http://127.0.0.1:8080"
PATIENCE_S = 60.0  # a Redis restart with a large AOF takes tens of seconds; the door answers 503 meanwhile


class ApiConnection:
    """A kept-alive connection; use one per thread."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        patience_s: float = PATIENCE_S,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._http = Transport(url, patience_s=patience_s, sleep=sleep, clock=clock)
        self._patience_s, self._sleep, self._clock = patience_s, sleep, clock

    def get(self, path: str, query: Mapping[str, str | list[str]] | None = None) -> dict[str, Any]:
        """Return the JSON object of any path of the API, with this client's retries and exceptions."""
        return json_object(self._http.request("GET", path, query=query))

    def post(self, path: str, said: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
        """Post a JSON object to any path of the API that may be asked twice, and return its answer."""
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        return json_object(self._http.request("POST", path, body=json.dumps(said).encode(), headers=headers))

    def text(self, path: str, query: Mapping[str, str | list[str]] | None = None) -> str:
        """Return an answer as text: CSV, for one."""
        return self._http.request("GET", path, query=query).body.decode()

    def content(self, path: str, query: Mapping[str, str | list[str]] | None = None) -> bytes:
        """Return an answer as its bytes: an Arrow stream, for one."""
        return self._http.request("GET", path, query=query).body

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def stream_path(stream: str) -> str:
    return f"/v1/streams/{quote(stream, safe='')}"


def metric_path(metric: str) -> str:
    return f"/v1/metrics/{quote(metric, safe='')}"


def json_object(answer: Answer) -> dict[str, Any]:
    """The JSON object that an answer is.

    Raises:
        ApiError: it is something else, a proxy's page for one.
    """
    try:
        said = msgspec.json.decode(answer.body)  # large answers in less than half the time of json, as exactly
    except (msgspec.DecodeError, UnicodeDecodeError):
        said = None
    if not isinstance(said, dict):
        raise ApiError(answer.status, "Not the API", f"the answer is not a JSON object: {answer.body[:80]!r}", [])
    return said
