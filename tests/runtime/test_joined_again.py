"""Everything a log may hold at once, recomputed: a table reloaded in mid-stream, exploded lists, a registered function,
old data in closed windows, and late rows replayed to one stage, through every kind of window that has panes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest

import pipeline
from pipeline import transform
from pipeline.core.definitions import (
    DAY_MS,
    Aggregate,
    AggregateSpec,
    Calendar,
    Config,
    Field,
    Hopping,
    Lookup,
    Session,
    Stream,
    TimePolicy,
    Transform,
    Tumbling,
)
from pipeline.core.partitioning import partition_of
from pipeline.core.registered_transforms import TRANSFORMS
from pipeline.errors import BadRequestError, FrameError
from pipeline.rim import keys, store
from pipeline.rim.expiry import Kept, expire_results
from pipeline.rim.replies import parse_hash
from pipeline.rim.scripts import Scripts
from pipeline.runtime.explain_event import EventExplained, event_named
from pipeline.runtime.explain_subject import window_named
from pipeline.runtime.explain_window import explain_window
from pipeline.runtime.query import Metrics
from pipeline.runtime.scheduler import Housekeeping
from pipeline.runtime.verify import verify
from pipeline.runtime.verify_report import MetricReport, report_lines
from tests.kept_lines import filled_once
from tests.line import Line
from tests.servers import RunningServer
from tests.visits import LineClient

BASE_MS = 1_700_000_040_000
TABLE = "sites.csv"
FIELDS = (
    Field("ts", "timestamp"),
    Field("sensor", "string"),
    Field("ms", "float", nullable=True),
    Field("tags", "list", item="string", nullable=True),
)
STREAM = Stream("visits", FIELDS, TimePolicy("ts", disorder_ms=2_000), partition_by="sensor", partitions=2)
VALUES = (
    AggregateSpec("n", "count"),
    AggregateSpec("sum_ms", "sum", "ms"),
    AggregateSpec("letters", "sum", "letters"),
    AggregateSpec("sensors", "distinct", "sensor"),
    AggregateSpec("p90", "quantile", "ms", 0.9),
)
METRICS = ("by_site", "hops", "daily", "stays")
LEDGER = ("read", "accepted", "filtered", "late", "dead")


@transform("joined_again_letters", returns={"letters": "int"})
def letters(frame: pl.DataFrame) -> pl.DataFrame:
    """Leave rows tagged `out` out, fail on those tagged `bad`, and measure the site's name."""
    if (frame["tags"] == "bad").any():
        raise RuntimeError("a bad tag")
    return frame.filter(pl.col("tags") != "out").with_columns(pl.col("site").str.len_chars().alias("letters"))


def configured(folder: Path) -> Config:
    sites = {"site": Lookup(TABLE, "sensor", "sensor", "site", "string", "string")}
    function = TRANSFORMS["joined_again_letters"].definition
    stages = (
        Transform("placed", "visits", lookup=sites, explode="tags", python=function, publish=True),
        Aggregate("by_site", "placed", Tumbling(10_000), ("site", "tags"), VALUES),
        Aggregate("hops", "placed", Hopping(30_000, 10_000), ("site",), VALUES, allowed_lateness_ms=5_000),
        Aggregate("daily", "placed", Calendar("day", "Europe/Paris"), (), VALUES),
        Aggregate("stays", "placed", Session(5_000), ("sensor",), VALUES),
    )
    return Config({"visits": STREAM}, {stage.name: stage for stage in stages}, folder=str(folder))


def write(folder: Path, sites: Mapping[str, str]) -> None:
    fresh = folder / "fresh"
    fresh.write_text("".join(f"{key},{value}\n" for key, value in {"sensor": "site", **sites}.items()))
    os.replace(fresh, folder / TABLE)


def seen(second: float, number: int) -> dict[str, Any]:
    tags = (["x", "y"], ["x"], ["y", "out"], ["out"], [], None, ["x", "bad"], ["x", "y", "y"])[number % 8]
    ms = None if number % 5 == 0 else 10.0 ** (number % 9) / 7
    event = {"ts": BASE_MS + int(second * 1_000), "sensor": "abd"[number % 3], "ms": ms, "tags": tags}
    return {name: value for name, value in event.items() if value is not None}


