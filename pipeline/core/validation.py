"""The door's judgement of a posted body: which rows are kept, byte for byte, and why each other one is refused.

Invariant: a row is a line (of a JSON array: an element), judged alone; its neighbours never change its fate. The whole
batch is decoded at once, and only when that fails, or anything in it is unusual, line by line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from pipeline.core.definitions import Stream
from pipeline.core.native import NativeReader, NativeRows, Owners
from pipeline.core.packing import can_pack, is_packed, packed_chunks
from pipeline.core.partitioning import Chunk, chunks, owners_of
from pipeline.core.refusals import (
    Refusal,
    depth_exceeds,
    explain,
    malformed_document,
    not_utf8,
    too_deep,
    too_far_ahead,
    too_large,
    too_many_rows,
    too_old,
)
from pipeline.core.schema import slices, struct_type, timestamp_fields
from pipeline.core.timestamps import Int64, TimestampsError, to_ms

BodyKind = Literal["ndjson", "json"]
PostedKind = BodyKind | Literal["csv", "arrow"]
Reason = tuple[str | None, str, str]  # field, code, message of a refusal

# 130,000 events of 240 bytes. A request is held in memory, inflated, and split into chunks of 4 MB; with 8 threads
# 32 MB each is what a small machine can stand.
MAX_BODY_BYTES = 32_000_000
MAX_ROW_BYTES = 1_000_000  # a chunk is at most 4 MB and a row is never cut; sensor readings and clicks are under 10 kB
MAX_DEPTH = 64  # of undeclared values, which are skipped: msgspec recurses, up to Python's own limit of 1,000

MAX_ROWS = 200_000  # of one request: 32 MB of very small events; each refused row costs an object here
SPACE = b" \t\r\n"  # of JSON
NEWLINE = ord("\n")  # counted by numpy: bytes.count takes five times as long where there are many

_raw_list = msgspec.json.Decoder(list[msgspec.Raw])
_raw_value = msgspec.json.Decoder(msgspec.Raw)
_raw_dicts = msgspec.json.Decoder(dict[str, msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Checked:
    """A body judged: `n_received == n_good + len(refusals)`.

    `sent`: the good rows, one a line, perhaps with space at the end. `times_ms`: their event times, None where the
    stream has no time field. `owners`: their partitions, None where the stream is spread evenly. `newest_ms`: the
    newest event time seen, refused ones too: the sender's clock. `undeclared`: good rows with fields the schema does
    not have. `native`: the rows of the whole body, where it was read so and none was refused; `packs`: with all of
    their fields, to be stored as columns.
    """

    sent: bytes
    n_received: int
    n_good: int
    times_ms: Int64 | None
    owners: Owners | None
    refusals: list[Refusal]
    undeclared: int
    newest_ms: int | None
    document_refused: bool = False  # not even rows could be told apart
    native: NativeRows | None = None
    packs: bool = False

    @property
    def body(self) -> bytes:
        """The good rows, one a line, without a last newline."""
        return self.sent.strip(SPACE)

    def shares(self, stream: Stream, home: int) -> dict[int, list[Chunk]]:
        """The good rows as chunks by partition; those of a stream that is spread evenly go `home`."""
        if self.owners is None:
            return {home: list(self._chunks(stream, None, lambda: self.body))}
        lines = self.body.split(b"\n") if self.native is None else []
        found = {}
        for partition in np.flatnonzero(np.bincount(self.owners)).tolist():
            places = np.flatnonzero(self.owners == partition)
            rows = partial(self._lines, lines, self.owners, partition, places)
            found[partition] = list(self._chunks(stream, places, rows))
        return found

    def rows_by_partition(self, stream: Stream) -> dict[int, Int64]:
        """The places of the good rows of each partition of a stream that has a `partition_by`."""
        assert self.owners is not None, f"{stream.name} spreads evenly"
        return {partition: np.flatnonzero(self.owners == partition) for partition in np.unique(self.owners).tolist()}

    def chunks_at(self, stream: Stream, places: Int64) -> list[Chunk]:
        """Some of the good rows, in order, as chunks."""
        lines = self.body.split(b"\n") if self.native is None else []
        chosen = np.zeros(self.n_good, dtype=np.int32)
        chosen[places] = 1
        return list(self._chunks(stream, places, partial(self._lines, lines, chosen, 1, places)))

    def _lines(self, lines: list[bytes], owners: Owners, partition: int, places: Int64) -> bytes:
        """The rows of one partition, in the order they were sent."""
        if self.native is None:
            return b"\n".join([lines[place] for place in places])
        return self.native.lines(owners, partition)

    def _chunks(self, stream: Stream, places: Int64 | None, rows: Callable[[], bytes]) -> Iterator[Chunk]:
        n = self.n_good if places is None else len(places)
        if self.packs and self.native is not None and is_packed(self.native, n):
            return packed_chunks(stream, self.native, places)
        times_ms = self.times_ms if places is None or self.times_ms is None else self.times_ms[places]
        return (part.compressed(stream.compression) for part in chunks(rows(), n, times_ms))


@dataclass(frozen=True, slots=True)
class _Decoded:
    """Rows that fit the schema: their lines, places among the received, and the columns the door needs."""

    lines: list[bytes] | None  # None: all lines of the body
    indexes: list[int] | None  # None: 0, 1, 2, …
    columns: dict[str, list[Any]]
    n: int
    undeclared: int
    refusals: list[Refusal]
    native: NativeRows | None = None  # where they were read so: instead of `columns`


class Validator:
    """Judges bodies posted to one stream."""

    def __init__(self, stream: Stream, max_rows: int = MAX_ROWS) -> None:
        names = [field.name for field in stream.fields]
        self.stream = stream
        self.max_rows = max_rows
        self._declared = frozenset(names)
        self._closed = msgspec.json.Decoder(struct_type(stream, names, closed=True))
        self._open = msgspec.json.Decoder(struct_type(stream, names))
        self._timestamps = timestamp_fields(stream, names)
        needed = {field.name for field in self._timestamps} | ({stream.partition_by} if stream.partition_by else set())
        self._columns = tuple((name, attrgetter(name)) for name in names if name in needed)
        self._packs = can_pack(stream)
        self._native = NativeReader.of(stream, names if self._packs else needed)

    def check(self, body: bytes, *, kind: BodyKind, now_ms: int, of_any_age: bool = False) -> Checked:
        """Judge every row of `body`; `now_ms` is Redis's clock, for what is too far ahead or too old.

        `of_any_age`: old data is sent on purpose, so `max_age` refuses none.
        """
        checked = self._check_native(body, now_ms, of_any_age=of_any_age)
        if checked is not None:
            return checked
        if np.count_nonzero(np.frombuffer(body, dtype=np.uint8) == NEWLINE) > self.max_rows:
            raise too_many_rows(self.max_rows)
        try:
            text, n = _as_lines(body, kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            return Checked(b"", 1, 0, None, None, [malformed_document(body, error)], 0, None, document_refused=True)
        if not text:
            return Checked(b"", 0, 0, None, None, [], 0, None)
        decoded = (n and self._decode_batch(text, n)) or self._decode_rows(text)
        return self._judge(text, decoded, now_ms, of_any_age=of_any_age)

    def _check_native(self, body: bytes, now_ms: int, *, of_any_age: bool) -> Checked | None:
        """A body in which nothing is unusual; None where it has to be looked at carefully."""
        rows = None if self._native is None else self._native.read(body)
        if rows is None or (rows.undeclared and self.stream.extra == "refuse"):
            return None
        decoded = _Decoded(None, None, {}, len(rows), rows.undeclared, [], rows)
        return self._judge(body, decoded, now_ms, of_any_age=of_any_age)

    def event(self, line: bytes) -> Any:
        """The struct of one line that was found good."""
        return self._open.decode(line)

    def _decode_batch(self, text: bytes, n: int) -> _Decoded | None:
        """All `n` lines at once; None when a row may be refused or is not exactly a line."""
        if not text.isascii() and not_utf8(text):
            return None
        columns = self._decode_columns(self._closed, text, n)
        if columns is not None:
            return _Decoded(None, None, columns, n, 0, [])
        if self.stream.extra == "refuse" or _any_too_deep(text, n):
            return None
        columns = self._decode_columns(self._open, text, n)
        if columns is None:
            return None
        undeclared = sum(not row.keys() <= self._declared for row in _raw_dicts.decode_lines(text))
        return _Decoded(None, None, columns, n, undeclared, [])

    def _decode_columns(self, decoder: msgspec.json.Decoder[Any], text: bytes, n: int) -> dict[str, list[Any]] | None:
        columns: dict[str, list[Any]] = {name: [] for name, _ in self._columns}
        count = 0
        try:
            for piece in slices(text):
                rows = decoder.decode_lines(piece)
                count += len(rows)
                for name, get in self._columns:
                    columns[name] += map(get, rows)
        except (msgspec.MsgspecError, RecursionError):
            return None
        return columns if count == n else None

    def _decode_rows(self, text: bytes) -> _Decoded:
        lines, indexes, undeclared = [], [], 0
        refusals: list[Refusal] = []
        columns: dict[str, list[Any]] = {name: [] for name, _ in self._columns}
        for index, line in enumerate(text.split(b"\n")):
            event, extra = self.decode_row(index, line)
            if isinstance(event, Refusal):
                refusals.append(event)
                continue
            lines.append(line)
            indexes.append(index)
            undeclared += extra
            for name, get in self._columns:
                columns[name].append(get(event))
        return _Decoded(lines, indexes, columns, len(lines), undeclared, refusals)

    def decode_row(self, index: int, line: bytes) -> tuple[Any, bool]:
        """Judge one line but for its times: the row's struct or its refusal, and whether it has undeclared fields."""
        if len(line) > MAX_ROW_BYTES:
            return too_large(index, line, MAX_ROW_BYTES), False
        if not line.isascii() and not_utf8(line):
            return Refusal(index, None, "not_utf8", "the row is not UTF-8 text", line), False
        if depth_exceeds(line, MAX_DEPTH):
            return too_deep(index, line, MAX_DEPTH), False
        try:
            return self._closed.decode(line), False
        except msgspec.MsgspecError as error:
            if self.stream.extra == "refuse":
                return explain(index, line, error), False
        try:
            return self._open.decode(line), True
        except msgspec.MsgspecError as error:
            return explain(index, line, error), False

    def _judge(self, text: bytes, decoded: _Decoded, now_ms: int, *, of_any_age: bool) -> Checked:
        """Turn times into milliseconds and take out the rows whose time cannot be."""
        refused: dict[int, Reason] = {}  # place among the decoded → field, code, message
        times = {field.name: self._column_ms(field.name, decoded, refused) for field in self._timestamps}
        time = self.stream.time.field
        times_ms = times[time] if time else None
        newest_ms = None
        if times_ms is not None:
            max_age_ms = None if of_any_age else self.stream.time.max_age_ms
            newest_ms = refuse_by_clock(self.stream, times_ms, now_ms, max_age_ms, refused)
        owners = self._owners(decoded, times)
        if not refused and decoded.lines is None:
            n, undeclared = decoded.n, decoded.undeclared
            return Checked(text, n, n, times_ms, owners, [], undeclared, newest_ms, False, decoded.native, self._packs)
        return _without(text.strip(SPACE), decoded, refused, times_ms, owners, newest_ms, self._declared)

    def _column_ms(self, name: str, decoded: _Decoded, refused: dict[int, Reason]) -> Int64:
        """Milliseconds of one timestamp field (0 where null, a list, or refused)."""
        field = self.stream.field(name)
        assert field is not None
        if decoded.native is not None:
            return decoded.native.times_ms[name]
        values = decoded.columns[name]
        owners: list[int] | range = range(len(values))
        if field.type == "list":
            owners = [place for place, items in enumerate(values) for _ in items or ()]
            values = [item for items in values for item in items or ()]
        elif field.nullable and None in values:
            owners = [place for place, value in enumerate(values) if value is not None]
            values = [value for value in values if value is not None]
        try:
            found = to_ms(values, field.unit, field.zone)
        except TimestampsError as error:
            for place, message in error.errors.items():
                refused.setdefault(owners[place], (name, "bad_time", f"{name}: {message}"))
            found = error.times_ms
        if isinstance(owners, range):
            return found
        spread = np.zeros(decoded.n, dtype=np.int64)
        spread[owners] = found
        return spread

    def _owners(self, decoded: _Decoded, times: dict[str, Int64]) -> Owners | None:
        name = self.stream.partition_by
        if name is None:
            return None
        field = self.stream.field(name)
        assert field is not None
        if decoded.native is not None and field.type in ("string", "int"):
            return decoded.native.partitions(name, self.stream.partitions)
        columns = decoded.columns if decoded.native is None else decoded.native.frame()
        keys = times[name].tolist() if name in times else list(columns[name])
        return owners_of(keys, self.stream.partitions)


