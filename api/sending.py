"""What `streamgauge send` sends: field=value pairs, a file, or lines as they come.

Invariant: rows go in the order they came, and every request has its own idempotency key.
"""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from api.client import BATCH_ROWS, Client
from pipeline.core.csv_cells import typed_cell
from pipeline.core.ndjson import encode_rows
from pipeline.runtime.door import SendResult
from pipeline.runtime.replay import cut_batches
from pipeline.runtime.replay_files import read_rows

READ_BYTES = 1 << 20


def send_pairs(client: Client, stream: str, pairs: Sequence[str]) -> SendResult:
    """Send one event given as `field=value` texts, typed by the stream's schema."""
    fields = client.stream(stream).fields
    row = {name: _typed(fields.get(name, "string"), text) for name, _, text in (p.partition("=") for p in pairs)}
    return client.post_rows(stream, encode_rows([row]), 1, uuid.uuid4().hex)


def _typed(kind: str, text: str) -> Any:
    """A value as it was typed: a fraction is a number for an int field too, and refused as one."""
    value = typed_cell(kind, text)
    return typed_cell("float", text) if kind == "int" and isinstance(value, str) else value


def send_file(client: Client, stream: str, path: Path) -> SendResult:
    """Send the rows of a file, without the care that `replay` takes."""
    rows = read_rows(path, client.stream(stream).fields)
    result = SendResult()
    for batch in cut_batches(rows, 0, BATCH_ROWS, lambda row: None, None):
        result = result.then(client.post_rows(stream, batch.body, len(batch.rows), uuid.uuid4().hex))
    return result


def send_lines(client: Client, stream: str, source: BinaryIO) -> SendResult:
    """Send NDJSON lines as they arrive, without waiting for a full batch: `source` may be a live pipe."""
    result = SendResult()
    for lines in arriving_lines(source):
        for first in range(0, len(lines), BATCH_ROWS):
            part = lines[first : first + BATCH_ROWS]
            result = result.then(client.post_rows(stream, b"\n".join(part) + b"\n", len(part), uuid.uuid4().hex))
    return result


def arriving_lines(source: BinaryIO) -> Iterator[list[bytes]]:
    """Yield the complete lines that each read brought; blank ones are left out."""
    rest = b""
    while read := cast(io.BufferedReader, source).read1(READ_BYTES):
        *whole, rest = (rest + read).split(b"\n")
        if lines := [line for line in whole if line.strip()]:
            yield lines
    if rest.strip():
        yield [rest]
