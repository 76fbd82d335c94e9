"""Rollup tiers through the whole line: merged from published windows, revised with them, kept longer."""

from __future__ import annotations

import random
from dataclasses import replace

from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Rollup, Stream, TimePolicy, Tumbling
from pipeline.rim import keys
from pipeline.runtime.scheduler import Housekeeping
from tests.line import Line, Row
from tests.servers import RunningServer

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
STAGE = Aggregate(
    "loads",
    "views",
    Tumbling(10 * SECOND),
    ("page",),
    (
        AggregateSpec("n", "count"),
        AggregateSpec("total", "sum", "ms"),
        AggregateSpec("p90", "quantile", "ms", 0.9),
        AggregateSpec("users", "distinct", "user"),
    ),
    retention_ms=HOUR,
    allowed_lateness_ms=30 * SECOND,
    rollups=(Rollup(MINUTE, 2 * HOUR), Rollup(HOUR, 24 * HOUR)),
)
CONFIG = Config(
    {
        "views": Stream(
            "views",
            (Field("ts", "timestamp", unit="ms"), Field("page", "string"), Field("user", "int"), Field("ms", "int")),
            TimePolicy("ts", disorder_ms=0),
            partitions=2,
        )
    },
    {"loads": STAGE},
)


def first_minute(line: Line) -> list[Row]:
    answer = line.get("loads", start="0", step="1m")
    assert answer["meta"]["tier"] == MINUTE
    return [row for row in answer["data"] if row["window_start"] == 0]


def without_tiers(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row["window_start"], row["page"]))


def events(count: int, seed: int = 1) -> list[dict[str, object]]:
    drawn = random.Random(seed)
    return [
        {"ts": n * 400, "page": drawn.choice("abc"), "user": drawn.randrange(50), "ms": drawn.randrange(1_000)}
        for n in range(count)
    ]


def fill(line: Line) -> None:
    """Half an hour and a bit, 150 events a minute, evenly on two partitions, and the end of it."""
    sent = events(5_000)
    for partition in range(2):
        mine = sent[partition::2]
        line.chunk("views", mine, partition=partition, times_ms=[0, 2_000_000])
    line.settle(worker := line.worker())
    for partition in range(2):
        line.tick("views", 3 * HOUR, partition=partition)
    line.settle(worker)
    for _ in range(3):
        worker._next_close_s = 0  # a pass closes some tier windows at most
        worker.poll_once()


def test_a_step_that_a_tier_fills_is_answered_from_it_and_equals_the_windows_merged(server: RunningServer) -> None:
    line = Line(CONFIG, server)
    fill(line)

    from_tier = line.get("loads", start="0", step="2m")
    assert from_tier["meta"]["tier"] == MINUTE
    server.client.delete(keys.tier("loads", line.programs["loads"].version, MINUTE))
    merged = line.get("loads", start="0", step="2m")

    assert len(from_tier["data"]) == 17 * 3
    assert without_tiers(from_tier["data"]) == without_tiers(merged["data"])


def test_the_coarsest_tier_answers_and_what_it_does_not_cover_comes_from_the_windows(server: RunningServer) -> None:
    line = Line(CONFIG, server)
    fill(line)

    hour = line.get("loads", start="0", step="1h")
    assert hour["meta"]["tier"] == HOUR
    assert sum(row["n"] for row in hour["data"]) == 5_000
    line.chunk("views", [{"ts": 3 * HOUR + 5_000, "page": "a", "user": 1, "ms": 1}], times_ms=[3 * HOUR])
    line.settle()

    hour = line.get("loads", start="0", step="1h")
    assert [(row["window_start"], row["n"], row["state"]) for row in hour["data"]][-1] == (3 * HOUR, 1, "open")


def test_a_revised_window_revises_its_tiers(server: RunningServer) -> None:
    line = Line(CONFIG, server)
    worker = line.worker()
    for partition in range(2):
        line.chunk("views", events(160)[partition::2], partition=partition, times_ms=[0])
    for partition in range(2):
        line.tick("views", 65 * SECOND, partition=partition)
    line.settle(worker)
    worker._next_close_s = 0
    worker.poll_once()
    before = first_minute(line)
    assert {(row["state"], row["revision"]) for row in before} == {("closed", 0)}

    line.chunk("views", [{"ts": 55_000, "page": "a", "user": 1, "ms": 1}], times_ms=[55_000])
    line.settle(worker)
    worker._next_close_s = 0
    worker.poll_once()

    after = first_minute(line)
    assert {(row["state"], row["revision"]) for row in after} == {("closed", 1)}
    assert sum(row["n"] for row in after) == sum(row["n"] for row in before) + 1


