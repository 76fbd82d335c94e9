"""A lock on a folder, held by an open file: the kernel lets it go with the last process that has the file open.

Invariant: no process id is ever trusted. A lock whose file a child inherited is held until the child is gone as well.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


class FolderLock:
    """The lock `path`; its file names the holder's process id, for people."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    @property
    def fd(self) -> int:
        """The open file: pass it to a child that shall hold the lock too."""
        assert self._fd is not None, "not locked"
        return self._fd

    def acquire(self) -> bool:
        """Take the lock if nobody has it; never waits."""
        if self._fd is not None:
            return True
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        os.truncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n".encode())
        self._fd = fd
        return True

    def let_go(self) -> None:
        """Close our copy of the file; a child that inherited it keeps the lock."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def holder(self) -> str:
        """Name the process that took the lock last, for a message."""
        text = self._path.read_text().strip() if self._path.exists() else ""
        return f"process {text}" if text else "another process"
