"""The columns of a CSV or Parquet file by the names that fields can have: the column `temp (°C)` is the field `temp_c`.

Invariant: a column with a field's own name is that field, and no other column takes its place.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence

_NOT_IN_NAMES = re.compile(r"[^a-z0-9]+", re.ASCII)
MAX_NAME = 64


class TwoColumnsError(ValueError):
    """Two columns could be the same field; the message names them."""


def field_name(column: str) -> str:
    """The name a field for this column has: accents left off, lower case, anything but letters and digits one `_`.

    Examples: `Sensor ID` → `sensor_id`, `Température [°C]` → `temperature_c`, `2nd floor` → `column_2nd_floor`.
    """
    plain = unicodedata.normalize("NFKD", column).encode("ascii", "ignore").decode().lower()
    name = _NOT_IN_NAMES.sub("_", plain).strip("_")
    return (name if name[:1].isalpha() else f"column_{name}".rstrip("_"))[:MAX_NAME]


def read_as(columns: Sequence[str], fields: Collection[str]) -> list[str]:
    """The field each column is read as; its own name where it is none.

    Raises:
        TwoColumnsError: two columns have names that become one field's, and neither has the field's own name.
    """
    named = set(columns).intersection(fields)
    free = {field_name(name): name for name in fields if name not in named}
    columns_of: dict[str, str] = {}
    found = []
    for column in columns:
        name = None if column in named else free.get(field_name(column))
        if name in columns_of:
            raise TwoColumnsError(
                f"both '{columns_of[name]:.60}' and '{column:.60}' could be the field '{name}'; name one of them so"
            )
        if name is not None:
            columns_of[name] = column
        found.append(name or column)
    return found