def send(line: Line, seconds: float, first: int, count: int = 40) -> None:
    """Events from a second on, each to its sensor's partition, a few of them out of order."""
    sent = [seen(seconds + n / 4 - (30 if n % 13 == 12 else 0), first + n) for n in range(count)]
    for partition in (0, 1):
        events = [event for event in sent if partition_of(event["sensor"], 2) == partition]
        times = [event["ts"] for event in events]
        line.chunk("visits", events, partition=partition, times_ms=times)


def post(line: Line, path: str, body: Any) -> Any:
    answer = line.http.post(path, json=body)
    assert answer.status_code == 202, answer.text
    return answer.get_json()


def old_data(line: Line, second: float, first: int, count: int = 10) -> None:
    """Data of long ago: some of it lands in windows that have closed."""
    post(line, "/v1/streams/visits/events?backfill=true", [seen(second + n, first + n) for n in range(count)])


LAST_SITES = {"a": "elsewhere"}


@pytest.fixture
def line(server: RunningServer, tmp_path: Path) -> Line:
    def begin() -> Line:
        write(tmp_path, LAST_SITES if server.client.dbsize() else {"a": "attic", "b": "barn"})
        return Line(configured(tmp_path), server)

    return filled_once("joined", server, begin, fill)


def fill(line: Line) -> None:
    folder = Path(str(line.config.folder))
    send(line, 40, 0)
    write(folder, {"a": "annex", "d": "cellar"})
    assert Housekeeping(line.config, line.client).reload_tables_once() == 2
    send(line, 50, 7)
    line.settle()
    send(line, 100, 3)
    line.settle()
    old_data(line, 45, 5)
    old_data(line, 150, 9)  # newer than any event: it moves no time, so the next ones are not late
    send(line, 104, 4, count=8)
    send(line, 62, 11, count=8)  # late for some windows or all
    line.settle()
    up_to = line.http.get("/v1/late?stage=by_site").get_json()["up_to"]
    replayed = post(line, "/v1/late/replay", {"stage": "by_site", "all": True, "up_to": up_to})
    assert replayed["replayed"] > 3
    write(folder, LAST_SITES)
    assert Housekeeping(line.config, line.client).reload_tables_once() == 2
    line.settle()
    for partition in (0, 1):
        line.tick("visits", BASE_MS + 2 * DAY_MS, partition=partition)
    line.settle()
    old_data(line, 70, 2)
    line.settle()


def reports(line: Line, *names: str) -> dict[str, MetricReport]:
    return {report.metric: report for report in verify(line.client, line.config, names)}


def events_of(line: Line) -> list[EventExplained]:
    raw = LineClient(line).raw("visits")
    events = raw[raw["_kind"].isin(["row", "chunk"])]
    places = zip(events["_partition"], events["_position"], strict=True)
    return [event_named(line.client, line.config, f"visits:{number}:{place}") for number, place in places]


def test_all_of_it_is_equal(line: Line) -> None:
    found = reports(line)

    for name, report in found.items():
        assert report.differences == []
        assert report.unchecked is None
        assert (report.not_checkable, report.old_data, report.pending, report.moved) == (0, 0, 0, 0)
        assert (report.windows > 0, report.panes > 0, report.groups > 0) == (True, name != "stays", True)
    checkpoint = store.load_checkpoint(line.client, "visits", 0, line.programs["by_site"].group)
    assert (checkpoint.backfilled > 0, checkpoint.replayed > 0, checkpoint.dead > 0) == (True,) * 3
    assert max(row["revision"] for row in line.rows("by_site")) > 0
    assert {row["site"] for row in line.rows("by_site")} == {"attic", "barn", "annex", "cellar", None, "elsewhere"}


def test_one_cell_changed_by_hand_is_found(line: Line) -> None:
    program = line.programs["hops"]
    [start, *_] = sorted(store.pane_marks(line.client, "visits", 0, program.group))
    key = keys.pane("visits", 0, program.group, start)
    stored = parse_hash(line.client.execute_command("HGETALL", key))
    name, cell = next((name, cell) for name, cell in stored.items() if b"\0" not in name)
    line.client.hset(key, name, cell[:1] + (int.from_bytes(cell[1:9], "little") + 1).to_bytes(8, "little") + cell[9:])

    found = reports(line)

    assert [each.n_differences for each in found.values()] == [0, 1, 0, 0]
    [difference] = found["hops"].differences
    assert (difference.where, difference.partition, difference.group) == ("pane", 0, name.decode())
    assert difference.stored == difference.recomputed + 1


