"""How far events come from their times, source by source: what `disorder`, `idle_after` and `max_future` must be.

    event time    ──1──2──────3──5──4──▶      behind: how far the running maximum before an event is past its time;
    arrival       ──1──2──────3──5──4──▶      4 is one behind 5. With disorder >= behind no event is late.
                       └pause─┘

Invariant: everything is measured on the events of the sample, as they came and before any filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from pipeline.core.batches import Batch
from pipeline.core.definitions import MINUTE_MS, SECOND_MS, Aggregate, Session, Stream
from pipeline.core.entries import Chunk, Row
from pipeline.core.watermarks import Milliseconds, prefix_watermarks
from pipeline.core.windows import panes_of

CANDIDATES_MS = (0, SECOND_MS, 5 * SECOND_MS, 30 * SECOND_MS, MINUTE_MS, 5 * MINUTE_MS)
PER_MILLE = 1_000


@dataclass(frozen=True, slots=True)
class Sample:
    """The newest entries of one partition, decoded; `cut`: the log has older ones that were not read."""

    batch: Batch
    cut: bool


@dataclass(frozen=True, slots=True)
class Source:
    """What one source sent; `source` is its value of `partition_by`, None where the stream spreads evenly.

    `delay_*`: arrival less event time. `ahead_share` of events, 0 to 1, came before their time, at most `max_ahead_ms`.
    `pause_ms`: the longest between two arrivals, None when it arrived once. `behind_ms` covers every event,
    `behind_999_ms` 99.9 % of them.
    """

    source: Any
    events: int
    first_arrival_ms: int
    last_arrival_ms: int
    median_delay_ms: int
    max_delay_ms: int
    ahead_share: float
    max_ahead_ms: int
    pause_ms: int | None
    behind_ms: int
    behind_999_ms: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """A disorder bound: events of the sample behind its watermark, and those that would be late for a stage."""

    disorder_ms: int
    behind: int
    late: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Skew:
    """The report of a sample: all of it as one source, source by source (longest pause first), and the candidates.

    `unreadable` and `too_far_ahead` events have no time to measure; `whole`: the sample is all that the log holds.
    """

    events: int
    unreadable: int
    too_far_ahead: int
    whole: bool
    together: Source | None
    sources: tuple[Source, ...]
    candidates: tuple[Candidate, ...]


def measure(stream: Stream, stages: Sequence[Aggregate], samples: Sequence[Sample]) -> Skew:
    """Measure the skew of a stream; `stages` are the aggregates that read it."""
    frame = pl.concat([_frame(stream, sample.batch) for sample in samples])
    since_ms = max((_first_arrival(sample.batch) for sample in samples if sample.cut), default=None)
    dead = [letter for sample in samples for letter in sample.batch.dead]
    far = sum(letter.n for letter in dead if letter.code == "too_far_ahead")
    together = _sources(frame.with_columns(source=pl.lit(None)), since_ms)
    # A source of its own stands in one partition, so how far back the others were read does not concern it.
    sources = together if stream.partition_by is None else _sources(frame, None)
    return Skew(
        events=len(frame),
        unreadable=sum(letter.n for letter in dead) - far,
        too_far_ahead=far,
        whole=not any(sample.cut for sample in samples),
        together=together[0] if together else None,
        sources=tuple(sources),
        candidates=tuple(_candidate(disorder_ms, frame, stages) for disorder_ms in CANDIDATES_MS),
    )


def _first_arrival(batch: Batch) -> int:
    return min((entry.arrival_ms for entry in batch.entries if isinstance(entry, Chunk | Row)), default=0)


def _frame(stream: Stream, batch: Batch) -> pl.DataFrame:
    """One row an event: source, arrival, time, and the running maximum before it in its partition (events alone)."""
    arrivals = [entry.arrival_ms if isinstance(entry, Chunk | Row) else 0 for entry in batch.entries]
    before_ms, _ = prefix_watermarks(batch.effective_ms, None, 0)
    by = stream.partition_by
    return pl.DataFrame(
        {
            "source": pl.Series([None] * len(batch.times_ms)) if by is None else batch.frame[by],
            "arrival": np.array(arrivals, dtype=np.int64)[batch.entry_of],
            "time": batch.times_ms,
            "before": before_ms,
        }
    ).with_columns(behind=(pl.col("before") - pl.col("time")).clip(0))


def _sources(frame: pl.DataFrame, since_ms: int | None) -> list[Source]:
    """Group by source; pauses are measured among the arrivals since `since_ms`."""
    delay, ahead = pl.col("arrival") - pl.col("time"), (pl.col("time") - pl.col("arrival")).clip(0)
    arrivals = pl.col("arrival") if since_ms is None else pl.col("arrival").filter(pl.col("arrival") >= since_ms)
    found = frame.group_by("source").agg(
        events=pl.len(),
        first_arrival_ms=pl.col("arrival").min(),
        last_arrival_ms=pl.col("arrival").max(),
        median_delay_ms=delay.median().round().cast(pl.Int64),
        max_delay_ms=delay.max(),
        ahead_share=(ahead > 0).mean(),
        max_ahead_ms=ahead.max(),
        pause_ms=arrivals.unique().sort().diff().max(),
        behind_ms=pl.col("behind").max(),
        behind_999_ms=pl.col("behind").sort().get(pl.len() - pl.len() // PER_MILLE - 1),
    )
    by_pause = found.sort(
        pl.col("pause_ms"), pl.col("source").cast(pl.String), descending=[True, False], nulls_last=True
    )
    return [Source(**row) for row in by_pause.iter_rows(named=True)]


def _candidate(disorder_ms: int, frame: pl.DataFrame, stages: Sequence[Aggregate]) -> Candidate:
    watermarks_ms, times_ms = frame["before"].to_numpy() - disorder_ms, frame["time"].to_numpy()
    late = {stage.name: int((_counts_until(stage, times_ms) <= watermarks_ms).sum()) for stage in stages}
    return Candidate(disorder_ms, int((frame["behind"] > disorder_ms).sum()), late)


def _counts_until(stage: Aggregate, times_ms: Milliseconds) -> Milliseconds:
    """The watermark from which each event is late for every window it is in."""
    if isinstance(stage.window, Session):
        return times_ms + stage.window.gap_ms + stage.allowed_lateness_ms
    panes = panes_of(stage.window)
    return panes.last_ends(panes.pane_starts(times_ms)) + stage.allowed_lateness_ms
