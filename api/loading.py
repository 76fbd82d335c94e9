"""Makes the app in the process that serves it: what it needs is imported here, and in no other process of the API.

The one that started the server holds no more than granian: 50 MB, not 150.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from flask import Flask

from api.app import LIVE_HUB, create_app
from api.live_policy import LivePolicy
from pipeline.runtime.config import load_config
from pipeline.runtime.memory import keep_freed_memory


def load_app(
    config_path: str, redis_url: str, live: LivePolicy, *, loopback_only: bool, allow_volatile: bool
) -> tuple[Flask, Callable[[], None]]:
    """Return the app, and what ends its live streams when the server stops."""
    keep_freed_memory()
    app = create_app(
        load_config(config_path, os.environ),
        redis_url,
        loopback_only=loopback_only,
        allow_volatile=allow_volatile,
        live=live,
        config_text=Path(config_path).read_text("utf-8"),
    )
    return app, app.extensions[LIVE_HUB].close
