"""In which fields two packed cells of one group differ, in words a person can act on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.core.accumulators import Slots
from pipeline.core.programs import Program
from pipeline.runtime.finishing import finished_rows


@dataclass(frozen=True, slots=True)
class FieldDifference:
    """One field: an aggregate's finished value, or a part of the partial where every finished value is the same."""

    field: str
    stored: Any
    recomputed: Any


def cell_differences(program: Program, stored: bytes | None, again: bytes | None, end_ms: int) -> list[FieldDifference]:
    """Where two different cells differ; `end_ms` is the end of their window.

    None is a cell that is not there.
    """
    if stored is None or again is None:
        return [FieldDifference("group", _values(program, stored, end_ms), _values(program, again, end_ms))]
    try:
        old, new = (program.layout.unpack([cell]) for cell in (stored, again))
    except ValueError as error:
        return [FieldDifference("cell", f"unreadable: {error}", _values(program, again, end_ms))]
    [values], [expected] = (finished_rows(program, columns, _all(1), [end_ms]) for columns in (old, new))
    differ = [FieldDifference(n, values[n], expected[n]) for n in expected if repr(values[n]) != repr(expected[n])]
    if differ:
        return differ
    names = [name for name, _ in program.layout.fixed] + list(program.layout.variable)
    parts = [FieldDifference(name, _plain(old[name][0]), _plain(new[name][0])) for name in names]
    sketches = [
        FieldDifference(sketch.name, sketch.dump(old[sketch.name][0]).hex(), sketch.dump(new[sketch.name][0]).hex())
        for sketch in program.layout.sketches
    ]
    return [part for part in (*parts, *sketches) if repr(part.stored) != repr(part.recomputed)] or [
        FieldDifference("bytes", stored.hex(), again.hex())
    ]


def _values(program: Program, cell: bytes | None, end_ms: int) -> Any:
    """A whole cell's finished values, for a group that is only on one side."""
    if cell is None:
        return None
    try:
        return finished_rows(program, program.layout.unpack([cell]), _all(1), [end_ms])[0]
    except ValueError as error:
        return f"unreadable: {error}"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _all(size: int) -> Slots:
    return np.arange(size, dtype=np.intp)
