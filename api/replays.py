"""Replaying what was put aside: late rows and dead letters to their stage alone, quarantined rows through the door.

Invariant: a row is replayed once, whatever is sent twice. Of a late row or dead letter the mark is written by the
script that appends it; a quarantined row is appended under a key of its own, and marked afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec
import redis

from api.intake import Intake
from pipeline.core.codings import NDJSON
from pipeline.core.entry_header import split_id
from pipeline.core.events import ChunkError, Reader, RowError
from pipeline.core.partitioning import CHUNK_BYTES, Chunk
from pipeline.core.validation import PostedKind, Validator
from pipeline.errors import BadRequestError
from pipeline.rim.aside import AsideRow, Place, Shelf, mark_quarantined, named, oldest_first
from pipeline.rim.scripts import Scripts
from pipeline.rim.streams import QUARANTINED_BYTES, AlreadyReplayedError, StageReplay, Step, append

REPLAYED_A_REQUEST = 10_000  # rows; `more` says that the same request goes on
ROWS_A_STEP = 1_000  # marks of one script call: about 1 ms of the server (FACTS 8)
REFUSED_SHOWN = 100
NEVER = {  # dead letters that a replay cannot help, and what can
    "chunk_unreadable": "the stored batch is damaged; send its events again",
    "misplaced": "the row stands in another partition than its key's; send it to the stream with backfill=true",
}


@dataclass(frozen=True, slots=True)
class ReplayOrder:
    """What to replay: the rows of `places`, or all up to `up_to` (of one reason, where it is given).

    `request` names the order: sent again, it does nothing twice. `again`: also what another request has replayed.
    """

    shelf: Shelf
    places: tuple[Place, ...]
    up_to: tuple[str, ...]
    reason: str | None
    again: bool
    backfill: bool
    request: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that cannot be replayed as it is; it stays where it is."""

    place: Place
    code: str
    message: str


@dataclass(slots=True)
class Replayed:
    """What became of an order, in rows put aside.

    `repeated`: replayed by this very order before. `already`: by another one. `entries`: what was appended.
    """

    replayed: int = 0
    repeated: int = 0
    already: int = 0
    n_refused: int = 0
    refused: list[Refused] = field(default_factory=list)
    entries: list[str] = field(default_factory=list)
    more: bool = False

    def refuse(self, place: Place, code: str, message: str) -> None:
        self.n_refused += 1
        if len(self.refused) < REFUSED_SHOWN:
            self.refused.append(Refused(place, code, message))


@dataclass(frozen=True, slots=True)
class _Event:
    """A row put aside as the rows of a chunk: mostly one, many where a whole batch was one dead letter."""

    row: AsideRow
    lines: tuple[bytes, ...]


