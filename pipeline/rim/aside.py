"""What was put aside: late rows, dead letters and quarantined rows, newest first, and which of them were replayed.

A row is named by its partition and its id there, `0:1763928012400-0`; rows of all partitions stand in one order, by id
and then by partition. Invariant: nothing here writes but the mark of a quarantined row.
"""

from __future__ import annotations

import heapq
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import redis

from pipeline.core.definitions import Stream
from pipeline.core.entry_header import split_id
from pipeline.rim import keys, replies
from pipeline.rim.scripts import Scripts

ROWS_A_READ = 100  # of one partition; a quarantined row has up to 64 kB
COUNTED_ROWS = 10_000  # of one partition, newest first: reasons are counted to be looked at
COUNTED_A_STEP = 1_000

Kind = Literal["late", "dead", "quarantine"]
_PLACE = re.compile(r"(\d{1,6}):(\d{1,20}-\d{1,20})")
_ID = re.compile(r"\d{1,20}-\d{1,20}")
NOTHING = "0-0"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row put aside stands."""

    partition: int
    id: bytes

    @property
    def order(self) -> tuple[int, int, int]:
        return (*split_id(self.id), self.partition)

    def __str__(self) -> str:
        return f"{self.partition}:{self.id.decode()}"

    @classmethod
    def parse(cls, text: str) -> Place:
        """Read `PARTITION:ID`.

        Raises:
            ValueError: it is not one.
        """
        found = _PLACE.fullmatch(text)
        if found is None:
            raise ValueError(f"{text[:60]!r} names no row; a row is named like 0:1763928012400-0")
        return cls(int(found[1]), found[2].encode())


@dataclass(frozen=True, slots=True)
class AsideRow:
    """One row put aside; `replayed_by` is the request that replayed it, None where none did."""

    place: Place
    fields: Mapping[bytes, bytes]
    replayed_by: str | None

    def text(self, name: str) -> str:
        return self.fields.get(name.encode(), b"").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Shelf:
    """One kind of rows put aside by one stage, or at the door of one stream.

    `group`: the consumer group that put them aside; empty at the door.
    """

    kind: Kind
    stream: Stream
    group: str = ""

    @property
    def reason_field(self) -> str:
        return "reason" if self.kind == "late" else "code"

    def rows_key(self, partition: int) -> str:
        match self.kind:
            case "late":
                return keys.late(self.stream.name, partition, self.group)
            case "dead":
                return keys.dead(self.stream.name, partition, self.group)
            case "quarantine":
                return keys.quarantine(self.stream.name, partition)

    def marks_key(self, partition: int) -> str:
        if self.kind == "quarantine":
            return keys.quarantine_replayed(self.stream.name, partition)
        return keys.replayed(self.stream.name, partition, self.group)

    def origin(self, entry_id: bytes, fields: Mapping[bytes, bytes]) -> str:
        """What a row's mark is kept under: its event's place in the log, which a rebuild does not change."""
        if self.kind == "quarantine":
            return entry_id.decode()
        return f"{fields[b'entry'].decode()} {fields[b'row'].decode()}"


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, newest first; `next`: where the following page begins, None after the last row."""

    rows: tuple[AsideRow, ...]
    next: Place | None


def newest_ids(scripts: Scripts, shelf: Shelf) -> tuple[str, ...]:
    """The last id of each partition: what is there now, in the words of `up_to`."""
    found = []
    for partition in range(shelf.stream.partitions):
        (last,) = scripts.run("peek", keys=[shelf.rows_key(partition)])
        found.append(last.decode() or NOTHING)
    return tuple(found)


def parse_up_to(text: str, partitions: int) -> tuple[str, ...]:
    """Read what a list of rows gave as `up_to`: the newest id of each partition.

    Raises:
        ValueError: it is not one of this stream.
    """
    ids = tuple(text.split(","))
    if len(ids) != partitions or not all(_ID.fullmatch(each) for each in ids):
        raise ValueError(f"{text[:60]!r} is not the up_to of a list of these rows: copy it from the answer")
    return ids


def page(
    client: redis.Redis, shelf: Shelf, up_to: Sequence[str], before: Place | None, limit: int, reason: str | None
) -> Page:
    """The newest rows up to `up_to`, or those before a place; only those of a reason where one is asked for."""
    each = [_backwards(client, shelf, partition, up_to[partition], before) for partition in range(len(up_to))]
    found: list[AsideRow] = []
    last: Place | None = None
    scanned = 0
    for row in heapq.merge(*each, key=lambda row: row.place.order, reverse=True):
        if len(found) == limit or scanned == COUNTED_ROWS:
            return Page(_marked(client, shelf, found), last)
        last, scanned = row.place, scanned + 1
        if reason is None or row.text(shelf.reason_field) == reason:
            found.append(row)
    return Page(_marked(client, shelf, found), None)


