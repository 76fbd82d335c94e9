"""Where the files of a config's lookup tables are: beside the config file, and where `up` keeps what it has checked.

Apart from `table_files`, which reads them: `up` copies tables and must not bring polars.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipeline.core.definitions import Config


def tables_in(config: Config) -> list[str]:
    """The tables that some lookup names, as config.yaml writes them."""
    return sorted({table for stage in config.stages.values() for table in config.tables_of(stage)})


def table_path(folder: str | None, table: str) -> Path:
    """Where a table's file is: a relative path starts at the folder of the config file."""
    return Path(folder or ".") / table


def kept_table_path(folder: str, table: str) -> Path:
    """Where `up` keeps a table as it checked it: by a hash, since a table may be named by any path."""
    named = hashlib.blake2b(table.encode(), digest_size=8).hexdigest()
    return Path(folder) / f"{named}{Path(table).suffix}"
