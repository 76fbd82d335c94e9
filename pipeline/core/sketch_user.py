"""The partial of a user's own aggregate: what its lift and merge make of a cell's values, one by one in stream order.

A fold is the left fold from the stored state, so the way a log was cut into batches changes nothing, associative or
not. Every partial goes through msgpack as soon as it is made: it is the same whether it was kept or read back.

A `lift` that raises is about one value, and its row is a dead letter. A `merge` that raises is not: the cell's partial
is marked as failed, which stays whatever is merged with it, and its value is null, as where `finish` raises.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import msgspec
import numpy as np

from pipeline.core.accumulators import Slots, Values, part_name
from pipeline.core.registry import RegisteredAggregate, Returns
from pipeline.core.sketches import OneByOne, as_slots, decode, runs, stable_order
from pipeline.core.tracebacks import MAX_TRACEBACK_LENGTH, traceback_text
from pipeline.errors import UserCodeError

Pending = list[Any]  # partials still to be merged, in order; no more than one once folded
Step = Literal["merge", "finish"]


@dataclass(frozen=True, slots=True)
class Failed:
    """Stands in a cell for a partial that could not be made; what went wrong is not part of it."""


@dataclass(slots=True)
class Problems:
    """The first failure of each step in this process, kept until it was said in the log."""

    seen: set[Step] = dataclasses.field(default_factory=set)
    unsaid: dict[Step, str] = dataclasses.field(default_factory=dict)

    def note(self, step: Step, error: UserCodeError) -> None:
        if step not in self.seen:
            self.seen.add(step)
            self.unsaid[step] = what_failed(error)

    def take(self) -> dict[Step, str]:
        """Return what was not said yet; it counts as said."""
        taken, self.unsaid = self.unsaid, {}
        return taken


FAILED = Failed()
_FAILED_DUMP = [None, "failed"]  # of a partial there is one item


@dataclass(frozen=True, slots=True)
class UserPartials(OneByOne):
    """A registered aggregate over a field; `are_bools` where the column's numbers are."""

    function: str
    field: str
    registered: RegisteredAggregate
    where: str | None = None
    are_bools: bool = False
    problems: Problems = dataclasses.field(default_factory=Problems, compare=False, repr=False)

    @property
    def name(self) -> str:
        return part_name(f"{self.function}({self.field})", self.where)

    @property
    def incremental(self) -> bool:
        return False

    def empty(self) -> Pending:
        return []

    def lift(self, new: Values) -> tuple[Slots, list[Pending]]:
        """Take every value, lifted where it is not (bytes are: the answer of `lifted`); a fold merges them.

        Raises:
            UserCodeError: lift raised, or its answer is not plain data.
        """
        order = stable_order(new.slots)
        values = (new.values.astype(np.bool_) if self.are_bools and new.values.dtype != object else new.values)[order]
        lifted = [
            msgspec.msgpack.decode(value if isinstance(value, bytes) else self.lifted(value))
            for value in values.tolist()
        ]
        slots, partials = [], []
        for slot, begin, end in runs(new.slots[order].astype(np.int64)):
            slots.append(slot)
            partials.append(lifted[begin:end])
        return as_slots(slots), partials

    def lifted(self, value: Any) -> bytes:
        """Lift one value.

        Raises:
            UserCodeError: lift raised, or its answer is not plain data.
        """
        return self._encoded("lift", self._called("lift", value))

    def fold(self, whole: Pending, fresh: Pending) -> tuple[Pending, Pending]:
        """Merge the lifted values into the cell one by one; the increment is the whole."""
        folded = self._folded([*whole, *fresh])
        return folded, folded

    def merge(self, into: Pending, other: Pending) -> Pending:
        # a copy of the other's: a later merge may change what it was given first
        return self._folded([*into, *(self._copy(partial) for partial in self._folded(other))])

    def _folded(self, partials: Pending) -> Pending:
        if len(partials) < 2:
            return partials
        if any(isinstance(partial, Failed) for partial in partials):
            return [FAILED]
        try:
            return [reduce(lambda a, b: self._plain("merge", a, b), partials)]
        except UserCodeError as error:
            self.problems.note("merge", error)
            return [FAILED]

    def _plain(self, step: str, *arguments: Any) -> Any:
        return msgspec.msgpack.decode(self._encoded(step, self._called(step, *arguments)))

    def _copy(self, partial: Any) -> Any:
        if isinstance(partial, Failed):
            return partial
        return msgspec.msgpack.decode(msgspec.msgpack.encode(partial))

    def _called(self, step: str, *arguments: Any) -> Any:
        call: Callable[..., Any] = getattr(self.registered.function, step)
        try:
            return call(*arguments)
        except Exception as error:  # whatever a user's code raises becomes the one error that names it
            raise UserCodeError(self.function, step, f"{type(error).__name__}: {error}") from error

    def _encoded(self, step: str, partial: Any) -> bytes:
        try:
            return msgspec.msgpack.encode(partial, order="sorted")
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise UserCodeError(
                self.function,
                step,
                f"a partial is plain data (numbers, strings, bytes, lists, dicts with string keys): {error}",
            ) from error

    def dump(self, value: Pending) -> bytes:
        folded = self._folded(value)
        failed = bool(folded) and isinstance(folded[0], Failed)
        return msgspec.msgpack.encode(_FAILED_DUMP if failed else folded, order="sorted")

    def restore(self, data: bytes) -> Pending:
        partials: Pending = decode(_DUMP, data, self.name)
        if partials == _FAILED_DUMP:
            return [FAILED]
        if len(partials) > 1:
            raise ValueError(f"{len(data)} bytes are not a dump of {self.name}: {len(partials)} partials of one cell")
        return partials

    def weight(self, value: Pending) -> int:
        return len(self.dump(value))

    def finish(self, value: Pending) -> Any:
        """Return the finished value, None of no values or a failed partial, or where `finish` itself fails.

        A float that is no number of JSON is None.
        """
        folded = self._folded(value)
        if not folded or isinstance(folded[0], Failed):
            return None
        try:
            return self._finished(folded[0])
        except UserCodeError as error:
            self.problems.note("finish", error)
            return None

    def fails(self, value: Pending) -> bool:
        """Whether the value is null for a failure of the aggregate's code."""
        folded = self._folded(value)
        if not folded or isinstance(folded[0], Failed):
            return bool(folded)
        try:
            self._finished(folded[0])
        except UserCodeError:
            return True
        return False

    def _finished(self, partial: Any) -> Any:
        answer = self._plain("finish", partial)
        if answer is None or _is_of(answer, self.registered.returns):
            return _finite(float(answer) if self.registered.returns == "float" and answer is not None else answer)
        raise UserCodeError(
            self.function,
            "finish",
            f"returned {answer!r:.200}, and the aggregate was registered with returns={self.registered.returns!r}",
        )


def what_failed(error: UserCodeError) -> str:
    """The user's traceback, or what is wrong with the answer where nothing was raised."""
    cause = error.__cause__
    text = str(error) if cause is None else f"{error}\n{traceback_text(cause)}"
    return text if len(text) <= 2 * MAX_TRACEBACK_LENGTH else f"{text[:MAX_TRACEBACK_LENGTH]}…"


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
