"""An Arrow IPC stream of a stranger, read so that nothing in it is believed before it was checked.

    1. every message is found and counted, and what its buffers say they inflate to added up   nothing inflated yet
    2. the schema: which columns are wanted, and of them only those of plain types           others are never read
    3. batch by batch: number of rows, then pyarrow's full validation                        offsets, indices, UTF-8
    4. what dictionaries and views would expand to is added up                               nothing expanded yet

pyarrow's reader, since polars' ended the process on 8 of 3,000 mutated bodies and pyarrow with full validation on none
(decision 18). Invariant: memory is bounded by the limits given, and whatever is wrong is an ArrowBodyError.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from pipeline.core import texts
from pipeline.core.arrow_numpy import filled, is_null

END = b"\xff\xff\xff\xff\0\0\0\0"  # end of stream, as every writer that is closed leaves it
MAGIC = b"\xff\xff\xff\xff"  # before every message
MAX_BATCHES = 1_000  # of a body: each costs some 50 µs, whatever is in it
MAX_COLUMNS = 2_000
MAX_DICTIONARY_SHARE = 10  # times the limit in bytes: a dictionary is read again with every batch that refers to it
MAX_LIST_ITEMS = 4_000_000  # of a body, 20 a row: a list of nulls needs no bytes at all

# What pyarrow raises on bytes that are no Arrow: ArrowException is the root of most, not of all.
DAMAGE = (
    pa.ArrowException,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    IndexError,
    NotImplementedError,
    MemoryError,
    struct.error,
)


class ArrowBodyError(ValueError):
    """A body that is not taken as a whole: `code` is `malformed`, or `too_large` beyond a limit."""

    def __init__(self, message: str, code: str = "malformed") -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a body may come to: rows, and bytes once everything is inflated and expanded."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class ArrowBody:
    """The wanted columns of a stream, batch by batch, every value safe to read.

    `batches`: (rows, column by name) each. `unreadable`: wanted columns of types that no field has, with their type;
    they are not in the batches. `others`: names of columns that nobody wanted.
    """

    batches: tuple[tuple[int, dict[str, Any]], ...]
    unreadable: dict[str, str]
    others: tuple[str, ...]
    n_rows: int


def read_stream(body: bytes, wanted: Collection[str], limits: Limits, *, to_the_end: bool = False) -> ArrowBody:
    """Read and check the columns of `wanted`; `to_the_end`: a stream without its end mark was cut off.

    Raises:
        ArrowBodyError: the body is no whole and valid IPC stream, or beyond a limit.
    """
    try:
        inflated = sum(_declared_bytes(message) for message in _messages(body))
    except DAMAGE as error:
        raise _damaged(error) from None
    if inflated > limits.bytes:
        raise ArrowBodyError(
            f"its buffers inflate to {inflated:,} bytes; at most {limits.bytes:,} are taken", "too_large"
        )
    if to_the_end and not body.endswith(END):
        raise ArrowBodyError("it breaks off: the end-of-stream mark is missing. Send all of it again")
    try:
        return _read(body, wanted, limits)
    except ArrowBodyError:
        raise
    except DAMAGE as error:
        raise _damaged(error) from None


def _read(body: bytes, wanted: Collection[str], limits: Limits) -> ArrowBody:
    schema = pa.ipc.open_stream(body).schema
    if not 0 < len(schema) <= MAX_COLUMNS:
        raise ArrowBodyError(f"it has {len(schema):,} columns; between 1 and {MAX_COLUMNS:,} are read")
    names = list(schema.names)
    twice = sorted({name for name in names if name in wanted and names.count(name) > 1})
    if twice:
        raise ArrowBodyError(f"two columns have the name '{twice[0]}'")
    unreadable = {f.name: str(f.type) for f in schema if f.name in wanted and not is_plain(f.type)}
    chosen = [place for place, name in enumerate(names) if name in wanted and name not in unreadable]
    others = tuple(name for name in names if name not in wanted)
    options = pa.ipc.IpcReadOptions(included_fields=chosen or [0], use_threads=False)
    reader, seen = pa.ipc.open_stream(body, options=options), _Seen(limits)
    batches = []
    while (batch := _next(reader)) is not None:
        seen.count_rows(batch.num_rows)
        _validate(batch)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True)) if chosen else {}
        seen.count(columns.values())
        batches.append((batch.num_rows, columns))
    return ArrowBody(tuple(batches), unreadable, others, seen.rows)


@dataclass(slots=True)
class _Seen:
    """What the batches so far come to; each `count` raises ArrowBodyError beyond a limit."""

    limits: Limits
    rows: int = 0
    items: int = 0
    dictionary_bytes: int = 0
    expanded_bytes: int = 0  # of the columns that were added up text by text
    _bounded: list[Any] = field(default_factory=list)  # the others
    _bound_bytes: int = 0  # which these cannot exceed

    def count_rows(self, rows: int) -> None:
        self.rows += rows
        if self.rows > self.limits.rows:
            raise ArrowBodyError(f"it has more than {self.limits.rows:,} rows. Send smaller batches", "too_large")

    def count(self, columns: Collection[Any]) -> None:
        """Items before bytes: a list of a fixed size may claim more items than can be counted one by one."""
        self.items += sum(map(_list_items, columns))
        if self.items > MAX_LIST_ITEMS:
            raise ArrowBodyError(f"its lists hold more than {MAX_LIST_ITEMS:,} items", "too_large")
        self.dictionary_bytes += sum(map(_dictionary_bytes, columns))
        if self.dictionary_bytes > MAX_DICTIONARY_SHARE * self.limits.bytes:
            raise ArrowBodyError("its batches repeat large dictionaries. Send fewer, larger batches", "too_large")
        self._bounded += columns
        self._bound_bytes += sum(map(_most_expanded_bytes, columns))
        if self.expanded_bytes + self._bound_bytes <= self.limits.bytes:
            return
        self.expanded_bytes += sum(map(expanded_bytes, self._bounded))
        self._bounded, self._bound_bytes = [], 0
        if self.expanded_bytes > self.limits.bytes:
            raise ArrowBodyError(
                f"its texts come to more than {self.limits.bytes:,} bytes, each row with its own", "too_large"
            )


def _next(reader: Any) -> Any:
    try:
        return reader.read_next_batch()
    except StopIteration:
        return None


def _validate(batch: Any) -> None:
    """Arrow's full validation, which views of ASCII texts are known to pass by a quicker look."""
    batch.validate()
    for column in batch.columns:
        if not (kinds.is_string_view(column.type) and texts.is_sound_ascii(column)):
            column.validate(full=True)


