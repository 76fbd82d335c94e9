"""What a metric publishes, as something to follow: its downstream stream, or its results where nothing goes downstream.

    RowFeed           output: rows | chunks   a position is an entry of {metric}:rows
    PublicationFeed   output: none            a position is (number of a publication, when it was)

Both hand out lines in the order in which they were published, after a position, or say that it is not there any more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import redis

from pipeline.core.definitions import Session
from pipeline.core.programs import Program
from pipeline.errors import BadRequestError
from pipeline.rim import publications, row_streams, store
from pipeline.rim.replies import Entry
from pipeline.rim.row_streams import EntryId, Loss
from pipeline.runtime.downstream import Finished
from pipeline.runtime.live_rows import Line, lines_of_entry, lines_of_window


@dataclass(frozen=True, slots=True)
class Published:
    """Some publications after a position, each with its lines (none of another version), or why they are not known."""

    entries: Sequence[tuple[EntryId, Sequence[Line]]] = ()
    loss: Loss | None = None


class Feed(Protocol):
    """What a metric publishes, from any position on."""

    def last(self) -> EntryId:
        """The position of what was published last."""
        ...

    def after(self, position: EntryId, count: int) -> Published:
        """At most `count` publications after a position."""
        ...


@dataclass(frozen=True, slots=True)
class RowFeed:
    """The downstream stream of a metric."""

    client: redis.Redis
    program: Program

    def last(self) -> EntryId:
        return row_streams.last_id(self.client, self.program.name)

    def after(self, position: EntryId, count: int) -> Published:
        found = row_streams.following(self.client, self.program.name, position, count)
        return Published(self.parsed(found.entries), found.loss)

    def parsed(self, entries: Iterable[Entry]) -> list[tuple[EntryId, Sequence[Line]]]:
        return [(row_streams.parse_id(entry.id), lines_of_entry(self.program, entry)) for entry in entries]


@dataclass(frozen=True, slots=True)
class PublicationFeed:
    """The results of a metric that sends nothing downstream; of two publications of a window between two looks, the
    later one."""

    client: redis.Redis
    program: Program

    def last(self) -> EntryId:
        return publications.last(self.client, self.program.name, self.program.version)

    def after(self, position: EntryId, count: int) -> Published:
        program = self.program
        found = publications.after(self.client, program.name, program.version, position, program.stage.retention_ms)
        if found.loss is not None:
            return Published(loss=found.loss)
        entries = []
        for number, window in found.windows[:count]:
            for result in store.load_results(self.client, program.name, program.version, [window]):
                place = (result.seq, result.published_ms)
                if result.seq == number:  # else it was published again meanwhile, and comes in its new place
                    entries.append((place, lines_of_window(program, Finished.of(program, result), place)))
        return Published(entries)


def feed_of(client: redis.Redis, program: Program) -> Feed:
    """The feed of a metric.

    Raises:
        BadRequestError: 422, sessions without a downstream stream leave nothing to follow.
    """
    if program.stage.output != "none":
        return RowFeed(client, program)
    if isinstance(program.window, Session):
        raise BadRequestError(
            f"{program.name} has sessions and `output: none`, which leaves nothing to follow. Set `output: rows` for "
            f"it in config.yaml, or ask for /v1/metrics/{program.name} again and again",
            code="no_live_rows",
            status=422,
        )
    return PublicationFeed(client, program)
