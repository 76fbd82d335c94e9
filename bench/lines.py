"""NDJSON bodies out of columns: bytes are laid out for a whole body at once, no Python object an event.

Invariant: a line is the texts of its parts, one after the other. A part is the same bytes in every line, or one text of
a table for each line; texts of different lengths stand side by side, since what is unused is taken out at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]

UNUSED = 0  # never in JSON: a text has its control characters escaped
TIME_DIGITS = 13  # of epoch milliseconds from 2001 to 2286


@dataclass(frozen=True, slots=True)
class Texts:
    """A text of `table` for each line: `numbers` says which."""

    table: Bytes  # one text a row, filled up with UNUSED
    numbers: Ints

    def of(self, lines: slice) -> Bytes:
        found: Bytes = self.table[self.numbers[lines]]
        return found

    @property
    def width(self) -> int:
        return int(self.table.shape[1])


@dataclass(frozen=True, slots=True)
class Times:
    """Epoch milliseconds in decimal."""

    times_ms: Ints

    def of(self, lines: slice) -> Bytes:
        rest = self.times_ms[lines].copy()
        digits = np.empty((len(rest), TIME_DIGITS), np.uint8)
        for place in range(TIME_DIGITS - 1, -1, -1):
            shorter = rest // 10
            digits[:, place] = rest - shorter * 10 + ord("0")
            rest = shorter
        return digits

    @property
    def width(self) -> int:
        return TIME_DIGITS


Part = bytes | Texts | Times


def texts(names: Sequence[str], numbers: Ints) -> Texts:
    """The text of `names` that each number says."""
    table = np.array([name.encode() for name in names])
    return Texts(table.view(np.uint8).reshape(len(names), -1), numbers)


def decimals(values: Floats) -> Texts:
    """Each value as Python writes it; there are far fewer different ones than values, where they were rounded."""
    different, numbers = np.unique(values, return_inverse=True)
    return texts([repr(value) for value in different.tolist()], numbers.astype(np.int64))


def ndjson(parts: Sequence[Part], n_lines: int, batch: int) -> list[bytes]:
    """Bodies of `batch` lines each."""
    return list(_bodies([*parts, b"\n"], n_lines, batch))


def _bodies(parts: Sequence[Part], n_lines: int, batch: int) -> Iterator[bytes]:
    width = sum(len(part) if isinstance(part, bytes) else part.width for part in parts)
    laid_out = np.empty((min(batch, n_lines), width), np.uint8)
    places: list[tuple[int, Texts | Times]] = []
    at = 0
    for part in parts:
        if isinstance(part, bytes):
            laid_out[:, at : at + len(part)] = np.frombuffer(part, np.uint8)
            at += len(part)
        else:
            places.append((at, part))
            at += part.width
    for first in range(0, n_lines, batch):
        lines = slice(first, min(first + batch, n_lines))
        body = laid_out[: lines.stop - first]
        for at, part in places:
            body[:, at : at + part.width] = part.of(lines)
        yield body[body != UNUSED].tobytes()
