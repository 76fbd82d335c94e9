"""The two lists of a metric's results, by end and by age: each tells what the other lost when somebody deleted it.

A result that is in neither is found by its key: looked for once in a process, for a version without any list.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import redis

from pipeline.core.definitions import Aggregate, Session
from pipeline.rim import keys, session_store
from pipeline.rim.scripts import Scripts

SCAN_COUNT = 2_000


@dataclass(frozen=True, slots=True)
class _Lists:
    """The lists of a metric, or of one tier of it."""

    stage: Aggregate
    version: str
    tier_ms: int | None = None

    @property
    def by_end(self) -> str:
        name, version = self.stage.name, self.version
        return keys.windows(name, version) if self.tier_ms is None else keys.tier(name, version, self.tier_ms)

    @property
    def by_age(self) -> str:
        name, version = self.stage.name, self.version
        return keys.ages(name, version) if self.tier_ms is None else keys.tier_ages(name, version, self.tier_ms)

    def key(self, member: str) -> str:
        """The hash of a result."""
        if isinstance(self.stage.window, Session):
            return keys.session_rows(self.stage.name, self.version, int(member))
        start, _, end = member.partition(":")
        return keys.result(self.stage.name, self.version, int(start), int(end))

    def holds(self, member: str) -> bool:
        """Whether a result that was found by its key belongs here: those of tiers are as long as their tier."""
        if isinstance(self.stage.window, Session):
            return True
        start, _, end = member.partition(":")
        sizes = {tier.size_ms for tier in self.stage.rollups}
        size_ms = int(end) - int(start)
        return size_ms == self.tier_ms if self.tier_ms is not None else size_ms not in sizes


def restore_lists(client: redis.Redis, scripts: Scripts, stage: Aggregate, version: str, *, search: bool) -> int:
    """Put results back into the list they are missing in; return how many. `search`: by their keys, if need be."""
    restored = 0
    for lists in (_Lists(stage, version), *(_Lists(stage, version, tier.size_ms) for tier in stage.rollups)):
        for member in _missing(client, lists, search=search):
            restored += _restore(client, scripts, lists, member)
    return restored


def _missing(client: redis.Redis, lists: _Lists, *, search: bool) -> Iterator[str]:
    ends, ages = (int(client.execute_command("ZCARD", key)) for key in (lists.by_end, lists.by_age))
    if ends == ages == 0:
        if search and _has_published(client, lists):
            yield from _found_by_key(client, lists)
        return
    if ends == ages:
        return
    for one, other in ((lists.by_age, lists.by_end), (lists.by_end, lists.by_age)):
        yield from (member.decode() for member in client.execute_command("ZDIFF", 2, one, other))


def _has_published(client: redis.Redis, lists: _Lists) -> bool:
    return bool(client.execute_command("EXISTS", keys.published(lists.stage.name, lists.version)))


def _found_by_key(client: redis.Redis, lists: _Lists) -> Iterator[str]:
    prefix = keys.result_prefix(lists.stage.name, lists.version)
    if isinstance(lists.stage.window, Session):
        prefix = keys.session_rows_prefix(lists.stage.name, lists.version)
    for key in client.scan_iter(match=f"{prefix}*", count=SCAN_COUNT):
        member = key.decode().removeprefix(prefix)
        if lists.holds(member):
            yield member


def _restore(client: redis.Redis, scripts: Scripts, lists: _Lists, member: str) -> int:
    window, key = lists.stage.window, lists.key(member)
    if isinstance(window, Session):
        sessions = [session_store.parse_published(*pair) for pair in session_store.scan(client, key)]
        if not sessions:
            return 0
        end = str(max(session.last for session in sessions) + window.gap_ms)
        published_ms = max(session.published_ms for session in sessions)
    else:
        state, published = client.execute_command("HMGET", key, "state", "published_ms")
        if published is None:
            return 0
        end, published_ms = "" if state == b"open" else member.partition(":")[2], int(published)
    where = [key, lists.by_end, lists.by_age]
    return int(int(scripts.run("reindex", keys=where, args=[member, end, published_ms])) > 0)
