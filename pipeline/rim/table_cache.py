"""Contents of lookup tables as a worker joins with them: read from Redis by their hash, decoded once, and kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import redis

from pipeline.core.table_names import content_hash
from pipeline.core.tables import Contents, Table, decode
from pipeline.errors import MissingTableError
from pipeline.rim import keys

MAX_CACHED = 8  # contents a worker keeps decoded; with more in use at once, all of those stay


@dataclass(slots=True)
class TableCache:
    """Contents by hash, each read and decoded once; one cache serves all partitions of a worker."""

    client: redis.Redis | None = None  # None: of a program that joins nothing, or whose contents were put in
    _tables: dict[str, Table] = field(default_factory=dict)

    def put(self, content: bytes) -> str:
        """Keep a content without Redis; return its hash."""
        named = content_hash(content)
        self._tables[named] = decode(content)
        return named

    def contents(self, hashes: frozenset[str]) -> Contents:
        """The contents with these hashes.

        Raises:
            MissingTableError: one is not there.
        """
        for named in hashes - self._tables.keys():
            if self.client is None:
                raise MissingTableError(f"no Redis to read the content {named} of a lookup table from")
            self._tables[named] = load(self.client, named)
        for named in [each for each in self._tables if each not in hashes][: max(0, len(self._tables) - MAX_CACHED)]:
            del self._tables[named]
        return {named: self._tables[named] for named in hashes}


def load(client: redis.Redis, named: str) -> Table:
    """The content with a hash.

    Raises:
        MissingTableError: it is not there, or not what its hash says.
    """
    return decode(stored(client, named))


def stored(client: redis.Redis, named: str) -> bytes:
    """The bytes of the content with a hash.

    Raises:
        MissingTableError: it is not there, or not what its hash says.
    """
    key = keys.table_content(named)
    content: bytes | None = client.execute_command("GET", key)
    if content is None:
        raise MissingTableError(
            f"{key}: a log names this content of a lookup table, and it is not there. Something else deleted it; "
            "put the file back as it was and start a worker or the scheduler, which stores it again."
        )
    if content_hash(content) != named:
        raise MissingTableError(f"{key}: the content of this lookup table is not the one of its hash; it was changed.")
    return content
