"""The API's rows as DataFrames.

Invariant: a column's dtype follows from the metric's description, so an empty answer has the columns and dtypes of a
full one; only values that fit no dtype make a column of objects (see `answer_frames`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from pipeline.core.definitions import SESSION_TYPES
from pipeline.core.ndjson import iso_time
from pipeline.runtime.answer_frames import answer_frame, dtype_of, typed_series

TIMES_SAID = ("start", "end", "watermark", "complete_from", "complete_to")
SAID = ("step", "tz", "tier", "complete_by", "truncated", "capped", "failed")  # step and tier in ms

Meta = Mapping[str, Any]


class MetricFrame(pd.DataFrame):
    """A metric's rows: a DataFrame whose `plot` draws its values, one line for each group.

    What is made of it is a plain DataFrame. pandas would draw the ends of the windows and the revisions as well.
    """

    @property
    def plot(self) -> Any:
        plain, groups = pd.DataFrame(self), list(self.attrs.get("groups", []))
        values = [name for name in self.attrs.get("units", {}) if name in plain.columns]
        drawn = plain[values].select_dtypes("number")
        if groups and len(plain):  # a pivot of no rows has no columns, and pandas refuses to draw that
            one_line_each = plain[[*drawn.columns, *groups]]
            drawn = one_line_each.pivot_table(
                index=plain.index.name, columns=groups, values=list(drawn), aggfunc="last"
            )
        return drawn.plot


def metric_frame(metric: str, columns: Mapping[str, list[Any]], meta: Meta) -> pd.DataFrame:
    """Return an answer (`format=columns`), one row per window and group, indexed by `window_start` (UTC).

    Columns: window_end, state, revision, of sessions their own, the group's fields, the metric's values. `attrs` holds
    what `meta` says, times as ISO 8601 text or None (text compares with the index, and survives `to_parquet`).
    """
    series = {each["name"]: typed_series(columns[each["name"]], dtype_of(each["type"])) for each in meta["columns"]}
    frame = pd.DataFrame(series).set_index("window_start")
    units = {each["name"]: each["unit"] for each in meta["columns"] if each["kind"] == "value"}
    groups = [each["name"] for each in meta["columns"] if each["kind"] == "group"]
    return _with_account(frame, metric, units, groups, meta)


def rows_frame(rows: Sequence[Mapping[str, Any]], described: Mapping[str, Any], meta: Meta) -> pd.DataFrame:
    """Return rows of a live stream likewise: their types are those of the metric's description."""
    types = dict(SESSION_TYPES) if "session_ms" in described["window"] else {}
    types |= {column["name"]: str(column["type"]) for column in (*described["group"], *described["values"])}
    units = {value["name"]: value["unit"] for value in described["values"]}
    groups = [column["name"] for column in described["group"]]
    return _with_account(answer_frame(rows, types), described["metric"], units, groups, meta)


def _with_account(
    plain: pd.DataFrame, metric: str, units: Mapping[str, Any], groups: list[str], meta: Meta
) -> pd.DataFrame:
    frame = MetricFrame(plain)
    frame.attrs.update(metric=metric, units=dict(units), groups=groups)
    frame.attrs.update({name: iso_time(meta.get(name)) for name in TIMES_SAID})
    frame.attrs.update({name: meta.get(name) for name in SAID})
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