def refuse_by_clock(
    stream: Stream, times_ms: Int64, now_ms: int, max_age_ms: int | None, refused: dict[int, Reason]
) -> int | None:
    """Add the rows whose time cannot be to `refused`; return the newest time that can be read."""
    if not len(times_ms):
        return None
    policy, name = stream.time, str(stream.time.field)
    readable = np.ones(len(times_ms), dtype=np.bool_)
    readable[list(refused)] = False
    for place in np.flatnonzero((times_ms > now_ms + policy.max_future_ms) & readable).tolist():
        refused[place] = too_far_ahead(name, int(times_ms[place]) - now_ms, policy.max_future_ms)
    if max_age_ms is not None:
        for place in np.flatnonzero((times_ms < now_ms - max_age_ms) & readable).tolist():
            refused[place] = too_old(name, now_ms - int(times_ms[place]), max_age_ms)
    return int(times_ms[readable].max()) if readable.any() else None


def _without(
    text: bytes,
    decoded: _Decoded,
    refused: dict[int, Reason],
    times_ms: Int64 | None,
    owners: Owners | None,
    newest_ms: int | None,
    declared: frozenset[str],
) -> Checked:
    """Only the good rows of a body, and all refusals by index."""
    lines = text.split(b"\n") if decoded.lines is None else decoded.lines
    indexes = list(range(decoded.n)) if decoded.indexes is None else decoded.indexes
    refusals = decoded.refusals + [Refusal(indexes[place], *why, lines[place]) for place, why in refused.items()]
    keep = [place for place in range(decoded.n) if place not in refused]
    undeclared = decoded.undeclared
    if undeclared and refused:
        undeclared -= sum(not _raw_dicts.decode(lines[place]).keys() <= declared for place in refused)
    return Checked(
        sent=b"\n".join([lines[place] for place in keep]),
        n_received=decoded.n + len(decoded.refusals),
        n_good=len(keep),
        times_ms=None if times_ms is None else times_ms[keep],
        owners=None if owners is None else owners[keep],
        refusals=sorted(refusals, key=attrgetter("index")),
        undeclared=undeclared,
        newest_ms=newest_ms,
    )


