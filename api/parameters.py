"""Query parameters of streams and of what was put aside, checked in one place; those of metrics have their own.

Invariant: nothing given is ignored. A parameter that is unknown or given twice is refused by its name.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from api.parameter_values import Arguments, check_names, shown, time_value, whole_number
from pipeline.core.definitions import Stream
from pipeline.core.spelling import did_you_mean
from pipeline.errors import BadRequestError

DEFAULT_EVENTS = 20
DEFAULT_SOURCES = 20
MAX_SOURCES = 10_000
MAX_EVENTS = 1_000  # events of one answer: to look at a stream, not to copy it
DEFAULT_RAW_ROWS = 5_000
MAX_RAW_ROWS = 20_000  # of one page, and the rest of an entry: at most 10,000 more
ENTRY_ID = re.compile(r"\d{1,14}-\d{1,20}", re.ASCII)
DEFAULT_ASIDE = 100
MAX_ASIDE = 1_000  # rows of one page; a quarantined one has up to 64 kB


@dataclass(frozen=True, slots=True)
class EventRequest:
    """A checked request for the path of one event."""

    entry_id: str
    row: int | None
    partition: int | None


@dataclass(frozen=True, slots=True)
class RawRequest:
    """A checked request for a page of a raw log."""

    partition: int
    after: bytes | None
    start_ms: int | None
    end_ms: int | None
    limit: int


@dataclass(frozen=True, slots=True)
class AsideRequest:
    """A checked request for rows that were put aside."""

    limit: int
    cursor: str | None
    reason: str | None


def check_encoding(query: bytes) -> None:
    """Refuse a query string that is not UTF-8: werkzeug would put U+FFFD there, and so ask for another value.

    Raises:
        BadRequestError: 400, some parameter cannot be read.
    """
    for part in query.split(b"&"):
        try:
            unquote_to_bytes(part).decode()
        except UnicodeDecodeError:
            name = unquote_to_bytes(part.partition(b"=")[0]).decode(errors="replace")
            raise BadRequestError(
                f"the parameter '{shown(name)}' is not UTF-8 text; escape its UTF-8 bytes, such as %C3%A9 for é",
                code="not_utf8",
            ) from None


def event_limit(args: Arguments) -> int:
    """Check the parameters of `GET /v1/streams/{stream}/events`, which takes only `limit`."""
    check_names(args, ("limit",))
    return whole_number(args, "limit", DEFAULT_EVENTS, MAX_EVENTS)


def event_request(args: Arguments, stream: Stream, entry_id: str) -> EventRequest:
    """Check `GET /v1/streams/{stream}/events/{entry}/explain`, which takes `row` and `partition`.

    Raises:
        BadRequestError: the id or a parameter cannot be used.
    """
    check_names(args, ("row", "partition"))
    if not ENTRY_ID.fullmatch(entry_id):
        raise BadRequestError(f"'{shown(entry_id)}' is not the id of an entry, such as 1763928012400-0", code="bad_id")
    row = args.get("row")
    if row is not None and not (row.isascii() and row.isdigit() and len(row) <= 6):
        raise BadRequestError(f"row: '{shown(row)}' is not a whole number from 0", code="bad_row")
    return EventRequest(entry_id, None if row is None else int(row), partition_number(args, stream))


def raw_request(args: Arguments, stream: Stream, now_ms: int) -> RawRequest:
    """Check the parameters of `GET /v1/streams/{stream}/raw`; `start` and `end` are times of arrival.

    Raises:
        BadRequestError: a parameter is unknown or has a value that cannot be used.
    """
    check_names(args, ("partition", "after", "start", "end", "limit"))
    partition = partition_number(args, stream)
    after = args.get("after")
    if after is not None and not ENTRY_ID.fullmatch(after):
        raise BadRequestError(
            f"after: '{shown(after)}' is not the id of an entry, such as 1763928012400-0", code="bad_id"
        )
    return RawRequest(
        0 if partition is None else partition,
        None if after is None else after.encode(),
        time_value(args, "start", now_ms),
        time_value(args, "end", now_ms),
        whole_number(args, "limit", DEFAULT_RAW_ROWS, MAX_RAW_ROWS),
    )


def partition_number(args: Arguments, stream: Stream) -> int | None:
    """The parameter `partition`, where it is given."""
    text = args.get("partition")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and int(text) < stream.partitions):
        raise BadRequestError(
            f"partition: '{shown(text)}' is none of {stream.name}, which has 0 to {stream.partitions - 1}",
            code="bad_partition",
        )
    return int(text)


def source_limit(args: Arguments) -> int:
    """Check the parameters of `GET /v1/streams/{stream}/skew`, which takes only `limit`."""
    check_names(args, ("limit",))
    return whole_number(args, "limit", DEFAULT_SOURCES, MAX_SOURCES)


def aside_request(args: Arguments, owner: str) -> AsideRequest:
    """Check the parameters of `GET /v1/late` and its like; `owner` is what names whose rows: `stage` or `stream`."""
    check_names(args, (owner, "limit", "cursor", "reason"))
    limit = whole_number(args, "limit", DEFAULT_ASIDE, MAX_ASIDE)
    return AsideRequest(limit, args.get("cursor"), args.get("reason"))


def no_parameters(args: Arguments) -> None:
    """Refuse whatever was given to an endpoint that takes nothing."""
    check_names(args, ())


def known_name(kind: str, name: str, known: Collection[str]) -> str:
    """Return a name from a path if it is one of ours; whatever else it holds never reaches Redis.

    Raises:
        BadRequestError: 404, there is no such thing.
    """
    if name not in known:
        raise BadRequestError(
            f"there is no {kind} '{shown(name)}'.{did_you_mean(name, known)}", code=f"unknown_{kind}", status=404
        )
    return name
