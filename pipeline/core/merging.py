"""Merging cells of panes and results to windows: by pane start, then from_end, then partition (DESIGN section 5).

The order is fixed because float sums are left folds: a window has the same bits whoever merges it, and whenever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.accumulators import Column, Slots
from pipeline.core.cells import ALWAYS, CellTable, Layout, from_end_order, split_field
from pipeline.core.windows import Span


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
    by_end: dict[bytes, list[int]] = {}
    groups = []
    for number, name in enumerate(names):
        from_end, group = split_field(name)
        groups.append(group)
        by_end.setdefault(from_end, []).append(number)
    if by_end.keys() <= {ALWAYS}:
        return [Piece(start_ms, from_end_order(ALWAYS), partition, groups, columns)] if names else []
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
    counted = [piece for piece in pieces if piece.from_end <= end_ms and piece.groups]
    ordered = sorted(counted, key=lambda piece: piece.place)
    if ordered:
        table.merge_in(key, [(piece.groups, piece.columns) for piece in ordered])


@dataclass(frozen=True, slots=True)
class Merged:
    """One window, merged: its groups in order of their JSON, and their cells in a table."""

    span: Span
    groups: list[bytes]
    table: CellTable
    slots: Slots

    @property
    def cells(self) -> list[bytes]:
        return self.table.packed(self.slots)

    @property
    def columns(self) -> Mapping[str, Any]:
        return self.table.columns


def merged(layout: Layout, span: Span, pieces: Iterable[Piece]) -> Merged:
    """Merge one window of its own."""
    table = CellTable(layout)
    merge_window(table, span[0], span[1], pieces)
    groups = sorted(table.panes.get(span[0], {}))
    return Merged(span, groups, table, table.slots((span[0], group) for group in groups))


def windows_by_end(spans: Iterable[Span]) -> list[Span]:
    """Distinct windows by end, then start: the order they close in."""
    return sorted(set(spans), key=lambda span: (span[1], span[0]))
