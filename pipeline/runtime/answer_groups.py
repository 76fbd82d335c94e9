"""The groups of one answer as numbers: which are wanted, what `group_by` makes of them, and the order of rows.

Whatever is asked of a group is worked out once for it, however many windows it is in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.core.accumulators import Int64
from pipeline.core.cell_columns import GroupNumbers
from pipeline.core.cell_fields import OTHERS, group_json
from pipeline.core.programs import Program
from pipeline.runtime.coded_columns import Coded
from pipeline.runtime.finishing import group_values, order_of_values


@dataclass(slots=True)
class AnswerGroups:
    """`stored` numbers groups as cells have them, `shown` as rows do: by the `fields` of the answer.

    Where the rows' groups are the cells', both are one.
    """

    program: Program
    fields: tuple[str, ...]
    matches: Callable[[bytes], bool]
    top: Sequence[bytes] | None = None  # the shown groups that are told apart, in order; all others are one
    stored: GroupNumbers = field(default_factory=GroupNumbers)
    shown: GroupNumbers = field(default_factory=GroupNumbers)
    _wanted: list[bool] = field(default_factory=list)
    _shown_as: list[int] = field(default_factory=list)
    _values: dict[int, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.merges_groups:
            self.shown = self.stored

    @property
    def merges_groups(self) -> bool:
        """Whether rows are of several stored groups together."""
        return self.fields != self.program.stage.group_by or self.top is not None

    def wanted(self, numbers: Int64) -> npt.NDArray[np.bool_] | None:
        """Which of some stored groups belong to the answer; None where all do."""
        names = self.stored.names
        self._wanted += [self.matches(group) for group in names[len(self._wanted) :]]
        if all(self._wanted):
            return None
        return np.array(self._wanted, dtype=np.bool_)[numbers]

    def shown_as(self, numbers: Int64) -> Int64:
        """The groups of rows that stored groups belong to."""
        if not self.merges_groups:
            return numbers
        for group in self.stored.names[len(self._shown_as) :]:
            self._shown_as.append(self.shown.number(self._reduced(group)))
        return np.array(self._shown_as, dtype=np.int64)[numbers]

    def stored_order(self, numbers: Int64) -> Int64:
        """Numbers that stand in the order of the groups' JSON: what groups are merged in, whoever read them when."""
        distinct = np.flatnonzero(np.bincount(numbers)).tolist()
        ranks = np.empty(len(self.stored), dtype=np.int64)
        ranks[sorted(distinct, key=self.stored.names.__getitem__)] = np.arange(len(distinct))
        return ranks[numbers]

    def _reduced(self, group: bytes) -> bytes:
        if group == OTHERS:
            return OTHERS if self.fields else group_json(())
        if self.fields != self.program.stage.group_by:
            values = group_values(self.program, group)
            group = group_json([values[name] for name in self.fields])
        return group if self.top is None or group in self.top else OTHERS

    def values(self, number: int) -> Mapping[str, Any]:
        """The values of the fields of a shown group."""
        known = self._values.get(number)
        if known is None:
            known = self._values[number] = group_values(self.program, self.shown.names[number], self.fields)
        return known

    def columns(self, numbers: Int64) -> dict[str, Sequence[Any]]:
        """The group columns of rows."""
        distinct = np.flatnonzero(np.bincount(numbers))
        codes = np.zeros(len(self.shown), dtype=np.int64)
        codes[distinct] = np.arange(len(distinct))
        shown = [self.values(number) for number in distinct.tolist()]
        return {name: Coded([values[name] for values in shown], codes[numbers]) for name in self.fields}

    def ranks(self, numbers: Int64) -> Int64:
        """Numbers in the order rows of one window stand in."""
        if self.top is not None:
            by_name = {group: rank for rank, group in enumerate(self.top)}
            names = self.shown.names
            return np.array([by_name.get(names[n], len(by_name)) for n in numbers.tolist()], dtype=np.int64)
        distinct = np.flatnonzero(np.bincount(numbers)).tolist()
        keys = {number: order_of_values(self.values(number).values()) for number in distinct}
        ranks = np.zeros(len(self.shown), dtype=np.int64)
        ranks[sorted(distinct, key=keys.__getitem__)] = np.arange(len(distinct))
        return ranks[numbers]


def group_filter(program: Program, where: Mapping[str, Sequence[Any]]) -> Callable[[bytes], bool]:
    """A test of groups; each is looked at once, however many windows it is in."""
    if not where:
        return lambda group: True
    known: dict[bytes, bool] = {}

    def matches(group: bytes) -> bool:
        if group not in known:
            values = group_values(program, group)
            known[group] = all(values[name] in wanted for name, wanted in where.items())
        return known[group]

    return matches
