"""What the API refused, as exceptions: one class per meaning, made from problem+json in one place.

Invariant: everything here is a `StreamgaugeError`, and its message is the API's own sentence.
"""

from __future__ import annotations

import json
from typing import Any

from pipeline.errors import StreamgaugeError
from pipeline.runtime.door import SendResult, UnavailableError

SAID_CHARS = 200  # of an answer that is not problem+json (a proxy's page): enough to recognise it
ERRORS_SHOWN = 3  # of a problem's errors[], in the message; all of them are in `errors`


class ApiError(StreamgaugeError):
    """The API answered with an error; `status`, `code`, `title`, `detail` and `errors` are the problem's."""

    def __init__(self, status: int, title: str, detail: str, errors: list[dict[str, Any]], code: str = "") -> None:
        self.status = status
        self.code = code  # a word for programs: unknown_parameter
        self.title = title
        self.detail = detail
        self.errors = errors
        shown = "; ".join(str(e.get("message", e)) for e in errors[:ERRORS_SHOWN])
        super().__init__(f"{status} {detail or title}" + (f" ({shown})" if shown and shown not in detail else ""))


class InvalidRequestError(ApiError):
    """400, 413, 415 or 422: the request cannot be answered as it stands; sending it again will not help."""


class NotAllowedError(ApiError):
    """401 or 403: no key, or one without the right."""


class NotFoundError(ApiError):
    """404: no such stream, metric or page."""


class ConflictError(ApiError):
    """409: this idempotency key was used with another body."""


class GoneError(ApiError):
    """410: what was being read is not there any more; begin again."""


class RejectedError(StreamgaugeError):
    """Not one row of a send was accepted; `result` holds the counts and the first errors."""

    def __init__(self, stream: str, result: SendResult) -> None:
        self.result = result
        first = result.errors[0] if result.errors else None
        why = f"; row {first.index}: {first}" if first else ""
        super().__init__(f"stream {stream}: none of {result.rejected} rows was accepted{why}")


STATUS_ERRORS: dict[int, type[ApiError]] = {
    400: InvalidRequestError,
    401: NotAllowedError,
    403: NotAllowedError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
    413: InvalidRequestError,
    415: InvalidRequestError,
    422: InvalidRequestError,
}


def error_from_answer(status: int, body: bytes) -> StreamgaugeError:
    """Return the exception for an answer of 400 or above, whether or not its body is problem+json."""
    problem = _problem(body)
    title, detail = str(problem.get("title", "")), str(problem.get("detail", ""))
    code = str(problem.get("code", ""))
    if status in (429, 503):
        return UnavailableError(f"{status} {detail or title}", status=status, code=code)
    return STATUS_ERRORS.get(status, ApiError)(status, title, detail, list(problem.get("errors", [])), code)


def _problem(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    if isinstance(said, dict):
        return said
    return {"detail": body[:SAID_CHARS].decode("utf-8", "replace").strip()}


__all__ = [
    "ApiError",
    "ConflictError",
    "GoneError",
    "InvalidRequestError",
    "NotAllowedError",
    "NotFoundError",
    "RejectedError",
    "UnavailableError",
    "error_from_answer",
]
