"""The partial of a user's own aggregate: what its lift and merge make of a cell's values, one by one in stream order.

A fold is the left fold from the stored state, so the way a log was cut into batches changes nothing, associative or
not. Every partial goes through msgpack as soon as it is made: it is the same whether it was kept or read back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import msgspec
import numpy as np

from pipeline.core.accumulators import Slots, Values, part_name
from pipeline.core.registry import RegisteredAggregate, Returns
from pipeline.core.sketches import OneByOne, as_slots, decode, runs, stable_order
from pipeline.errors import UserCodeError

Pending = list[Any]  # partials still to be merged, in order; no more than one once folded


@dataclass(frozen=True, slots=True)
class UserPartials(OneByOne):
    """A registered aggregate over a field; `are_bools` where the column's numbers are."""

    function: str
    field: str
    registered: RegisteredAggregate
    where: str | None = None
    are_bools: bool = False

    @property
    def name(self) -> str:
        return part_name(f"{self.function}({self.field})", self.where)

    @property
    def incremental(self) -> bool:
        return False

    def empty(self) -> Pending:
        return []

    def lift(self, new: Values) -> tuple[Slots, list[Pending]]:
        """Lift every value; a fold merges them.

        Raises:
            UserCodeError: lift raised, or its answer is not plain data.
        """
        order = stable_order(new.slots)
        values = new.values[order]
        lifted = [
            self._plain("lift", value) for value in (values.astype(np.bool_) if self.are_bools else values).tolist()
        ]
        slots, partials = [], []
        for slot, begin, end in runs(new.slots[order].astype(np.int64)):
            slots.append(slot)
            partials.append(lifted[begin:end])
        return as_slots(slots), partials

    def fold(self, whole: Pending, fresh: Pending) -> tuple[Pending, Pending]:
        """Merge the lifted values into the cell one by one; the increment is the whole.

        Raises:
            UserCodeError: merge raised, or its answer is not plain data.
        """
        folded = self._folded([*whole, *fresh])
        return folded, folded

    def merge(self, into: Pending, other: Pending) -> Pending:
        # a copy of the other's: a later merge may change what it was given first
        return self._folded([*into, *(self._copy("merge", partial) for partial in self._folded(other))])

    def _folded(self, partials: Pending) -> Pending:
        if len(partials) < 2:
            return partials
        return [reduce(lambda a, b: self._plain("merge", a, b), partials)]

    def _plain(self, step: str, *arguments: Any) -> Any:
        call: Callable[..., Any] = getattr(self.registered.function, step)
        try:
            answer = call(*arguments)
        except Exception as error:  # whatever a user's code raises becomes the one error that names it
            raise UserCodeError(self.function, step, f"{type(error).__name__}: {error}") from error
        return self._copy(step, answer)

    def _copy(self, step: str, partial: Any) -> Any:
        try:
            return msgspec.msgpack.decode(msgspec.msgpack.encode(partial, order="sorted"))
        except (TypeError, ValueError, OverflowError) as error:
            raise UserCodeError(
                self.function,
                step,
                f"a partial is plain data (numbers, strings, bytes, lists, dicts with string keys): {error}",
            ) from error

    def dump(self, value: Pending) -> bytes:
        return msgspec.msgpack.encode(self._folded(value), order="sorted")

    def restore(self, data: bytes) -> Pending:
        partials: Pending = decode(_DUMP, data, self.name)
        if len(partials) > 1:
            raise ValueError(f"{len(data)} bytes are not a dump of {self.name}: {len(partials)} partials of one cell")
        return partials

    def weight(self, value: Pending) -> int:
        return len(self.dump(value))

    def finish(self, value: Pending) -> Any:
        """Return the finished value, None of no values; a float that is no number of JSON is None.

        Raises:
            UserCodeError: finish raised, or its answer is not of the type it was registered with.
        """
        folded = self._folded(value)
        if not folded:
            return None
        answer = self._plain("finish", folded[0])
        if answer is None or _is_of(answer, self.registered.returns):
            return _finite(float(answer) if self.registered.returns == "float" and answer is not None else answer)
        raise UserCodeError(
            self.function,
            "finish",
            f"returned {answer!r}, and the aggregate was registered with returns={self.registered.returns!r}",
        )


_DUMP = msgspec.msgpack.Decoder(list[Any])


def _is_of(answer: Any, returns: Returns) -> bool:
    match returns:
        case "float":
            return isinstance(answer, int | float) and not isinstance(answer, bool)
        case "int" | "timestamp":
            return isinstance(answer, int) and not isinstance(answer, bool)
        case "string":
            return isinstance(answer, str)
        case "bool":
            return isinstance(answer, bool)
        case "list":
            return isinstance(answer, list)


def _finite(answer: Any) -> Any:
    """JSON has no infinity and no nan: they are null, in lists too."""
    if isinstance(answer, float):
        return answer if np.isfinite(answer) else None
    return [_finite(each) for each in answer] if isinstance(answer, list) else answer
