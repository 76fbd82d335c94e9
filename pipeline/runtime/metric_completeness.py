"""Up to where a metric is complete: every window that ends at or before it has been published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import redis

from pipeline.core.completeness import CompleteBy, least_sure, moved_by
from pipeline.core.definitions import Session
from pipeline.core.programs import Program
from pipeline.core.windows import Span
from pipeline.rim import store
from pipeline.rim.commit import Checkpoint
from pipeline.rim.store import Due
from pipeline.runtime.closer import minimum_watermark, waiting_windows

WINDOWS_A_LOOK = 200


@dataclass(frozen=True, slots=True)
class Completeness:
    """Up to where a metric is complete: every window that ends at or before `complete_to_ms` is published.

    `complete_by`: `events` when the events alone have brought every partition's time there, `heartbeat` when they have
    together with heartbeats, else `silence`.
    `complete_from_ms`: the windows that begin at or after it are all there. Before it some have expired, or a changed
    stage was rebuilt from a log whose beginning had been trimmed. None: nothing is known to be missing.
    """

    watermark_ms: int | None
    complete_to_ms: int | None
    complete_by: CompleteBy | None
    complete_from_ms: int | None


def account(client: redis.Redis, program: Program) -> tuple[Completeness, list[dict[int, Due]]]:
    """How far a metric is, and each partition's due panes.

    The checkpoints are read before what is due: whatever had changed when the watermark was read is then either
    still due or published. The other way round, a window could be called complete and be in neither.
    """
    stream, partitions = program.stream, program.stream.partitions
    checkpoints, due = store.load_progress(client, stream.name, partitions, program.group)
    watermark_ms = minimum_watermark(checkpoints, stream.time.disorder_ms)
    if watermark_ms is None:
        return Completeness(None, None, None, None), due
    panes = program.panes
    complete_to_ms = panes.end_at_or_before(watermark_ms)
    unpublished_ms = _first_unpublished(client, program, due, watermark_ms)
    if unpublished_ms is not None:
        complete_to_ms = min(complete_to_ms, panes.end_at_or_before(unpublished_ms - 1))
    by = _complete_by(checkpoints, stream.time.disorder_ms, complete_to_ms)
    return Completeness(watermark_ms, complete_to_ms, by, complete_from_ms(program, checkpoints)), due


def windows_waiting(client: redis.Redis, program: Program) -> list[Span]:
    """The closed windows of panes that wait to be published, or published again, in the order they close."""
    completeness, due = account(client, program)
    watermark_ms = completeness.watermark_ms
    return [] if watermark_ms is None else waiting_windows(program, due, to_ms=watermark_ms)


def _first_unpublished(
    client: redis.Redis, program: Program, due: Sequence[Mapping[int, Due]], watermark_ms: int
) -> int | None:
    """The end of the first closed window that has never been published; one that waits for a revision has been."""
    waiting = waiting_windows(program, due, to_ms=watermark_ms)
    for at in range(0, len(waiting), WINDOWS_A_LOOK):
        spans = waiting[at : at + WINDOWS_A_LOOK]
        known = store.are_published(client, program.name, program.version, spans)
        missing = [span for span, there in zip(spans, known, strict=True) if not there]
        if missing:
            return missing[0][1]
    return None


def complete_from_ms(program: Program, checkpoints: Sequence[Checkpoint]) -> int | None:
    """The start of the first window that lost nothing to a trim this stage did not see, over all partitions."""
    return whole_from_ms(program, [checkpoint.floor_ms for checkpoint in checkpoints])


def whole_from_ms(program: Program, floors_ms: Sequence[int | None]) -> int | None:
    """Where the first window begins that lost nothing, when events up to `floors_ms` are gone; None: nothing is."""
    floor_ms = max((ms for ms in floors_ms if ms is not None), default=None)
    if floor_ms is None:
        return None
    if isinstance(program.window, Session):
        return floor_ms + program.window.gap_ms + 1
    return program.panes.begin_after(floor_ms)


def kept_from_ms(client: redis.Redis, program: Program, tier_ms: int | None) -> int | None:
    """From when on no window has expired, of a metric or of the tier that answers for it; None: none has.

    To be asked after the windows were read: what expires in between is then said.
    """
    gone = store.load_gone(client, program.name, program.version, tier_ms)
    if gone.start_ms is None:
        return None  # whatever a tier does not have, the metric's own windows have
    if isinstance(program.window, Session):
        return gone.start_ms + 1
    begins_ms = program.panes.begin_after(gone.start_ms)
    if tier_ms is None:
        return begins_ms
    # a tier that was declared later than the metric has nothing of what had expired before: it begins with its oldest
    tier_begins_ms = gone.oldest_ms if gone.tier_start_ms is None else gone.tier_start_ms + tier_ms
    return begins_ms if tier_begins_ms is None else min(begins_ms, tier_begins_ms)


def as_kept(client: redis.Redis, program: Program, known: Completeness, tier_ms: int | None = None) -> Completeness:
    """How complete an answer is, with what has expired by now."""
    begins = [ms for ms in (known.complete_from_ms, kept_from_ms(client, program, tier_ms)) if ms is not None]
    return replace(known, complete_from_ms=max(begins, default=None))


def _complete_by(checkpoints: Sequence[Checkpoint], disorder_ms: int, complete_to_ms: int) -> CompleteBy:
    """What has brought every partition's time to where the answer is complete to."""
    time_ms = complete_to_ms + disorder_ms
    return least_sure(moved_by(time_ms, each.max_event_ms, each.max_beat_ms) for each in checkpoints)
