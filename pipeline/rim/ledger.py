"""What the last look at the books found: kept in Redis by the scheduler, read by whoever has to say so."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import redis

from pipeline.rim import keys, replies


class Finding(msgspec.Struct, frozen=True):
    """Books that do not add up: `scope` is `stream` (its door) or `stage`; what was seen, and what to do."""

    scope: str
    name: str
    partition: int
    sentence: str
    advice: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """One look at all books, at `checked_ms` by Redis's clock."""

    checked_ms: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        return not self.findings


def store_verdict(client: redis.Redis, verdict: Verdict) -> None:
    """Keep a verdict in place of the one before it."""
    said = msgspec.json.encode(verdict.findings).decode()
    fields = ("checked_ms", verdict.checked_ms, "ok", int(verdict.ok), "findings", said)
    client.execute_command("HSET", keys.ledger(), *fields)


def load_verdict(client: redis.Redis) -> Verdict | None:
    """The last verdict; None where no scheduler has looked yet."""
    stored = replies.parse_hash(client.execute_command("HGETALL", keys.ledger()))
    if not stored:
        return None
    found = msgspec.json.decode(stored[b"findings"], type=tuple[Finding, ...])
    return Verdict(int(stored[b"checked_ms"]), found)
