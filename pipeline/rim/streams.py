"""Appending to raw streams: one idempotent script call a step, steps small enough for the server's other clients.

Invariant: every call leaves `received = stored + duplicate + rejected` in the partition's door.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isal.isal_zlib import crc32

from pipeline.core.entry_header import BACKFILL
from pipeline.core.partitioning import Chunk
from pipeline.core.refusals import Refusal
from pipeline.errors import BackpressureError, BadRequestError, StreamgaugeError
from pipeline.rim import keys
from pipeline.rim.scripts import Argument, Scripts

MAX_RETRY_S = 60  # senders give up on longer waits
QUARANTINED_BYTES = 64 * 1024  # of one refused row: enough to see what it was; a bad client must not fill the memory


@dataclass(frozen=True, slots=True)
class RowEntry:
    """One event as flat fields, and its event time (None: no time field)."""

    fields: Mapping[str, bytes]
    time_ms: int | None


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A request as its sender named it, and what it says: the same key with another fingerprint is a conflict."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class StageReplay:
    """Rows that a stage had put aside, for that stage alone: each origin (`ENTRY ROW`) is replayed once.

    `request` names the request that replays them; `again`: also those that another request has replayed before.
    """

    group: str
    origins: Sequence[str]
    request: str
    again: bool = False


class AlreadyReplayedError(StreamgaugeError):
    """Some of the rows were replayed since the caller looked; nothing was written."""


@dataclass(frozen=True, slots=True)
class StepIds:
    """The ids of a step's rows, 8 bytes each, each once, to be known by for `within_ms`."""

    packed: bytes
    within_ms: int


@dataclass(frozen=True, slots=True)
class Step:
    """What one call writes: good rows as entries, refused rows for quarantine, judged by the clock `judged_ms`.

    `backfill`: its chunks are old data put into a live stream. `replay`: they were put aside by a stage. `ids`: of a
    stream with `dedup`; `left_out`: good rows that are not among the entries, since their ids are known.
    """

    entries: Sequence[Chunk | RowEntry]
    refusals: Sequence[Refusal]
    undeclared: int
    judged_ms: int
    backfill: bool = False
    replay: StageReplay | None = None
    ids: StepIds | None = None
    left_out: int = 0

    @property
    def n_good(self) -> int:
        return sum(entry.n if isinstance(entry, Chunk) else 1 for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Appended:
    """What became of a step; `known`: it was written before, by a request judged at `judged_ms`.

    `seen`: nothing was written, since the ids with these numbers are known; the step is to be sent again without them.
    """

    known: bool
    arrival_ms: int
    judged_ms: int
    ids: tuple[str, ...]
    seen: tuple[int, ...] = ()


def append(scripts: Scripts, stream: str, partition: int, step: Step, key: IdempotencyKey | None = None) -> Appended:
    """Write a step, all or nothing; a step whose key is known is only counted.

    Raises:
        BadRequestError: the key was used for another request (409); nothing was written.
        BackpressureError: so many ids are remembered that no more are taken; nothing was written.
        AlreadyReplayedError: the step replays rows, and some were replayed before; nothing was written.
        StreamgaugeError: a key of ours has been overwritten with another type; nothing was written.
        redis.exceptions.RedisError: the server refused or is away; after a lost reply the step may be written.
    """
    names = [
        keys.raw(stream, partition),
        keys.door(stream, partition),
        keys.idem(stream, partition),
        keys.idem_times(stream, partition),
        keys.quarantine(stream, partition),
    ]
    if step.replay is not None:
        names.append(keys.replayed(stream, partition, step.replay.group))
    elif step.ids is not None:
        names += [keys.ids(stream, partition), keys.ids_order(stream, partition)]
    reply = scripts.run("append", keys=names, args=_arguments(step, key))
    return _parse(reply, step, key)


def _arguments(step: Step, key: IdempotencyKey | None) -> list[Argument]:
    args: list[Argument] = [
        key.key if key else "",
        key.fingerprint if key else "",
        step.judged_ms,
        step.n_good,
        step.undeclared,
        len(step.entries),
        len(step.refusals),
        step.left_out,
    ]
    for entry in step.entries:
        args += _chunk(entry, step) if isinstance(entry, Chunk) else _row(entry)
    for refusal in step.refusals:
        body = refusal.body[:QUARANTINED_BYTES]
        args += [refusal.message.encode(errors="replace"), refusal.code, _text(refusal.field), refusal.index]
        args += [refusal.header, body]
    if (replay := step.replay) is not None:
        args += [replay.request, "1" if replay.again else "", len(replay.origins), *replay.origins]
    elif step.ids is not None:
        args += [step.ids.within_ms, step.ids.packed]
    return args


def _chunk(chunk: Chunk, step: Step) -> list[Argument]:
    mode = BACKFILL if step.backfill else b""
    only = step.replay.group if step.replay else ""
    crc = crc32(chunk.body)
    return ["chunk", chunk.n, _time(chunk.lo_ms), _time(chunk.hi_ms), crc, mode, only, chunk.coding, chunk.body]


def _row(row: RowEntry) -> list[Argument]:
    pairs = [part for pair in row.fields.items() for part in pair]
    return ["row", _time(row.time_ms), len(row.fields), *pairs]


def _time(time_ms: int | None) -> Argument:
    return "" if time_ms is None else time_ms


def _text(field: str | None) -> bytes:
    return b"" if field is None else field.encode(errors="replace")


def _parse(reply: Sequence[Any], step: Step, key: IdempotencyKey | None) -> Appended:
    status, *rest = reply
    if status == b"new":
        return Appended(False, int(rest[0]), step.judged_ms, tuple(i.decode() for i in rest[1:]))
    if status == b"known":
        _, judged_ms, arrival_ms, ids = rest[0].decode().split(" ")
        return Appended(True, int(arrival_ms), int(judged_ms), tuple(filter(None, ids.split(","))))
    if status == b"seen":
        return Appended(False, 0, step.judged_ms, (), tuple(int(number) for number in rest))
    if status == b"full":
        raise BackpressureError(
            "So many ids of events are remembered for dedup that no more are taken. Send more slowly, or set a shorter "
            "dedup.within.",
            retry_after_s=min(MAX_RETRY_S, int(rest[0]) // 1_000 + 1),
        )
    if status == b"replayed":
        raise AlreadyReplayedError("some of these rows were replayed meanwhile; nothing was written")
    if status == b"conflict":
        assert key is not None, "a conflict without an idempotency key"
        raise BadRequestError(
            f"Idempotency-Key {key.key!r} was used for a request with another body. Send a new key with new data.",
            code="idempotency_conflict",
            status=409,
        )
    raise StreamgaugeError(f"{rest[0].decode()} has changed its type: something else writes to our keys")
