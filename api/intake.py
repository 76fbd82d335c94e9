"""What happens to a posted body: judged, shared out over partitions, appended, accounted for. No Flask here.

Invariant: with an idempotency key the home partition (by the key) is written first and always has the record, so
another body under the same key writes nothing at all; a retry is judged by the clock of the first attempt, so it is the
same batch again.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import redis

from api.gathering import Gathering, Small
from api.parts import Judged, Part, Parts
from pipeline.core.arrow_stream import Limits
from pipeline.core.arrow_validation import ColumnValidator
from pipeline.core.csv_validation import CsvValidator
from pipeline.core.definitions import Config, Stream
from pipeline.core.events import row_fields
from pipeline.core.one_event import OneEventReader
from pipeline.core.refusals import Refusal, too_many_rows
from pipeline.core.validation import MAX_BODY_BYTES, MAX_ROWS, Checked, PostedKind, Validator, refuse_nested
from pipeline.errors import BadRequestError
from pipeline.rim.pressure import Pressure
from pipeline.rim.scripts import Scripts
from pipeline.rim.streams import Appended, IdempotencyKey, RowEntry, Step, append

SMALL_ROWS, SMALL_BYTES = 100, 64 * 1024  # of a request that goes together with others
_NO_LAST_LINE_END = (
    "Nothing was taken: a CSV body that is sent in chunks may have been cut off in its last cell where it does not end "
    "with a line end. Send all of it again, with one."
)


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of a body: `accepted + rejected + duplicates` is the number of its rows."""

    accepted: int
    duplicates: int
    refusals: Sequence[Refusal]
    ids: dict[int, list[str]] = field(default_factory=dict)  # partition → ids of the entries, in order
    skew_ms: int | None = None  # newest event time less its arrival: how far the sender's clock is ahead
    document_refused: bool = False


