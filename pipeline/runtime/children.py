"""One child process of the supervisor: started, watched, restarted with growing pauses, ended with all it started.

Invariant: a child is a session of its own, tied to our life. So Ctrl-C reaches only us, nothing outlives us, and what a
child leaves behind is killed by its process group before its process id can be given to anybody else.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pipeline.rim.lifeline import die_with_parent

Role = Literal["demo", "api", "worker", "scheduler"]

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
STABLE_AFTER_S = 10.0  # a child that ran this long starts over with the first pause
STDERR_FD = 2


@dataclass(frozen=True, slots=True)
class Child:
    """What to run: `name` is for people, `role` decides when it is ended."""

    name: str
    argv: tuple[str, ...]
    role: Role
    environment: Mapping[str, str] = field(default_factory=dict)  # beside ours


class Pauses:
    """How long to wait before the next start: 0.1 s, doubling to 5 s while starts keep failing."""

    def __init__(self) -> None:
        self._pause_s = FIRST_PAUSE_S
        self._started_s = 0.0
        self.due_s = 0.0  # when to start next, on the caller's clock

    def started(self, now_s: float) -> None:
        self._started_s = now_s

    def ended(self, now_s: float) -> float:
        """Return the pause before the next start."""
        if now_s - self._started_s >= STABLE_AFTER_S:
            self._pause_s = FIRST_PAUSE_S
        pause_s = self._pause_s
        self.due_s = now_s + pause_s
        self._pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return pause_s


class RunningChild:
    """A child and its process, which is None before the first start and after each end."""

    def __init__(self, child: Child) -> None:
        self.child = child
        self.pauses = Pauses()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def start(self, now_s: float) -> None:
        assert self._process is None, f"{self.child.name} runs already"
        self._process = subprocess.Popen(
            self.child.argv,
            env={**os.environ, **self.child.environment},
            stdin=subprocess.DEVNULL,
            stdout=STDERR_FD,  # stdout belongs to the command's data; what children say is talk
            start_new_session=True,
            preexec_fn=die_with_parent(),
        )
        self.pauses.started(now_s)

    def reap(self) -> int | None:
        """Return how the process ended, once, and kill what it left behind; None while it runs or was reaped."""
        if self._process is None:
            return None
        # WNOWAIT leaves a zombie, which keeps the process id, and so the group's, from being used again.
        if os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
        self._kill_group()
        status = self._process.wait()
        self._process = None
        return status

    def ask_to_end(self) -> None:
        """Send SIGTERM: finish what is in hand, then exit."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the child and everything it started."""
        if self._process is not None:
            self._kill_group()
            self._process.wait()
            self._process = None

    def _kill_group(self) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)  # there is a group: its leader is alive or not reaped yet
