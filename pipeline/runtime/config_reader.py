"""A config file read in a process of its own: what reading it brings (polars, pyarrow, the schema: 50 MB) ends with it.

Invariant: what is wrong with a config is raised here as `load_config` raises it there. Only that process is asked; what
it answers is trusted as our own memory is.
"""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from pipeline.core.definitions import Config
from pipeline.errors import StreamgaugeError
from pipeline.rim.lifeline import die_with_parent


class ConfigReaderError(StreamgaugeError):
    """The process that reads the config file ended without an answer."""


class ConfigReader:
    """Reads one file as often as it is asked to, within a `with`. Main thread only: the process is tied to its life."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> ConfigReader:
        self._asks, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(self._path), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C reaches only us
                preexec_fn=die_with_parent(),
            )
        self._answers = self._asks.makefile("rb")
        return self

    def read(self, environ: Mapping[str, str]) -> Config:
        """Return what `load_config` returns of the file with these variables.

        Raises:
            ConfigError: with every problem of the file and the environment.
            ConfigReaderError: the process was killed, or a function's file ended it.
        """
        try:
            self._asks.sendall(pickle.dumps(dict(environ)))
            answer: Config | Exception = pickle.load(self._answers)
        except (EOFError, ConnectionError) as error:
            raise ConfigReaderError(
                f"{self._path}: the process that reads it ended without an answer (status {self._process.wait()}). "
                "Was it killed, or does a file of `functions` exit?"
            ) from error
        if isinstance(answer, Exception):
            raise answer
        return answer

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.kill()  # it holds nothing
        self._process.wait()
        self._answers.close()
        self._asks.close()


def _answer(path: str, environ: Mapping[str, str]) -> Config | Exception:
    from pipeline.runtime.config import load_config  # only in the process of its own

    try:
        return load_config(path, environ)
    except Exception as error:  # the top of this process: the one that asked says it
        error.add_note(traceback.format_exc())
        return error
    finally:
        sys.stdout.flush()  # what a file of functions printed


def main() -> None:
    """Answer until nobody asks any more."""
    path, fd = sys.argv[1:]
    with socket.socket(fileno=int(fd)) as answers, answers.makefile("rb") as asked:
        while True:
            try:
                environ = pickle.load(asked)
            except (EOFError, ConnectionError):
                return
            answers.sendall(pickle.dumps(_answer(path, environ)))


if __name__ == "__main__":
    main()
