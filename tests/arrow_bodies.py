"""Rows as the Arrow IPC stream that a sender of columns would post."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from pipeline.core.arrow_columns import stored_type
from pipeline.core.definitions import Field


def arrow_body(fields: Sequence[Field], rows: Sequence[dict[str, Any]], compression: str | None = None) -> bytes:
    """Columns of the fields' own types, times as epoch milliseconds; what a row does not have is null."""
    columns = {
        field.name: pa.array([row.get(field.name) for row in rows], pa.int64()).cast(pa.timestamp("ms"))
        if field.type == "timestamp"
        else pa.array([row.get(field.name) for row in rows], stored_type(field))
        for field in fields
    }
    return ipc(pa.table(columns), compression)


def ipc(table: Any, compression: str | None = None, batch_rows: int | None = None) -> bytes:
    """A table as an IPC stream."""
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_table(table, max_chunksize=batch_rows)
    return out.getvalue()
