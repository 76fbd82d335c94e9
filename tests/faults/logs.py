"""A server's append-only file, cut as a power loss or a full disk would cut it.

Invariant: the server is dead while its file is touched. With `appendfsync everysec` Redis writes before it replies,
except while an fsync is under way: then for up to two seconds it keeps what it answered in memory; `written` waits.
"""

from __future__ import annotations

import os
from pathlib import Path

import redis

from tests.servers import RunningServer, wait_for


def log_file(server: RunningServer) -> Path:
    """The newest increment of the append-only file."""
    files = (server.folder / "appendonlydir").glob("*.incr.aof")
    return max(files, key=lambda path: int(path.name.split(".")[-3]))


def written(client: redis.Redis) -> None:
    """Wait until everything that was answered is in the file."""
    wait_for(lambda: client.info("persistence")["aof_buffer_length"] == 0, "the log to be written")


def log_bytes(server: RunningServer) -> bytes:
    """The whole of it: everything that was answered so far, and nothing else."""
    written(server.client)
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
