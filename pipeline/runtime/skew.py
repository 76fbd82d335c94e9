"""The skew report of a stream: measured on the newest entries of its log, and what it says of the config.

Invariant: bounded whatever the log holds; the report says how much it has looked at.
"""

from __future__ import annotations

from dataclasses import dataclass

import redis

from pipeline.core.batches import read_batch
from pipeline.core.definitions import SECOND_MS, Config, Stream
from pipeline.core.entries import Chunk, parse_entry
from pipeline.core.events import Reader
from pipeline.core.skew import Sample, Skew, Source, measure
from pipeline.core.times import format_duration
from pipeline.rim import keys, replies
from pipeline.rim.replies import Entry
from pipeline.rim.store import redis_time_ms

SAMPLE_EVENTS = 100_000  # of a stream, its partitions in equal parts: some 100 ms to decode
SAMPLE_BYTES = 32_000_000
SAMPLE_ENTRIES = 20_000  # of a partition: a log may hold more ticks than events
STEP_BYTES = 1_000_000  # read at once
MAX_STEP = 1_000
EXACT_BELOW_MS = 10 * SECOND_MS  # longer durations are said in whole seconds, rounded up


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a setting is, what the sample would need, and whether it holds (None: the sample cannot say)."""

    setting_ms: int | None
    needed_ms: int | None
    holds: bool | None
    sentence: str


@dataclass(frozen=True, slots=True)
class SkewReport:
    """A stream's skew at `now_ms`, by Redis's clock."""

    stream: Stream
    now_ms: int
    skew: Skew
    disorder: Judgement
    idle_after: Judgement
    max_future: Judgement


def skew_report(client: redis.Redis, config: Config, name: str) -> SkewReport:
    """Measure the newest entries of a stream and judge its time settings by them."""
    stream = config.streams[name]
    stages = [stage for stage in config.aggregates() if config.stream_of(stage).name == name]
    skew = measure(stream, stages, [_sample(client, stream, partition) for partition in range(stream.partitions)])
    return SkewReport(stream, redis_time_ms(client), skew, *_judge(stream, skew))


def _judge(stream: Stream, skew: Skew) -> tuple[Judgement, Judgement, Judgement]:
    return _disorder(stream, skew), _idle_after(stream, skew), _max_future(stream, skew)


def _sample(client: redis.Redis, stream: Stream, partition: int) -> Sample:
    entries, cut = _newest_entries(client, stream, partition)
    parsed = [parse_entry(entry.id, entry.fields) for entry in entries if entry.fields is not None]
    parsed = [entry for entry in parsed if not (isinstance(entry, Chunk) and entry.backfill)]  # it tells of no clock
    reader = Reader(stream, () if stream.partition_by is None else (stream.partition_by,))
    return Sample(read_batch(parsed, reader, partition=partition, max_future_ms=stream.time.max_future_ms), cut)


def _newest_entries(client: redis.Redis, stream: Stream, partition: int) -> tuple[list[Entry], bool]:
    """A partition's newest entries, oldest first, within its part of the sample; and whether there are older ones."""
    key = keys.raw(stream.name, partition)
    found: list[Entry] = []
    events = size = 0
    end, step = "+", 1
    most_events, most_bytes = SAMPLE_EVENTS // stream.partitions, SAMPLE_BYTES // stream.partitions
    while events < most_events and size < most_bytes and len(found) < SAMPLE_ENTRIES:
        entries = replies.parse_entries(client.execute_command("XREVRANGE", key, end, "-", "COUNT", step))
        found += entries
        events += sum(int((entry.fields or {}).get(b"n", 1)) for entry in entries)
        size += sum(_bytes(entry) for entry in entries)
        if len(entries) < step:
            return found[::-1], False
        end = f"({entries[-1].id.decode()}"
        step = max(1, min(step * 4, MAX_STEP, STEP_BYTES * len(found) // max(1, size), most_events - events))
    return found[::-1], True


def _bytes(entry: Entry) -> int:
    return sum(len(name) + len(value) for name, value in (entry.fields or {}).items())


def _disorder(stream: Stream, skew: Skew) -> Judgement:
    set_ms, whole = stream.time.disorder_ms, skew.together
    said = f"disorder {format_duration(set_ms)}"
    if whole is None:
        return Judgement(set_ms, None, None, f"{said}: there are no events to measure")
    if whole.behind_ms <= set_ms:
        sentence = f"{said} holds: no event of the sample came more than {_spoken(whole.behind_ms)} behind"
        return Judgement(set_ms, whole.behind_ms, True, sentence)
    sentence = (
        f"{said} does not hold: an event came {_spoken(whole.behind_ms)} behind; disorder "
        f"{_spoken(whole.behind_ms)} would have kept all {whole.events} events of the sample in time, "
        f"{_spoken(whole.behind_999_ms)} 99.9 % of them"
    )
    return Judgement(set_ms, whole.behind_ms, False, sentence)


def _idle_after(stream: Stream, skew: Skew) -> Judgement:
    set_ms = stream.time.idle_after_ms
    longest = max((each for each in skew.sources if each.pause_ms is not None), key=_pause_ms, default=None)
    needed_ms = None if longest is None else longest.pause_ms
    if set_ms is None:
        return Judgement(None, needed_ms, True, "idle_after none holds: silence never moves time in this stream")
    said = f"idle_after {format_duration(set_ms)}"
    if longest is None or needed_ms is None:
        return Judgement(set_ms, None, None, f"{said}: no source has arrived twice, so there is no pause to measure")
    who = "the stream" if stream.partition_by is None else f"source {longest.source!s:.60}"
    if needed_ms < set_ms:
        return Judgement(set_ms, needed_ms, True, f"{said} holds: the longest pause was {_spoken(needed_ms)}, of {who}")
    sentence = (
        f"{said} does not hold: {who} paused for {_spoken(needed_ms)}, and silence may move time past what comes after "
        f"such a pause; set idle_after to more than {_spoken(needed_ms)}, or to none"
    )
    return Judgement(set_ms, needed_ms, False, sentence)


def _pause_ms(source: Source) -> int:
    return source.pause_ms or 0


def _max_future(stream: Stream, skew: Skew) -> Judgement:
    set_ms, whole = stream.time.max_future_ms, skew.together
    said = f"max_future {format_duration(set_ms)}"
    needed_ms = None if whole is None else whole.max_ahead_ms
    if skew.too_far_ahead:
        sentence = (
            f"{said} does not hold: {skew.too_far_ahead} events of the sample are further ahead of their arrival and "
            "were not counted; correct the clock they come from"
        )
        return Judgement(set_ms, needed_ms, False, sentence)
    if needed_ms is None:
        return Judgement(set_ms, None, None, f"{said}: there are no events to measure")
    ahead = f"came at most {_spoken(needed_ms)} ahead of its arrival" if needed_ms else "came ahead of its arrival"
    subject = "an event of the sample" if needed_ms else "no event of the sample"
    return Judgement(set_ms, needed_ms, True, f"{said} holds: {subject} {ahead}; what the door refused is not in it")


def _spoken(duration_ms: int) -> str:
    """A duration for a sentence, never rounded down."""
    if duration_ms < EXACT_BELOW_MS:
        return format_duration(duration_ms)
    return format_duration(-(-duration_ms // SECOND_MS) * SECOND_MS)
