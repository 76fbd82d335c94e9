"""Every error as `application/problem+json` (RFC 9457), by one table from error to status.

Invariant: bad input is never a 500, and a 500 never shows what went wrong inside.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import msgspec
import redis
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from api.reference.error_codes import type_of
from pipeline.core.refusals import Refusal
from pipeline.errors import BackpressureError, BadRequestError, TooManyReadersError
from pipeline.rim.connection import is_away
from pipeline.rim.pressure import MemoryFullError

CONTENT_TYPE = "application/problem+json"
ERRORS_SHOWN = 100  # of a batch; the counts are exact, and every refused row is in quarantine
REDIS_RETRY_AFTER_S = 1  # the supervisor restarts a dead server within a second; loading says so by itself

_log = logging.getLogger(__name__)


class RefusedRowsError(BadRequestError):
    """Not one row of a request was taken; `report` holds the counts a success would have."""

    def __init__(self, message: str, refusals: Sequence[Refusal], report: Mapping[str, Any], *, status: int) -> None:
        self.refusals = refusals
        self.report = report
        super().__init__(message, code=refusals[0].code, status=status)


def problem(status: int, code: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> Response:
    """Answer with a problem; `more` are its extension members."""
    body = {"type": type_of(code), "title": HTTPStatus(status).phrase, "status": status, "detail": detail, "code": code}
    return Response(msgspec.json.encode(body | more), status, headers, content_type=CONTENT_TYPE)


def error_list(refusals: Sequence[Refusal]) -> list[dict[str, Any]]:
    """The first refusals as the `errors` member of an answer."""
    return [
        {"index": each.index, "field": each.field, "code": each.code, "message": each.message}
        for each in refusals[:ERRORS_SHOWN]
    ]


def _retry(status: int, code: str, detail: str, after_s: int) -> Response:
    return problem(status, code, detail, headers={"Retry-After": str(after_s)})


def from_error(error: Exception) -> Response:
    """The one table: which status and which words an error becomes."""
    match error:
        case RefusedRowsError():
            errors = error_list(error.refusals)
            return problem(error.status, error.code, str(error), **{**error.report, "errors": errors})
        case BadRequestError():
            return problem(error.status, error.code, str(error), errors=[])
        case MemoryFullError():
            return _retry(503, "memory_full", str(error), error.retry_after_s)
        case TooManyReadersError():
            return _retry(429, "too_many_readers", str(error), error.retry_after_s)
        case BackpressureError():
            return _retry(429, "backlog", str(error), error.retry_after_s)
        case redis.exceptions.RedisError() if is_away(error):
            detail = f"Redis cannot take this now ({error}). Send it again, with the same Idempotency-Key if any."
            return _retry(503, "redis_away", detail, REDIS_RETRY_AFTER_S)
        case HTTPException():
            return _from_http(error)
    _log.error("unexpected error in a request", exc_info=error)
    return problem(500, "internal", "Something went wrong in the server; its log says what.")


def _from_http(error: HTTPException) -> Response:
    """Flask's own: no such path, wrong method, and the like; its headers (Allow) are kept."""
    kept = {name: value for name, value in error.get_headers() if not name.lower().startswith("content-")}
    status = error.code or 500
    code = HTTPStatus(status).name.lower()
    return problem(status, code, _words(error), headers=kept)


def _words(error: HTTPException) -> str:
    """What Flask says of a path is written for people with browsers; ours says what there is."""
    match error:
        case NotFound() if error.description == NotFound.description:
            return "Nothing is at this path. What there is, is listed at /docs and in /openapi.json."
        case MethodNotAllowed() if error.valid_methods:
            allowed = ", ".join(sorted(error.valid_methods))
            return f"{request.method} is not allowed at this path; allowed are {allowed}."
        case _:
            return error.description or HTTPStatus(error.code or 500).phrase


def register(app: Flask) -> None:
    """Make every error of the app a problem."""
    app.register_error_handler(Exception, from_error)