def _backwards(
    client: redis.Redis, shelf: Shelf, partition: int, up_to: str, before: Place | None
) -> Iterator[AsideRow]:
    """A partition's rows, newest first, at or before `up_to` and before a place in the order of all partitions."""
    end = up_to
    if before is not None and split_id(before.id) <= split_id(up_to.encode()):
        end = before.id.decode() if partition < before.partition else f"({before.id.decode()}"
    while True:
        entries = replies.parse_entries(
            client.execute_command("XREVRANGE", shelf.rows_key(partition), end, "-", "COUNT", ROWS_A_READ)
        )
        yield from (AsideRow(Place(partition, entry_id), fields or {}, None) for entry_id, fields in entries)
        if len(entries) < ROWS_A_READ:
            return
        end = f"({entries[-1].id.decode()}"


def oldest_first(client: redis.Redis, shelf: Shelf, partition: int, up_to: str) -> Iterator[tuple[AsideRow, ...]]:
    """A partition's rows up to `up_to`, a read at a time."""
    start = "-"
    while True:
        reply = client.execute_command("XRANGE", shelf.rows_key(partition), start, up_to, "COUNT", ROWS_A_READ)
        entries = replies.parse_entries(reply)
        rows = [AsideRow(Place(partition, entry_id), fields or {}, None) for entry_id, fields in entries]
        if rows:
            yield _marked(client, shelf, rows)
        if len(entries) < ROWS_A_READ:
            return
        start = f"({entries[-1].id.decode()}"


def named(client: redis.Redis, shelf: Shelf, places: Sequence[Place]) -> dict[Place, AsideRow | None]:
    """Some rows by their places; None for one that is gone."""
    pipe = client.pipeline(transaction=False)
    for place in places:
        pipe.execute_command("XRANGE", shelf.rows_key(place.partition), place.id, place.id)
    answers = [replies.parse_entries(reply) for reply in pipe.execute()] if places else []
    there = [
        AsideRow(place, found[0].fields or {}, None) for place, found in zip(places, answers, strict=True) if found
    ]
    known = {row.place: row for row in _marked(client, shelf, there)}
    return {place: known.get(place) for place in places}


def _marked(client: redis.Redis, shelf: Shelf, rows: Sequence[AsideRow]) -> tuple[AsideRow, ...]:
    """The rows with what is known of their replays."""
    pipe = client.pipeline(transaction=False)
    for row in rows:
        key = shelf.marks_key(row.place.partition)
        pipe.execute_command("HGET", key, shelf.origin(row.place.id, row.fields))
    marks = pipe.execute() if rows else []
    return tuple(
        row if mark is None else AsideRow(row.place, row.fields, mark.decode())
        for row, mark in zip(rows, marks, strict=True)
    )


def mark_quarantined(client: redis.Redis, shelf: Shelf, place: Place, request: str) -> None:
    """Note that a quarantined row was replayed; what was appended for it has a key of its own, so this may be late."""
    client.execute_command("HSET", shelf.marks_key(place.partition), place.id, request)


@dataclass(frozen=True, slots=True)
class Reasons:
    """Rows by reason, most frequent first, among the `counted` newest of `total`."""

    total: int
    counted: int
    counts: Mapping[str, int]


def count_reasons(client: redis.Redis, scripts: Scripts, shelf: Shelf) -> Reasons:
    """Count the reasons of the newest rows of every partition."""
    counts: Counter[str] = Counter()
    total = counted = 0
    for partition in range(shelf.stream.partitions):
        key = shelf.rows_key(partition)
        total += int(client.execute_command("XLEN", key))
        end, left = "+", COUNTED_ROWS
        while left:
            step = scripts.run("count_reasons", keys=[key], args=[shelf.reason_field, end, COUNTED_A_STEP])
            seen, oldest, *pairs = step
            for reason, count in zip(pairs[::2], pairs[1::2], strict=True):
                counts[reason.decode(errors="replace")] += int(count)
            counted, left = counted + int(seen), left - COUNTED_A_STEP
            if int(seen) < COUNTED_A_STEP:
                break
            end = f"({oldest.decode()}"
    return Reasons(total, counted, dict(counts.most_common()))