def test_windows_go_before_their_tiers_and_not_while_a_tier_needs_them(server: RunningServer) -> None:
    line = Line(CONFIG, server)
    fill(line)
    housekeeping, now_ms = Housekeeping(CONFIG, server.client), int(server.client.time()[0]) * 1_000
    version = line.programs["loads"].version

    housekeeping.expire_once(now_ms + HOUR + MINUTE)
    assert server.client.zcard(keys.windows("loads", version)) == 0
    assert sum(row["n"] for row in line.get("loads", start="0", step="1m")["data"]) == 5_000
    assert line.get("loads", start="0")["data"] == []

    housekeeping.expire_once(now_ms + 3 * HOUR)
    assert server.client.zcard(keys.tier("loads", version, MINUTE)) == 0
    assert sum(row["n"] for row in line.get("loads", start="0", step="1h")["data"]) == 5_000


def test_a_tier_added_later_is_built_from_the_results_that_are_there(server: RunningServer) -> None:
    plain = Config(CONFIG.streams, {"loads": replace(STAGE, rollups=())})
    fill(Line(plain, server))

    line = Line(CONFIG, server)
    worker = line.worker()
    for _ in range(4):
        worker._next_close_s = 0
        worker.poll_once()

    answer = line.get("loads", start="0", step="1h")
    assert answer["meta"]["tier"] == HOUR
    assert sum(row["n"] for row in answer["data"]) == 5_000


def complete_from(line: Line, **asked: str) -> int | None:
    meta: dict[str, int | None] = line.get("loads", start="0", **asked)["meta"]
    return meta["complete_from"]


def test_an_answer_says_from_when_on_windows_are_kept_in_the_metric_and_in_the_tier_that_answered(
    server: RunningServer,
) -> None:
    line = Line(CONFIG, server)
    fill(line)
    last = max(row["window_start"] for row in line.rows("loads"))
    housekeeping, now_ms = Housekeeping(CONFIG, server.client), int(server.client.time()[0]) * 1_000
    assert [complete_from(line), complete_from(line, step="1m")] == [None, None]

    housekeeping.expire_once(now_ms + HOUR + MINUTE)

    assert complete_from(line) == last + 10 * SECOND
    assert complete_from(line, step="1m") == 0, "the tier has everything since its first window"
    assert line.http.get("/v1/metrics/loads?format=csv").headers["Streamgauge-Complete-From"] == str(last + 10 * SECOND)
    for view in ("latest", "rolling?window=10s"):
        meta = line.http.get(f"/v1/metrics/loads/{view}").get_json()["meta"]
        assert meta["complete_from"] == last + 10 * SECOND

    housekeeping.expire_once(now_ms + 3 * HOUR)

    assert complete_from(line, step="1m") == last + 10 * SECOND, "the minute it is in was the last one"
    assert complete_from(line, step="1h") == 0


def test_windows_before_complete_from_may_be_gone_and_none_after_it(server: RunningServer) -> None:
    line = Line(Config(CONFIG.streams, {"loads": replace(STAGE, rollups=(), allowed_lateness_ms=0)}), server)
    version = line.programs["loads"].version
    fill(line)
    every = {row["window_start"] for row in line.rows("loads")}
    ages = keys.ages("loads", version)
    old = [f"{start}:{start + 10 * SECOND}" for start in (50 * SECOND, 600 * SECOND, 20 * SECOND)]
    server.client.zadd(ages, dict.fromkeys(old, 1))

    assert Housekeeping(line.config, server.client).expire_once().results == 3

    assert complete_from(line) == 610 * SECOND
    kept = {row["window_start"] for row in line.rows("loads")}
    assert every - kept == {50 * SECOND, 600 * SECOND, 20 * SECOND}