class Intake:
    """Takes events for one stream."""

    def __init__(
        self, client: redis.Redis, stream: Stream, groups: Sequence[str], together: redis.Redis | None = None
    ) -> None:
        """`together`: for appends of many small values, where `client` is for large ones (`writer`)."""
        self.stream = stream
        self.groups = groups
        self.pressure = Pressure(client, stream, groups)
        self._client = client
        self._scripts = Scripts(client)
        self._together = Scripts(together or client)
        self._validator = Validator(stream)
        self._one_event = OneEventReader.of(self._validator)
        self._csv = CsvValidator(stream, self._validator)
        self._columns = ColumnValidator(stream, Limits(MAX_ROWS, MAX_BODY_BYTES))
        self._parts = Parts(stream)
        self._turns = itertools.count()
        places = range(stream.partitions) if stream.partition_by else (None,)
        self._gatherings = {place: Gathering(partial(self._write, place)) for place in places}

    def take(
        self,
        body: bytes,
        kind: PostedKind,
        key: str | None = None,
        *,
        may_be_cut: bool = False,
        backfill: bool = False,
    ) -> Receipt:
        """Store the good rows of a body in chunks and quarantine the others.

        `may_be_cut`: nobody said how long the body is; one with an unfinished end is then refused as a whole, so that a
        part of a batch is not stored under the whole one's key. `backfill`: old data for a live stream, of any age.

        Raises:
            BadRequestError: there are no rows or too many, the key was used for another body, or rows that are timed by
                their arrival are called old.
            BackpressureError: nothing is taken now.
        """
        if backfill and self.stream.time.field is None:
            raise _timed_by_arrival(self.stream)
        self.pressure.check()
        now_ms = self.pressure.now_ms()
        checked = self._check(body, kind, now_ms, may_be_cut=may_be_cut, backfill=backfill)
        if may_be_cut and _has_unfinished_end(checked):
            raise _cut_off(checked, kind)
        if key is None:
            if (small := self._small(checked, len(body), backfill=backfill)) is not None:
                return self._append_small(checked.newest_ms, *small)
            home = self._next_partition()
            return self._append(checked, self._parts.of(checked, home, now_ms, backfill=backfill), home, None)
        named, home = IdempotencyKey(key, fingerprint(body, backfill=backfill)), self._home(key)
        parts = self._parts.of(checked, home, now_ms, backfill=backfill)
        first, part = self._put(checked, home, parts[home][0], named)
        if first.known and first.judged_ms != now_ms:
            checked = self._check(body, kind, first.judged_ms, may_be_cut=may_be_cut, backfill=backfill)
            parts = self._parts.of(checked, home, first.judged_ms, backfill=backfill)
            part = parts[home][0]
        return self._append(checked, parts, home, named, (first, part))

    def take_event(self, body: bytes) -> Receipt | None:
        """Store a small body of one row as `take` does; None where it has to be looked at as any other: use `take`.

        Raises:
            BackpressureError: nothing is taken now.
        """
        if self._one_event is None or len(body) > SMALL_BYTES:
            return None
        self.pressure.check()
        event = self._one_event.read(body, self.pressure.now_ms())
        if event is None:
            return None
        small = Small(event.chunk, int(event.undeclared))
        return self._append_small(event.chunk.hi_ms, event.owner, small)

    def take_one(self, body: bytes, key: str | None = None) -> Receipt:
        """Store one event as a row entry, which any Redis client can read; a `key` makes it count once."""
        self.pressure.check()
        now_ms = self.pressure.now_ms()
        checked = self._check(body, "json", now_ms)
        assert isinstance(checked, Checked), "JSON is judged as rows"
        if checked.n_received != 1:
            raise BadRequestError(
                f"POST /publish takes one JSON object, this body has {checked.n_received} rows. "
                f"Send batches to /v1/streams/{self.stream.name}/events.",
                code="not_one_event",
                status=422,
            )
        checked = refuse_nested(checked)
        named = None if key is None else IdempotencyKey(key, fingerprint(body))
        home = self._next_partition() if key is None else self._home(key)
        fields = {} if checked.refusals else row_fields(self.stream, self._validator.event(checked.body))
        if not fields:  # refused, or an event of nulls only: XADD takes no entry without fields, so it is a chunk
            return self._append(checked, self._parts.of(checked, home, now_ms), home, named)
        entry = RowEntry(fields, None if checked.times_ms is None else int(checked.times_ms[0]))
        partition = home if checked.owners is None else int(checked.owners[0])
        if named is not None and partition != home:  # only the record: the key with another body is refused there
            append(self._scripts, self.stream.name, home, Step([], [], 0, now_ms), named)
        part = self._parts.of_one(checked, Step([entry], [], checked.undeclared, now_ms))
        done, part = self._put(checked, partition, part, named)
        is_new = bool(part.step.entries) and not done.known
        return _receipt(checked, {partition: [done]}, int(is_new), int(not is_new))

    def judged(self, body: bytes, kind: PostedKind, *, backfill: bool = False) -> Judged:
        """What `take` would say of a body now; nothing is written."""
        return self._check(body, kind, self.pressure.now_ms(), backfill=backfill)

    def _home(self, key: str) -> int:
        """The partition that keeps the record of an idempotency key."""
        return zlib.crc32(key.encode()) % self.stream.partitions

    def _next_partition(self) -> int:
        return next(self._turns) % self.stream.partitions

    def _check(
        self, body: bytes, kind: PostedKind, now_ms: int, *, may_be_cut: bool = False, backfill: bool = False
    ) -> Judged:
        checked: Judged
        if kind == "arrow":
            checked = self._columns.check(body, now_ms=now_ms, of_any_age=backfill, to_the_end=may_be_cut)
        elif kind == "csv":
            if may_be_cut and not body.endswith(b"\n"):
                raise BadRequestError(_NO_LAST_LINE_END, code="cut_off")
            checked = self._csv.check(body, now_ms=now_ms, of_any_age=backfill)
        else:
            checked = self._validator.check(body, kind=kind, now_ms=now_ms, of_any_age=backfill)
        if checked.n_received == 0:
            raise BadRequestError(
                "The body has no events. Send a JSON object, an array, NDJSON, CSV or Arrow.", code="empty"
            )
        if checked.n_received > MAX_ROWS:
            raise too_many_rows(MAX_ROWS)
        return checked

    def _small(self, checked: Judged, size: int, *, backfill: bool) -> tuple[int | None, Small] | None:
        """The rows of a small request and the partition they are for (None: any); None where it goes by itself."""
        if self.stream.dedup is not None or backfill or checked.refusals:
            return None
        if checked.n_good > SMALL_ROWS or size > SMALL_BYTES:
            return None
        shares = checked.shares(self.stream, 0)
        if len(shares) != 1:
            return None
        [(partition, chunks)] = shares.items()
        if len(chunks) != 1:
            return None
        return partition if self.stream.partition_by else None, Small(chunks[0], checked.undeclared)

    def _append_small(self, newest_ms: int | None, place: int | None, small: Small) -> Receipt:
        written = self._gatherings[place].append(small)
        return Receipt(
            accepted=small.chunk.n,
            duplicates=0,
            refusals=[],
            ids={written.partition: [written.entry_id]},
            skew_ms=None if newest_ms is None else newest_ms - written.arrival_ms,
        )

    def _write(self, place: int | None, together: Sequence[Small]) -> tuple[int, Appended]:
        """Append the rows of several requests, each with an entry of its own."""
        partition = self._next_partition() if place is None else place
        undeclared = sum(small.undeclared for small in together)
        step = Step([small.chunk for small in together], [], undeclared, self.pressure.now_ms())
        return partition, append(self._together, self.stream.name, partition, step)

    def _append(
        self,
        checked: Judged,
        parts_of: Mapping[int, Sequence[Part]],
        home: int,
        key: IdempotencyKey | None,
        first: tuple[Appended, Part] | None = None,
    ) -> Receipt:
        """Write all steps, the home partition's first; `first` is what the very first became, if it is done."""
        done: dict[int, list[Appended]] = {}
        stored = known = 0
        for partition, parts in parts_of.items():
            for number, part in enumerate(parts):
                if key is None and not part.step.entries and not part.step.refusals:
                    continue  # only a record would have been written
                if first is not None and partition == home and number == 0:
                    outcome, written = first
                else:
                    name = key and IdempotencyKey(f"{key.key} {number}" if number else key.key, key.fingerprint)
                    outcome, written = self._put(checked, partition, part, name)
                done.setdefault(partition, []).append(outcome)
                stored += written.step.n_good * (not outcome.known)
                known += written.step.n_good * outcome.known + written.step.left_out
        return _receipt(checked, done, stored, known)

    def _put(self, checked: Judged, partition: int, part: Part, key: IdempotencyKey | None) -> tuple[Appended, Part]:
        """Append one step, without the rows whose ids are known: what became of it, and of which rows it was made."""
        while (outcome := append(self._scripts, self.stream.name, partition, part.step, key)).seen:
            part = part.without(outcome.seen, checked, self.stream)  # each time there is at least one less
        return outcome, part


