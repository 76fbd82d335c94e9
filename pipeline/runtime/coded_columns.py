"""Columns of an answer whose values come again and again: each value once, and its number in every row.

A thousand windows of the same hundred groups have a thousand starts and a hundred names, not a hundred thousand.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import msgspec
import numpy as np

from pipeline.core.accumulators import Int64, Slots

_SHORT = 4  # rows of a piece; where pieces are shorter than that, they are not looked for


@dataclass(frozen=True, slots=True)
class Coded(Sequence[Any]):
    """A column: row n has `values[codes[n]]`."""

    values: Sequence[Any]
    codes: Int64

    @classmethod
    def of_runs(cls, numbers: Int64) -> Coded:
        """A column of numbers that stand in runs."""
        firsts = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 1))
        lengths = np.diff(firsts, append=len(numbers))
        return cls(numbers[firsts].tolist(), np.repeat(np.arange(len(firsts)), lengths))

    def __len__(self) -> int:
        return len(self.codes)

    @overload
    def __getitem__(self, place: int) -> Any: ...
    @overload
    def __getitem__(self, place: slice) -> Coded: ...
    def __getitem__(self, place: int | slice) -> Any:
        if isinstance(place, slice):
            return Coded(self.values, self.codes[place])
        return self.values[self.codes[place]]

    def __iter__(self) -> Iterator[Any]:
        return map(self.values.__getitem__, self.codes.tolist())

    def json(self) -> bytes:
        """The JSON array of its rows. What several windows have alike is put together once."""
        texts = [msgspec.json.encode(value) + b"," for value in self.values]
        repeats = np.flatnonzero(np.diff(self.codes)) + 1
        falls = np.flatnonzero(np.diff(self.codes) < 0) + 1
        if len(repeats) * _SHORT < len(self):
            firsts = np.append(0, repeats)[: len(self)]
            lengths = np.diff(firsts, append=len(self)).tolist()
            parts = [texts[code] * length for code, length in zip(self.codes[firsts].tolist(), lengths, strict=True)]
        elif len(falls) * _SHORT < len(self):
            known: dict[bytes, bytes] = {}
            parts = []
            for piece in np.split(self.codes, falls):
                codes = piece.tobytes()
                if codes not in known:
                    known[codes] = b"".join(map(texts.__getitem__, piece.tolist()))
                parts.append(known[codes])
        else:
            parts = list(map(texts.__getitem__, self.codes.tolist()))
        return b"[%b]" % b"".join(parts)[:-1]


def taken(column: Sequence[Any], places: Slots) -> Sequence[Any]:
    """Some rows of a column, in the order of `places`."""
    if isinstance(column, Coded):
        return Coded(column.values, column.codes[places])
    return list(map(column.__getitem__, places.tolist()))


def under_each_other(columns: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """The rows of several columns, one column after the other."""
    coded = [column for column in columns if isinstance(column, Coded)]
    if len(coded) < len(columns):
        rows: list[Any] = []
        for column in columns:
            rows.extend(column)
        return rows
    before = np.cumsum([0, *(len(column.values) for column in coded)])[:-1]
    codes = [column.codes + first for column, first in zip(coded, before, strict=True)]
    return Coded([value for column in coded for value in column.values], np.concatenate(codes))
