"""Lookup tables as values: one content of a table, its canonical bytes and their hash, and the column a lookup joins.

A content is the whole file, not what a config takes of it: the log names contents by hash, and a stage of another
config joins with what was there. A CSV holds texts, so `007` stays what it is; a lookup reads them as its own types.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from pipeline.core import texts
from pipeline.core.column_types import type_of, type_text
from pipeline.core.definitions import Lookup, ScalarType
from pipeline.core.frames import taken
from pipeline.core.table_names import TableError

MAX_SHOWN = 3  # key values in a message

_INT_TEXT = r"^-?(0|[1-9][0-9]{0,18})$"  # with a leading zero it is a code, and stays text
_FLOAT_TEXT = r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$"
_BOOL_TEXT = r"^(true|false)$"


@dataclass(frozen=True, slots=True)
class _Index:
    """Where each key stands. A join in polars hashes the whole table for every batch: 100 ms for a million keys,
    and a dict answers a batch of one in 1 and one of 50,000 in 18 (measured)."""

    place_of: Mapping[Any, int]
    values: pl.Series

    def values_of(self, keys: pl.Series) -> pl.Series:
        if keys.dtype != pl.String or not texts.IS_BUILT:
            return taken(self.values, self._places_of(keys))
        codes, firsts = texts.codes(keys)  # each distinct key is looked up once
        found = taken(self.values, self._places_of(taken(keys, firsts)))
        if not keys.null_count():
            return taken(found, codes)
        return taken(found, pl.Series(np.maximum(codes, 0).astype(np.uint32)).set(pl.Series(codes < 0), None))

    def _places_of(self, keys: pl.Series) -> pl.Series:
        return pl.Series(list(map(self.place_of.get, keys.to_list())), dtype=pl.UInt32)


@dataclass(frozen=True, slots=True)
class Table:
    """One content of a lookup table; how a lookup finds a key in it is made once."""

    frame: pl.DataFrame
    _indexes: dict[Lookup, _Index] = field(default_factory=dict, repr=False, compare=False)

    def values_of(self, lookup: Lookup, keys: pl.Series) -> pl.Series:
        """The value of each key (a column of the lookup's `key_type`): null where the key is null or not there.

        A content from before the one the lookup was checked with may lack a column, or hold what is not of its type:
        there is no such value then, which is null. Of a key that is there twice, the first counts.
        """
        if lookup not in self._indexes:
            values = _column(self.frame, lookup.column, lookup.type)
            known = _column(self.frame, lookup.key, lookup.key_type).to_list()
            places = {key: place for place, key in reversed(list(enumerate(known))) if key is not None}
            self._indexes[lookup] = _Index(places, values)
        return self._indexes[lookup].values_of(keys)


Contents = Mapping[str, Table]  # by hash


def encode(frame: pl.DataFrame) -> bytes:
    """A content as the bytes that are stored and hashed: Parquet, which is the same however the frame came to be.

    Arrow IPC is not: it shows how texts lie in memory (measured). A newer polars may write other bytes: then the same
    content is announced again under another hash, and nothing else happens.
    """
    out = io.BytesIO()
    frame.rechunk().write_parquet(out, compression="zstd", statistics=False)
    return out.getvalue()


def decode(content: bytes) -> Table:
    """The content that `encode` made; the caller has compared the hash."""
    return Table(pl.read_parquet(io.BytesIO(content)))


def column_kind(frame: pl.DataFrame, name: str) -> ScalarType:
    """The config type of a column; texts are what all of them can be read as: int, float, bool, else string."""
    column = frame[name]
    if column.dtype == pl.String:
        return _kind_of_texts(column.drop_nulls())
    kind: ScalarType = type_text(column.dtype)  # type: ignore[assignment]  # a content has only such columns
    return kind


def _kind_of_texts(texts: pl.Series) -> ScalarType:
    if not len(texts):
        return "string"
    if texts.str.contains(_INT_TEXT).all() and texts.cast(pl.Int64, strict=False).null_count() == 0:
        return "int"
    if texts.str.contains(_FLOAT_TEXT).all():
        return "float"
    return "bool" if texts.str.contains(_BOOL_TEXT).all() else "string"


def check(frame: pl.DataFrame, lookup: Lookup) -> None:
    """Check that a new content gives a lookup what it needs.

    Raises:
        TableError: a column is missing or holds what is not of its type, or a key is null or there twice.
    """
    for name, kind in ((lookup.key, lookup.key_type), (lookup.column, lookup.type)):
        if name not in frame.columns:
            raise TableError(f"has no column '{name}'. Its columns are: {', '.join(frame.columns)}.")
        read = _column(frame, name, kind)
        lost = read.is_null() & frame[name].is_not_null()
        if lost.any():
            raise TableError(f"has {_shown(frame[name].filter(lost))} in its column '{name}', which is read as {kind}.")
    keys = _column(frame, lookup.key, lookup.key_type)
    if keys.null_count():
        raise TableError(f"has {keys.null_count():,} rows without a '{lookup.key}', its key. Every row needs one.")
    twice = keys.filter(keys.is_duplicated()).unique(maintain_order=True)
    if len(twice):
        raise TableError(f"has more than one row for {_shown(twice)} in '{lookup.key}', its key. Keep one row a key.")


def _column(frame: pl.DataFrame, name: str, kind: ScalarType) -> pl.Series:
    """A column as a type, null where a value is not of it."""
    dtype = type_of(kind)
    if name not in frame.columns:
        return pl.Series(name, [None], dtype=dtype).new_from_index(0, len(frame))
    column = frame[name]
    if column.dtype == pl.String and kind == "bool":
        return column.replace_strict({"true": True, "false": False}, default=None, return_dtype=pl.Boolean)
    if column.dtype == pl.String and kind == "timestamp":
        return pl.Series(name, [None], dtype=dtype).new_from_index(0, len(frame))  # a CSV has none
    read = column.cast(dtype, strict=False)
    return read.set(~read.is_finite(), None) if kind == "float" else read


def _shown(values: pl.Series) -> str:
    first = ", ".join(repr(value) for value in values.head(MAX_SHOWN).to_list())
    return first if len(values) <= MAX_SHOWN else f"{first} and {len(values) - MAX_SHOWN:,} more"
