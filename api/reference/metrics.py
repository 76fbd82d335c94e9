"""The endpoints of metrics, described; their parameters are those that `api.metric_parameters` checks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from api.metric_parameters import DEFAULT_ROWS, FORMATS
from api.reference.endpoints import (
    FLAG,
    JSON,
    NUMBER_OR_NULL,
    OBJECT,
    TEXT,
    TIME,
    Body,
    Endpoint,
    Parameter,
    Schema,
    array,
    json_body,
    members,
)
from pipeline.runtime.filling import FILLS
from pipeline.runtime.metric_query import MAX_ROWS

METRIC = Parameter("metric", "the name of an aggregate stage", place="path")
_META: Schema = members(
    {
        **dict.fromkeys(("start", "end", "step", "watermark", "complete_from", "complete_to", "tier"), NUMBER_OR_NULL),
        "complete_by": {"type": ["string", "null"], "enum": ["events", "heartbeat", "silence", None]},
        "window": OBJECT,
        "unit": OBJECT,
        "truncated": {"type": "boolean"},
        "capped": array(TEXT),
        "failed": array(TEXT),
    },
    {"columns": array(OBJECT), "calendar": TEXT, "tz": TEXT},
)
_NEXT: Schema = {"type": ["string", "null"]}
_ROW: Schema = members(
    {
        "window_start": {"type": "integer"},
        "window_end": {"type": "integer"},
        "state": TEXT,
        "revision": {"type": "integer"},
    }
)
_COLUMNS: Schema = members(
    {"window_start": array({"type": "integer"}), "window_end": array({"type": "integer"}), "state": array(TEXT)}
)
ENVELOPE: Schema = members({"data": {"oneOf": [array(_ROW), _COLUMNS]}, "meta": _META, "next": _NEXT})
_EXAMPLE: Mapping[str, Any] = {
    "data": [
        {
            "window_start": 1763928000000,
            "window_end": 1763928010000,
            "state": "final",
            "revision": 0,
            "section": "products",
            "views": 37,
        }
    ],
    "meta": {
        "start": 1763928000000,
        "end": 1763928010000,
        "step": 10000,
        "window": {"tumbling_ms": 10000, "offset_ms": 0},
        "watermark": 1763928012345,
        "complete_from": None,
        "complete_to": 1763928010000,
        "complete_by": "events",
        "unit": {"views": None},
        "truncated": False,
        "tier": None,
        "capped": [],
        "failed": [],
    },
    "next": None,
}
ANSWER = Body(
    {
        JSON: {"$ref": "#/components/schemas/MetricAnswer"},
        "text/csv": TEXT,
        "application/x-ndjson": TEXT,
        "application/vnd.apache.arrow.stream": {"type": "string", "format": "binary"},
    },
    _EXAMPLE,
)
_FORMAT = Parameter(
    "format", "how the answer is written; the numbers are the same in each", {"type": "string", "enum": list(FORMATS)}
)
_STATES: Schema = {"type": "string", "enum": ["open", "closed", "final", "retracted"]}
_COUNT: Schema = {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": DEFAULT_ROWS}
WHERE = Parameter(
    "where.{field}",
    "only groups with this value of a group field, as `where.section=docs`; repeat it for any of several, and "
    "different fields must all match. A parameter for each group field",
)

METRIC_QUERY: tuple[Parameter, ...] = (
    Parameter("start", "windows that overlap [start, end); without it the newest 1,000", TIME, example="-15m"),
    Parameter("end", "where the range ends", TIME, example="now"),
    Parameter("step", "merge to steps of this length; with tz `1d`, `1w` or `month`", example="1m"),
    Parameter("tz", "an IANA zone: the steps are its days, weeks or months", example="Europe/Paris"),
    Parameter("group_by", "the group fields to tell apart, with commas between; empty for all together"),
    Parameter("agg", "the values to answer with, with commas between"),
    Parameter("order", "`window` or the name of a value, `-` before it for descending", example="-window"),
    Parameter("limit", "at most so many rows; with `other` so many groups", _COUNT, example=100),
    Parameter("other", "the groups after the first `limit` ones as one row `__other__` of each window", FLAG),
    Parameter("fill", "rows for windows without events", {"type": "string", "enum": list(FILLS)}),
    Parameter("state", "only windows that are open, closed (with the final ones), final or retracted", _STATES),
    _FORMAT,
    Parameter("cursor", "the `next` of the page before"),
)

METRICS: tuple[Endpoint, ...] = (
    Endpoint(
        "get",
        "/v1/metrics",
        "metrics",
        "Every metric",
        "With its window, group, values, and how far it is.",
        json_body(members({"metrics": array(members({"metric": TEXT, "window": OBJECT}))})),
    ),
    Endpoint(
        "get",
        "/v1/metrics/{metric}",
        "metrics",
        "A metric over a range",
        "One flat row for each window and group, or one array for each column.",
        ANSWER,
        (METRIC, *METRIC_QUERY, WHERE),
        problems=(404, 422),
        has_etag=True,
    ),
    Endpoint(
        "get",
        "/v1/metrics/{metric}/latest",
        "metrics",
        "The newest closed window",
        "Of sessions the newest closed one of each group.",
        ANSWER,
        (METRIC, _FORMAT),
        problems=(404, 422),
        has_etag=True,
    ),
    Endpoint(
        "get",
        "/v1/metrics/{metric}/rolling",
        "metrics",
        "The values over a trailing window",
        "Falls to empty when nothing comes.",
        ANSWER,
        (
            METRIC,
            Parameter("window", "how long the window is, a multiple of the pane", required=True, example="5m"),
            Parameter("at", "where the window ends; now without it", TIME),
            _FORMAT,
            WHERE,
        ),
        problems=(404, 422),
        has_etag=True,
    ),
    Endpoint(
        "get",
        "/v1/metrics/{metric}/explain",
        "metrics",
        "The account of one window",
        "Read again from the raw log: what counted, what was late, and what the window waits for. The name of a group "
        "field is a parameter too.",
        json_body(members({"metric": TEXT, "window": OBJECT, "accounts": OBJECT, "partitions": array(OBJECT)})),
        (
            METRIC,
            Parameter("start", "where the window begins, exactly", TIME, required=True),
            Parameter("end", "where it ends, where several begin together", TIME),
            WHERE,
        ),
        problems=(404, 422),
    ),
    Endpoint(
        "get",
        "/v1/metrics/{metric}/live",
        "live",
        "Rows of a metric as they are published",
        "Server-Sent Events: `snapshot`, `rows` and `reset`, and a comment at least every 15 s.",
        Body({"text/event-stream": TEXT}),
        (METRIC, Parameter("last_event_id", "resume after this event, as the header Last-Event-ID does"), WHERE),
        problems=(404, 422, 429),
    ),
    Endpoint(
        "get",
        "/v1/live",
        "live",
        "Rows of several metrics in one stream",
        "A `where.<field>` counts in the metrics that have the field.",
        Body({"text/event-stream": TEXT}),
        (
            Parameter("metrics", "their names, with commas between", required=True),
            Parameter("last_event_id", "resume after this event, as the header Last-Event-ID does"),
            WHERE,
        ),
        problems=(404, 422, 429),
    ),
)
