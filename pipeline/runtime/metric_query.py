"""What is asked of a metric: range, step, groups, values, order and page of an answer, in milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pipeline.core.definitions import Calendar
from pipeline.core.programs import Program
from pipeline.runtime.answer_positions import Position
from pipeline.runtime.filling import Fill

MAX_ROWS = 100_000  # of one answer: some 20 MB of JSON

StateFilter = Literal["all", "closed", "final", "open", "retracted"]  # only sessions are retracted


@dataclass(frozen=True, slots=True)
class MetricQuery:
    """What was asked, checked and in milliseconds; `where` maps group fields to the values that are kept.

    `calendar`: the steps are its units. `group_by`: the fields that are told apart, None for all of the metric's.
    `values`: those that are shown, None for all. `other`: `limit` counts groups, and the rest of them are one row of
    each window. `after`: the last row of the page before.
    """

    metric: str
    start_ms: int | None = None
    end_ms: int | None = None
    step_ms: int | None = None
    where: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    order: str = "window"  # `window` or a value's name, `-` before it for descending
    limit: int = 10_000
    state: StateFilter = "all"
    calendar: Calendar | None = None
    group_by: tuple[str, ...] | None = None
    values: tuple[str, ...] | None = None
    fill: Fill = "none"
    other: bool = False
    after: Position | None = None

    @property
    def by_window(self) -> bool:
        return self.order in ("window", "-window")

    def shown(self, program: Program) -> dict[str, str]:
        """The values of rows with their types; on a line between two counts there are numbers that are no counts."""
        types = {n: kind for n, kind in program.value_types.items() if self.values is None or n in self.values}
        return {n: "float" if self.fill == "linear" and kind == "int" else kind for n, kind in types.items()}

    def computed(self, program: Program) -> list[str]:
        """The values that have to be finished: those that are shown, and what orders or fills them."""
        wanted = {*self.shown(program), self.order.removeprefix("-")}
        if self.fill == "auto":
            wanted |= program.selection.needs(wanted)
        return [name for name in program.value_types if name in wanted]
