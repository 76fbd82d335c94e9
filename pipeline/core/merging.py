"""Merging cells of panes and results to windows: by pane start, then from_end, then partition (DESIGN section 5).

The order is fixed because float sums are left folds: a window has the same bits whoever merges it, and whenever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import polars as pl

from pipeline.core.accumulators import Column, Slots
from pipeline.core.blocks import steps
from pipeline.core.cells import ALWAYS, FROM_ALWAYS, CellTable, Layout, from_end_order, split_field
from pipeline.core.windows import Span

FEW_GROUPS = 1_000  # sorted as they are


@dataclass(frozen=True, slots=True)
class Piece:
    """The cells of one pane and partition that count from the same window on: `from_end` orders them (see cells)."""

    start_ms: int
    from_end: int
    partition: int
    groups: list[bytes]
    columns: Mapping[str, Column]

    @property
    def place(self) -> tuple[int, int, int]:
        return (self.start_ms, self.from_end, self.partition)


def pieces_of(layout: Layout, partition: int, start_ms: int, stored: Mapping[bytes, bytes]) -> list[Piece]:
    """Read a pane's hash: nearly always one piece, since few events are late for some of their windows."""
    names, columns = layout.gather(stored)
    groups = [name[len(FROM_ALWAYS) :] for name in names if name.startswith(FROM_ALWAYS)]
    if len(groups) == len(names):
        return [Piece(start_ms, from_end_order(ALWAYS), partition, groups, columns)] if names else []
    by_end: dict[bytes, list[int]] = {}
    groups = []
    for number, name in enumerate(names):
        from_end, group = split_field(name)
        groups.append(group)
        by_end.setdefault(from_end, []).append(number)
    return [
        Piece(start_ms, from_end_order(from_end), partition, [groups[n] for n in numbers], taken(columns, numbers))
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
    groups = [piece.groups[n] for n in numbers]
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
    counted = [piece for piece in pieces if piece.from_end <= end_ms and piece.groups]
    return sorted(counted, key=lambda piece: piece.place)


@dataclass(frozen=True, slots=True)
class Merged:
    """One window, merged: its groups in order of their JSON, and the columns of their cells in that order."""

    span: Span
    layout: Layout
    groups: list[bytes]
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


def packed_blocks(layout: Layout, groups: list[bytes], columns: Mapping[str, Column], slots: Slots) -> list[bytes]:
    """Some groups and their cells as the blocks of a result."""
    return [layout.pack_block(groups[part], columns, slots[part]) for part in steps(len(groups))]


def merged(layout: Layout, span: Span, pieces: Iterable[Piece]) -> Merged:
    """Merge one window of its own."""
    ordered = _counted(span[1], pieces)
    groups, numbers = numbered([piece.groups for piece in ordered])
    columns = layout.blank(len(groups))
    layout.merge(columns, [(slots, piece.columns) for slots, piece in zip(numbers, ordered, strict=True)])
    return Merged(span, layout, groups, columns)


def numbered(lists: Sequence[list[bytes]]) -> tuple[list[bytes], list[Slots]]:
    """The distinct groups of some lists in order, and the number of every group of each list among them."""
    every = list(chain.from_iterable(lists))
    distinct = list(dict.fromkeys(every))
    if len(distinct) < FEW_GROUPS:
        ordered = sorted(distinct)
    else:  # a tenth of the time of a sort of Python's objects
        order = pl.Series(distinct, dtype=pl.Binary).arg_sort()
        ordered = [distinct[place] for place in order.to_list()]
    if len(distinct) == len(every) and len(distinct) >= FEW_GROUPS:
        found = np.empty(len(every), dtype=np.intp)
        found[order.to_numpy()] = np.arange(len(every))
    else:
        places = dict(zip(ordered, range(len(ordered)), strict=True))
        found = np.fromiter(map(places.__getitem__, every), np.intp, len(every))
    ends = np.cumsum([len(groups) for groups in lists], dtype=np.intp)  # of no lists: none
    return ordered, np.split(found, ends)[:-1]


def windows_by_end(spans: Iterable[Span]) -> list[Span]:
    """Distinct windows by end, then start: the order they close in."""
    return sorted(set(spans), key=lambda span: (span[1], span[0]))
