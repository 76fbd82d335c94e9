"""The publications of a metric in the order they were made, read from its results: for metrics with `output: none`.

A publication has a number and a time. A result keeps those of its newest one, as long as it is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import redis

from pipeline.rim import keys
from pipeline.rim.row_streams import BEGINNING, EntryId, Loss
from pipeline.rim.store import redis_time_ms

CLOCK_BACK_MS = 60_000  # Redis's clock may be set back between two publications; a number cannot


@dataclass(frozen=True, slots=True)
class NewWindows:
    """The windows published after a position, in the order of their newest publications, each with its number."""

    windows: Sequence[tuple[int, tuple[int, int]]] = ()
    loss: Loss | None = None


def last(client: redis.Redis, metric: str, version: str) -> EntryId:
    """The number of the newest publication, and the time now: nothing newer is older than that."""
    now_ms = redis_time_ms(client)
    number = client.execute_command("HGET", keys.versions(metric), f"publications:{version}")
    return int(number or 0), now_ms if number else 0


def after(client: redis.Redis, metric: str, version: str, position: EntryId, kept_ms: int) -> NewWindows:
    """What was published after a position; `kept_ms` is how long results are kept."""
    number, time_ms = position
    newest, now_ms = last(client, metric, version)
    if newest <= number:
        return NewWindows(loss=None if newest == number else "ahead")
    if position != BEGINNING and time_ms < now_ms - kept_ms:
        return NewWindows(loss="trimmed")
    since_ms = time_ms - CLOCK_BACK_MS
    members = client.execute_command("ZRANGEBYSCORE", keys.ages(metric, version), since_ms, "+inf")
    spans = [(int(start), int(end)) for start, _, end in (member.partition(b":") for member in members)]
    pipe = client.pipeline(transaction=False)
    for span in spans:
        pipe.execute_command("HGET", keys.result(metric, version, *span), "seq")
    numbers = pipe.execute() if spans else []
    new = [(int(seq), span) for seq, span in zip(numbers, spans, strict=True) if seq is not None and int(seq) > number]
    return NewWindows(sorted(new))
