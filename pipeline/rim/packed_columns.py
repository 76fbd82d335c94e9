"""Columns of names as the arguments of a command.

Apart from `packed_arguments`, which every connection needs: `up` has connections and no columns, and so no numpy.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.core.names import Names, arguments
from pipeline.rim.packed_arguments import PackedArguments


def packed_columns(columns: Sequence[bytes | Names], rows: int) -> PackedArguments:
    """Row by row the names of some columns; bytes are the same in every row."""
    return PackedArguments(arguments(columns, rows), rows * len(columns))
