"""Runs the API: granian in front of the Flask app, one worker process, on loopback.

Invariant: nothing outlives its parent: the kernel kills the worker process when this process ends, however it ends.
"""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server import Server

from api.live_policy import LivePolicy
from pipeline.errors import ConfigError
from pipeline.rim.lifeline import die_with_parent
from pipeline.runtime.config_reader import ConfigReader
from pipeline.runtime.kept_config import ENV_TABLES

if TYPE_CHECKING:
    from flask import Flask

# A request holds a thread while its body arrives and Redis answers; half-sent ones must not take them all (FACTS 19).
REQUEST_THREADS = 8
LIVE = LivePolicy()
# Granian starts a thread when none is free, up to this many. Live readers are counted, so these are always left.
BLOCKING_THREADS = REQUEST_THREADS + LIVE.readers
DRAIN_S = 10  # after SIGTERM, for requests under way; the longest wait of ours is 5 s


@dataclass(frozen=True, slots=True)
class AppLoader:
    """Makes the app in the worker process: connections are not carried over a fork."""

    config_path: str
    redis_url: str
    loopback_only: bool
    allow_volatile: bool
    tie: Callable[[], None]

    def __call__(self) -> Flask:
        self.tie()
        from api.loading import load_app

        app, close = load_app(
            self.config_path,
            self.redis_url,
            LIVE,
            loopback_only=self.loopback_only,
            allow_volatile=self.allow_volatile,
        )
        _at_signal(close)
        return app


def serve(
    config_path: str | Path,
    host: str,
    port: int,
    redis_url: str,
    *,
    insecure: bool = False,
    allow_volatile: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT, then let requests under way finish.

    Raises:
        ConfigError: the config cannot be used, or the host is not loopback.
    """
    if not insecure and not _is_loopback(host):
        raise ConfigError(
            [f"--host {host}: the API has no keys yet and binds to loopback only. Use 127.0.0.1, or --insecure."]
        )
    if ENV_TABLES not in os.environ:  # else `up` has checked it, and the tables with it
        _require_usable(config_path)
    os.register_at_fork(after_in_child=_end_by_signal)
    loader = AppLoader(str(config_path), redis_url, not insecure, allow_volatile, die_with_parent())
    server = Server(
        "streamgauge",
        address=host,
        port=port,
        interface=Interfaces.WSGI,
        workers=1,
        blocking_threads=BLOCKING_THREADS,
        http=HTTPModes.http1,
        websockets=False,
        log_level=LogLevels.error,  # its warning about more threads than cores misses that ours wait for bodies
        workers_kill_timeout=DRAIN_S,
    )
    server.serve(target_loader=loader, wrap_loader=False)


def _require_usable(config_path: str | Path) -> None:
    """Raise the config's errors in this process, but load it in another: polars starts threads at its first use, and
    granian's worker, forked from here after that, hung in the first expression it compiled (measured)."""
    with ConfigReader(Path(config_path)) as reader:
        reader.read(os.environ)


def _end_by_signal() -> None:
    """Let SIGTERM end a worker process that still loads the app: until Granian sets the worker's own handler, it had
    the main process's, which swallowed the signal, and the end took DRAIN_S (measured)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _at_signal(end: Callable[[], None]) -> None:
    """Call `end` when this process is told to stop: a live stream is a request under way that never finishes.

    Granian sets its own handlers after this, and says nothing of a signal to the app. Python writes the number of a
    signal that has any handler to the wake-up file, whoever set it.
    """
    told, tell = socket.socketpair()
    tell.setblocking(False)
    signal.set_wakeup_fd(tell.fileno(), warn_on_full_buffer=False)

    def wait() -> None:
        while number := told.recv(1):
            if number[0] in (signal.SIGINT, signal.SIGTERM):
                end()
        tell.close()  # never: what keeps it open is that this thread knows it

    threading.Thread(target=wait, name="stop", daemon=True).start()


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
