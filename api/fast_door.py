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

from api.ingest import report_of, take_rows
from api.intake import Intake, Intakes
from api.problems import from_error

Environ = dict[str, Any]
StartResponse = Callable[..., Any]

_ACCEPTED = f"{HTTPStatus.ACCEPTED.value} {HTTPStatus.ACCEPTED.phrase.upper()}"


class FastDoor:
    """Stands before an app; `check_host` raises where a request comes from a name that is not ours."""

    def __init__(self, app: Flask, intakes: Intakes, check_host: Callable[[Request], None] | None) -> None:
        self._app = app.wsgi_app
        self._check_host = check_host
        self._intakes = {f"/v1/streams/{name}/events": intake for name, intake in intakes.by_stream.items()}

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        intake = self._intake(environ)
        if intake is None:
            return self._app(environ, start_response)
        request = Request(environ, populate_request=False)
        try:
            if self._check_host is not None:
                self._check_host(request)
            receipt = take_rows(request, intake)
        except Exception as error:  # at the top of a request, as Flask's own handler is
            return from_error(error)(environ, start_response)
        answer = msgspec.json.encode(report_of(receipt))
        start_response(_ACCEPTED, [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
        return [answer]

    def _intake(self, environ: Environ) -> Intake | None:
        """The stream that takes the request; None where Flask has to look at it."""
        if environ["REQUEST_METHOD"] != "POST" or environ.get("QUERY_STRING") or "HTTP_IDEMPOTENCY_KEY" in environ:
            return None
        return self._intakes.get(environ.get("PATH_INFO", ""))
