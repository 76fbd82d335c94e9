"""The running children of `up`: looked after, restarted when they die, and drained in order.

Invariant: `run` leaves no process behind, whichever way it is left. Events are safe at any moment (DESIGN 8); the order
of the drain only saves work: first who sends, then who takes in, then who computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pipeline.rim.embedded import EmbeddedServer, EmbeddedServerError
from pipeline.runtime.children import Child, Pauses, Role, RunningChild
from pipeline.runtime.signals import Signals

EXIT_OK = 0
EXIT_BAD_CONFIG = 78  # sysexits.h EX_CONFIG: starting again cannot help
EXIT_INTERRUPTED = 130
POLL_S = 0.1
# In the order of the drain. A worker finishes its batch and commits; an API finishes its requests.
DRAIN_TIMEOUTS_S: dict[Role, float] = {"demo": 2.0, "api": 10.0, "worker": 15.0, "scheduler": 5.0}


class ProcessTree:
    """The running children; `poll_once` looks after them once, `run` does so until it is told to stop."""

    def __init__(
        self,
        children: Sequence[Child],
        *,
        server: EmbeddedServer | None,
        is_ready: Callable[[], bool],
        on_ready: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._running = [RunningChild(child) for child in children]
        self._server = server
        self._server_pauses = Pauses()
        self._is_ready = is_ready
        self._on_ready = on_ready
        self._ready = False
        self._say = say

    def run(self) -> int:
        """Look after the children until a signal or a bad config stops them; leave none behind."""
        with Signals() as signals:
            try:
                while not signals.stops_asked:
                    status = self.poll_once(time.monotonic())
                    if status is not None:
                        self.drain(signals)
                        return status
                    signals.wait(POLL_S)
                return self.drain(signals)
            finally:
                self._kill_all()

    def poll_once(self, now_s: float) -> int | None:
        """Restart what died, start what is due; return an exit code when everything shall stop."""
        self._look_after_server(now_s)
        for each in self._running:
            if self._reaped(each, now_s) == EXIT_BAD_CONFIG:
                self._say(f"{each.child.name} refused its configuration: stopping")
                return EXIT_BAD_CONFIG
            if not each.is_running and now_s >= each.pauses.due_s:
                each.start(now_s)
        self._look_for_ready()
        return None

    def drain(self, signals: Signals) -> int:
        """End the children in order, each with its time; a second Ctrl-C ends the waiting."""
        patience = signals.stops_asked + 1
        self._say("stopping: finishing what is in hand (Ctrl-C again to kill)")
        for role, timeout_s in DRAIN_TIMEOUTS_S.items():
            children = [each for each in self._running if each.child.role == role]
            for each in children:
                each.ask_to_end()
            deadline_s = time.monotonic() + timeout_s
            while self._count_running(children):
                if signals.stops_asked >= patience:
                    self._kill_all()
                    return EXIT_INTERRUPTED
                if time.monotonic() > deadline_s:
                    self._kill_late(children, timeout_s)
                signals.wait(POLL_S)
        return EXIT_OK

    def _reaped(self, running: RunningChild, now_s: float) -> int | None:
        status = running.reap()
        if status is not None and status != EXIT_BAD_CONFIG:
            pause_s = running.pauses.ended(now_s)
            self._say(f"{running.child.name} {_how(status)}: starting it again in {pause_s:g} s")
        return status

    def _look_after_server(self, now_s: float) -> None:
        if self._server is None or now_s < self._server_pauses.due_s:
            return
        try:
            if self._server.ensure_alive():
                self._say("the embedded server died: started it again")
                self._server_pauses.started(now_s)
                self._server_pauses.ended(now_s)
        except EmbeddedServerError as error:
            pause_s = self._server_pauses.ended(now_s)
            self._say(f"{error} Trying again in {pause_s:g} s")

    def _look_for_ready(self) -> None:
        if not self._ready and self._is_ready():
            self._ready = True
            self._on_ready()

    def _count_running(self, children: Sequence[RunningChild]) -> int:
        for each in children:
            each.reap()
        return sum(each.is_running for each in children)

    def _kill_late(self, children: Sequence[RunningChild], timeout_s: float) -> None:
        for each in children:
            if each.is_running:
                self._say(f"{each.child.name} did not end within {timeout_s:g} s: killing it")
                each.kill()

    def _kill_all(self) -> None:
        for each in self._running:
            each.kill()


def _how(status: int) -> str:
    return f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
