"""Reading the downstream stream of a metric from a position on, and noticing that entries after it are gone.

Invariant: what is handed out after a position is everything that was ever added after it, or the loss is named. A trim
takes from the old end, so as long as the entry at a position is there, nothing behind it was trimmed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import redis

from pipeline.rim import keys, replies
from pipeline.rim.replies import Entry

EntryId = tuple[int, int]
Loss = Literal["trimmed", "ahead"]

BEGINNING: EntryId = (0, 0)


@dataclass(frozen=True, slots=True)
class Following:
    """The first entries after a position, oldest first; or why what follows is not known any more."""

    entries: Sequence[Entry] = ()
    loss: Loss | None = None


def parse_id(text: bytes) -> EntryId:
    time_ms, _, number = text.partition(b"-")
    return int(time_ms), int(number)


def id_text(entry_id: EntryId) -> str:
    return f"{entry_id[0]}-{entry_id[1]}"


def last_id(client: redis.Redis, metric: str) -> EntryId:
    """The newest position of a metric's stream: of the last entry ever added, also when it was trimmed since."""
    info = _info(client, metric)
    return BEGINNING if info is None else parse_id(info.last_id)


def following(client: redis.Redis, metric: str, after: EntryId, count: int) -> Following:
    """At most `count` entries after a position."""
    reply = client.execute_command("XRANGE", keys.rows(metric), id_text(after), "+", "COUNT", count + 1)
    entries = replies.parse_entries(reply)
    if entries and parse_id(entries[0].id) == after:
        return Following(entries[1:])
    info = _info(client, metric)
    newest = BEGINNING if info is None else parse_id(info.last_id)
    if newest <= after:
        return Following(loss=None if newest == after else "ahead")
    if after == BEGINNING and info is not None and info.entries_added == info.length:
        return Following(entries[:count])
    return Following(loss="trimmed")


def wait_for_entries(
    client: redis.Redis, after: Mapping[str, EntryId], block_ms: int, count: int
) -> dict[str, list[Entry]]:
    """The new entries of some metrics, at most `count` of each, as soon as one has any; none after `block_ms`.

    One blocking XREAD, however many metrics.
    """
    streams = {keys.rows(metric).encode(): metric for metric in after}
    positions = [id_text(entry_id) for entry_id in after.values()]
    reply = client.execute_command("XREAD", "COUNT", count, "BLOCK", block_ms, "STREAMS", *streams, *positions)
    return {streams[read.key]: read.entries for read in replies.parse_streams(reply)}


def server_run(client: redis.Redis) -> str:
    """What names the running server: another one may have been restored from less than it had (FACTS 1)."""
    return str(client.execute_command("INFO", "server")["run_id"])


def _info(client: redis.Redis, metric: str) -> replies.StreamInfo | None:
    try:
        return replies.parse_stream_info(client.execute_command("XINFO", "STREAM", keys.rows(metric)))
    except redis.ResponseError as error:
        if "no such key" in str(error):
            return None  # nothing was ever sent
        raise
