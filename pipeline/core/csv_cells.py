"""The text of a CSV cell as a value of a field's type, for whoever reads CSV: the door, `replay` and the command line.

Invariant: a text that is no value of its type stays the text it is, so that the door refuses that one row by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

CellReader = Callable[[str], Any]

# pandas writes a column of ints with a gap as floats: 7.0
_WHOLE = re.compile(r"\s*([+-]?\d{1,1000})(?:\.0*)?\s*", re.ASCII)  # int() takes no more than 4,300 digits


def cell_reader(kind: str) -> CellReader:
    """What reads the cells of a field type such as `int` or `list[float]`; empty cells are null and not read."""
    return CELL_READERS.get(kind.partition("[")[0], str)


def typed_cell(kind: str, text: str) -> Any:
    """Return text as a value of a field type, or as it is where it cannot be one; empty text is null."""
    return cell_reader(kind)(text) if text else None


def _int_cell(cell: str) -> Any:
    whole = _WHOLE.fullmatch(cell)
    return int(whole[1]) if whole else cell


def _float_cell(cell: str) -> Any:
    try:
        number = float(cell)
    except ValueError:
        return cell
    return number if math.isfinite(number) and cell.isascii() and "_" not in cell else cell


def _bool_cell(cell: str) -> Any:
    return {"true": True, "1": True, "false": False, "0": False}.get(cell.strip().lower(), cell)


def _timestamp_cell(cell: str) -> Any:
    whole = _int_cell(cell)
    return whole if isinstance(whole, int) else _float_cell(cell)


def _list_cell(cell: str) -> Any:
    try:
        return msgspec.json.decode(cell)
    except (msgspec.DecodeError, RecursionError):
        return cell


CELL_READERS: Mapping[str, CellReader] = {
    "int": _int_cell,
    "float": _float_cell,
    "bool": _bool_cell,
    "timestamp": _timestamp_cell,
    "list": _list_cell,
}
