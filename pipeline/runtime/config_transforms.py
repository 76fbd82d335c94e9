"""The `lookup`, `explode` and `python` of a transform, checked against the columns that reach each of them.

They come in this order, after `filter` and `derive`: a lookup sees what is derived, a function sees everything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import polars as pl

from pipeline.core import tables
from pipeline.core.column_types import type_of, type_text
from pipeline.core.definitions import Lookup, PythonFunction, ScalarType
from pipeline.core.registered_transforms import TRANSFORMS
from pipeline.core.spelling import did_you_mean
from pipeline.core.table_names import TableError
from pipeline.runtime.config_columns import Columns
from pipeline.runtime.config_report import Report
from pipeline.runtime.config_shapes import LookupShape
from pipeline.runtime.config_streams import check_field_name
from pipeline.runtime.config_yaml import Path
from pipeline.runtime.table_files import read_table_file
from pipeline.runtime.table_places import kept_table_path, table_path

KEY_TYPES: tuple[ScalarType, ...] = ("string", "int", "bool", "timestamp")  # equal floats are a matter of rounding


@dataclass(slots=True)
class Sources:
    """What a config names outside itself: tables, each read once, and functions, loaded before stages are checked.

    `kept_tables`: a folder of the tables as `up` checked them; a file that was changed since changes no type.
    """

    folder: str
    kept_tables: str | None = None
    functions_failed: bool = False
    _tables: dict[str, pl.DataFrame | TableError] = field(default_factory=dict)

    def table(self, name: str) -> pl.DataFrame:
        """The content of a table.

        Raises:
            TableError: it cannot be used.
        """
        if name not in self._tables:
            try:
                kept = self.kept_tables
                path = table_path(self.folder, name) if kept is None else kept_table_path(kept, name)
                self._tables[name] = read_table_file(path)
            except TableError as error:
                self._tables[name] = error
        found = self._tables[name]
        if isinstance(found, TableError):
            raise found
        return found


def build_lookups(
    report: Report, path: Path, shapes: Mapping[str, LookupShape], columns: Columns, sources: Sources
) -> tuple[dict[str, Lookup], Columns]:
    """The lookups of a transform by the column they add, and the columns after them; none of them sees another."""
    built: dict[str, Lookup] = {}
    for name, shape in shapes.items():
        lookup = _lookup(report, (*path, name), name, shape, columns, sources)
        if lookup is not None and _is_new(report, (*path, name), name, columns):
            built[name] = lookup
    known = {**columns.known, **{name: type_of(lookup.type) for name, lookup in built.items()}}
    failed = columns.failed | (shapes.keys() - built.keys() - columns.known.keys())
    return built, Columns(known, failed, columns.open)


def _is_new(report: Report, path: Path, name: str, columns: Columns) -> bool:
    if name in columns.known or name in columns.failed:
        report.add(path, f"'{name}' is a field already. Give the one from the table another name.", at_key=True)
        return False
    return check_field_name(report, path, name)


def _lookup(
    report: Report, path: Path, name: str, shape: LookupShape, columns: Columns, sources: Sources
) -> Lookup | None:
    try:
        frame = sources.table(shape.table)
    except TableError as error:
        report.add((*path, "table"), f"{shape.table} {error}")
        return None
    key, column = shape.key or shape.on, shape.column or name
    good = True
    for setting, wanted, written, origin in (
        ("key", key, shape.key, "`on`"),
        ("column", column, shape.column, "its name"),
    ):
        if wanted not in frame.columns:
            implied = "" if written else f" (a `{setting}` that is not written is {origin})"
            sentence = f"{shape.table} has no column '{wanted}'{implied}.{did_you_mean(wanted, frame.columns)}"
            report.add((*path, setting) if written else path, sentence, at_key=not written)
            good = False
    key_type = _key_type(report, (*path, "on"), shape.on, columns)
    if not good or key_type is None:
        return None
    return _checked(
        report, path, Lookup(shape.table, shape.on, key, column, tables.column_kind(frame, column), key_type), frame
    )


def _key_type(report: Report, path: Path, on: str, columns: Columns) -> ScalarType | None:
    """The type of the field a table is joined on; None where it has a problem, here or where it is made."""
    if columns.unknown([on]):
        report.add(path, f"unknown field '{on}'.{did_you_mean(on, columns.known)}")
        return None
    if columns.may_hold(on):
        return None
    kind = type_text(columns.known[on])
    found = next((each for each in KEY_TYPES if each == kind), None)
    if found is None:
        report.add(path, f"'{on}' is {kind}; a table is joined on {', '.join(KEY_TYPES[:-1])} or {KEY_TYPES[-1]}.")
    return found


def _checked(report: Report, path: Path, lookup: Lookup, frame: pl.DataFrame) -> Lookup | None:
    seen = type_text(frame.schema[lookup.key])
    if frame.schema[lookup.key] != pl.String and seen != lookup.key_type:
        report.add(
            (*path, "on"),
            f"'{lookup.on}' is {lookup.key_type}, and '{lookup.key}' of {lookup.table} is {seen}: they are never equal."
            " CAST the field in a `derive`.",
        )
        return None
    if lookup.key_type == "timestamp" and seen == "string":
        report.add((*path, "on"), f"'{lookup.on}' is timestamp, and a CSV holds texts. Write the table as Parquet.")
        return None
    try:
        tables.check(frame, lookup)
    except TableError as error:
        report.add((*path, "table"), f"{lookup.table} {error}")
        return None
    return lookup


def exploded(report: Report, path: Path, name: str, columns: Columns) -> Columns:
    """The columns after `explode`: the list becomes its item."""
    if columns.unknown([name]):
        report.add(path, f"unknown field '{name}'.{did_you_mean(name, columns.known)}")
    elif not columns.may_hold(name):
        dtype = columns.known[name]
        if isinstance(dtype, pl.List):
            item = dtype.inner if isinstance(dtype.inner, pl.DataType) else dtype.inner()
            return Columns({**columns.known, name: item}, columns.failed, columns.open)
        lists = [each for each, kind in columns.known.items() if isinstance(kind, pl.List)]
        known = f" Lists are: {', '.join(lists)}." if lists else " No field here is a list."
        report.add(path, f"'{name}' is {type_text(dtype)}, and only a list can be exploded.{known}")
    rest = {each: kind for each, kind in columns.known.items() if each != name}
    return Columns(rest, columns.failed | {name}, columns.open)


def called(
    report: Report, path: Path, name: str | None, columns: Columns, sources: Sources
) -> tuple[PythonFunction | None, Columns]:
    """The function a transform calls, and the columns after it."""
    if name is None:
        return None, columns
    known = TRANSFORMS.get(name)
    if known is None:
        if not sources.functions_failed:
            report.add(path, f"no function is registered as '{name}'.{did_you_mean(name, TRANSFORMS)}{_HOW}")
        return None, Columns(columns.known, columns.failed, open=True)
    taken = [each for each in known.returns if each in columns.known or each in columns.failed]
    for each in taken:
        report.add(
            path, f"the function '{name}' returns '{each}' ({known.file}:{known.line}), which is a field already."
        )
    fresh = {each: type_of(kind) for each, kind in known.returns.items() if each not in taken}
    return known.definition, Columns({**columns.known, **fresh}, columns.failed, columns.open)


_HOW = " Functions are registered in the files of `functions:`, with `from pipeline import transform`."