def fingerprint(body: bytes, *, backfill: bool = False) -> str:
    """What a request says, for telling a retry from another request under the same key."""
    return hashlib.sha256(b"backfill\n" + body if backfill else body).hexdigest()[:32]


class Intakes:
    """The intakes of all streams of a config."""

    def __init__(
        self,
        client: redis.Redis,
        config: Config,
        groups: dict[str, tuple[str, ...]],
        together: redis.Redis | None = None,
    ) -> None:
        self.default_stream = config.default_stream
        self.by_stream = {
            name: Intake(client, stream, groups[name], together) for name, stream in config.streams.items()
        }


def _has_unfinished_end(checked: Judged) -> bool:
    last = checked.refusals[-1] if checked.refusals else None
    return last is not None and last.index == checked.n_received - 1 and last.code == "malformed"


def _cut_off(checked: Judged, kind: PostedKind) -> BadRequestError:
    """Nothing is written, so that the whole body can come under the same key."""
    if kind == "arrow":
        return BadRequestError(f"Nothing was taken: {checked.refusals[-1].message}.", code="cut_off")
    return BadRequestError("The body breaks off in the middle of a row. Send all of it again.", code="cut_off")


def _receipt(checked: Judged, done: dict[int, list[Appended]], stored: int, known: int) -> Receipt:
    arrival_ms = next(iter(done.values()))[0].arrival_ms
    return Receipt(
        accepted=stored,
        duplicates=known,
        refusals=checked.refusals,
        ids={partition: [name for each in outcomes for name in each.ids] for partition, outcomes in done.items()},
        skew_ms=None if checked.newest_ms is None else checked.newest_ms - arrival_ms,
        document_refused=checked.document_refused,
    )


def _timed_by_arrival(stream: Stream) -> BadRequestError:
    message = (
        f"Events of stream {stream.name} are timed by their arrival (it has no time field), so none of them is old: "
        "leave backfill out, or name a time field in the config."
    )
    return BadRequestError(message, code="no_event_time", status=422)
