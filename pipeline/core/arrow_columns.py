"""One Arrow column, of whatever type a sender has, as a declared field's column; what does not fit is named by row.

    field       Arrow types it takes                                     stored as
    string      utf8, large_utf8, string_view, dictionaries of them      utf8
    int         every integer; floats that are whole numbers             int64
    float       every integer, float and decimal; NaN is null            float64
    bool        bool                                                     bool
    timestamp   timestamps of any unit and zone (none: UTC), dates;      timestamp[ms], UTC without saying so
                numbers and texts, as in JSON
    list[…]     list, large_list, fixed_size_list of these               list

Invariant: a value becomes what the same value sent as JSON becomes, or is refused by the same code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as kinds

from pipeline.core.arrow_numpy import Mask, column_of, column_of_mask, filled, is_null, numpy_of
from pipeline.core.arrow_stream import is_text
from pipeline.core.definitions import Field, ScalarType
from pipeline.core.timestamps import MAX_TIME_MS, MIN_TIME_MS, Int64, TimestampsError, to_ms

STORED: dict[ScalarType, Any] = {
    "string": pa.string(),
    "int": pa.int64(),
    "float": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("ms"),
}
JSON_NAMES: dict[ScalarType, str] = {
    "string": "str",
    "int": "int",
    "float": "float",
    "bool": "bool",
    "timestamp": "time",
}
_PER_MS = {"us": 1_000, "ns": 1_000_000}
INT64_BOUND = 2.0**63

Refuse = Callable[[int, str, str], None]
"""Takes the row, the code and the message of a value that is not taken; the first one of a row counts."""


def stored_type(field: Field) -> Any:
    """The type of a field's column in a chunk."""
    if field.type == "list":
        assert field.item is not None, f"list field {field.name} has no item type"
        return pa.list_(STORED[field.item])
    return STORED[field.type]


def stored_column(field: Field, array: Any, refuse: Refuse, *, as_views: bool = False) -> Any:
    """The column as it is stored; rows that are refused hold anything.

    `array` has been validated, see `arrow_stream`. `as_views`: texts that came as string views stay so.
    """
    if kinds.is_null(array.type):
        column = pa.nulls(len(array), stored_type(field))
    elif field.type == "list":
        column = _list(field, array, refuse)
    elif as_views and field.type == "string" and kinds.is_string_view(array.type):
        column = array
    else:
        column = _scalar(field, field.type, array, refuse)
    if not field.nullable and column.null_count:
        expected = "array" if field.type == "list" else JSON_NAMES[field.type]
        for row in np.flatnonzero(is_null(column)).tolist():
            refuse(row, "wrong_type", f"{field.name}: Expected {expected}, got null")
    return column


def _scalar(field: Field, kind: ScalarType, array: Any, refuse: Refuse) -> Any:
    if kinds.is_null(array.type):
        return pa.nulls(len(array), STORED[kind])
    match kind:
        case "string" if is_text(array.type) or kinds.is_dictionary(array.type):
            return plain_text(array)
        case "int" if kinds.is_integer(array.type):
            return _ints(field, array, refuse)
        case "int" if kinds.is_floating(array.type):
            return _whole_floats(field, array, refuse)
        case "float" if kinds.is_integer(array.type):
            return array.cast(pa.float64(), safe=False)  # as JSON's integers: the nearest there is
        case "float" if kinds.is_floating(array.type):
            return _floats(field, array.cast(pa.float64()), refuse)
        case "float" if kinds.is_decimal(array.type):
            return pa.array([None if value is None else float(value) for value in array.to_pylist()], pa.float64())
        case "bool" if kinds.is_boolean(array.type):
            return array
        case "timestamp" if not (kinds.is_boolean(array.type) or kinds.is_decimal(array.type)):
            return _times(field, array, refuse)
    message = f"{field.name}: Expected {JSON_NAMES[kind]}, got a value of an Arrow column of type {array.type}"
    for row in np.flatnonzero(~is_null(array)).tolist():
        refuse(row, "wrong_type", message)
    return pa.nulls(len(array), STORED[kind])


def plain_text(array: Any) -> Any:
    """Texts of any layout as utf8; what a dictionary or a view would expand to was bounded before."""
    if kinds.is_dictionary(array.type):
        values = array.dictionary.cast(pa.string())
        return values.take(array.indices)
    return array if kinds.is_string(array.type) else array.cast(pa.string())


def _ints(field: Field, array: Any, refuse: Refuse) -> Any:
    if kinds.is_uint64(array.type) and len(array):
        beyond = (numpy_of(array) >= np.uint64(2**63)) & ~is_null(array)
        _refuse_all(beyond, refuse, "out_of_range", f"{field.name}: Expected int <= 9223372036854775807")
    return array.cast(pa.int64(), safe=False)


