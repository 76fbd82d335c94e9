"""Finds the embedded server that another process keeps in a data folder.

Invariant: a recorded port is believed only if the server on it names this very folder as its own.
"""

from __future__ import annotations

from pathlib import Path

import redis

from pipeline.rim.connection import writer
from pipeline.rim.embedded import FOLDER, HOST

REPLY_TIMEOUT_S = 1.0  # one reply on loopback; whoever takes longer to say which folder is his is not asked again


def running_url(data_dir: Path) -> str | None:
    """Return the URL of the server whose data is under `data_dir`, or None when none runs."""
    folder = data_dir.resolve() / FOLDER
    record = folder / "port"
    text = record.read_text().strip() if record.exists() else ""
    if not text.isdigit():
        return None
    url = f"redis://{HOST}:{text}"
    client = writer(url, reply_timeout_s=REPLY_TIMEOUT_S)
    try:
        return url if client.config_get("dir").get("dir") == str(folder) else None
    except redis.exceptions.BusyLoadingError:
        return url  # ours or not, who connects will wait and see
    except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.ResponseError):
        return None
    finally:
        client.close()
