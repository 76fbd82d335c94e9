"""A server's append-only file, cut as a power loss or a full disk would cut it.

Invariant: the server is dead while its file is touched, and everything of a call that was answered is in the file:
Redis writes before it replies.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers import RunningServer


def log_file(server: RunningServer) -> Path:
    """The newest increment of the append-only file."""
    files = (server.folder / "appendonlydir").glob("*.incr.aof")
    return max(files, key=lambda path: int(path.name.split(".")[-3]))


def log_bytes(server: RunningServer) -> bytes:
    """The whole of it: everything that was answered so far, and nothing else."""
    return log_file(server).read_bytes()


def restart_with_log(server: RunningServer, log: bytes) -> None:
    """Kill the server, give it another log, and start it again."""
    server.kill()
    log_file(server).write_bytes(log)
    server.restart()


def cut_log(server: RunningServer, cut_bytes: int) -> None:
    """Cut the last bytes off a dead server's log."""
    file = log_file(server)
    os.truncate(file, max(0, file.stat().st_size - cut_bytes))
