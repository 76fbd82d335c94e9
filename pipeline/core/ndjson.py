"""Python rows as NDJSON: what a sender posts.

Invariant: no value changes its meaning on the way. A missing value (None, NaN, NaT, NA) becomes null; a time becomes
epoch milliseconds; a number that JSON or int64 cannot hold is written as it is, so that the door refuses that one row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PLAIN_TYPES = frozenset({str, bool, type(None)})

# Read by every JSON parser as a number out of range: the door names the row (msgspec itself would write null for inf).
INFINITY = msgspec.Raw(b"1e999")
MINUS_INFINITY = msgspec.Raw(b"-1e999")

_encoder = msgspec.json.Encoder()


def encode_rows(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Return one JSON object a line.

    Raises:
        TypeError: a value has no JSON form; the message names the row and the field.
    """
    return _encoder.encode_lines([_plain_row(index, row) for index, row in enumerate(rows)])


def _plain_row(index: int, row: Mapping[str, Any]) -> dict[str, Any]:
    plain = {}
    for name, value in row.items():
        try:
            plain[name] = value if type(value) in PLAIN_TYPES else plain_value(value)
        except TypeError as error:
            raise TypeError(f"row {index}, field {name!r}: {error}") from None
    return plain


def plain_value(value: Any) -> Any:
    """Return what JSON can hold for one cell of a row, a DataFrame or a Parquet file."""
    if is_missing(value):
        return None
    match value:
        case bool() | str():
            return value
        case int():
            return value if INT64_MIN <= value <= INT64_MAX else msgspec.Raw(str(value).encode())
        case float():
            return value if math.isfinite(value) else (INFINITY if value > 0 else MINUS_INFINITY)
        case datetime():
            # as text: a number near 1970 would be read as seconds, and one of a field with a `unit` in that
            return iso_time(datetime_to_ms(value))
        case date():
            return plain_value(datetime(value.year, value.month, value.day, tzinfo=UTC))
        case Decimal():
            return msgspec.Raw(str(value).encode())
        case UUID():
            return str(value)
        case list() | tuple() | set():
            return [plain_value(item) for item in value]
        case Mapping():
            return {str(name): plain_value(item) for name, item in value.items()}
    return _plain_foreign(value)


def _plain_foreign(value: Any) -> Any:
    """Unwrap a numpy scalar or array without importing numpy for those who have none."""
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        raise TypeError(f"a {type(value).__name__} has no JSON form ({value!r:.60}); convert it before sending")
    if dtype.kind == "M":  # .item() of a nanosecond datetime64 is an int without its unit
        return plain_value(value.astype("datetime64[ms]").tolist())
    if dtype.kind in "mV" or not hasattr(value, "tolist"):
        raise TypeError(f"a {dtype} has no JSON form ({value!r:.60}); convert it before sending")
    return plain_value(value.tolist())


def is_missing(value: Any) -> bool:
    """True for None, NaN (of any float type), NaT and pandas.NA."""
    if value is None or type(value).__name__ == "NAType":
        return True
    if isinstance(value, (str, bytes, list, tuple, set, Mapping)) or getattr(value, "shape", ()) != ():
        return False
    return bool(value != value)


def datetime_to_ms(moment: datetime) -> int:
    """Return epoch milliseconds, floored; a datetime without a zone is read as UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    gone = aware - EPOCH
    return (gone.days * 86_400 + gone.seconds) * 1_000 + gone.microseconds // 1_000


def iso_time(time_ms: int | None) -> str | None:
    """Return `2015-05-20T21:05:59.000+00:00` for epoch milliseconds: exact, and the text pandas compares times with.

    Outside the years 1 to 9999, where only the first and the last calendar window reach, it is the number.
    """
    if time_ms is None:
        return None
    try:
        return (EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="milliseconds")
    except OverflowError:
        return str(time_ms)
