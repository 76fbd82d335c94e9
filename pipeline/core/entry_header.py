"""What can be told of an entry of a raw stream without its body: its id, its kind, and who made a tick.

Apart from `entries` and `batches`, which read bodies: the scheduler looks at ids all day and at a body hardly ever.
"""

from __future__ import annotations

from typing import Literal

KIND = b"_k"
BACKFILL = b"backfill"
TickCause = Literal["silence", "heartbeat", "end", "follow"]
"""Who moved time: nothing came; a source said that it lives; somebody said that nothing more will come; or the
partitions beside an idle one went on. It decides no number, only what `complete_by` says."""


def split_id(entry_id: bytes) -> tuple[int, int]:
    """(milliseconds, sequence) of an entry id."""
    ms, _, sequence = entry_id.partition(b"-")
    return int(ms), int(sequence)
