"""How the body of a chunk is coded: each chunk names its own coding, so a changed setting loses no old one.

    ndjson                     the rows, one a line
    ndjson+lz4  ndjson+zstd    8 bytes: the size of the rows, little-endian; then one frame of them
    arrow                      an Arrow IPC stream of one record batch: the declared fields as columns
    arrow+lz4   arrow+zstd     likewise, each buffer compressed by itself: a reader inflates only the columns it needs

Invariant: nothing is inflated beyond MAX_INFLATED_BYTES, whatever a body says of itself.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from pipeline.core.definitions import Compression

NDJSON, ARROW = b"ndjson", b"arrow"
CODECS: tuple[Compression, ...] = ("lz4", "zstd")
ROW_CODINGS = frozenset({NDJSON, *(NDJSON + b"+" + codec.encode() for codec in CODECS)})
COLUMN_CODINGS = frozenset({ARROW, *(ARROW + b"+" + codec.encode() for codec in CODECS)})
CODINGS = ROW_CODINGS | COLUMN_CODINGS

MAX_INFLATED_BYTES = (
    16_000_000  # of a chunk, which holds 4 MB when it is written: schema, padding and one long row more
)
_SIZE_BYTES = 8  # as Arrow writes it before each compressed buffer


class CodingError(ValueError):
    """A body is not what its coding says."""


def coding_of(form: bytes, compression: Compression) -> bytes:
    """The name of a form (`ndjson`, `arrow`) under a stream's `compression`."""
    return form if compression == "none" else form + b"+" + compression.encode()


def pack_rows(body: bytes, compression: Compression) -> tuple[bytes, bytes]:
    """Return (coding, stored body) of rows; what does not become smaller stays plain."""
    if compression == "none":
        return NDJSON, body
    frame = pa.Codec(compression).compress(body, asbytes=True)
    packed = len(body).to_bytes(_SIZE_BYTES, "little") + frame
    return (coding_of(NDJSON, compression), packed) if len(packed) < len(body) else (NDJSON, body)


def unpack_rows(body: bytes, coding: bytes) -> bytes:
    """The rows of a stored body.

    Raises:
        CodingError: its coding is not one of rows, it is damaged, or it inflates to something else than it says.
    """
    if coding == NDJSON:
        return body
    if coding not in ROW_CODINGS:
        raise CodingError(f"a body coded {coding.decode(errors='replace')} holds no lines")
    size = int.from_bytes(body[:_SIZE_BYTES], "little")
    if len(body) <= _SIZE_BYTES:
        raise CodingError(f"the body has {len(body)} bytes: too few for its size and a frame")
    if size > MAX_INFLATED_BYTES:
        raise CodingError(f"the body says it inflates to {size:,} bytes; a chunk has at most {MAX_INFLATED_BYTES:,}")
    codec = coding.partition(b"+")[2].decode()
    try:
        with pa.CompressedInputStream(pa.BufferReader(pa.py_buffer(body)[_SIZE_BYTES:]), codec) as stream:
            found: bytes = stream.read(size + 1)
    except (OSError, ValueError) as error:
        raise CodingError(f"the body is no {codec} frame, or it is damaged: {error}") from None
    if len(found) != size:
        raise CodingError(f"the body inflates to {_amount(len(found), size)}, it says {size:,} bytes")
    return found


def _amount(found: int, said: int) -> str:
    return f"more than {said:,} bytes" if found > said else f"{found:,} bytes"


def known(codings: Iterable[bytes] = CODINGS) -> str:
    """The codings for a message."""
    return ", ".join(sorted(coding.decode() for coding in codings))
