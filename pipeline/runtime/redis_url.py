"""Which Redis a process that does not start one uses.

Invariant: `--redis-url` wins over the config; `embedded` means the one a running `up` keeps under the data folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.core.definitions import Config
from pipeline.errors import StreamgaugeError


def find_redis_url(config_path: Path, redis_url: str | None, data_dir: Path, environ: Mapping[str, str]) -> str:
    """Return a URL to connect to.

    Raises:
        ConfigError: the config file cannot be used.
        StreamgaugeError: the config says `embedded`, and no `up` runs on this data folder.
    """
    if redis_url is not None:
        return redis_url
    from pipeline.runtime.config import load_config

    return redis_url_of(load_config(config_path, environ), data_dir)


def redis_url_of(config: Config, data_dir: Path) -> str:
    """Return the URL that a config names, or that of its embedded server.

    Raises:
        StreamgaugeError: the config says `embedded`, and no `up` runs on this data folder.
    """
    from pipeline.rim.running import running_url

    found = running_url(data_dir) if config.redis_url == "embedded" else config.redis_url
    if found is None:
        raise StreamgaugeError(
            f"redis.url is 'embedded' and no `streamgauge up` runs on {data_dir}: "
            "start it, name its folder with --data-dir, or give --redis-url."
        )
    return found
