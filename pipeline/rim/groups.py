"""Consumer groups of raw streams: read without blocking, and taken over entry by entry; `soundness` makes them.

A group is `<stage>@<version>`. One that is gone is never made here: at 0 it would count everything again (FACTS 6).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import redis

from pipeline.rim import keys, replies
from pipeline.rim.replies import Entry
from pipeline.rim.scripts import Scripts

CLAIM_COUNT = 100  # entries a claim brings at a time
RETIRE_IDLE_MS = 60_000  # a consumer that holds nothing and was silent this long is gone


@dataclass(frozen=True, slots=True)
class Claimed:
    """A group's pending entries in order, how often each was delivered before, and the ids whose entries are gone."""

    entries: list[Entry]
    deliveries: Mapping[bytes, int]
    lost: list[bytes]


def read_new(
    client: redis.Redis, stream: str, partition: int, groups: Mapping[str, tuple[str, int]]
) -> dict[str, list[Entry]]:
    """Take the next entries for each group: `groups` maps a group to (consumer, how many). Never blocks.

    A group that is gone is left out: the others' entries are theirs all the same.
    """
    key = keys.raw(stream, partition)
    pipe = client.pipeline(transaction=False)
    for group, (consumer, count) in groups.items():
        pipe.execute_command("XREADGROUP", "GROUP", group, consumer, "COUNT", count, "STREAMS", key, ">")
    answers = pipe.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception) and not is_gone(answer):
            raise answer
    return {
        group: [entry for _, entries in replies.parse_streams(answer) for entry in entries]
        for group, answer in zip(groups, answers, strict=True)
        if not isinstance(answer, Exception)
    }


def is_gone(error: Exception) -> bool:
    """Whether an error says that there is no such consumer group, or no stream."""
    return isinstance(error, redis.ResponseError) and str(error).startswith("NOGROUP")


def claim_all(client: redis.Redis, stream: str, partition: int, group: str, consumer: str) -> Claimed:
    """Make `consumer` the owner of every pending entry of the group, in order, whoever had them."""
    key = keys.raw(stream, partition)
    entries: list[Entry] = []
    lost: list[bytes] = []
    start = b"0-0"
    while True:
        reply = client.execute_command("XAUTOCLAIM", key, group, consumer, 0, start, "COUNT", CLAIM_COUNT)
        start, found, gone = replies.parse_autoclaim(reply)
        entries += found
        lost += gone
        if start == b"0-0":
            break
    deliveries = _deliveries(client, key, group, consumer, len(entries)) if entries else {}
    return Claimed(entries, deliveries, lost)


def _deliveries(client: redis.Redis, key: str, group: str, consumer: str, count: int) -> dict[bytes, int]:
    reply = client.execute_command("XPENDING", key, group, "-", "+", count, consumer)
    return {pending.id: pending.deliveries for pending in replies.parse_pending_range(reply)}


def retire_consumers(scripts: Scripts, stream: str, partition: int, group: str) -> int:
    """Delete consumers that hold nothing and were silent for a minute; return how many."""
    retired = scripts.run("retire", keys=[keys.raw(stream, partition)], args=[group, RETIRE_IDLE_MS])
    return int(retired)


def wait_for_entries(client: redis.Redis, cursors: Mapping[str, bytes], block_ms: int | None) -> dict[str, bytes]:
    """Return the raw streams (key → id) with an entry after the cursor given; block unless `block_ms` is None."""
    if not cursors:
        return {}
    block = [] if block_ms is None else ["BLOCK", block_ms]
    ids: Sequence[bytes] = list(cursors.values())
    reply = client.execute_command("XREAD", "COUNT", 1, *block, "STREAMS", *cursors, *ids)
    return {key.decode(): entries[-1].id for key, entries in replies.parse_streams(reply)}


def id_order(entry_id: bytes) -> tuple[int, int]:
    """Entry ids as pairs that compare; the empty id is before all."""
    if not entry_id:
        return (0, 0)
    ms, _, sequence = entry_id.partition(b"-")
    return (int(ms), int(sequence or 0))
