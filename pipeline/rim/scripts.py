"""Runs the Lua scripts of `scripts/*.lua` by their SHA1, and gives the server the source when it does not know them.

Invariant: a script that writes is sent a second time only after NOSCRIPT, the one error that proves it did not run.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

import redis

from pipeline.rim.packed_arguments import PackedArguments

Argument = str | bytes | int | PackedArguments  # never a float: Lua keeps 14 digits of one (FACTS 3); packed: the last

SCRIPTS_PACKAGE = "pipeline.rim"
SCRIPTS_FOLDER = "scripts"


@dataclass(frozen=True, slots=True)
class Script:
    """One script file: `name` is the file's without `.lua`."""

    name: str
    source: bytes
    sha1: str


@cache
def all_scripts() -> Mapping[str, Script]:
    """Return every script file by name, read once in a process."""
    folder = resources.files(SCRIPTS_PACKAGE) / SCRIPTS_FOLDER
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".lua")), key=lambda f: f.name)
    found = [script(f.name.removesuffix(".lua"), f.read_bytes()) for f in files]
    return MappingProxyType({each.name: each for each in found})


def script(name: str, source: bytes) -> Script:
    """Make a script of its source; Redis names scripts by the SHA1 of their bytes."""
    return Script(name, source, hashlib.sha1(source, usedforsecurity=False).hexdigest())


@dataclass(frozen=True, slots=True)
class Operands:
    """What a script is run with."""

    keys: Sequence[str | bytes]
    args: Sequence[Argument] = ()


class Scripts:
    """The scripts, on one client; as thread-safe as the client."""

    def __init__(self, client: redis.Redis, scripts: Mapping[str, Script] | None = None) -> None:
        self._client = client
        self._scripts = all_scripts() if scripts is None else scripts

    def run(self, name: str, *, keys: Sequence[str | bytes], args: Sequence[Argument] = ()) -> Any:
        """Run script `name` and return its raw reply. Large bodies are best given as `bytes`: they are not copied here.

        Raises:
            redis.exceptions.RedisError: whatever the server or the connection said; after a lost reply the script may
                have run.
        """
        wanted = self._scripts[name]
        operands = (len(keys), *keys, *args)
        try:
            return self._client.execute_command("EVALSHA", wanted.sha1, *operands)
        except redis.exceptions.NoScriptError:
            # EVAL, not SCRIPT LOAD and EVALSHA again: one round trip, and a flush in between cannot part the two.
            return self._client.execute_command("EVAL", wanted.source, *operands)

    def run_each(self, name: str, calls: Iterable[Operands]) -> Generator[Any]:
        """Run script `name` for each of the operands and yield its raw replies, in order.

        While the server runs one call the next one is taken from `calls` and sent. So a call may have run although one
        before it failed, or although nobody asked for its reply: for calls that do not rest on each other.

        Raises:
            redis.exceptions.RedisError: as `run`.
        """
        wanted = self._scripts[name]
        pool = self._client.connection_pool
        connection = pool.get_connection()
        waiting: deque[Operands] = deque()

        def reply() -> Any:
            oldest = waiting.popleft()
            try:
                return connection.read_response()
            except redis.exceptions.NoScriptError:
                return self.run(name, keys=oldest.keys, args=oldest.args)

        try:
            for call in calls:
                connection.send_command("EVALSHA", wanted.sha1, len(call.keys), *call.keys, *call.args)
                waiting.append(call)
                if len(waiting) > 1:
                    yield reply()
            while waiting:
                yield reply()
        finally:
            if waiting:
                connection.disconnect()  # or the next command would be answered with a reply of ours
            pool.release(connection)

    def read_each(self, name: str, calls: Sequence[Operands]) -> list[Any]:
        """Run a script that only reads once for each of the operands, in one round trip, again where the client may.

        Raises:
            redis.exceptions.RedisError: whatever the server or the connection said.
        """
        pipe = self._client.pipeline(transaction=False)
        for call in calls:
            pipe.execute_command("EVALSHA", self._scripts[name].sha1, len(call.keys), *call.keys, *call.args)
        try:
            return pipe.execute()
        except redis.exceptions.NoScriptError:  # another client may have brought it meanwhile, and some have run
            return [self.run(name, keys=call.keys, args=call.args) for call in calls]
