"""Merging cells of panes and results to windows: by pane start, then from_end, then partition (DESIGN section 5).

The order is fixed because float sums are left folds: a window has the same bits whoever merges it, and whenever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.core.accumulators import Column, Slots
from pipeline.core.blocks import steps
from pipeline.core.cell_fields import ALWAYS, FROM_ALWAYS, from_end_order, split_field
from pipeline.core.cell_layout import Layout
from pipeline.core.cells import CellTable
from pipeline.core.names import Directory, Names
from pipeline.core.windows import Span


@dataclass(frozen=True, slots=True)
class Piece:
    """The cells of one pane and partition that count from the same window on: `from_end` orders them (see cells)."""

    start_ms: int
    from_end: int
    partition: int
    groups: Names
    columns: Mapping[str, Column]

    @property
    def place(self) -> tuple[int, int, int]:
        return (self.start_ms, self.from_end, self.partition)


def pieces_of(layout: Layout, partition: int, start_ms: int, stored: Mapping[bytes, bytes]) -> list[Piece]:
    """Read a pane's hash: nearly always one piece, since few events are late for some of their windows."""
    names, columns = layout.gather(stored)
    return pieces_from(partition, start_ms, names, columns)


def pieces_of_all(layout: Layout, panes: Mapping[tuple[int, int], Mapping[bytes, bytes]]) -> list[Piece]:
    """Read the hashes of panes by (partition, start), in their order."""
    read = zip(panes, layout.gather_all(list(panes.values())), strict=True)
    return [piece for (partition, start), found in read for piece in pieces_from(partition, start, *found)]


def pieces_from(partition: int, start_ms: int, names: Names, columns: Mapping[str, Column]) -> list[Piece]:
    """The cells of a pane as pieces."""
    if names.begin_with(FROM_ALWAYS):
        groups = names.without(len(FROM_ALWAYS))
        return [Piece(start_ms, from_end_order(ALWAYS), partition, groups, columns)] if len(names) else []
    by_end: dict[bytes, list[int]] = {}
    for number, name in enumerate(names):
        by_end.setdefault(split_field(name)[0], []).append(number)
    return [
        Piece(
            start_ms,
            from_end_order(from_end),
            partition,
            names.taken(np.array(numbers, dtype=np.intp)).without(len(from_end) + 1),
            taken(columns, numbers),
        )
        for from_end, numbers in by_end.items()
    ]


def taken(columns: Mapping[str, Column], numbers: Sequence[int]) -> dict[str, Column]:
    """Some cells of a table's columns."""
    rows = np.array(numbers, dtype=np.intp)
    return {name: column[rows] for name, column in columns.items()}


def matching(piece: Piece, matches: Callable[[bytes], bool]) -> Piece:
    """The cells of a piece whose groups match."""
    numbers = [number for number, group in enumerate(piece.groups) if matches(group)]
    if len(numbers) == len(piece.groups):
        return piece
    groups = piece.groups.taken(np.array(numbers, dtype=np.intp))
    return Piece(piece.start_ms, piece.from_end, piece.partition, groups, taken(piece.columns, numbers))


def merge_window(table: CellTable, key: int, end_ms: int, pieces: Iterable[Piece]) -> None:
    """Merge the pieces of a window's panes that count in the window, in their fixed order, under `key`.

    `end_ms` FOREVER_MS: everything that was accepted, whatever windows it was late for.
    """
    ordered = _counted(end_ms, pieces)
    if ordered:
        table.merge_in(key, [(piece.groups, piece.columns) for piece in ordered])


def _counted(end_ms: int, pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces that count in a window, in the order they are merged in."""
    counted = [piece for piece in pieces if piece.from_end <= end_ms and len(piece.groups)]
    return sorted(counted, key=lambda piece: piece.place)


@dataclass(frozen=True, slots=True)
class Merged:
    """One window, merged: its groups in order of their JSON, and the columns of their cells in that order."""

    span: Span
    layout: Layout
    groups: Names
    columns: Mapping[str, Column]

    @property
    def slots(self) -> Slots:
        return np.arange(len(self.groups))

    @property
    def cells(self) -> list[bytes]:
        """Each cell packed by itself, to be compared."""
        return self.layout.pack(self.columns, self.slots)

    @property
    def blocks(self) -> list[bytes]:
        return packed_blocks(self.layout, self.groups, self.columns, self.slots)


def packed_blocks(layout: Layout, groups: Names, columns: Mapping[str, Column], slots: Slots) -> list[bytes]:
    """Some groups and their cells as the blocks of a result."""
    return [layout.pack_block(groups[part], columns, slots[part]) for part in steps(len(groups))]


def merged(layout: Layout, span: Span, pieces: Iterable[Piece]) -> Merged:
    """Merge one window of its own."""
    ordered = _counted(span[1], pieces)
    groups, numbers = numbered([piece.groups for piece in ordered])
    columns = layout.blank(len(groups))
    layout.merge(columns, [(slots, piece.columns) for slots, piece in zip(numbers, ordered, strict=True)])
    return Merged(span, layout, groups, columns)


def numbered(lists: Sequence[Names]) -> tuple[Names, list[Slots]]:
    """The distinct groups of some lists in order, and the number of every group of each list among them."""
    directory = Directory()
    found = directory.numbers(Names.together(lists))
    distinct = directory.names()
    order = distinct.order()
    ranks = np.empty(len(order), dtype=np.intp)
    ranks[order] = np.arange(len(order))
    ends = np.cumsum([len(groups) for groups in lists], dtype=np.intp)  # of no lists: none
    return distinct.taken(order), np.split(ranks[found], ends)[:-1]


def windows_by_end(spans: Iterable[Span]) -> list[Span]:
    """Distinct windows by end, then start: the order they close in."""
    return sorted(set(spans), key=lambda span: (span[1], span[0]))
