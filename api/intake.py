"""What happens to a posted body: judged, shared out over partitions, appended, accounted for. No Flask here.

Invariant: with an idempotency key the home partition (by the key) is written first and always has the record, so
another body under the same key writes nothing at all; a retry is judged by the clock of the first attempt, so it is the
same batch again.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import redis

from pipeline.core.definitions import Config, Stream
from pipeline.core.events import row_fields
from pipeline.core.partitioning import Chunk, chunks, partition_of, share_out
from pipeline.core.refusals import Refusal
from pipeline.core.validation import BodyKind, Checked, Validator, refuse_nested
from pipeline.errors import BadRequestError
from pipeline.rim.pressure import Pressure
from pipeline.rim.scripts import Scripts
from pipeline.rim.streams import Appended, IdempotencyKey, RowEntry, Step, append

REFUSALS_A_STEP = 1_000  # entries of the quarantine: about 1.5 ms of the server (FACTS 8)
NEWLINE = ord("\n")  # counted by numpy: bytes.count takes five times as long where there are many
MAX_ROWS = 200_000  # of one request: 32 MB of very small events; each refused row costs an object here


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

    def __init__(self, client: redis.Redis, stream: Stream, groups: Sequence[str]) -> None:
        self.stream = stream
        self.groups = groups
        self.pressure = Pressure(client, stream, groups)
        self._client = client
        self._scripts = Scripts(client)
        self._validator = Validator(stream)
        self._turns = itertools.count()

    def take(
        self,
        body: bytes,
        kind: BodyKind,
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
        if np.count_nonzero(np.frombuffer(body, dtype=np.uint8) == NEWLINE) > MAX_ROWS:
            raise _too_many_rows()
        if backfill and self.stream.time.field is None:
            raise _timed_by_arrival(self.stream)
        self.pressure.check()
        now_ms = self.pressure.now_ms()
        checked = self._check(body, kind, now_ms, backfill=backfill)
        if may_be_cut and _has_unfinished_end(checked):
            raise BadRequestError("The body breaks off in the middle of a row. Send all of it again.", code="cut_off")
        if key is None:
            return self._append(checked, self._next_partition(), None, now_ms, backfill=backfill)
        named, home = IdempotencyKey(key, fingerprint(body, backfill=backfill)), self._home(key)
        steps = self._steps(checked, home, now_ms, backfill=backfill)
        first = append(self._scripts, self.stream.name, home, steps[home][0], named)
        if first.known and first.judged_ms != now_ms:
            checked = self._check(body, kind, first.judged_ms, backfill=backfill)
        return self._append(checked, home, named, first.judged_ms, first, backfill=backfill)

    def take_one(self, body: bytes, key: str | None = None) -> Receipt:
        """Store one event as a row entry, which any Redis client can read; a `key` makes it count once."""
        self.pressure.check()
        now_ms = self.pressure.now_ms()
        checked = self._check(body, "json", now_ms)
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
            return self._append(checked, home, named, now_ms)
        entry = RowEntry(fields, None if checked.times_ms is None else int(checked.times_ms[0]))
        partition = home if checked.keys is None else partition_of(checked.keys[0], self.stream.partitions)
        if named is not None and partition != home:  # only the record: the key with another body is refused there
            append(self._scripts, self.stream.name, home, Step([], [], 0, now_ms), named)
        done = append(self._scripts, self.stream.name, partition, Step([entry], [], checked.undeclared, now_ms), named)
        return _receipt(checked, {partition: [done]}, int(not done.known), int(done.known))

    def _home(self, key: str) -> int:
        """The partition that keeps the record of an idempotency key."""
        return zlib.crc32(key.encode()) % self.stream.partitions

    def _next_partition(self) -> int:
        return next(self._turns) % self.stream.partitions

    def _check(self, body: bytes, kind: BodyKind, now_ms: int, *, backfill: bool = False) -> Checked:
        checked = self._validator.check(body, kind=kind, now_ms=now_ms, of_any_age=backfill)
        if checked.n_received == 0:
            raise BadRequestError("The body has no events. Send a JSON object, an array, or NDJSON.", code="empty")
        if checked.n_received > MAX_ROWS:
            raise _too_many_rows()
        return checked

    def _append(
        self,
        checked: Checked,
        home: int,
        key: IdempotencyKey | None,
        judged_ms: int,
        first: Appended | None = None,
        *,
        backfill: bool = False,
    ) -> Receipt:
        """Write all steps, the home partition's first; `first` is what the very first became, if it is done."""
        done: dict[int, list[Appended]] = {}
        stored = known = 0
        for partition, steps in self._steps(checked, home, judged_ms, backfill=backfill).items():
            for number, step in enumerate(steps):
                if key is None and not step.entries and not step.refusals:
                    continue  # only a record would have been written
                if first is not None and partition == home and number == 0:
                    outcome = first
                else:
                    name = key and IdempotencyKey(f"{key.key} {number}" if number else key.key, key.fingerprint)
                    outcome = append(self._scripts, self.stream.name, partition, step, name)
                done.setdefault(partition, []).append(outcome)
                stored, known = stored + step.n_good * (not outcome.known), known + step.n_good * outcome.known
        return _receipt(checked, done, stored, known)

    def _steps(self, checked: Checked, home: int, judged_ms: int, *, backfill: bool = False) -> dict[int, list[Step]]:
        """What is written where, home first: a chunk a step, and refused rows at home beside the first chunks."""
        shares = self._shares(checked, home)
        refusals = list(_slices(checked.refusals, REFUSALS_A_STEP))
        order = [home, *(partition for partition in shares if partition != home)]
        steps: dict[int, list[Step]] = {}
        undeclared = checked.undeclared
        for partition in order:
            refused = refusals if partition == home else []
            steps[partition] = []
            for chunk, rows in itertools.zip_longest(shares.get(partition, []), refused):
                counted = min(undeclared, chunk.n) if chunk else 0
                undeclared -= counted
                steps[partition].append(Step([chunk] if chunk else [], rows or [], counted, judged_ms, backfill))
            steps[partition] = steps[partition] or [Step([], [], 0, judged_ms)]
        return steps

    def _shares(self, checked: Checked, home: int) -> dict[int, list[Chunk]]:
        if checked.keys is None:
            return {home: list(chunks(checked.body, checked.n_good, checked.times_ms))}
        shares = share_out(checked.body, checked.times_ms, checked.keys, self.stream.partitions)
        return {partition: list(chunks(*share)) for partition, share in shares.items()}


def fingerprint(body: bytes, *, backfill: bool = False) -> str:
    """What a request says, for telling a retry from another request under the same key."""
    return hashlib.sha256(b"backfill\n" + body if backfill else body).hexdigest()[:32]


class Intakes:
    """The intakes of all streams of a config."""

    def __init__(self, client: redis.Redis, config: Config, groups: dict[str, tuple[str, ...]]) -> None:
        self.default_stream = config.default_stream
        self.by_stream = {name: Intake(client, stream, groups[name]) for name, stream in config.streams.items()}


def _has_unfinished_end(checked: Checked) -> bool:
    last = checked.refusals[-1] if checked.refusals else None
    return last is not None and last.index == checked.n_received - 1 and last.code == "malformed"


def _slices(refusals: Sequence[Refusal], size: int) -> Iterator[Sequence[Refusal]]:
    for start in range(0, len(refusals), size):
        yield refusals[start : start + size]


def _receipt(checked: Checked, done: dict[int, list[Appended]], stored: int, known: int) -> Receipt:
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


def _too_many_rows() -> BadRequestError:
    message = f"The body has more than {MAX_ROWS:,} rows. Send smaller batches."
    return BadRequestError(message, code="too_large", status=413)
