"""Request bodies, whole or refused: read in a bounded loop, inflated with a bound, told apart by what they are.

Invariant: nothing here trusts a header for a size or a coding: clients' headers lie (FACTS 15, 16).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from functools import lru_cache
from io import BytesIO
from typing import Any, BinaryIO, cast

import pyarrow as pa
from flask import Request
from werkzeug.http import parse_options_header

from pipeline.core.arrow_stream import MAGIC
from pipeline.core.csv_rows import BYTE_ORDER_MARK
from pipeline.core.validation import MAX_BODY_BYTES, PostedKind
from pipeline.errors import BadRequestError

READ_BYTES = 256 * 1024
ARROW_START = MAGIC  # no JSON and no other coding begins so
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_WBITS = 31  # zlib: a gzip header and trailer are expected

ARROW_TYPE = "application/vnd.apache.arrow.stream"
ARROW_FILE = "Arrow file (Feather)"

_NDJSON_TYPES = frozenset({"application/x-ndjson", "application/ndjson", "application/jsonl"})
_CODINGS = frozenset({"", "identity", "gzip", "x-gzip", "zstd"})  # whether it is that is seen in the body itself
_CSV_TYPES = frozenset({"text/csv", "application/csv", "text/x-csv"})
_NO_TYPES = frozenset({"", "text/plain", "application/octet-stream", "application/x-www-form-urlencoded"})  # of curl
_MOST_DIGITS = 9  # of a length that is worth reading as a number
_JSON_STARTS = (b"", b"{", b"[")
_CSV_HEADER = re.compile(rb'"?[A-Za-z_][\w .-]*"?(?:,"?[A-Za-z_][\w .-]*"?)+\r?\n', re.ASCII)
_UNREADABLE_TYPES = {
    "application/vnd.apache.arrow.file": ARROW_FILE,
    "application/vnd.apache.parquet": "Parquet",
    "application/xml": "XML",
    "text/xml": "XML",
    "multipart/form-data": "a form with files",
    "application/x-protobuf": "Protobuf",
    "application/msgpack": "MessagePack",
}
_UNREADABLE_STARTS = {
    b"ARROW1": ARROW_FILE,
    b"PAR1": "Parquet",
    b"PK\x03\x04": "ZIP",
}


def read_body(request: Request, *, takes_csv: bool = False) -> bytes:
    """The whole body, inflated if it is gzip or zstd; `takes_csv`: where rows are posted.

    Raises:
        BadRequestError: too large (413), cut off or damaged (400), or of a kind that is not read (415).
    """
    content_type = request.mimetype
    if content_type in _UNREADABLE_TYPES:
        raise _unreadable(_UNREADABLE_TYPES[content_type])
    if content_type in _CSV_TYPES and not takes_csv:
        raise _unreadable("CSV")
    for coding in request.headers.get("Content-Encoding", "").lower().split(","):
        if coding.strip() not in _CODINGS:
            raise BadRequestError(
                f"Content-Encoding {coding.strip()!r} is not read. Send the body plain, gzip or zstd.",
                code="unsupported_media_type",
                status=415,
            )
    body = inflate(_read(request))
    for start, name in _UNREADABLE_STARTS.items():
        if body.startswith(start):
            raise _unreadable(name)
    return body


def small_object(environ: dict[str, Any], limit: int) -> bytes | None:
    """The body of a request that says no more of it than its type and its length, and that begins like an object.

    None for any other one; `read_body` finds it as if nobody had looked.
    """
    said = environ.get("CONTENT_LENGTH") or ""
    if "HTTP_CONTENT_ENCODING" in environ or "HTTP_TRANSFER_ENCODING" in environ:
        return None
    if not said.isdecimal() or len(said) > _MOST_DIGITS or not _may_be_json(environ.get("CONTENT_TYPE", "")):
        return None
    announced = int(said)
    if announced > limit:
        return None
    body = b"".join(_parts(environ["wsgi.input"], announced))
    environ["wsgi.input"] = BytesIO(body)
    return body if len(body) == announced and body.startswith(b"{") else None


@lru_cache(maxsize=64)
def _may_be_json(content_type: str) -> bool:
    return parse_options_header(content_type)[0].lower() not in _UNREADABLE_TYPES


def kind_of(request: Request, body: bytes) -> PostedKind:
    """What a body is; what the sender calls it is only asked where the body itself leaves a doubt."""
    if body.startswith(ARROW_START):
        return "arrow"
    start = body.removeprefix(BYTE_ORDER_MARK).lstrip()[:1]
    if start not in _JSON_STARTS:
        if request.mimetype == ARROW_TYPE:
            return "arrow"  # and so refused by what it lacks
        if request.mimetype in _CSV_TYPES or (request.mimetype in _NO_TYPES and _looks_like_csv(body)):
            return "csv"
    return "ndjson" if request.mimetype in _NDJSON_TYPES else "json"


def _looks_like_csv(body: bytes) -> bool:
    """Whether the first line names columns and another follows: what `curl --data-binary @file.csv` says of nothing."""
    return _CSV_HEADER.match(body.removeprefix(BYTE_ORDER_MARK)) is not None


def may_be_cut(request: Request) -> bool:
    """True for a chunked body: granian presents one that broke off as if it had ended there (measured, granian 2.8)."""
    return request.content_length is None


def _read(request: Request) -> bytes:
    """Werkzeug's own reading stops at its limit and calls a cut chunked body whole (FACTS 15)."""
    announced = request.content_length
    if announced is not None and announced > MAX_BODY_BYTES:
        raise _too_large(f"it has {announced:,} bytes")
    stream = cast(BinaryIO, request.environ["wsgi.input"])
    terminated = request.environ.get("wsgi.input_terminated") or announced is not None
    parts: list[bytes] = []
    size = 0
    for part in _parts(stream, announced) if terminated else ():
        parts.append(part)
        size += len(part)
        if size > MAX_BODY_BYTES:
            raise _too_large("it does not end at the limit")
    if announced is not None and size < announced:
        raise BadRequestError(f"The body ended after {size:,} of {announced:,} bytes. Send it again.", code="cut_off")
    return b"".join(parts)


