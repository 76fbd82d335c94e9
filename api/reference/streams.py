"""The endpoints of streams, stages and what was put aside, described."""

from __future__ import annotations

from api.parameters import (
    DEFAULT_ASIDE,
    DEFAULT_EVENTS,
    DEFAULT_RAW_ROWS,
    DEFAULT_SOURCES,
    MAX_ASIDE,
    MAX_EVENTS,
    MAX_RAW_ROWS,
    MAX_SOURCES,
)
from api.reference.endpoints import (
    FLAG,
    NUMBER_OR_NULL,
    OBJECT,
    TEXT,
    TIME,
    WHOLE,
    Body,
    Endpoint,
    Parameter,
    Schema,
    array,
    json_body,
    members,
)

STREAM = Parameter("stream", "the name of a stream", place="path")
STAGE = Parameter("stage", "the name of a stage", place="path")
KEY = Parameter("Idempotency-Key", "1 to 255 visible ASCII characters; a retry with it is stored once", place="header")
_PARTITION = Parameter("partition", "the number of a partition", {"type": "integer", "minimum": 0})
_ANYTHING: Schema = {}
_RECEIPT = members(
    {
        **dict.fromkeys(("accepted", "rejected", "duplicates"), WHOLE),
        "ids": array(TEXT),
        "errors": array(OBJECT),
        "skew_ms": NUMBER_OR_NULL,
    },
    {"applied": {"type": "boolean"}},
)


def _limit(default: int, most: int) -> Parameter:
    return Parameter("limit", "at most so many", {"type": "integer", "minimum": 1, "maximum": most, "default": default})


def _aside(path: str, owner: str, what: str) -> tuple[Endpoint, Endpoint]:
    whose = "stream" if owner == "stream" else "stage"
    listing = Endpoint(
        "get",
        f"/v1/{path}",
        "put aside",
        f"{what}, with counts of the reasons",
        f"Without parameters the counts of every {whose}; with `{owner}` its rows, newest first.",
        json_body(OBJECT),
        (
            Parameter(owner, f"whose rows: the name of a {whose}"),
            _limit(DEFAULT_ASIDE, MAX_ASIDE),
            Parameter("cursor", "the `next` of the page before"),
            Parameter("reason", "only rows put aside for this reason"),
        ),
        problems=(404,),
    )
    replay = Endpoint(
        "post",
        f"/v1/{path}/replay",
        "put aside",
        f"Replay {what[0].lower()}{what[1:]}",
        "Exactly what was shown: `ids`, or `all` up to the `up_to` of the list.",
        json_body(OBJECT),
        (KEY,),
        202,
        json_body(members({owner: TEXT}, {"ids": array(TEXT), "all": {"type": "boolean"}, "up_to": TEXT})),
        problems=(404, 409, 413, 415, 422, 429),
    )
    return listing, replay


