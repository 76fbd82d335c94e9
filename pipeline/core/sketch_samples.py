"""The samples of a cell, kept for answers that need them in order: increase, rate and the time-weighted mean.

Samples of panes and partitions are united and only then ordered: by time, then place, then row (then value, of rows
made from one event). The first 10,000 of a cell in stream order are kept, then the cell says `truncated`.

    a block of samples    int64 [4, n]: times_ms, places, rows, values (of floats: their bits)
    dump                  msgpack: truncated, then the 4 rows; the first three as steps from one sample to the next
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import msgspec
import numpy as np

from pipeline.core.accumulators import Column, Int64, Slots, Values, part_name
from pipeline.core.sketches import OneByOne, as_slots, decode, runs, stable_order

SAMPLES_CAP = 10_000  # samples of a cell
_SAMPLE_BYTES = 15  # of one in a dump: 2 of time, 2 of place, 2 of row, 9 of value
_HEAD_BYTES = 30
_EXACT_LIMIT = 2**62  # below it, the int64 sums of the increases cannot overflow


@dataclass(slots=True)
class SampleSet:
    """Blocks of samples in the order they came; the arrays are never changed, so blocks may be shared."""

    blocks: list[Int64]
    count: int = 0
    truncated: bool = False

    def ordered(self) -> Int64:
        """All samples as one block in order, which takes the place of the others."""
        if not self.blocks:
            return np.empty((4, 0), dtype=np.int64)
        if len(self.blocks) > 1 or not _is_ordered(self.blocks[0]):
            together = np.concatenate(self.blocks, axis=1)
            self.blocks = [np.ascontiguousarray(together[:, np.lexsort(together[::-1])])]
        return self.blocks[0]


def _is_ordered(block: Int64) -> bool:
    return bool((np.diff(block[0]) > 0).all())


@dataclass(frozen=True, slots=True)
class Samples(OneByOne):
    """The samples of a cell; `dtype` of the column, so that integers stay exact at any size."""

    field: str
    where: str | None = None
    dtype: Literal["<i8", "<f8"] = "<f8"
    cap: int = SAMPLES_CAP

    @property
    def name(self) -> str:
        return part_name(f"samples({self.field})", self.where)

    @property
    def incremental(self) -> bool:
        return True

    def empty(self) -> SampleSet:
        return SampleSet([])

    def lift(self, new: Values) -> tuple[Slots, list[SampleSet]]:
        order = stable_order(new.slots)
        values = new.values.astype(self.dtype).view(np.int64)
        together = np.stack([column[order] for column in (new.times_ms, new.places, new.rows, values)])
        slots, partials = [], []
        for slot, begin, end in runs(new.slots[order].astype(np.int64)):
            slots.append(slot)
            # a copy: a view would keep the whole batch in memory as long as the cell
            partials.append(SampleSet([together[:, begin:end].copy()], end - begin))
        return as_slots(slots), partials

    def fold(self, whole: SampleSet, fresh: SampleSet) -> tuple[SampleSet, SampleSet]:
        room = self.cap - whole.count
        if fresh.count > room:
            blocks = [np.concatenate(fresh.blocks, axis=1)[:, :room].copy()] if room else []
            fresh = SampleSet(blocks, room, truncated=True)
        return self.merge(whole, fresh), fresh

    def merge(self, into: SampleSet, other: SampleSet) -> SampleSet:
        into.blocks.extend(other.blocks)
        into.count += other.count
        into.truncated |= other.truncated
        return into

    def dump(self, value: SampleSet) -> bytes:
        block = value.ordered()
        places = np.diff(block[:3], axis=1, prepend=0)  # small numbers; what overflows wraps, and wraps back
        return msgspec.msgpack.encode((value.truncated, *places.tolist(), block[3].tolist()))

    def restore(self, data: bytes) -> SampleSet:
        truncated, *rows = decode(_DUMP, data, self.name)
        count = len(rows[0])
        if any(len(row) != count for row in rows):
            raise ValueError(f"{len(data)} bytes are not a dump of {self.name}: rows of {[len(row) for row in rows]}")
        try:
            block = np.array(rows, dtype=np.int64).reshape(4, count)
        except OverflowError as error:
            raise ValueError(f"{len(data)} bytes are not a dump of {self.name}: {error}") from error
        block[:3] = np.cumsum(block[:3], axis=1)
        return SampleSet([block] if count else [], count, truncated)

    def weight(self, value: SampleSet) -> int:
        return _HEAD_BYTES + _SAMPLE_BYTES * value.count

    def series(self, value: SampleSet) -> tuple[Int64, Column]:
        """Return (times_ms, values) in order; values are int64 or float64."""
        block = value.ordered()
        return block[0], block[3].view(self.dtype)


_DUMP = msgspec.msgpack.Decoder(tuple[bool, list[int], list[int], list[int], list[int]])


def increase(values: Column) -> Any:
    """The growth of a counter over samples in order: what each adds to the one before, a fall being a restart from 0.

    Only what the window's own samples show: nothing is extrapolated to its edges (as Prometheus does), and nothing is
    taken from a sample before it (as VictoriaMetrics does).

    Returns:
        An exact int of integers, a float of floats (a left fold); None of fewer than 2 samples.
    """
    if len(values) < 2:
        return None
    if values.dtype == np.float64:
        with np.errstate(over="ignore", invalid="ignore"):
            steps = np.diff(values)
            return float(np.cumsum(np.where(steps >= 0, steps, values[1:]))[-1])
    if int(np.abs(values.astype(np.float64)).max()) < _EXACT_LIMIT // len(values):
        steps = np.diff(values)
        return int(np.where(steps >= 0, steps, values[1:]).sum())
    numbers = values.tolist()
    return sum(b - a if b >= a else b for a, b in pairwise(numbers))


def rate(times_ms: Int64, values: Column) -> float | None:
    """The increase per second between the first and the last sample; None where no time passes between them."""
    grown = increase(values)
    if grown is None or times_ms[-1] == times_ms[0]:
        return None
    return float(grown / (int(times_ms[-1] - times_ms[0]) / 1000))


def time_weighted_mean(times_ms: Int64, values: Column, end_ms: int | None) -> float | None:
    """The mean over time of a value that holds until the next sample, the last one until `end_ms`.

    Before the first sample nothing is known, so nothing counts. Without an end the last one has no weight, unless no
    time passes at all: then it is the answer.
    """
    if not len(values):
        return None
    numbers = values.astype(np.float64)
    end = times_ms[-1] if end_ms is None else max(end_ms, int(times_ms[-1]))
    weights = np.diff(times_ms, append=end).astype(np.float64)
    total = float(weights.sum())  # whole milliseconds: exact
    if len(values) == 1 or total == 0:
        return float(numbers[-1])
    with np.errstate(over="ignore", invalid="ignore"):
        # about the first value, which makes a constant exact
        return float(numbers[0] + np.cumsum((numbers - numbers[0]) * weights)[-1] / total)