def refuse_nested(checked: Checked) -> Checked:
    """Refuse one event that holds an object: flat fields, as a row entry has them, cannot."""
    if checked.refusals or not any(bytes(raw)[:1] == b"{" for raw in _raw_dicts.decode(checked.body).values()):
        return checked
    message = "a field holds an object; POST /publish takes one flat object of numbers, strings, booleans and lists"
    refusal = Refusal(0, None, "nested", message, checked.body)
    return Checked(b"", 1, 0, None, None, [refusal], 0, checked.newest_ms)


def _as_lines(body: bytes, kind: BodyKind) -> tuple[bytes, int | None]:
    """The rows of a body, one a line, exact but for newlines between tokens; no blank lines, none at the ends.

    With their number, or None where some line cannot be an event.

    A body that begins with `[` is an array, whatever it was called; of `json`, one object may go over several lines.
    """
    body = body.removeprefix(b"\xef\xbb\xbf").strip(SPACE)
    if body.startswith(b"["):
        body = b"\n".join([_one_line(bytes(raw)) for raw in _raw_list.decode(body)])
        return body, _count_lines(body)
    if kind == "json" and _is_one_object(body):
        return _one_line(bytes(_raw_value.decode(body))), 1
    n = _count_lines(body)
    if n is None:
        body = b"\n".join([line for line in map(_strip, body.split(b"\n")) if line])
        n = _count_lines(body)
    return body, n