def is_plain(kind: Any) -> bool:
    """Whether a column of this type can hold values of a declared field; nested ones are lists of scalars only."""
    if _is_list(kind):
        return _is_scalar(kind.value_type)
    return _is_scalar(kind)


def _is_list(kind: Any) -> bool:
    return bool(kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind))


def _is_scalar(kind: Any) -> bool:
    if kinds.is_dictionary(kind):
        return is_text(kind.value_type)
    return bool(
        kinds.is_null(kind)
        or kinds.is_boolean(kind)
        or kinds.is_integer(kind)
        or kinds.is_floating(kind)
        or kinds.is_decimal(kind)
        or kinds.is_timestamp(kind)
        or kinds.is_date(kind)
        or is_text(kind)
    )


def is_text(kind: Any) -> bool:
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def expanded_bytes(array: Any) -> int:
    """Bytes of the texts of a column if each row had its own: dictionaries and views share theirs."""
    kind = array.type
    if kinds.is_dictionary(kind):
        return int(text_lengths(array).sum()) + expanded_bytes(array.dictionary)  # which is written out whole
    if kinds.is_string_view(kind):
        return texts.bytes_of(array) if texts.IS_BUILT else int(text_lengths(array).sum())
    if _is_list(kind):
        return expanded_bytes(array.flatten()) if _shares_text(kind.value_type) else 0
    return 0  # its own buffers hold it


def _most_expanded_bytes(array: Any) -> int:
    """What `expanded_bytes` is at most, told without a look at each row."""
    if not kinds.is_dictionary(array.type):
        return expanded_bytes(array)
    longest = int(text_lengths(array.dictionary).max(initial=0))
    return len(array) * longest + expanded_bytes(array.dictionary)


def _dictionary_bytes(array: Any) -> int:
    values = array.values if _is_list(array.type) else array
    return int(values.dictionary.nbytes) if kinds.is_dictionary(values.type) else 0


def _shares_text(kind: Any) -> bool:
    return bool(kinds.is_dictionary(kind) or kinds.is_string_view(kind))