STREAMS: tuple[Endpoint, ...] = (
    Endpoint(
        "post",
        "/publish",
        "ingest",
        "One event, to the default stream",
        "A flat JSON object. Of an event that a stream with dedup knows already, event_id is null.",
        json_body(
            members({"event_id": {"type": ["string", "null"]}, "status": TEXT}),
            {"event_id": "1763928012400-0", "status": "Event published"},
        ),
        (KEY,),
        201,
        json_body(OBJECT, {"user": "ada", "page": "/docs"}),
        problems=(404, 409, 413, 415, 422, 429),
    ),
    Endpoint(
        "post",
        "/v1/streams/{stream}/events",
        "ingest",
        "A batch of events",
        "An object, an array, NDJSON, CSV, or an Arrow IPC stream; gzip or zstd.",
        json_body(_RECEIPT),
        (
            STREAM,
            KEY,
            Parameter(
                "wait", "`applied`: answer when every stage has counted them", {"type": "string", "enum": ["applied"]}
            ),
            Parameter("backfill", "old data that moves no time and is never late", FLAG),
        ),
        202,
        Body(
            {
                "application/json": {"oneOf": [OBJECT, array(OBJECT)]},
                "application/x-ndjson": TEXT,
                "text/csv": TEXT,
                "application/vnd.apache.arrow.stream": {"type": "string", "format": "binary"},
            },
            [{"ts": 1763928000000, "user": "ada", "page": "/docs"}],
        ),
        problems=(404, 409, 413, 415, 422, 429),
    ),
    Endpoint(
        "post",
        "/v1/streams/{stream}/time",
        "ingest",
        "Move time without data",
        "A heartbeat, or the end of the stream.",
        json_body(OBJECT),
        (STREAM,),
        202,
        json_body(OBJECT, {"end": True}),
        problems=(404, 413, 415, 422),
    ),
    Endpoint(
        "get",
        "/v1/streams",
        "streams",
        "Every stream",
        "Its schema and time policy, what came through the door, and how far its readers are.",
        json_body(members({"streams": array(OBJECT)})),
    ),
    Endpoint(
        "get",
        "/v1/streams/{stream}/watermark",
        "streams",
        "How far event time is in a stream",
        "Which partition holds it back, and why.",
        json_body(members({"stream": TEXT, "watermark": NUMBER_OR_NULL, "partitions": array(OBJECT)})),
        (STREAM,),
        problems=(404,),
    ),
    Endpoint(
        "get",
        "/v1/streams/{stream}/skew",
        "streams",
        "The skew report of a stream",
        "How late and how far ahead events are, by source.",
        json_body(OBJECT),
        (STREAM, _limit(DEFAULT_SOURCES, MAX_SOURCES)),
        problems=(404,),
    ),
    Endpoint(
        "get",
        "/v1/streams/{stream}/events",
        "streams",
        "The newest events of a stream",
        "Newest first, to look at and not to count.",
        json_body(members({"events": array(OBJECT)})),
        (STREAM, _limit(DEFAULT_EVENTS, MAX_EVENTS)),
        problems=(404,),
    ),
    Endpoint(
        "get",
        "/v1/streams/{stream}/raw",
        "streams",
        "A page of the raw log",
        "Events with their place in it, and ticks.",
        json_body(OBJECT),
        (
            STREAM,
            _PARTITION,
            Parameter("after", "the id of the entry before the page"),
            Parameter("start", "entries that arrived at or after it", TIME),
            Parameter("end", "entries that arrived before it", TIME),
            _limit(DEFAULT_RAW_ROWS, MAX_RAW_ROWS),
        ),
        problems=(404, 422),
    ),
    Endpoint(
        "get",
        "/v1/streams/{stream}/events/{entry}/explain",
        "streams",
        "What became of one event",
        "In every stage that reads the stream.",
        json_body(OBJECT),
        (
            STREAM,
            Parameter("entry", "the id of an entry", place="path", example="1763928012400-0"),
            Parameter("row", "which row of the entry", {"type": "integer", "minimum": 0}),
            _PARTITION,
        ),
        problems=(404, 422),
    ),
    Endpoint(
        "get",
        "/v1/stages",
        "stages",
        "Every stage",
        "Its lag, its time, and its books.",
        json_body(members({"stages": array(OBJECT)})),
    ),
    Endpoint(
        "get",
        "/v1/stages/{stage}",
        "stages",
        "One stage",
        "Its lag, its time, and its books.",
        json_body(members({"stage": TEXT})),
        (STAGE,),
        problems=(404,),
    ),
    Endpoint(
        "get",
        "/v1/tables/{hash}",
        "stages",
        "A content of a lookup table",
        "As long as a log names it.",
        Body({"application/vnd.apache.parquet": {"type": "string", "format": "binary"}}),
        (Parameter("hash", "the hash of the content: 32 hexadecimal digits", place="path"),),
        problems=(404,),
    ),
    *_aside("late", "stage", "Late rows"),
    *_aside("dead-letters", "stage", "Dead letters"),
    *_aside("quarantine", "stream", "Rows in quarantine"),
)
