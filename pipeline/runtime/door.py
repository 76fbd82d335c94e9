"""The HTTP door as its senders see it: what `replay` and `simulate` need, and what the door answers.

Invariant: `accepted + rejected + duplicates` of a result is the number of rows sent. `api.client.Client` is the one
implementation; it is passed in, because the runtime does not import the API.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.errors import StreamgaugeError

ERRORS_KEPT = 100  # of a long send; the counts stay exact, and every refused row is in the quarantine with its bytes


@dataclass(frozen=True, slots=True)
class RowError:
    """One refused row: its index in what was sent, and why."""

    index: int
    field: str | None
    code: str
    message: str

    def __str__(self) -> str:
        named = self.field is None or self.message.startswith(self.field)
        return self.message if named else f"{self.field}: {self.message}"


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of the rows of one or more sends."""

    accepted: int = 0
    rejected: int = 0
    duplicates: int = 0
    errors: tuple[RowError, ...] = ()  # the first ERRORS_KEPT
    skew_ms: int | None = None
    applied: bool | None = None  # whether every metric had counted them at the answer; None: not asked

    @property
    def rows(self) -> int:
        return self.accepted + self.rejected + self.duplicates

    def then(self, later: SendResult) -> SendResult:
        """Return the result of both, the indexes of `later` counted from the start of this one."""
        moved = (RowError(self.rows + e.index, e.field, e.code, e.message) for e in later.errors)
        return SendResult(
            self.accepted + later.accepted,
            self.rejected + later.rejected,
            self.duplicates + later.duplicates,
            (*self.errors, *moved)[:ERRORS_KEPT],
            self.skew_ms if later.skew_ms is None else later.skew_ms,
            later.applied if self.applied is None else self.applied and later.applied is not False,
        )


@dataclass(frozen=True, slots=True)
class StreamView:
    """What `GET /v1/streams` says of one stream, as far as a sender needs it."""

    name: str
    fields: dict[str, str] = field(default_factory=dict)  # name → type, without '?'
    time_field: str | None = None
    max_watermark_ms: int | None = None
    partitions: int = 1

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> StreamView:
        partitions = said.get("partitions", [])
        marks = [p["watermark"] for p in partitions if p.get("watermark") is not None]
        fields = {name: str(kind).removesuffix("?") for name, kind in said.get("schema", {}).items()}
        time_field, newest_ms = said.get("time", {}).get("field"), max(marks, default=None)
        return cls(said["stream"], fields, time_field, newest_ms, max(1, len(partitions)))


class UnavailableError(StreamgaugeError):
    """The API cannot be reached, or asks to come back later, and patience has run out.

    `status` is 429 or 503 with the problem's `code`; None: there was no answer.
    """

    def __init__(self, message: str, *, status: int | None = None, code: str = "") -> None:
        self.status = status
        self.code = code
        super().__init__(message)


class Door(Protocol):
    """Where rows are sent."""

    def stream(self, name: str) -> StreamView:
        """Describe one stream."""

    def post_rows(self, stream: str, body: bytes, count: int, key: str, *, backfill: bool = False) -> SendResult:
        """Post `count` NDJSON rows; the same `key` and body count once, however often they are sent.

        `backfill`: old data for a live stream.
        """

    def end(self, stream: str) -> None:
        """Say that nothing more will come, so that the last window closes."""