def _whole_floats(field: Field, array: Any, refuse: Refuse) -> Any:
    """A float column in the place of integers: pandas makes one of integers with a gap."""
    numbers, given = _numbers(array.cast(pa.float64()))
    with np.errstate(invalid="ignore"):
        whole = (numbers == np.floor(numbers)) & (numbers >= -INT64_BOUND) & (numbers < INT64_BOUND)
    _refuse_all(given & ~whole, refuse, "wrong_type", f"{field.name}: Expected int, got float")
    taken = given & whole
    return column_of(STORED["int"], np.where(taken, numbers, 0).astype(np.int64), taken)


def _floats(field: Field, array: Any, refuse: Refuse) -> Any:
    numbers, given = _numbers(array)
    infinite = np.isinf(numbers)
    if infinite.any():
        _refuse_all(given & infinite, refuse, "out_of_range", f"{field.name}: Number out of range")
    if len(numbers) == int(given.sum()):
        return array
    return column_of(STORED["float"], np.where(given, numbers, 0.0), given)


def _numbers(array: Any) -> tuple[npt.NDArray[np.float64], Mask]:
    """A float64 column as numpy, and where there is a value: a null is none, and neither is NaN."""
    numbers = numpy_of(array)
    given = ~np.isnan(numbers)
    return numbers, given & ~is_null(array) if array.null_count else given


def _times(field: Field, array: Any, refuse: Refuse) -> Any:
    kind = array.type
    if kind == STORED["timestamp"] and not array.null_count:
        times_ms, given = numpy_of(array), None
    else:
        if is_text(kind) or kinds.is_dictionary(kind):
            array = plain_text(array)  # pyarrow 26 filters no views
        elif kinds.is_floating(kind):
            array = _floats(field, array.cast(pa.float64()), refuse)
        given = None if not array.null_count else ~is_null(array)
        times_ms = _times_ms(field, array if given is None else array.filter(column_of_mask(given)), given, refuse)
    outside = (times_ms < MIN_TIME_MS) | (times_ms > MAX_TIME_MS)
    if outside.any():  # of timestamps: what else is outside was refused with its value
        owners = np.arange(len(times_ms)) if given is None else np.flatnonzero(given)
        for row in owners[outside].tolist():
            refuse(row, "bad_time", f"{field.name}: the time is outside the years 1 to 9999")
        times_ms = np.where(outside, 0, times_ms)
    if given is None:
        return column_of(STORED["timestamp"], times_ms)
    spread = np.zeros(len(given), dtype=np.int64)
    spread[given] = times_ms
    return column_of(STORED["timestamp"], spread, given)


def _times_ms(field: Field, array: Any, given: Mask | None, refuse: Refuse) -> Int64:
    """Milliseconds of a column without nulls; `given`: the rows they stand in."""
    kind = array.type
    if kinds.is_date(kind):
        array, kind = array.cast(pa.timestamp("s")), pa.timestamp("s")
    if kinds.is_timestamp(kind):
        numbers = numpy_of(array)
        if kind.unit == "s":
            # clipped to one beyond the years there are: still outside, and no overflow
            numbers = np.clip(numbers, MIN_TIME_MS // 1_000 - 1, MAX_TIME_MS // 1_000 + 1) * 1_000
        ms: Int64 = numbers // _PER_MS.get(kind.unit, 1)
        return ms
    values: Any
    if kinds.is_integer(kind) and not kinds.is_uint64(kind):
        values = numpy_of(array.cast(pa.int64()))
    else:
        values = array.to_pylist()
    try:
        return to_ms(values, field.unit, field.zone)
    except TimestampsError as error:
        owners = np.arange(len(values)) if given is None else np.flatnonzero(given)
        for place, message in error.errors.items():
            refuse(int(owners[place]), "bad_time", f"{field.name}: {message}")
        return error.times_ms


def _list(field: Field, array: Any, refuse: Refuse) -> Any:
    assert field.item is not None, f"list field {field.name} has no item type"
    kind = array.type
    if not (kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind)):
        _refuse_all(
            ~is_null(array),
            refuse,
            "wrong_type",
            f"{field.name}: Expected array, got a value of an Arrow column of type {kind}",
        )
        return pa.nulls(len(array), stored_type(field))
    lengths = filled(pc.list_value_length(array)).astype(np.int64)
    owners = np.repeat(np.arange(len(array)), lengths)

    def refuse_owner(item: int, code: str, message: str) -> None:
        refuse(int(owners[item]), code, message)

    items = _scalar(field, field.item, array.flatten(), refuse_owner)
    if items.null_count:
        for item in np.flatnonzero(is_null(items)).tolist():
            refuse_owner(item, "wrong_type", f"{field.name}[…]: Expected {JSON_NAMES[field.item]}, got null")
    offsets = column_of(pa.int32(), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    missing = array.is_null() if array.null_count else None
    return pa.ListArray.from_arrays(offsets, items, mask=missing)


def _refuse_all(rows: Mask, refuse: Refuse, code: str, message: str) -> None:
    for row in np.flatnonzero(rows).tolist():
        refuse(row, code, message)
