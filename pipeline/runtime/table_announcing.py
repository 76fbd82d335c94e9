"""Bringing files of lookup tables into the logs at set-up, and what a file's content is to the lookups of a config."""

from __future__ import annotations

from collections.abc import Sequence

import redis
import structlog

from pipeline.core import tables as core_tables
from pipeline.core.definitions import Config
from pipeline.core.table_names import TableError
from pipeline.rim import tables
from pipeline.rim.scripts import Scripts
from pipeline.rim.store import redis_time_ms
from pipeline.rim.tables import Place
from pipeline.runtime.table_files import read_table, read_table_file
from pipeline.runtime.table_places import kept_table_path, lookups_in, places_of, tables_in

log = structlog.get_logger(__name__)


def announce_tables(client: redis.Redis, scripts: Scripts, config: Config) -> None:
    """Store the tables of a config and name them in the logs, before there is a group that could read rows.

    In a process that `up` started, a file that cannot be used (any more) leaves its table as it is.

    Raises:
        TableError: in any other process, a file is not (any more) one that its lookups can use.
    """
    for table in tables_in(config):
        places = places_of(config, table)
        try:
            content = table_content(config, table)
        except TableError as error:
            if config.kept_tables is None:
                raise
            places = _without(client, places, table)
            log.error(
                "a table cannot be used; the content before stays",
                why=str(error),
                table=table,
                content=_known_hash(client, config, table),
                next="put a file there that can be used: it is read within a minute",
            )
            content = core_tables.encode(read_table_file(kept_table_path(config.kept_tables, table)))
        tables.announce(client, scripts, places, table, content, redis_time_ms(client))


def _without(client: redis.Redis, places: Sequence[Place], table: str) -> list[Place]:
    """The partitions whose log does not know a table yet: they begin with what `up` checked."""
    return [place for place in places if table not in tables.known(client, place)]


def _known_hash(client: redis.Redis, config: Config, table: str) -> str | None:
    """The content that stays, as the log of the first partition names it; None where it is what `up` checked."""
    return tables.known(client, places_of(config, table)[0]).get(table)


def table_content(config: Config, table: str) -> bytes:
    """The bytes of a table's file as every lookup of the config can use it.

    Raises:
        TableError: it is not (any more) one that they can use.
    """
    try:
        frame = read_table(config, table)
        for _, lookup in lookups_in(config):
            if lookup.table == table:
                core_tables.check(frame, lookup)
    except TableError as error:
        raise TableError(f"{table} {error}") from error
    return core_tables.encode(frame)