def _parts(stream: BinaryIO, announced: int | None) -> Iterator[bytes]:
    """What there is to read of a body, as it comes: to its end, or to the length it was announced with."""
    size = 0
    while announced is None or size < announced:
        part = stream.read(READ_BYTES if announced is None else announced - size)
        if not part:
            return
        yield part
        size += len(part)


def inflate(body: bytes) -> bytes:
    """Inflate a gzip body (of one or more members) or a zstd frame up to the limit; others are returned as they are."""
    if body.startswith(ZSTD_MAGIC):
        return _inflate_zstd(body)
    parts: list[bytes] = []
    room = MAX_BODY_BYTES + 1
    compressed = body.startswith(GZIP_MAGIC)
    while body.startswith(GZIP_MAGIC) and compressed:
        inflater = zlib.decompressobj(_GZIP_WBITS)
        try:
            part = inflater.decompress(body, room)
        except zlib.error as error:
            raise BadRequestError(f"The gzip body is damaged: {error}.", code="bad_gzip") from None
        room -= len(part)
        if room <= 0:
            raise _too_large("it is compressed, and inflates to more")
        if not inflater.eof:
            raise BadRequestError("The gzip body is cut off. Send all of it.", code="bad_gzip")
        parts.append(part)
        body = inflater.unused_data
    if not compressed:
        return body
    if body.strip(b"\0"):
        raise BadRequestError("Something follows the end of the gzip body.", code="bad_gzip")
    inflated = b"".join(parts)
    if inflated.startswith(GZIP_MAGIC):
        raise BadRequestError("The body is gzip inside gzip: compress it once.", code="bad_gzip")
    return inflated


def _inflate_zstd(body: bytes) -> bytes:
    """Inflate piece by piece: what a frame says of its size is not believed."""
    parts: list[bytes] = []
    size = 0
    try:
        with pa.CompressedInputStream(pa.BufferReader(body), "zstd") as stream:
            while part := stream.read(READ_BYTES):
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise _too_large("it is compressed, and inflates to more")
                parts.append(part)
    except OSError as error:
        raise BadRequestError(f"The zstd body is damaged or cut off: {error}.", code="bad_zstd") from None
    inflated = b"".join(parts)
    if inflated.startswith(ZSTD_MAGIC):
        raise BadRequestError("The body is zstd inside zstd: compress it once.", code="bad_zstd")
    return inflated


def _too_large(seen: str) -> BadRequestError:
    return BadRequestError(
        f"The body is too large: {seen}. At most {MAX_BODY_BYTES:,} bytes are taken, also once they are inflated. "
        "Send smaller batches.",
        code="too_large",
        status=413,
    )


def _unreadable(name: str) -> BadRequestError:
    return BadRequestError(
        f"{name} bodies are not read here. Rows are posted to /v1/streams/{{stream}}/events as a JSON object, an "
        "array, NDJSON, CSV or an Arrow IPC stream; plain, gzip or zstd.",
        code="unsupported_media_type",
        status=415,
    )