def _is_one_object(body: bytes) -> bool:
    """True for an object over several lines; a broken one is known by a first line without an end."""
    if not body.startswith(b"{") or b"\n" not in body:
        return False
    try:
        _raw_value.decode(body)
    except msgspec.DecodeError:
        first, _, rest = body.partition(b"\n")
        return not (_strip(first).endswith(b"}") or rest.lstrip(b" \t\r\n").startswith(b"{"))
    return True


def _strip(line: bytes) -> bytes:
    return line.strip(b" \t\r")


def _one_line(row: bytes) -> bytes:
    """JSON strings hold no raw newlines, so every one of them is space between tokens."""
    return row.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in row or b"\r" in row else row


def _any_too_deep(text: bytes, n: int) -> bool:
    """True where a row may nest too deeply; one with all the brackets beyond one a row is the worst that can be."""
    if text.count(b"[") + text.count(b"{") - n < MAX_DEPTH:
        return False
    return any(depth_exceeds(line, MAX_DEPTH) for line in text.split(b"\n"))


def _count_lines(text: bytes) -> int | None:
    """How many rows there are if every newline stands between `}` and `{` and none is too long, else None.

    `}` newline `{` is legal JSON only between two values of the top level (inside an array or object a comma would
    stand there), so if the text decodes to as many values as it has lines, every line is exactly one value.
    """
    if not (text.startswith(b"{") and text.endswith(b"}")):
        return None
    octets = np.frombuffer(text, dtype=np.uint8)  # five times as fast as text.count(b"}\n{")
    newlines = np.flatnonzero(octets == ord("\n"))
    whole = (octets[newlines - 1] == ord("}")).all() and (octets[newlines + 1] == ord("{")).all()
    if not whole or (len(text) > MAX_ROW_BYTES and _longest(newlines, len(text)) > MAX_ROW_BYTES):
        return None
    return len(newlines) + 1


def _longest(newlines: npt.NDArray[np.intp], size: int) -> int:
    """Bytes of the longest line, by the places of the newlines."""
    return int(np.diff(newlines, prepend=-1, append=size).max()) - 1
