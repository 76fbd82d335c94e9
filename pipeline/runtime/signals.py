"""Signals as something to wait for: a stop that was asked for, a child that ended.

Invariant: a handler only counts and writes a byte to a pipe; what the signal means is decided where `wait` returns.
"""

from __future__ import annotations

import os
import select
import signal
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # Ctrl-C, kill, a closed terminal
_READ_BYTES = 4096


class Signals:
    """Catches stop signals and SIGCHLD from `__enter__` to `__exit__`; main thread only."""

    def __init__(self) -> None:
        self.stops_asked = 0

    def wait(self, timeout_s: float) -> None:
        """Wait until a signal comes, or the time is over."""
        ready, _, _ = select.select([self._read_fd], [], [], timeout_s)
        if ready:
            os.read(self._read_fd, _READ_BYTES)

    def __enter__(self) -> Signals:
        self._read_fd, self._write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)
        # The interpreter writes a byte for each signal: an Event set in a handler can dead-lock with its own wait.
        self._old_wakeup_fd = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._old_handlers: dict[signal.Signals, Any] = {
            number: signal.signal(number, self._count_stop)
            for number in STOP_SIGNALS
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN  # nohup stays in force
        }
        self._old_handlers[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _only_wake)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup_fd)
        os.close(self._read_fd)
        os.close(self._write_fd)

    def _count_stop(self, number: int, frame: FrameType | None) -> None:
        self.stops_asked += 1


def _only_wake(number: int, frame: FrameType | None) -> None:
    """Exist, so that SIGCHLD is not ignored and its byte is written."""