class Replays:
    """Replays rows put aside at one stream and by its stages."""

    def __init__(self, client: redis.Redis, intake: Intake) -> None:
        self._client = client
        self._scripts = Scripts(client)
        self._intake = intake
        self._stream = intake.stream
        self._validator = Validator(intake.stream)
        self._reader = Reader(intake.stream, [each.name for each in intake.stream.fields])

    def replay(self, order: ReplayOrder) -> Replayed:
        """Do what was asked for.

        Raises:
            BadRequestError: some of the rows that were named are gone (nothing was replayed then), or everything that
                was asked for was replayed before.
            BackpressureError: nothing is taken now; what was replayed before that stays.
        """
        done = Replayed()
        for rows in self._wanted(order):
            if done.replayed >= REPLAYED_A_REQUEST:
                done.more = True
                break
            self._intake.pressure.check()
            fresh = list(self._fresh(order, rows, done))
            if order.shelf.kind == "quarantine":
                self._through_the_door(order, fresh, done)
            else:
                self._to_its_stage(order, fresh, done)
        if done.already and not (done.replayed or done.repeated or done.n_refused):
            raise BadRequestError(
                f"All {done.already} rows were replayed before; nothing was done. To count them once more, send "
                '"again": true with an Idempotency-Key.',
                code="already_replayed",
                status=409,
            )
        return done

    def _wanted(self, order: ReplayOrder) -> Iterator[Sequence[AsideRow]]:
        """The rows asked for, oldest first in each partition, some at a time."""
        shelf = order.shelf
        if order.places:
            yield from self._named(shelf, order.places)
            return
        for partition, up_to in enumerate(order.up_to):
            for rows in oldest_first(self._client, shelf, partition, up_to):
                yield [row for row in rows if order.reason in (None, row.text(shelf.reason_field))]

    def _named(self, shelf: Shelf, places: Sequence[Place]) -> Iterator[Sequence[AsideRow]]:
        found = named(self._client, shelf, places)
        gone = [place for place, row in found.items() if row is None]
        if gone:
            raise BadRequestError(
                f"{len(gone)} of {len(found)} rows are not there (any more): {', '.join(map(str, gone[:5]))}. Rows put "
                "aside are kept as long as the stream; nothing was replayed.",
                code="gone",
                status=404,
            )
        by_partition: dict[int, list[AsideRow]] = {}
        for row in sorted((row for row in found.values() if row is not None), key=lambda row: row.place.order):
            by_partition.setdefault(row.place.partition, []).append(row)
        yield from by_partition.values()

    def _fresh(self, order: ReplayOrder, rows: Sequence[AsideRow], done: Replayed) -> Iterator[AsideRow]:
        """Those of the rows that are still to be replayed."""
        for row in rows:
            if row.replayed_by == order.request:
                done.repeated += 1
            elif row.replayed_by is not None and not order.again:
                done.already += 1
            else:
                yield row

    # --- late rows and dead letters

    def _to_its_stage(self, order: ReplayOrder, rows: Sequence[AsideRow], done: Replayed) -> None:
        events = self._checked([event for row in rows if (event := self._event(row, done)) is not None], done)
        for step in _steps(events):
            try:
                self._append(order, step, done)
            except AlreadyReplayedError:
                raise BadRequestError(
                    "Some of these rows were replayed by another request at this moment. What this one has replayed "
                    "stays replayed: send it again for the rest.",
                    code="replayed_meanwhile",
                    status=409,
                ) from None

    def _event(self, row: AsideRow, done: Replayed) -> _Event | None:
        """The event as it is to be stored, or None, refused."""
        code = row.text("code")
        if code in NEVER:
            done.refuse(row.place, code, NEVER[code])
            return None
        body = row.fields.get(b"event", row.fields.get(b"body", b""))
        try:
            if row.text("form") == "flat":
                return _Event(row, (self._typed(body),))
            n = int(row.fields.get(b"n", b"1"))
            lines = tuple(self._reader.stored_rows(body, row.fields.get(b"coding", NDJSON), n))
        except RowError as error:
            done.refuse(row.place, error.code, str(error))
        except (ChunkError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            done.refuse(row.place, "malformed", f"the stored event is not JSON: {error}")
        else:
            if len(lines) == n:
                return _Event(row, lines)
            done.refuse(row.place, "malformed", f"the stored body holds {len(lines)} events, its letter says otherwise")
        return None

    def _typed(self, body: bytes) -> bytes:
        """A row entry's texts as the JSON of a chunk's row."""
        texts = {name.encode(): text.encode() for name, text in msgspec.json.decode(body, type=dict[str, str]).items()}
        return msgspec.json.encode(self._reader.row(texts))

    def _checked(self, events: Sequence[_Event], done: Replayed) -> list[_Event]:
        """Those that the door would take, of whatever age; the schema may have changed, or a clock been wrong."""
        if not events:
            return []
        lines = [line for event in events for line in event.lines]
        owners = [event for event in events for _ in event.lines]
        now_ms = self._intake.pressure.now_ms()
        checked = self._validator.check(b"\n".join(lines), kind="ndjson", now_ms=now_ms, of_any_age=True)
        refused: set[Place] = set()
        for refusal in checked.refusals:
            place = owners[refusal.index].row.place
            if place not in refused:
                refused.add(place)
                done.refuse(place, refusal.code, refusal.message)
        return [event for event in events if event.row.place not in refused]

    def _append(self, order: ReplayOrder, events: Sequence[_Event], done: Replayed) -> None:
        if not events:
            return
        lines = [line for event in events for line in event.lines]
        body, now_ms = b"\n".join(lines), self._intake.pressure.now_ms()
        times_ms = self._validator.check(body, kind="ndjson", now_ms=now_ms, of_any_age=True).times_ms
        lo_ms, hi_ms = (None, None) if times_ms is None else (int(times_ms.min()), int(times_ms.max()))
        origins = [order.shelf.origin(event.row.place.id, event.row.fields) for event in events]
        replay = StageReplay(order.shelf.group, origins, order.request, order.again)
        chunk = Chunk(body, len(lines), lo_ms, hi_ms).compressed(self._stream.compression)
        step = Step([chunk], [], 0, now_ms, backfill=True, replay=replay)
        partition = events[0].row.place.partition
        done.entries += append(self._scripts, self._stream.name, partition, step).ids
        done.replayed += len(events)

    # --- the quarantine

    def _through_the_door(self, order: ReplayOrder, rows: Sequence[AsideRow], done: Replayed) -> None:
        for row in rows:
            body, kind = _as_posted(row)
            if len(row.fields.get(b"body", b"")) >= QUARANTINED_BYTES:
                done.refuse(row.place, "cut_off", "only the beginning of the row was kept; send the event again")
                continue
            key = f"quarantine:{row.place}" + (f":{order.request}" if order.again else "")
            try:
                checked = self._intake.judged(body, kind, backfill=order.backfill)
                if checked.refusals or checked.n_received != 1:
                    why = checked.refusals[0] if checked.refusals else None
                    code = why.code if why else "malformed"
                    done.refuse(row.place, code, why.message if why else "the stored row is not one event")
                    continue
                receipt = self._intake.take(body, kind, key, backfill=order.backfill)
            except BadRequestError as error:
                done.refuse(row.place, error.code, str(error))
                continue
            mark_quarantined(self._client, order.shelf, row.place, order.request)
            done.replayed += 1
            done.entries += [entry for ids in receipt.ids.values() for entry in ids]


def _as_posted(row: AsideRow) -> tuple[bytes, PostedKind]:
    """A quarantined row as a body of its own; a row of CSV has its header again."""
    body, header = row.fields.get(b"body", b""), row.fields.get(b"header")
    return (body, "json") if header is None else (b"\n".join([header, body]), "csv")


def _steps(events: Sequence[_Event]) -> Iterator[list[_Event]]:
    """Events of one partition in the order of the log, cut into chunks that one script call appends."""
    part: list[_Event] = []
    size = 0
    for event in sorted(events, key=_log_order):
        more = sum(map(len, event.lines)) + len(event.lines)
        if part and (size + more > CHUNK_BYTES or len(part) == ROWS_A_STEP or len(event.lines) > 1):
            yield part
            part, size = [], 0
        part.append(event)
        size += more
        if len(event.lines) > 1:  # a whole batch: a chunk of its own, as it was
            yield part
            part, size = [], 0
    if part:
        yield part


def _log_order(event: _Event) -> tuple[int, int, int]:
    return (*split_id(event.row.fields[b"entry"]), int(event.row.fields[b"row"]))
