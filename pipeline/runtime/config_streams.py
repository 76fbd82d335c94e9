"""The `streams:` section: schemas, time, partitions; every name and type checked before the first event.

A stream that has a problem is left out of the streams, and its good fields are still told, so that the stages that read
it are checked in the same run as far as they can be.
"""

from __future__ import annotations

import re
from typing import Any, get_args

from pipeline.core.column_types import column_type
from pipeline.core.definitions import Dedup, Field, FieldType, ScalarType, Stream, TimePolicy, TimeUnit
from pipeline.core.spelling import did_you_mean
from pipeline.core.zones import check_zone
from pipeline.runtime.config_columns import Columns
from pipeline.runtime.config_report import Report
from pipeline.runtime.config_shapes import TIME_UNITS, FieldShape, StreamShape, TimeShape, not_built, seen
from pipeline.runtime.config_yaml import Path

STREAM_OR_STAGE_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
FIELD_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_]{0,63}")
SCALAR_TYPES: tuple[ScalarType, ...] = get_args(ScalarType)
PARTITION_TYPES = ("string", "int", "bool")
DEDUP_TYPES = ("string", "int")

_TYPE = re.compile(r"(?:(list)\[(\w+)\]|(\w+))(\?)?")
FIELD_TYPE = rf"(?:list\[(?:{'|'.join(SCALAR_TYPES)})\]|{'|'.join(SCALAR_TYPES)})\??"  # the same, for editors
_REFUSED = {name: not_built(name) for name in ("archive",)}


def build_streams(report: Report, raw: dict[str, Any]) -> tuple[dict[str, Stream], dict[str, Columns]]:
    """Return the streams that have no problem, in the order of the file, and the columns of every one."""
    built = {name: _stream(report, name, value) for name, value in raw.items()}
    if not raw:
        report.add(("streams",), "needs at least one stream.", at_key=True)
    streams = {name: stream for name, (stream, _) in built.items() if stream is not None}
    return streams, {name: columns for name, (_, columns) in built.items()}


def check_name(report: Report, path: Path, name: str) -> bool:
    """Report a stream's or stage's name that could not be part of a key."""
    if STREAM_OR_STAGE_NAME.fullmatch(name):
        return True
    rule = "must be lower-case letters, digits and _, begin with a letter and have at most 48 characters."
    report.add(path, f"the name {seen(name)} {rule}", at_key=True)
    return False


def check_field_name(report: Report, path: Path, name: str) -> bool:
    """Report the name of a field, a derived field or an aggregate that is not an identifier."""
    if FIELD_NAME.fullmatch(name):
        return True
    rule = "must be letters, digits and _, begin with a letter and have at most 64 characters."
    report.add(path, f"the name {seen(name)} {rule}", at_key=True)
    return False


def _stream(report: Report, name: str, value: object) -> tuple[Stream | None, Columns]:
    path: Path = ("streams", name)
    named = check_name(report, path, name)
    shape = report.fit(StreamShape, path, value, _REFUSED)
    if shape is None:
        return None, Columns({}, open=True)
    checked = {each: _field(report, (*path, "schema", each), each, form) for each, form in shape.fields.items()}
    fields = {each: field for each, field in checked.items() if field is not None}
    if isinstance(value, dict) and value.get("schema") == {}:
        report.add((*path, "schema"), "needs at least one field.", at_key=True)
    columns = _columns(value, fields)
    if len(fields) < len(checked) or not fields:
        return None, columns
    timed = _check_time_field(report, path, shape.time, fields)
    parted = _check_partition_field(report, path, shape.partition_by, fields)
    deduped = _check_dedup(report, path, shape, fields)
    if not (named and timed and parted and deduped):
        return None, columns
    dedup = None if shape.dedup.key is None else Dedup(shape.dedup.key, shape.dedup.within)
    stream = Stream(
        name=name,
        fields=tuple(fields.values()),
        time=TimePolicy(
            field=shape.time.field,
            disorder_ms=shape.time.disorder,
            max_future_ms=shape.time.max_future,
            max_age_ms=shape.time.max_age,
            idle_after_ms=shape.time.idle_after,
        ),
        partition_by=shape.partition_by or (None if dedup is None else dedup.key),
        partitions=shape.partitions,
        retention_ms=shape.retention.time,
        retention_bytes=shape.retention.bytes,
        extra=shape.extra,
        compression=shape.compression,
        dedup=dedup,
    )
    return stream, columns


def _columns(value: object, fields: dict[str, Field]) -> Columns:
    written = value.get("schema") if isinstance(value, dict) else None
    names = frozenset(written) if isinstance(written, dict) else frozenset()
    return Columns({name: column_type(field) for name, field in fields.items()}, names - fields.keys())


