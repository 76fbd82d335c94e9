"""One page view, followed through the whole pipeline: DESIGN section 3 as code. Read this test first.

Everything runs in this process, against a real server; nothing sleeps, the test polls the worker itself.
"""

from __future__ import annotations

import msgspec

from pipeline.core.definitions import (
    Aggregate,
    AggregateSpec,
    Config,
    Field,
    Stream,
    TimePolicy,
    Transform,
    Tumbling,
)
from pipeline.rim import keys, store
from tests.line import Line
from tests.servers import RunningServer, wait_for

CONFIG = Config(
    streams={
        "pageviews": Stream(
            name="pageviews",
            fields=(
                Field("ts", "timestamp"),
                Field("user", "string"),
                Field("page", "string"),
                Field("agent", "string", nullable=True),
            ),
            time=TimePolicy(field="ts", disorder_ms=5_000),
            partitions=1,
        )
    },
    stages={
        "human_views": Transform(
            name="human_views",
            source="pageviews",
            filter="agent IS NULL OR agent NOT ILIKE '%bot%'",
            derive={"section": "SPLIT_PART(page, '/', 2)"},
        ),
        "views_by_section": Aggregate(
            name="views_by_section",
            source="human_views",
            window=Tumbling(10_000),
            group_by=("section",),
            aggregates=(AggregateSpec("views", "count"), AggregateSpec("last_page", "last", "page")),
        ),
    },
    default_stream="pageviews",
)

NOON_MS = 1_748_779_200_000  # 2025-06-01 12:00:00 UTC, where a window of 10 s begins
PAGE_VIEW_MS = NOON_MS + 3_000
PAGE_VIEW = {"ts": PAGE_VIEW_MS, "user": "ada", "page": "/docs/install", "agent": "Firefox"}
COUNTED = {"section": "docs", "views": 1, "last_page": "/docs/install"}


def test_one_page_view_goes_from_http_to_a_windowed_answer(server: RunningServer) -> None:
    line = Line(CONFIG, server)
    program = line.programs["views_by_section"]
    group = program.group  # `views_by_section@<version>`: the consumer group, and a part of the stage's keys

    # It comes in over HTTP and is in the raw stream of its partition: a chunk of one event, stored as it was sent.
    answer = line.http.post("/v1/streams/pageviews/events", json=PAGE_VIEW)
    assert answer.status_code == 202
    assert answer.get_json()["accepted"] == 1
    [chunk] = line.stream(keys.raw("pageviews", 0))
    assert chunk["_k"] == "chunk"
    assert chunk["n"] == "1"
    assert msgspec.json.decode(chunk["body"]) == PAGE_VIEW

    # A worker takes it through its consumer group, runs filter and derive, and commits what it made of it.
    worker = line.worker()
    assert worker.poll_once().events == 1

    # It is counted in one cell of the pane [12:00:00, 12:00:10), under its group; `-` says it was late for no window.
    [cell] = store.load_pane(server.client, "pageviews", 0, group, NOON_MS)
    assert cell == b'- ["docs"]'

    # The checkpoint moved with it, in the same commit: how far the log is done, and how far time is.
    checkpoint = store.load_checkpoint(server.client, "pageviews", 0, group)
    assert (checkpoint.read, checkpoint.accepted) == (1, 1)
    assert (checkpoint.filtered, checkpoint.late, checkpoint.dead) == (0, 0, 0)
    assert checkpoint.max_seen_ms == PAGE_VIEW_MS

    # The window is open, and already answers.
    [row] = line.rows("views_by_section")
    assert row == {"window_start": NOON_MS, "window_end": NOON_MS + 10_000, "state": "open", "revision": 0} | COUNTED

    # A view 15 s after the window's start lifts the watermark to its end: 12:00:15 less the 5 s of disorder.
    later_ms = NOON_MS + 15_000
    later = {"ts": later_ms, "user": "bob", "page": "/blog/1"}
    assert line.http.post("/v1/streams/pageviews/events", json=later).status_code == 202
    published = 0

    def window_is_published() -> bool:
        nonlocal published
        published += worker.poll_once().published
        return published == 1

    wait_for(window_is_published, "the worker to publish the window that has ended")

    # Its result is kept in a hash of its own, in the first revision.
    [result] = store.load_results(server.client, "views_by_section", program.version, [(NOON_MS, NOON_MS + 10_000)])
    assert (result.state, result.revision, result.groups) == ("final", 0, [b'["docs"]'])

    # Anyone can follow the metric with XREAD …
    [downstream] = line.downstream("views_by_section")
    assert downstream == {
        "window_start": str(NOON_MS),
        "window_end": str(NOON_MS + 10_000),
        "state": "final",
        "revision": "0",
        "version": program.version,
        "section": "docs",
        "views": "1",
        "last_page": "/docs/install",
    }

    # … or look at the newest closed window with HGETALL.
    latest = server.client.execute_command("HGETALL", keys.latest("views_by_section"))
    assert {group: msgspec.json.decode(values) for group, values in latest.items()} == {
        b'["docs"]': {
            "window_start": NOON_MS,
            "window_end": NOON_MS + 10_000,
            "views": 1,
            "last_page": "/docs/install",
        }
    }

    # And the read API says the same, and up to where it is complete.
    answer = line.http.get(f"/v1/metrics/views_by_section?start={NOON_MS}&state=closed")
    assert answer.status_code == 200
    [row] = answer.get_json()["data"]
    assert row == {"window_start": NOON_MS, "window_end": NOON_MS + 10_000, "state": "final", "revision": 0} | COUNTED
    assert answer.get_json()["meta"]["watermark"] == later_ms - 5_000
    assert answer.get_json()["meta"]["complete_to"] == NOON_MS + 10_000
