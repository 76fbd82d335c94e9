"""Bringing files of lookup tables into the logs whenever the scheduler finds that one has changed.

A content that some lookup of the running config could not use is refused as a whole, with one line in the log: the
stages go on with the one they have.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import redis
import structlog

from pipeline.core.definitions import Config
from pipeline.core.table_names import TableError
from pipeline.rim import keys, tables
from pipeline.rim.scripts import Scripts
from pipeline.rim.store import redis_time_ms
from pipeline.rim.tables import Place
from pipeline.runtime.table_places import places_of, table_path, tables_in

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
        # It reads files with polars: 50 MB that only those need whose config has tables.
        from pipeline.runtime.table_announcing import table_content

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
