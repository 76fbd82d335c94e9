"""Stands in for `api.main` in tests of the supervisor: each command notes its start and its end, and does nothing else.

Environment: NOTES is the file of notes; STUCK names a command that ignores SIGTERM; REFUSES one that exits with 78.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from types import FrameType

from pipeline.rim.lifeline import tie_to_parent


def note(*words: object) -> None:
    with open(os.environ["NOTES"], "a") as notes:
        notes.write(" ".join(map(str, words)) + "\n")


def option(name: str, default: str = "") -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


def listen() -> socket.socket:
    return socket.create_server((option("--host"), int(option("--port"))))


def end(name: str) -> None:
    if os.environ.get("STUCK") == name:
        note(name, "ignores", os.getpid())
        return
    note(name, "end", os.getpid())
    sys.exit(0)


def main() -> None:
    name = option("--name", sys.argv[1])

    def on_term(number: int, frame: FrameType | None) -> None:
        end(name)

    def on_int(number: int, frame: FrameType | None) -> None:
        note(name, "interrupted", os.getpid())

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, on_int)
    if os.environ.get("REFUSES") == name:
        print("config.yaml:1:1: nonsense", file=sys.stderr)
        sys.exit(78)
    if name == "api":
        listener = listen()
        helper_argv = [sys.executable, "-m", "tests.runtime.dummy_commands", "--name", "helper"]
        helper = subprocess.Popen([*helper_argv, "--parent", str(os.getpid())])
        note("listens", "on", listener.getsockname()[1])
        assert helper.pid
    if name == "helper":
        tie_to_parent(int(option("--parent")))
    note(name, "start", os.getpid(), option("--redis-url", "-"))
    while True:
        signal.pause()


if __name__ == "__main__":
    main()
