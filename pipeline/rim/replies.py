"""The one module that knows the shapes of Redis replies, and turns each into one typed value.

Invariant: each function takes what `execute_command` (or redis-py's typed method) of a client of `connection` returned,
under RESP2 and RESP3, shaped by redis-py or straight from the wire (as a script returns it), and gives the same value.
redis-py shapes XREAD three ways: `[[key, entries]]`, `{key: [entries]}` and `{key: entries}` (FACTS 2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

Fields = dict[bytes, bytes]


class Entry(NamedTuple):
    """One stream entry; `fields` is None when it was deleted (trimmed) but is still pending: data loss, to be said."""

    id: bytes
    fields: Fields | None


class StreamRead(NamedTuple):
    """What one XREAD or XREADGROUP brought of one stream."""

    key: bytes
    entries: list[Entry]


class Claimed(NamedTuple):
    """XAUTOCLAIM's reply: `next_id` is `0-0` at the end of the pending list; `deleted` were pending and are gone."""

    next_id: bytes
    entries: list[Entry]
    deleted: list[bytes]


class Pending(NamedTuple):
    """XPENDING's summary of a group; `first_id` and `last_id` are None when nothing is pending."""

    total: int
    first_id: bytes | None
    last_id: bytes | None
    consumers: dict[bytes, int]


class PendingEntry(NamedTuple):
    """One row of XPENDING's long form."""

    id: bytes
    consumer: bytes
    idle_ms: int
    deliveries: int


class Group(NamedTuple):
    """One consumer group; `entries_read` and `lag` are None where the server does not know, and lag lies (FACTS 6)."""

    name: bytes
    consumers: int
    pending: int
    last_delivered_id: bytes
    entries_read: int | None
    lag: int | None


class StreamInfo(NamedTuple):
    """XINFO STREAM; `first` and `last` are None when the stream is empty."""

    length: int
    last_id: bytes
    entries_added: int
    max_deleted_id: bytes
    groups: int
    first: Entry | None
    last: Entry | None


def parse_streams(reply: Any) -> list[StreamRead]:
    """Parse XREAD and XREADGROUP; nothing new is an empty list."""
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, Mapping) else reply
    return [StreamRead(key, parse_entries(_unwrapped(found))) for key, found in pairs]


def parse_entries(reply: Any) -> list[Entry]:
    """Parse XRANGE, XREVRANGE, XCLAIM, and any list of entries inside another reply."""
    # Redis 6 answers nil for a claimed entry that was deleted: without an id there is nothing to acknowledge.
    return [_entry(item) for item in reply or () if item is not None and item[0] is not None]


def parse_autoclaim(reply: Any) -> Claimed:
    """Parse XAUTOCLAIM without JUSTID."""
    return Claimed(reply[0], parse_entries(reply[1]), list(reply[2]) if len(reply) > 2 else [])


def parse_pending(reply: Any) -> Pending:
    """Parse XPENDING key group, the summary."""
    total, first_id, last_id, consumers = reply
    return Pending(int(total), first_id, last_id, {name: int(count) for name, count in consumers or ()})


def parse_pending_range(reply: Any) -> list[PendingEntry]:
    """Parse XPENDING key group [IDLE ms] start end count [consumer], the long form."""
    return [PendingEntry(row[0], row[1], int(row[2]), int(row[3])) for row in reply or ()]


def parse_groups(reply: Any) -> list[Group]:
    """Parse XINFO GROUPS."""
    return [_group(_map(each)) for each in reply or ()]


def parse_stream_info(reply: Any) -> StreamInfo:
    """Parse XINFO STREAM (not FULL)."""
    info = _map(reply)
    return StreamInfo(
        length=int(info[b"length"]),
        last_id=info[b"last-generated-id"],
        entries_added=int(info[b"entries-added"]),
        max_deleted_id=info[b"max-deleted-entry-id"],
        groups=int(info[b"groups"]),
        first=_optional_entry(info[b"first-entry"]),
        last=_optional_entry(info[b"last-entry"]),
    )


def parse_hash(reply: Any) -> dict[bytes, bytes]:
    """Parse HGETALL; a key that does not exist is an empty dict."""
    return _map(reply)


def _map(reply: Any) -> dict[bytes, Any]:
    """Read a map: a flat list under RESP2, a map under RESP3, with `str` keys where redis-py decoded them."""
    if not reply:
        return {}
    if isinstance(reply, dict) and isinstance(next(iter(reply)), bytes):
        return reply
    pairs: Iterable[tuple[Any, Any]] = reply.items() if isinstance(reply, Mapping) else _paired(reply)
    return {key.encode() if isinstance(key, str) else key: value for key, value in pairs}


def _paired(flat: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    steps = iter(flat)
    return zip(steps, steps, strict=True)


def _unwrapped(found: Any) -> Any:
    """Take off the list redis-py's RESP3 callback puts round the entries of a stream."""
    return found[0] if len(found) == 1 and isinstance(found[0], list) and _is_entry_list(found[0]) else found


def _is_entry_list(value: list[Any]) -> bool:
    """Tell a list of entries from one entry on the wire: `[id, fields]` begins with bytes."""
    return not value or not isinstance(value[0], bytes)


def _entry(item: Any) -> Entry:
    # XADD refuses an entry without fields, so redis-py's {} for a nil is a deleted entry.
    return Entry(item[0], _map(item[1]) or None)


def _optional_entry(item: Any) -> Entry | None:
    return None if item is None or item[0] is None else _entry(item)


def _group(info: Mapping[bytes, Any]) -> Group:
    return Group(
        name=info[b"name"],
        consumers=int(info[b"consumers"]),
        pending=int(info[b"pending"]),
        last_delivered_id=info[b"last-delivered-id"],
        entries_read=_optional_int(info[b"entries-read"]),
        lag=_optional_int(info[b"lag"]),
    )


def _optional_int(value: Any) -> int | None:
    return None if value is None else int(value)
