"""One JSON object judged by itself: what most senders post, for whom columns of one value are most of the work.

Invariant: what it takes, `Validator` takes as well, with the same times, partition and bytes; all else is left to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.core.definitions import Field
from pipeline.core.partitioning import Chunk, partition_of
from pipeline.core.refusals import Refusal
from pipeline.core.schema import timestamp_fields
from pipeline.core.timestamps import one_to_ms
from pipeline.core.validation import SPACE, Validator


@dataclass(frozen=True, slots=True)
class OneEvent:
    """A good row as it is stored: its partition (None: any), and whether it has undeclared fields."""

    chunk: Chunk
    owner: int | None
    undeclared: bool


class OneEventReader:
    """Judges bodies of one row, posted to the stream of a validator."""

    def __init__(self, validator: Validator) -> None:
        self._stream = validator.stream
        self._decode = validator.decode_row
        self._times = timestamp_fields(self._stream, [field.name for field in self._stream.fields])

    @classmethod
    def of(cls, validator: Validator) -> OneEventReader | None:
        """A reader; None where the rows of a stream are looked at together: for their ids, and for lists of times."""
        stream = validator.stream
        if stream.dedup is not None or any(field.item == "timestamp" for field in stream.fields):
            return None
        return cls(validator)

    def read(self, body: bytes, now_ms: int) -> OneEvent | None:
        """The only row of a body, a JSON object on one line; None where `Validator` has to look at it."""
        line = body.strip(SPACE)
        if not line.startswith(b"{") or b"\n" in line or b"\r" in line:
            return None
        event, undeclared = self._decode(0, line)
        if isinstance(event, Refusal):
            return None
        try:
            times_ms = {field.name: self._time_ms(field, event) for field in self._times}
        except ValueError:
            return None
        time_ms = times_ms[self._stream.time.field] if self._stream.time.field else None
        if time_ms is not None and not self._is_timely(time_ms, now_ms):
            return None
        chunk = Chunk(line, 1, time_ms, time_ms).compressed(self._stream.compression)
        return OneEvent(chunk, self._owner(event, times_ms), undeclared)

    def _time_ms(self, field: Field, event: Any) -> int:
        value = getattr(event, field.name)
        return 0 if value is None else one_to_ms(value, field.unit, field.zone)

    def _is_timely(self, time_ms: int, now_ms: int) -> bool:
        policy = self._stream.time
        if time_ms > now_ms + policy.max_future_ms:
            return False
        return policy.max_age_ms is None or time_ms >= now_ms - policy.max_age_ms

    def _owner(self, event: Any, times_ms: dict[str, int]) -> int | None:
        name = self._stream.partition_by
        if name is None:
            return None
        key = times_ms[name] if name in times_ms else getattr(event, name)
        return partition_of(key, self._stream.partitions)
