"""What an answer depends on, read in one round trip: if it is the same, so is the answer to the same question.

Everything that changes an answer leaves a trace here: a commit in its checkpoint, a publication in the count of them, a
tier's in its ages, an expiry in what expired and in how much is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import redis

from pipeline.core.definitions import Session
from pipeline.core.programs import Program
from pipeline.rim import keys


@dataclass(frozen=True, slots=True)
class MetricState:
    """`publications`: how many windows (revisions among them) the metric's version has published. `text`: all of it."""

    publications: int
    text: bytes


def read_state(client: redis.Redis, program: Program) -> MetricState:
    """Read the state of a metric. To be read before its answer: what changes in between changes the next state."""
    name, version, stream = program.name, program.version, program.stream
    pipe = client.pipeline(transaction=False)
    pipe.execute_command("HMGET", keys.versions(name), "active", f"publications:{version}")
    for partition in range(stream.partitions):
        pipe.execute_command("HGETALL", keys.checkpoint(stream.name, partition, program.group))
        pipe.execute_command("HLEN", keys.panes(stream.name, partition, program.group))
    pipe.execute_command("HGETALL", keys.expired(name, version))
    pipe.execute_command("ZCARD", keys.windows(name, version))
    pipe.execute_command("ZREVRANGE", keys.ages(name, version), 0, 0, "WITHSCORES")
    for rollup in program.stage.rollups:
        pipe.execute_command("ZCARD", keys.tier(name, version, rollup.size_ms))
        pipe.execute_command("ZREVRANGE", keys.tier_ages(name, version, rollup.size_ms), 0, 0, "WITHSCORES")
    if isinstance(program.window, Session):
        pipe.execute_command("HGETALL", keys.published(name, version))
        pipe.execute_command("HGETALL", keys.session_accounts(name, version))
    found: list[Any] = pipe.execute()
    return MetricState(int(found[0][1] or 0), msgspec.msgpack.encode(found))
