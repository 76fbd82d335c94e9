"""The Python client over an app in this process: what a command or a notebook would do, without a socket."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask.testing import FlaskClient

from api.client import Client
from api.client_errors import error_from_answer
from api.transport import Answer


class Wire:
    """What `Transport` is to a real connection; it never retries."""

    def __init__(self, http: FlaskClient) -> None:
        self._http = http

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
        said: Any = self._http.open(path, method=method, query_string=query, data=body, headers=dict(headers or {}))
        if said.status_code >= 400 and said.status_code not in expect:
            raise error_from_answer(said.status_code, said.data)
        return Answer(said.status_code, {}, said.data)

    def close(self) -> None:
        """There is no connection."""


def client_on(http: FlaskClient) -> Client:
    client = Client("http://127.0.0.1:1")
    client._http = Wire(http)  # type: ignore[assignment]
    return client