def text_lengths(array: Any) -> Any:
    """Bytes of each text of a column, as int64; 0 where it is null."""
    kind, n = array.type, len(array)
    if not n:
        return np.zeros(0, dtype=np.int64)
    if kinds.is_dictionary(kind):
        if not len(array.dictionary):
            return np.zeros(n, dtype=np.int64)
        places = filled(array.indices)
        lengths = text_lengths(array.dictionary)[places]
    elif kinds.is_string_view(kind):
        heads = np.frombuffer(array.buffers()[1], dtype=np.int32)
        lengths = heads[4 * array.offset : 4 * (array.offset + n) : 4].astype(np.int64)  # a view begins with its length
    else:
        width = np.int64 if kinds.is_large_string(kind) else np.int32
        offsets = np.frombuffer(array.buffers()[1], dtype=width)[array.offset : array.offset + n + 1]
        lengths = np.diff(offsets.astype(np.int64))
    if array.null_count:
        lengths = np.where(is_null(array), 0, lengths)
    return lengths


def _list_items(array: Any) -> int:
    kind = array.type
    if kinds.is_fixed_size_list(kind):
        return len(array) * int(kind.list_size)
    return len(array.values) if _is_list(kind) else 0


def _messages(body: bytes) -> Iterator[Any]:
    """The messages of a body; what follows its end would be ignored by a reader, so it is refused here."""
    source = pa.BufferReader(body)
    reader = pa.ipc.MessageReader.open_stream(source)
    count = 0
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            break
        count += 1
        if count > 2 * MAX_BATCHES:
            raise ArrowBodyError(f"it has more than {MAX_BATCHES:,} batches. Send fewer, larger ones", "too_large")
        yield message
    if source.tell() != len(body):
        raise ArrowBodyError(
            f"{len(body) - source.tell():,} bytes follow the end of the stream. Send one stream a request"
        )


# --- what a message says its buffers inflate to, read off its flatbuffer, which pyarrow has verified:
# Message (header_type 1, header 2) → RecordBatch (buffers 2: struct of two int64, compression 3), which a
# DictionaryBatch holds as `data` (1). A compressed buffer begins with its inflated size, -1: it is plain.

_RECORD_BATCH, _DICTIONARY = "record batch", "dictionary"


def _declared_bytes(message: Any) -> int:
    if message.type not in (_RECORD_BATCH, _DICTIONARY):
        return 0
    table = _Table.root(bytes(message.metadata)).table(2)
    if table is not None and message.type == _DICTIONARY:
        table = table.table(1)
    if table is None or table.table(3) is None:
        return 0
    data, total = message.body, 0
    for offset, length in table.pairs(2).tolist():
        if not length:
            continue
        if length < 8 or offset < 0 or offset + length > data.size:
            raise ArrowBodyError("a compressed buffer lies outside of its message")
        (size,) = struct.unpack("<q", bytes(data.slice(offset, 8)))
        total += length if size == -1 else size
        if size < -1:
            raise ArrowBodyError(f"a compressed buffer says that it inflates to {size:,} bytes")
    return total


@dataclass(frozen=True, slots=True)
class _Table:
    """A table in a flatbuffer: its fields are found through the vtable it points back to."""

    data: bytes
    at: int

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data)[0])

    def _field(self, number: int) -> int | None:
        vtable = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        if vtable < 0 or 4 + 2 * number + 2 > struct.unpack_from("<H", self.data, vtable)[0]:
            return None
        offset = struct.unpack_from("<H", self.data, vtable + 4 + 2 * number)[0]
        return self.at + offset if offset else None

    def table(self, number: int) -> _Table | None:
        at = self._field(number)
        return None if at is None else _Table(self.data, at + struct.unpack_from("<I", self.data, at)[0])

    def pairs(self, number: int) -> Any:
        """A vector of structs of two int64, as an array of shape (n, 2)."""
        at = self._field(number)
        if at is None:
            return np.zeros((0, 2), dtype=np.int64)
        start = at + struct.unpack_from("<I", self.data, at)[0]
        count = struct.unpack_from("<I", self.data, start)[0]
        return np.frombuffer(self.data, dtype="<i8", count=2 * count, offset=start + 4).reshape(-1, 2)


def _damaged(error: BaseException) -> ArrowBodyError:
    if isinstance(error, ArrowBodyError):
        return error
    lines = str(error).splitlines()
    return ArrowBodyError(f"it is no valid Arrow IPC stream: {(lines[0] if lines else type(error).__name__)[:200]}")
