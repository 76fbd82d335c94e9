"""Ties the life of a child process to its parent's, so that a kill -9 of the parent leaves nothing behind.

Invariant: a child started with `die_with_parent` never outlives the *thread* that started it (prctl(2), PDEATHSIG):
start children from the main thread. Systems without prctl have no such tie; there the next start adopts or refuses.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1
_GONE_EXIT_CODE = 1

# Loaded before any fork: a child of a threaded process must neither import nor allocate what it can avoid.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(death_signal: signal.Signals = signal.SIGKILL) -> Callable[[], None]:
    """Return a `preexec_fn` for `subprocess.Popen`: the kernel sends `death_signal` when the starting thread ends."""
    parent_pid = os.getpid()
    number = int(death_signal)

    def tie() -> None:
        tie_to_parent(parent_pid, number)

    return tie


def tie_to_parent(parent_pid: int, death_signal: int = signal.SIGKILL) -> None:
    """Tie this process to the parent it should have: for processes that a library forks, such as Granian's workers.

    The tie is not inherited: each generation makes its own.
    """
    if _libc is None:
        return
    if _libc.prctl(_PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died between fork and prctl: then no signal will ever come.
    if os.getppid() != parent_pid:
        os._exit(_GONE_EXIT_CODE)
