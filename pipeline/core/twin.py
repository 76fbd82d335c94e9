"""The batch twin: a program run over the log of its partitions without Redis, with all it makes of it kept in memory.

It prepares and folds with the worker's own functions, and merges in the closer's order, so for one log its windows have
the worker's bits. Partitions may be taken one after the other: what is in a window does not depend on it (DESIGN 6).

    Twin[PartitionTwin]      time and books        PaneTwin[PartitionPanes]            windows are merges of panes
                                                   SessionTwin[PartitionSessions]      see session_twin
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Self, TypeVar, cast

from pipeline.core.batches import Batch
from pipeline.core.cell_fields import ALWAYS, from_end_order
from pipeline.core.cell_keys import CellKeys
from pipeline.core.cells import CellTable
from pipeline.core.entry_header import split_id
from pipeline.core.merging import Merged, Piece, merged, pieces_from, taken, windows_by_end
from pipeline.core.process import Ledger, Prepared, TimeState, fold, prepare
from pipeline.core.programs import Program
from pipeline.core.watermarks import watermark_ms
from pipeline.core.windows import FOREVER_MS, Span

Compute = Callable[[Batch, TimeState], Prepared]


@dataclass(slots=True)
class PartitionTwin:
    """One partition's log through a program: its time and its books after the batches taken so far.

    What the events are folded into is a subclass's.
    """

    program: Program
    partition: int
    time: TimeState = field(default_factory=TimeState)
    compute: Compute | None = None  # None: `prepare` of the program
    ledger: Ledger = field(default_factory=Ledger)

    def take(self, batch: Batch) -> Prepared:
        """Compute and fold the next batch of the log; return what became of its events.

        Its `cells` are those they were counted in: of groups above the cap, `__other__`.
        """
        prepared = self.judged(batch, self.time)
        self.time = prepared.time  # before the fold: sessions are final by the time after their batch
        others, cells = self._fold(batch, prepared)
        self.ledger += replace(prepared.ledger, others=others)
        return replace(prepared, cells=cells)

    def judged(self, batch: Batch, before: TimeState) -> Prepared:
        """What the program makes of a batch; nothing is folded."""
        return prepare(self.program, batch, before) if self.compute is None else self.compute(batch, before)

    def _fold(self, batch: Batch, prepared: Prepared) -> tuple[int, CellKeys]:
        """Fold the accepted rows; return how many went to the group `__other__`, and for each cell where it went."""
        raise NotImplementedError

    @property
    def watermark_ms(self) -> int | None:
        return watermark_ms(self.time.max_seen_ms, self.program.stream.time.disorder_ms)


@dataclass(slots=True)
class PartitionPanes(PartitionTwin):
    """One partition's panes.

    `first_arrivals_ms`: for each pane, an arrival at or before which none of its events came.
    """

    table: CellTable = field(init=False)
    first_arrivals_ms: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.table = CellTable(self.program.layout)

    def _fold(self, batch: Batch, prepared: Prepared) -> tuple[int, CellKeys]:
        known = set(self.table.panes)
        folded = fold(self.program, batch, prepared, self.table)
        self.table.forget_changes()
        for start_ms in self.table.panes.keys() - known:
            self.first_arrivals_ms[start_ms] = first_arrival_ms(batch)
        return folded.others, folded.counted_in

    def packed(self, start_ms: int) -> dict[bytes, bytes]:
        """The whole packed cells of a pane, by field."""
        pane = self.table.panes.get(start_ms)
        return {} if pane is None else dict(zip(pane.names, self.table.packed(pane.slots), strict=True))

    def pieces(self, start_ms: int) -> list[Piece]:
        """A pane as the pieces that windows are merged from."""
        pane = self.table.panes.get(start_ms)
        if pane is None:
            return []
        columns = taken(self.table.columns, pane.slots.tolist())
        return pieces_from(self.partition, start_ms, pane.names, columns)

    def spans(self, to_ms: int = FOREVER_MS) -> Iterator[Span]:
        """The windows that end at or before `to_ms` and hold an event of this partition."""
        for start_ms, cells in self.table.panes.items():
            ends = {name.partition(b" ")[0] for name in cells}
            first_ms = from_end_order(min(ends, key=from_end_order, default=ALWAYS))
            yield from self.program.panes.windows_of(start_ms, first_ms, to_ms)


def first_arrival_ms(batch: Batch) -> int:
    """An arrival at or before which none of a batch's events came."""
    return split_id(batch.entries[0].id)[0] if batch.entries else FOREVER_MS


Part = TypeVar("Part", bound=PartitionTwin)


@dataclass(slots=True)
class Twin(Generic[Part]):
    """A program over all partitions of its stream."""

    of_partition: ClassVar[type[PartitionTwin]]
    program: Program
    partitions: Mapping[int, Part]

    @classmethod
    def of(cls, program: Program, times: Mapping[int, TimeState] | None = None, compute: Compute | None = None) -> Self:
        """A twin at the start of the log, or where `times` says the log that is left begins.

        `compute`: `prepare` with the contents of the lookup tables, where the program joins some.
        """
        began = times or {}
        made = {
            n: cls.of_partition(program, n, began.get(n, TimeState()), compute)
            for n in range(program.stream.partitions)
        }
        return cls(program, cast("Mapping[int, Part]", made))

    @property
    def watermark_ms(self) -> int | None:
        """The least over the partitions; None while one has seen nothing."""
        marks = [partition.watermark_ms for partition in self.partitions.values()]
        known = [mark for mark in marks if mark is not None]
        return min(known) if len(known) == len(marks) else None

    @property
    def ledger(self) -> Ledger:
        return sum((partition.ledger for partition in self.partitions.values()), Ledger())


@dataclass(slots=True)
class PaneTwin(Twin[PartitionPanes]):
    """A program whose windows are merges of panes."""

    of_partition = PartitionPanes

    def spans(self, to_ms: int = FOREVER_MS) -> list[Span]:
        """The windows that end at or before `to_ms` and hold an event, in the order they close."""
        return windows_by_end(span for partition in self.partitions.values() for span in partition.spans(to_ms))

    def window(self, span: Span) -> Merged:
        """One window, merged over its panes and partitions."""
        return merged(self.program.layout, span, self._pieces(self.program.panes.panes_of(span)))

    def windows(self, spans: Iterable[Span]) -> Iterator[Merged]:
        return (self.window(span) for span in spans)

    def _pieces(self, starts_ms: Iterable[int]) -> Iterator[Piece]:
        for start_ms in starts_ms:
            for partition in self.partitions.values():
                yield from partition.pieces(start_ms)


def whole(window: Merged) -> dict[bytes, Any]:
    """The packed cells of a merged window by group."""
    return dict(zip(window.groups, window.cells, strict=True))
