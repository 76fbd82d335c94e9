"""The books: which counters must add up, looked at every minute, so that nothing vanishes without an alarm.

Each equation stands within one hash, which Redis reads at one moment, or only grows truer while commits go on: a
running pipeline cannot raise a false alarm. For every partition of a stream:

    received = stored + duplicate + rejected      the door: the append script writes all four at once

and for every stage on it, whose counters are written by the commit:

    read = accepted + filtered + late + dead      every event has one fate
    position = read + offset                      every event the door counted up to the cursor was read (positions.py)
    missing = 0                                   no chunk says that the door stored more before it than the log brought
    position >= stored, at the end of the log     nor did the tail go missing: asked only when the group has committed
                                                  the last entry, and of the door as it was before that was looked at

What cannot be known is not asked: rows by plain XADD pass no door, and make `position` larger than `stored`; a group
that begins after a trim has no offset until it meets a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import redis

from pipeline.core.definitions import Config
from pipeline.rim.ledger import Finding, Verdict, store_verdict
from pipeline.rim.status import Door, PartitionState
from pipeline.runtime.status import GroupStatus, Status, read_status

Scope = Literal["stream", "stage"]
REPORT = "something else writes to our keys, or this is a bug of ours: please report it with these numbers"
ROWS_GONE = (
    "no window is wrong by it: `streamgauge verify` lists which late rows and dead letters are not there any more"
)
LOOK_FIRST = (
    "entries went from the log before this stage had read them (XDEL, XTRIM, a restored Redis). `streamgauge verify` "
    "tells whether the windows are those of the events that are left. Do not send the rest again before you have "
    "compared `read` of the other stages of this stream (`GET /v1/stages`): those that have read more would count it "
    "twice, and only what no stage has read may go to this stream again"
)


@dataclass(frozen=True, slots=True)
class _Place:
    scope: Scope
    name: str
    stream: str
    partition: int

    def finding(self, sentence: str, advice: str) -> Finding:
        what = f"{self.name} on " if self.scope == "stage" else "the door of "
        where = f"{what}partition {self.partition} of {self.stream}"
        return Finding(self.scope, self.name, self.partition, f"{where}: {sentence}", advice)


def check_ledger(client: redis.Redis, config: Config) -> Verdict:
    """Look at every book of a config, and keep what was found for `/readyz` and `doctor`."""
    status = read_status(client, config)
    verdict = Verdict(status.now_ms, tuple(findings(status)))
    store_verdict(client, verdict)
    return verdict


def findings(status: Status) -> Iterator[Finding]:
    """What does not add up, streams first."""
    for name, stream in status.streams.items():
        for partition in stream.partitions:
            found = partition.state
            yield from _of_door(_Place("stream", name, name, found.partition), found.door)
    for name, stage in status.stages.items():
        partitions = status.streams[stage.stream.name].partitions
        for group in stage.partitions:
            place = _Place("stage", name, stage.stream.name, group.partition)
            yield from _of_group(place, group, partitions[group.partition].state)


def _of_door(place: _Place, door: Door) -> Iterator[Finding]:
    total = door.stored + door.duplicate + door.rejected
    if door.received != total:
        yield place.finding(
            f"received {door.received}, but stored {door.stored} + duplicate {door.duplicate} + rejected "
            f"{door.rejected} = {total}",
            REPORT,
        )


def _of_group(place: _Place, group: GroupStatus, partition: PartitionState) -> Iterator[Finding]:
    checkpoint = group.state.checkpoint
    total = checkpoint.accepted + checkpoint.filtered + checkpoint.late + checkpoint.dead
    if checkpoint.read != total:
        yield place.finding(
            f"read {checkpoint.read}, but accepted {checkpoint.accepted} + filtered {checkpoint.filtered} + late "
            f"{checkpoint.late} + dead {checkpoint.dead} = {total}",
            REPORT,
        )
    for key in group.state.gone:
        yield place.finding(f"{key} was deleted, with rows that were put aside", ROWS_GONE)
    if checkpoint.offset is None:
        return
    if checkpoint.position != checkpoint.read + checkpoint.offset:
        yield place.finding(
            f"position {checkpoint.position}, but read {checkpoint.read} + offset {checkpoint.offset} = "
            f"{checkpoint.read + checkpoint.offset}",
            REPORT,
        )
    # The tail of the log: its last entry is the cursor itself, so that nothing can have been trimmed after it.
    at_the_end = group.state.next_id is None and partition.last_id == checkpoint.cursor
    missing = checkpoint.missing + (max(0, partition.door.stored - checkpoint.position) if at_the_end else 0)
    if missing:
        yield place.finding(f"the door stored at least {missing} events that the log did not bring", LOOK_FIRST)
