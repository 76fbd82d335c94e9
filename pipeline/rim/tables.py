"""Lookup tables in Redis: each content stored once under its hash, and named in every log that is joined with it.

A content is stored before an entry names it, and stays while a log or its cut does: whoever reads a log again joins
with what was joined then (DESIGN section 3). Workers take contents from here and never from the file.

    {s.p}:raw      … rows   control: table ads.csv hash 1f   rows …   control: table ads.csv hash 9c   rows …
    joined with             ◀── 1f, the oldest known ─────────────▶   ◀── 9c ─────────────────────────────▶
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import redis

from pipeline.core.definitions import HOUR_MS
from pipeline.core.entry_header import split_id
from pipeline.core.table_names import content_hash
from pipeline.rim import keys, replies
from pipeline.rim.scripts import Scripts

KEPT_UNNAMED_MS = HOUR_MS  # a content that no log names: its writer may be about to append the entry that does

Place = tuple[str, int]  # stream, partition


def known(client: redis.Redis, place: Place) -> dict[str, str]:
    """The content (hash) that each table has at the end of a partition's log."""
    at_cut, later = _named(client, place)
    return at_cut | dict(later)


def at(client: redis.Redis, place: Place, cursor: bytes) -> dict[str, str]:
    """The content (hash) that each table has behind an entry that is still in the log, or at its cut.

    A table that the log speaks of only later has the first content it is given there: so groups begin (setup.lua).
    """
    at_cut, later = _named(client, place)
    first: dict[str, str] = {}
    for name, content in later:
        first.setdefault(name, content)
    return first | at_cut | _reloads_before(client, place, cursor)


def _reloads_before(client: redis.Redis, place: Place, cursor: bytes) -> dict[str, str]:
    """The tables that were reloaded in the log up to an entry."""
    lines = (line.decode().split(" ", 2) for line in client.execute_command("LRANGE", keys.tables(*place), 0, -1))
    return {name: content for entry, content, name in lines if split_id(entry.encode()) <= split_id(cursor)}


def _named(client: redis.Redis, place: Place) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The tables at a partition's cut, and (table, hash) of each reload that is still in its log, in order."""
    cut = replies.parse_hash(client.execute_command("HGETALL", keys.cut(*place)))
    prefix = b"table:"
    at_cut = {n.removeprefix(prefix).decode(): h.decode() for n, h in cut.items() if n.startswith(prefix)}
    lines = client.execute_command("LRANGE", keys.tables(*place), 0, -1)
    parts = (line.decode().split(" ", 2) for line in lines)
    return at_cut, [(name, content) for _, content, name in parts]


def announce(
    client: redis.Redis, scripts: Scripts, places: Iterable[Place], table: str, content: bytes, now_ms: int
) -> int:
    """Make a content the one a table has from here on; return in how many partitions that was news."""
    named = content_hash(content)
    everywhere = list(places)
    behind = [place for place in everywhere if known(client, place).get(table) != named]
    lacking = [] if int(client.execute_command("EXISTS", keys.table_content(named))) else everywhere
    if not (behind or lacking):
        return 0
    stored_for = {f"{named} {stream} {partition}": now_ms for stream, partition in (*behind, *lacking)}
    pipe = client.pipeline(transaction=True)  # together: what is registered is there, and what is there is registered
    pipe.execute_command("HSET", keys.table_contents(), *(part for pair in stored_for.items() for part in pair))
    pipe.execute_command("SET", keys.table_content(named), content)
    pipe.execute()
    written = 0
    for place in behind:
        operands = [keys.raw(*place), keys.door(*place), keys.tables(*place), keys.cut(*place)]
        written += bool(scripts.run("reload", keys=operands, args=[table, named]))
    return written


def drop_unused(client: redis.Redis, scripts: Scripts, now_ms: int) -> int:
    """Delete the contents that no log and no cut names any more; return how many."""
    registered = replies.parse_hash(client.execute_command("HGETALL", keys.table_contents()))
    places: dict[str, list[tuple[Place, bytes, bytes]]] = {}
    for name, stored_ms in registered.items():
        content, stream, partition = name.decode().split(" ")
        places.setdefault(content, []).append(((stream, int(partition)), name, stored_ms))
    dropped = 0
    for content, stored in places.items():
        newest_ms = max(int(stored_ms) for _, _, stored_ms in stored)
        if now_ms - newest_ms < KEPT_UNNAMED_MS or _is_named(client, content, [place for place, _, _ in stored]):
            continue
        seen = [part for _, name, stored_ms in stored for part in (name, stored_ms)]
        operands = [keys.table_content(content), keys.table_contents()]
        dropped += int(scripts.run("drop_table", keys=operands, args=[content, *seen]))
    return dropped


def _is_named(client: redis.Redis, content: str, places: Sequence[Place]) -> bool:
    for place in places:
        at_cut, later = _named(client, place)
        if content in at_cut.values() or any(content == each for _, each in later):
            return True
    return False
