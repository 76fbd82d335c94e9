"""A judged body as the steps that append it: which rows go in one call, and by which ids they are known.

Invariant: a step whose ids are partly known is sent again without those rows, and they are counted with it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.core.arrow_validation import CheckedColumns
from pipeline.core.definitions import Stream
from pipeline.core.event_ids import IdReader, Ids, ids_of
from pipeline.core.partitioning import Chunk
from pipeline.core.refusals import Refusal
from pipeline.core.timestamps import Int64
from pipeline.core.validation import Checked
from pipeline.rim.streams import Step, StepIds

REFUSALS_A_STEP = 1_000  # entries of the quarantine: about 1.5 ms of the server (FACTS 8)
IDS_A_STEP = 1_000  # rows that are looked up by their ids: 2.5 ms of the server on a busy machine

Judged = Checked | CheckedColumns


@dataclass(frozen=True, slots=True)
class Part:
    """One step, and (of a stream with `dedup`) the rows and ids that it is made of."""

    step: Step
    ids: Ids | None = None

    def without(self, seen: Sequence[int], checked: Judged, stream: Stream) -> Part:
        """The same step without the rows of the ids with these numbers."""
        assert self.ids is not None, "only a step with ids is told that some are known"
        ids = self.ids.without(np.array(seen, dtype=np.int64))
        entries = checked.chunks_at(stream, ids.rows) if len(ids.rows) else []
        step = replace(
            self.step,
            entries=entries,
            undeclared=min(self.step.undeclared, len(ids.rows)),
            ids=step_ids(stream, ids),
            left_out=self.step.left_out + len(seen),
        )
        return Part(step, ids)


class Parts:
    """Cuts the bodies posted to one stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._ids = None if stream.dedup is None else IdReader(stream)

    def of(self, checked: Judged, home: int, judged_ms: int, *, backfill: bool = False) -> dict[int, list[Part]]:
        """What is written where, home first: refused rows at home, beside the first of the good ones."""
        shares = self._shares(checked, home)
        refusals = list(_slices(checked.refusals, REFUSALS_A_STEP))
        order = [home, *(partition for partition in shares if partition != home)]
        parts: dict[int, list[Part]] = {}
        undeclared = checked.undeclared
        for partition in order:
            refused = refusals if partition == home else []
            parts[partition] = []
            for share, rows in itertools.zip_longest(shares.get(partition, []), refused):
                chunks, ids = share or ([], None)
                counted = min(undeclared, sum(chunk.n for chunk in chunks))
                undeclared -= counted
                step = Step(chunks, rows or [], counted, judged_ms, backfill)
                parts[partition].append(Part(self._with_ids(step, ids), ids))
            parts[partition] = parts[partition] or [Part(Step([], [], 0, judged_ms))]
        return parts

    def of_one(self, checked: Judged, step: Step) -> Part:
        """The step of a body's only row."""
        if self._ids is None:
            return Part(step)
        ids = ids_of(np.zeros(1, dtype=np.int64), *self._ids.hashes(checked))
        return Part(self._with_ids(step, ids), ids)

    def _with_ids(self, step: Step, ids: Ids | None) -> Step:
        if ids is None:
            return step
        return replace(step, ids=step_ids(self._stream, ids), left_out=ids.repeated)

    def _shares(self, checked: Judged, home: int) -> Mapping[int, Sequence[tuple[Sequence[Chunk], Ids | None]]]:
        """The chunks of each step by partition, and the ids in them."""
        if self._ids is None:
            shares = checked.shares(self._stream, home)
            return {partition: [([chunk], None) for chunk in chunks] for partition, chunks in shares.items()}
        if not checked.n_good:
            return {}
        hashes, given = self._ids.hashes(checked)
        return {
            partition: [
                (checked.chunks_at(self._stream, ids.rows), ids)
                for ids in (ids_of(some, hashes, given) for some in _slices_of_rows(rows))
            ]
            for partition, rows in checked.rows_by_partition(self._stream).items()
        }


def step_ids(stream: Stream, ids: Ids) -> StepIds | None:
    """What a step is checked by; None where none of its rows has an id."""
    assert stream.dedup is not None, f"{stream.name} has no dedup"
    return StepIds(ids.packed, stream.dedup.within_ms) if len(ids.hashes) else None


def _slices(refusals: Sequence[Refusal], size: int) -> Iterator[Sequence[Refusal]]:
    for start in range(0, len(refusals), size):
        yield refusals[start : start + size]


def _slices_of_rows(rows: Int64) -> Iterator[Int64]:
    for start in range(0, len(rows), IDS_A_STEP):
        yield rows[start : start + IDS_A_STEP]