def test_a_table_that_the_checkpoint_has_otherwise_is_found(line: Line) -> None:
    group = line.programs["daily"].group
    line.client.hset(keys.checkpoint("visits", 1, group), f"table:{TABLE}", "ab")

    [difference] = reports(line, "daily")["daily"].differences

    assert (difference.where, difference.field, difference.stored) == ("time", f"table {TABLE}", "ab")


def test_without_its_function_nothing_is_computed_again(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(TRANSFORMS, "joined_again_letters")

    report = reports(line, "by_site")["by_site"]

    assert report.unchecked is not None
    assert "another text of the function 'joined_again_letters'" in report.unchecked
    for fate in events_of(line)[0].stages:
        assert fate.outcome == "not known"
        assert "another text of the function 'joined_again_letters'" in (fate.error or "")
    with pytest.raises(FrameError, match="calls the function 'joined_again_letters'"):
        pipeline.batch(line.config, pd.DataFrame({"ts": [BASE_MS]}))
    [span, *_] = store.published_windows(line.client, "by_site", report.version)
    program = Metrics(line.config, line.client).program("by_site")
    with pytest.raises(BadRequestError, match="another text of the function"):
        explain_window(line.client, line.config, window_named(program, *span, None))


def test_a_content_that_is_gone_is_said_not_to_be_checked(line: Line) -> None:
    for key in line.client.keys("{streamgauge}:table:*"):
        line.client.delete(key)
    report = reports(line, "by_site")["by_site"]
    assert report.unchecked is not None
    assert "names this content of a lookup table, and it is not there" in report.unchecked
    assert report.n_differences == 0


def test_what_expired_about_when_old_data_came_is_not_checkable_and_no_difference(line: Line) -> None:
    stage = line.config.stages["by_site"]
    assert isinstance(stage, Aggregate)
    program = line.programs["by_site"]
    now_ms = store.redis_time_ms(line.client)
    for start, end in store.published_windows(line.client, "by_site", program.version):
        published_ms = now_ms - 2 * stage.retention_ms if end <= BASE_MS + 60_000 else now_ms
        line.client.zadd(keys.ages("by_site", program.version), {f"{start}:{end}": published_ms})
    kept = Kept(STREAM, stage, program.version)
    assert expire_results(line.client, Scripts(line.client), kept, stage.retention_ms, now_ms).results > 0
    old_data(line, 50, 1)  # of which some had expired by then, for certain; that is not in the log
    line.settle()
    short = replace(line.config, stages={**line.config.stages, "by_site": replace(stage, retention_ms=0)})

    [report] = verify(line.client, short, ["by_site"])

    reasons = Counter(row["reason"] for number in (0, 1) for row in line.late("by_site", number))
    assert reasons["expired"] > 0
    assert report.differences == []
    assert (report.windows > 0, report.old_data) == (True, 2)
    said = "\n".join(report_lines([report]))
    assert "2 ledgers with old data that was sent while results expired" in said


def test_every_event_is_explained_in_every_stage_as_the_books_have_it(line: Line) -> None:
    events = events_of(line)

    for name in (*METRICS, "placed"):
        outcomes = Counter(fate.outcome for each in events for fate in each.stages if fate.stage == name)
        group = next(fate.group for fate in events[0].stages if fate.stage == name)
        books = [store.load_checkpoint(line.client, "visits", number, group) for number in (0, 1)]
        told = {each: outcomes[each] for each in ("filtered", "late", "dead")}
        assert told == {each: sum(getattr(book, each) for book in books) for each in told}
        assert outcomes["accepted"] + outcomes["published"] == sum(book.accepted for book in books)
        assert outcomes["not for it"] == len(events) - sum(book.read for book in books)
        assert (outcomes["not for it"] == 0) == (name == "by_site")
    exploded = [each for each in events if '"tags":["x","y","y"]' in each.event.replace(" ", "")]
    assert max(len(fate.counted) for each in exploded for fate in each.stages if fate.stage == "by_site") == 3


def test_the_accounts_of_all_windows_are_the_books(line: Line) -> None:
    program = line.programs["by_site"]
    spans = {(row["window_start"], row["window_end"]) for row in line.rows("by_site")}
    late_ms = [int(row["time"]) for number in (0, 1) for row in line.late("by_site", number)]
    spans |= {(ms - ms % 10_000, ms - ms % 10_000 + 10_000) for ms in late_ms}

    accounts = [
        explain_window(line.client, line.config, window_named(program, *span, None)).account for span in sorted(spans)
    ]

    books = [store.load_checkpoint(line.client, "visits", number, program.group) for number in (0, 1)]
    assert sum(each.accepted for each in accounts) == sum(book.accepted for book in books)
    assert sum(each.late for each in accounts) == sum(book.late for book in books)
    assert sum(each.dead or 0 for each in accounts) == sum(book.dead for book in books)
    rows = {row["window_start"] for row in line.rows("by_site") if row["site"] == "annex"}
    chosen = [
        explain_window(
            line.client, line.config, window_named(program, *span, lambda group: b'"annex"' in group)
        ).account
        for span in sorted(spans)
    ]
    assert {span[0] for span, each in zip(sorted(spans), chosen, strict=True) if each.accepted} == rows


def test_a_frame_of_the_raw_log_gives_the_numbers_of_the_api(line: Line) -> None:
    client = LineClient(line)
    raw = client.raw("visits")

    again = pipeline.batch(line.config, raw)

    assert again.metrics == METRICS
    for name in METRICS:
        told = client.metric(name, start="1970-01-01", limit=100_000)
        found = again.metric(name)
        pd.testing.assert_frame_equal(found.drop(columns="revision"), told.drop(columns="revision"), check_exact=True)
        ledger, stage = again.ledger(name), client.get(f"/v1/stages/{name}")["ledger"]
        assert {n: getattr(ledger, n) for n in LEDGER} == {n: stage[n] for n in LEDGER}
        assert len(again.late(name)) == stage["late"]
        assert again.dead(name)["events"].sum() == stage["dead"]
    shuffled = pipeline.batch(line.config, raw.sample(frac=1.0, random_state=1))
    pd.testing.assert_frame_equal(shuffled.metric("by_site"), again.metric("by_site"))
    for change, said in (
        ({"_content": None}, "the DataFrame does not bring it"),
        ({"_content": raw["_content"].str.slice(4)}, "is damaged"),
        ({"_backfill": 1.0}, "neither true nor false"),
    ):
        with pytest.raises(FrameError, match=said):
            pipeline.batch(line.config, raw.assign(**change))


def test_a_log_that_was_trimmed_brings_the_tables_at_its_cut(line: Line) -> None:
    house = Housekeeping(replace(line.config, streams={"visits": replace(STREAM, retention_ms=1)}), line.client)
    house.trim_once()
    house.trim_once(store.redis_time_ms(line.client) + DAY_MS)
    send(line, 3 * DAY_MS / 1_000, 0)
    for partition in (0, 1):
        line.tick("visits", BASE_MS + 6 * DAY_MS, partition=partition)
    line.settle()
    client = LineClient(line)

    raw = client.raw("visits")

    assert raw["_kind"].tolist().count("cut") == 2
    assert raw[raw["_kind"] == "control"]["_table"].tolist() == [TABLE, TABLE]
    for name, report in reports(line, *METRICS).items():
        assert (report.n_differences, report.unchecked, report.windows > 0) == (0, None, True)
        found = pipeline.batch(line.config, raw).metric(name)
        told = client.metric(name, start="1970-01-01", limit=100_000)
        behind = told[told.index >= found.index.min()]
        pd.testing.assert_frame_equal(found.drop(columns="revision"), behind.drop(columns="revision"), check_exact=True)


def test_rows_without_a_log_join_with_the_file_as_it_is_now(line: Line, tmp_path: Path) -> None:
    frame = pl.DataFrame({"ts": [BASE_MS, BASE_MS], "sensor": ["a", "b"], "tags": [["x"], ["y"]]})

    assert pipeline.batch(line.config, frame).metric("hops")["site"].dropna().unique().tolist() == ["elsewhere"]

    (tmp_path / TABLE).unlink()
    with pytest.raises(FrameError, match=r"sites\.csv cannot be read"):
        pipeline.batch(line.config, frame)


@pytest.mark.parametrize("content", ["ab", "0" * 32, "x" * 32])
def test_a_content_that_is_not_there_is_a_404(line: Line, content: str) -> None:
    answer = line.http.get(f"/v1/tables/{content}")

    assert (answer.status_code, answer.get_json()["code"]) == (404, "unknown_table")
