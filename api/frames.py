"""Between DataFrames and the API's rows.

Invariant: a column's dtype follows from the metric's description, so an empty answer has the columns and dtypes of a
full one; only values that fit no dtype make a column of objects (see `answer_frames`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.core.ndjson import iso_time
from pipeline.runtime.answer_frames import answer_frame, dtype_of, typed_series


def metric_frame(
    rows: Sequence[Mapping[str, Any]], described: Mapping[str, Any], meta: Mapping[str, Any]
) -> pd.DataFrame:
    """Return one row per window and group, indexed by `window_start` (UTC).

    Columns: window_end, state, revision, the group's fields, the metric's values. `attrs` holds `watermark` and
    `complete_to` as ISO 8601 text or None (text compares with the index, and survives `to_parquet`).
    """
    types = {column["name"]: str(column["type"]) for column in (*described["group"], *described["values"])}
    frame = answer_frame(rows, types)
    frame.attrs.update(watermark=iso_time(meta.get("watermark")), complete_to=iso_time(meta.get("complete_to")))
    return frame


LOG_COLUMNS = {
    "_partition": ("partition", "Int64"),
    "_position": ("position", "str"),
    "_arrival_ms": ("arrival", "Int64"),
    "_kind": ("kind", "str"),
    "_tick_ms": ("tick", "Int64"),
    "_cut_ms": ("cut", "Int64"),
    "_events": ("events", "Int64"),
    "_error": ("error", "str"),
    "_backfill": ("backfill", "boolean"),
    "_only": ("only", "str"),
    "_table": ("table", "str"),
    "_hash": ("hash", "str"),
}


def raw_frame(
    rows: Sequence[Mapping[str, Any]], fields: Mapping[str, str], contents: Mapping[str, str]
) -> pd.DataFrame:
    """Return the lines of a raw log, one row a line: where it stands and what it is, then the stream's fields.

    `contents`: of lookup tables by their hash, in base64; each is brought once, by the first line that names it.
    """
    log = {name: typed_series([row.get(said) for row in rows], dtype) for name, (said, dtype) in LOG_COLUMNS.items()}
    unsaid = dict(contents)
    log["_content"] = typed_series([unsaid.pop(row.get("hash", ""), None) for row in rows], "str")
    events: list[Mapping[str, Any]] = [row.get("event") or {} for row in rows]
    columns = {name: typed_series([e.get(name) for e in events], dtype_of(kind)) for name, kind in fields.items()}
    return pd.DataFrame(log | columns)


def frame_rows(frame: pd.DataFrame, int_fields: Collection[str]) -> Iterator[dict[str, Any]]:
    """Yield a DataFrame's rows as dicts of Python values; a named index (a time, usually) is a column like the others.

    pandas turns an integer column with a gap into floats: in `int_fields`, whole floats are integers again.

    Raises:
        TypeError: two columns have the same name, or a name is not text.
    """
    named = frame.reset_index() if any(name is not None for name in frame.index.names) else frame
    names = list(named.columns)
    if not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise TypeError(f"the columns of a DataFrame to send need distinct names that are text, got {names}")
    columns = [
        _whole(named.iloc[:, at].tolist()) if name in int_fields else named.iloc[:, at].tolist()
        for at, name in enumerate(names)
    ]
    for values in zip(*columns, strict=True):
        yield dict(zip(names, values, strict=True))


def _whole(values: list[Any]) -> list[Any]:
    return [int(value) if isinstance(value, float) and value.is_integer() else value for value in values]
