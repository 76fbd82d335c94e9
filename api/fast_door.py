"""The usual request for a batch, taken by WSGI itself: Flask is most of what a request with one event costs.

Invariant: what it answers is what Flask would: one function takes the rows (`ingest`), one table says the errors
(`problems`), and a request with anything to say besides its body goes to Flask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import Any

import msgspec
from flask import Flask, Request

from api.bodies import small_object
from api.ingest import report_of, take_rows
from api.intake import SMALL_BYTES, Intake, Intakes, Receipt
from api.problems import from_error

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

GOOD_HOSTS = 100  # that are remembered; any name under .localhost is one
_ACCEPTED = f"{HTTPStatus.ACCEPTED.value} {HTTPStatus.ACCEPTED.phrase.upper()}"


class FastDoor:
    """Stands before an app; `check_host` raises where a request comes from a name that is not ours."""

    def __init__(self, app: Flask, intakes: Intakes, check_host: Callable[[Request], None] | None) -> None:
        self._app = app.wsgi_app
        self._check_host = check_host
        self._good_hosts: set[str] = set()
        self._intakes = {f"/v1/streams/{name}/events": intake for name, intake in intakes.by_stream.items()}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        intake = self._intake(environ)
        if intake is None:
            return self._app(environ, start_response)
        try:
            self._require_our_name(environ)
            receipt = _one_event(environ, intake) or take_rows(Request(environ, populate_request=False), intake)
        except Exception as error:  # at the top of a request, as Flask's own handler is
            return from_error(error)(environ, start_response)
        answer = msgspec.json.encode(report_of(receipt))
        start_response(_ACCEPTED, [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
        return [answer]

    def _require_our_name(self, environ: Environ) -> None:
        """Check the Host header of a request, once for each that is good: senders say the same one every time."""
        said = environ.get("HTTP_HOST")
        if self._check_host is None or said in self._good_hosts:
            return
        self._check_host(Request(environ, populate_request=False))
        if said is not None and len(self._good_hosts) < GOOD_HOSTS:
            self._good_hosts.add(said)

    def _intake(self, environ: Environ) -> Intake | None:
        """The stream that takes the request; None where Flask has to look at it."""
        if environ["REQUEST_METHOD"] != "POST" or environ.get("QUERY_STRING") or "HTTP_IDEMPOTENCY_KEY" in environ:
            return None
        return self._intakes.get(environ.get("PATH_INFO", ""))


def _one_event(environ: Environ, intake: Intake) -> Receipt | None:
    """Take a body of one plain row; None where it is not one, or not plain."""
    body = small_object(environ, SMALL_BYTES)
    return None if body is None else intake.take_event(body)