def _field(report: Report, path: Path, name: str, form: FieldShape) -> Field | None:
    parsed = _parse_type(report, (*path, "type"), form.type)
    if not check_field_name(report, path, name) or parsed is None:
        return None
    kind, item, nullable = parsed
    is_time = "timestamp" in (kind, item)
    unit = _time_unit(report, (*path, "unit"), form.unit) if is_time else "auto"
    measured = _check_measure(report, path, form, kind, is_time)
    if unit is None or not measured or not _check_zone(report, path, form, is_time):
        return None
    return Field(
        name=name,
        type=kind,
        nullable=nullable,
        item=item,
        unit=unit,
        zone=form.zone or "UTC",
        measure=None if is_time else form.unit,
        description=form.description,
    )


def _parse_type(report: Report, path: Path, text: str) -> tuple[FieldType, ScalarType | None, bool] | None:
    match = _TYPE.fullmatch(text.strip())
    scalar = match and next((each for each in SCALAR_TYPES if each == (match[2] or match[3])), None)
    if match is None or scalar is None:
        known = (*SCALAR_TYPES, "list[float]")
        near = did_you_mean(text.rstrip("?"), known)
        report.add(path, f"unknown type {seen(text)}.{near} A `?` after it allows null.")
        return None
    nullable = match[4] is not None
    return ("list", scalar, nullable) if match[1] else (scalar, None, nullable)


def _time_unit(report: Report, path: Path, text: str | None) -> TimeUnit | None:
    unit = next((each for each in TIME_UNITS if each == (text or "auto")), None)
    if unit is None:
        report.add(path, f"the unit of a timestamp must be {', '.join(TIME_UNITS)}, not {seen(text)}.")
    return unit


def _check_measure(report: Report, path: Path, form: FieldShape, kind: FieldType, is_time: bool) -> bool:
    if form.unit is None or is_time or kind in ("int", "float"):
        return True
    report.add((*path, "unit"), f"a {kind} has no unit; int, float and timestamp have.", at_key=True)
    return False


def _check_zone(report: Report, path: Path, form: FieldShape, is_time: bool) -> bool:
    if form.zone is None or form.zone == "UTC":
        return True
    if not is_time:
        report.add((*path, "zone"), "only a timestamp has a zone.", at_key=True)
        return False
    try:
        check_zone(form.zone)
    except ValueError as error:
        report.add((*path, "zone"), str(error))
        return False
    return True


def _check_time_field(report: Report, path: Path, time: TimeShape, fields: dict[str, Field]) -> bool:
    if time.field is None:
        return True
    here = (*path, "time", "field")
    field = fields.get(time.field)
    if field is None:
        report.add(here, _unknown_field(time.field, fields))
    elif field.type != "timestamp":
        report.add(here, f"'{field.name}' is {field.type}; event time is a timestamp. Write `{field.name}: timestamp`.")
    elif field.nullable:
        report.add(here, f"'{field.name}' may be null, and an event without a time has no window. Remove its `?`.")
    else:
        return True
    return False


def _check_partition_field(report: Report, path: Path, name: str | None, fields: dict[str, Field]) -> bool:
    if name is None:
        return True
    here = (*path, "partition_by")
    field = fields.get(name)
    if field is None:
        report.add(here, _unknown_field(name, fields))
    elif field.type not in PARTITION_TYPES:
        report.add(here, f"'{name}' is {field.type}; events are partitioned by string, int or bool.")
    elif field.nullable:
        report.add(here, f"'{name}' may be null, and an event without it has no partition. Remove its `?`.")
    else:
        return True
    return False


def _check_dedup(report: Report, path: Path, shape: StreamShape, fields: dict[str, Field]) -> bool:
    if "dedup" not in shape.model_fields_set:
        return True
    name, here = shape.dedup.key, (*path, "dedup", "key")
    if name is None:
        report.add((*path, "dedup"), "needs `key`.", at_key=True)
        return False
    field = fields.get(name)
    if field is None:
        report.add(here, _unknown_field(name, fields))
    elif field.type not in DEDUP_TYPES:
        report.add(here, f"'{name}' is {field.type}; an event is known again by a string or an int.")
    elif field.nullable and shape.partition_by is None:
        report.add(
            here,
            f"'{name}' may be null, and without `partition_by` the stream is partitioned by it. Remove its `?`, or set "
            "partition_by; events without it are then taken each time.",
        )
    else:
        return True
    return False


def _unknown_field(name: str, fields: dict[str, Field]) -> str:
    return f"unknown field '{name}'.{did_you_mean(name, fields)}"
