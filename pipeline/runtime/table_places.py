"""Where a config's lookup tables are: their files, those `up` keeps as it checked them, and the logs joined with them.

Apart from `table_files`, which reads them: `up` copies tables and must not bring polars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.core.definitions import Config, Lookup, Transform
from pipeline.rim.tables import Place


def tables_in(config: Config) -> list[str]:
    """The tables that some lookup names, as config.yaml writes them."""
    return sorted({lookup.table for _, lookup in lookups_in(config)})


def table_path(folder: str | None, table: str) -> Path:
    """Where a table's file is: a relative path starts at the folder of the config file."""
    return Path(folder or ".") / table


def kept_table_path(folder: str, table: str) -> Path:
    """Where `up` keeps a table as it checked it: by a hash, since a table may be named by any path."""
    named = hashlib.blake2b(table.encode(), digest_size=8).hexdigest()
    return Path(folder) / f"{named}{Path(table).suffix}"


def places_of(config: Config, table: str) -> list[Place]:
    """The partitions of the streams that some stage joins with a table."""
    used = [config.stream_of(stage) for stage, lookup in lookups_in(config) if lookup.table == table]
    streams = {stream.name: stream for stream in used}
    return [(stream.name, partition) for stream in streams.values() for partition in range(stream.partitions)]


def lookups_in(config: Config) -> Iterator[tuple[Transform, Lookup]]:
    """Every lookup of a config, with its stage."""
    for stage in config.stages.values():
        if isinstance(stage, Transform):
            yield from ((stage, lookup) for lookup in stage.lookup.values())
