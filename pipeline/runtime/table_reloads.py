"""Bringing files of lookup tables into the logs: at set-up, and whenever the scheduler finds that a file has changed.

A content that some lookup of the running config could not use is refused as a whole, with one line in the log: the
stages go on with the one they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import redis
import structlog

from pipeline.core import tables as core_tables
from pipeline.core.definitions import Config, Lookup, Transform
from pipeline.core.tables import TableError
from pipeline.rim import keys, tables
from pipeline.rim.scripts import Scripts
from pipeline.rim.store import redis_time_ms
from pipeline.rim.tables import Place
from pipeline.runtime.table_files import read_table, read_table_file
from pipeline.runtime.table_places import kept_table_path, table_path, tables_in

Stat = tuple[int, int, int]  # modified ns, size, inode

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class TableReloads:
    """The tables of a config; a file is read again when its time, size or inode has changed."""

    config: Config
    client: redis.Redis
    scripts: Scripts
    _read: dict[str, Stat] = field(default_factory=dict)  # of the files that were dealt with

    def reload_once(self) -> int:
        """Announce the contents of changed files; return in how many partitions one was news."""
        return sum(self._reload(table) for table in tables_in(self.config))

    def drop_unused(self, now_ms: int) -> int:
        """Delete contents that no log names any more."""
        return tables.drop_unused(self.client, self.scripts, now_ms)

    def _reload(self, table: str) -> int:
        before = self._stat(table)
        if before is not None and self._read.get(table) == before:
            return 0
        places = places_of(self.config, table)
        if not all(self._is_set_up(place) for place in places):
            return 0
        try:
            content = table_content(self.config, table)
        except TableError as error:
            log.error("a changed table cannot be used; the one before stays", why=str(error))
            if before is not None:
                self._read[table] = before
            return 0
        if self._stat(table) != before:  # it was being written while it was read
            return 0
        news = tables.announce(self.client, self.scripts, places, table, content, redis_time_ms(self.client))
        if before is not None:
            self._read[table] = before
        if news:
            log.info("a table has another content", table=table, partitions=news)
        return news

    def _stat(self, table: str) -> Stat | None:
        try:
            found = table_path(self.config.folder, table).stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_size, found.st_ino)

    def _is_set_up(self, place: Place) -> bool:
        """Whether set-up has seen the stream, with this number of partitions."""
        stored = self.client.execute_command("HGET", keys.record(place[0]), "partitions")
        return stored is not None and int(stored) == self.config.streams[place[0]].partitions


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


def places_of(config: Config, table: str) -> list[Place]:
    """The partitions of the streams that some stage joins with a table."""
    used = [config.stream_of(stage) for stage, lookup in _lookups(config) if lookup.table == table]
    streams = {stream.name: stream for stream in used}
    return [(stream.name, partition) for stream in streams.values() for partition in range(stream.partitions)]


def _lookups(config: Config) -> Iterator[tuple[Transform, Lookup]]:
    for stage in config.stages.values():
        if isinstance(stage, Transform):
            yield from ((stage, lookup) for lookup in stage.lookup.values())


def table_content(config: Config, table: str) -> bytes:
    """The bytes of a table's file as every lookup of the config can use it.

    Raises:
        TableError: it is not (any more) one that they can use.
    """
    try:
        frame = read_table(config, table)
        for _, lookup in _lookups(config):
            if lookup.table == table:
                core_tables.check(frame, lookup)
    except TableError as error:
        raise TableError(f"{table} {error}") from error
    return core_tables.encode(frame)
