"""Arguments of a command as they go over the wire, made all at once: redis-py takes half a microsecond for each.

Invariant: a command with packed arguments at its end is sent as the one that has them one by one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis.connection import HiredisRespSerializer, PythonRespSerializer


@dataclass(frozen=True, slots=True)
class PackedArguments:
    """Some arguments: `data` is what goes over the wire, `count` how many they are."""

    data: bytes
    count: int


class Packer:
    """Packs commands for a connection; those whose arguments are packed already only get their beginning."""

    def __init__(self, usual: HiredisRespSerializer | PythonRespSerializer) -> None:
        self._usual = usual

    def pack(self, *args: Any) -> list[Any]:
        packed = args[-1]
        if type(packed) is not PackedArguments:
            return self._usual.pack(*args)  # type: ignore[no-any-return]
        count, plain = len(args) - 1 + packed.count, [_as_bytes(arg) for arg in args[:-1]]
        head = b"".join(b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in plain)
        return [b"*%d\r\n%b" % (count, head), packed.data]


def _as_bytes(arg: bytes | str | int) -> bytes:
    return arg if isinstance(arg, bytes) else str(arg).encode()
