"""A line that many tests start from is filled once in a process: what the server held then is put back for the others.

What is put back is every key as the server itself dumps it: streams with their groups and what is pending, and TTLs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import redis

from tests.line import Line
from tests.servers import RunningServer


@dataclass(frozen=True, slots=True)
class _Kept:
    keys: tuple[tuple[bytes, int, bytes], ...]  # (name, milliseconds to live or 0, dump)
    stored: dict[tuple[str, int], int]


_kept: dict[tuple[str, str], _Kept] = {}


def filled_once(name: str, server: RunningServer, begin: Callable[[], Line], fill: Callable[[Line], object]) -> Line:
    """A line on an empty server: begun and filled, or begun on what the one of this name before it had stored.

    `begin` finds everything set up then, as a process does that starts again.
    """
    place = name, server.binary
    kept = _kept.get(place)
    if kept is None:
        line = begin()
        fill(line)
        _kept[place] = _Kept(tuple(_dumped(server.client)), dict(line.stored))
        return line
    with server.client.pipeline(transaction=False) as pipe:
        for key, ttl_ms, dump in kept.keys:
            pipe.execute_command("RESTORE", key, ttl_ms, dump)
        pipe.execute()
    line = begin()
    line.stored.update(kept.stored)
    return line


def _dumped(client: redis.Redis) -> list[tuple[bytes, int, bytes]]:
    found = []
    for key in client.scan_iter(count=1_000):
        ttl_ms, dump = client.execute_command("PTTL", key), client.execute_command("DUMP", key)
        if dump is not None:
            found.append((key, max(0, ttl_ms), dump))
    return found
