"""The Python client against the HTTP contract, with the network failing on order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from api.client import (
    Client,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    RejectedError,
    StreamgaugeError,
    UnavailableError,
)
from tests.fake_api import FakeApi, fake_api

VIEWS = {
    "metric": "views",
    "group": [{"name": "section", "type": "string"}],
    "values": [{"name": "views", "type": "int"}, {"name": "load", "type": "float"}],
}
META = {
    "start": 0,
    "end": 120_000,
    "step": 60_000,
    "watermark": 119_000,
    "complete_to": 60_000,
    "complete_by": "events",
    "unit": {"views": None, "load": "ms"},
    "truncated": False,
    "capped": [],
    "failed": [],
}


COLUMNS: list[dict[str, str | None]] = [
    {"name": "window_start", "kind": "window", "type": "timestamp", "unit": None},
    {"name": "window_end", "kind": "window", "type": "timestamp", "unit": None},
    {"name": "state", "kind": "window", "type": "string", "unit": None},
    {"name": "revision", "kind": "window", "type": "int", "unit": None},
    {"name": "section", "kind": "group", "type": "string", "unit": None},
    {"name": "views", "kind": "value", "type": "int", "unit": None},
    {"name": "load", "kind": "value", "type": "float", "unit": "ms"},
]


def answer(*rows: dict[str, object], next: str | None = None, **meta: object) -> dict[str, object]:
    data = {str(column["name"]): [row[str(column["name"])] for row in rows] for column in COLUMNS}
    return {"data": data, "meta": {**META, "columns": COLUMNS, **meta}, "next": next}


def row(window_start: int, section: str | None, views: int, load: float | None) -> dict[str, object]:
    return {
        "window_start": window_start,
        "window_end": window_start + 60_000,
        "state": "closed",
        "revision": 0,
        "section": section,
        "views": views,
        "load": load,
    }


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as fake:
        fake.metrics.append(VIEWS)
        fake.stream("s", {"value": "float", "count": "int?"})
        yield fake


class Naps:
    """A sleep that only moves its own clock."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)

    def clock(self) -> float:
        return sum(self.taken)


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
def client(api: FakeApi, naps: Naps) -> Iterator[Client]:
    with Client(api.url, sleep=naps.sleep, clock=naps.clock) as connected:
        yield connected


def test_rows_are_sent_in_order_and_in_batches(api: FakeApi, client: Client) -> None:
    result = client.send("s", [{"value": n} for n in range(7)], batch=3)
    assert api.batches == [3, 3, 1]
    assert [r["value"] for r in api.rows["s"]] == list(range(7))
    assert (result.accepted, result.rejected, result.duplicates, result.skew_ms) == (7, 0, 0, 3)


def test_a_dataframe_is_sent_with_its_named_index_and_nulls(api: FakeApi, client: Client) -> None:
    index = pd.DatetimeIndex(["2020-01-01", "2020-01-02"], tz="Europe/Paris", name="ts")
    frame = pd.DataFrame({"value": [1.5, float("nan")], "user": pd.array([None, "ada"], dtype="str")}, index=index)
    frame["count"] = pd.array([1, None], dtype="Int64")
    frame["seen"] = pd.to_datetime(["2020-01-01", "NaT"])

    with pytest.raises(RejectedError):  # the fake door takes no null value
        client.send("s", frame.iloc[1:])
    client.send("s", frame.iloc[:1])

    assert api.rows["s"] == [
        {
            "ts": "2019-12-31T23:00:00.000+00:00",
            "value": 1.5,
            "user": None,
            "count": 1,
            "seen": "2020-01-01T00:00:00.000+00:00",
        }
    ]


def test_integers_that_pandas_made_floats_go_as_the_floats_they_are(api: FakeApi, client: Client) -> None:
    frame = pd.DataFrame({"value": [1.0, 2.0, 3.0], "count": [1, None, 2.5]})
    client.send("s", frame)
    assert [repr(row["count"]) for row in api.rows["s"]] == ["1.0", "None", "2.5"], (
        "the door reads whole floats as integers"
    )
    assert [repr(row["value"]) for row in api.rows["s"]] == ["1.0", "2.0", "3.0"]


@pytest.mark.parametrize("failure", ["busy", "away", "lost"])
def test_a_batch_that_fails_for_now_is_sent_again_and_counts_once(
    api: FakeApi, client: Client, naps: Naps, failure: str
) -> None:
    api.failures.extend([None, failure])  # type: ignore[list-item]

    result = client.send("s", [{"value": n} for n in range(4)], batch=2)

    assert api.posts == 3
    assert [r["value"] for r in api.rows["s"]] == [0, 1, 2, 3]
    assert result.accepted == 4
    if failure != "lost":
        assert naps.taken == [2.0], "Retry-After was not honoured"


def test_patience_ends(api: FakeApi, client: Client, naps: Naps) -> None:
    api.failures.extend(["away"] * 1000)
    with pytest.raises(UnavailableError, match="503 later"):
        client.send("s", [{"value": 1}])
    assert 55 < sum(naps.taken) <= 60


def test_an_api_that_never_answered_is_given_up_soon(naps: Naps) -> None:
    with (
        Client("http://127.0.0.1:9", sleep=naps.sleep, clock=naps.clock) as nobody,
        pytest.raises(UnavailableError, match="streamgauge up"),
    ):
        nobody.streams()
    assert sum(naps.taken) <= 2


def test_a_refused_row_is_reported_with_its_index_in_what_was_sent(client: Client) -> None:
    result = client.send("s", [{"value": 1}, {"value": 2}, {"value": 3}, {"value": "x"}], batch=3)
    assert (result.accepted, result.rejected) == (3, 1)
    assert [(e.index, e.field, e.message) for e in result.errors] == [(3, "value", "is not a float")]


def test_a_send_of_which_nothing_is_accepted_raises(client: Client) -> None:
    with pytest.raises(RejectedError, match="none of 2 rows was accepted; row 0: value: is not a float") as caught:
        client.send("s", [{"value": "x"}, {"value": "y"}])
    assert caught.value.result.rejected == 2


def test_problems_are_typed_exceptions(api: FakeApi, client: Client) -> None:
    with pytest.raises(NotFoundError, match="there is no /v1/metrics/nope") as missing:
        client.metric("nope")
    assert (missing.value.status, missing.value.title) == (404, "Not found")
    assert isinstance(missing.value, StreamgaugeError)

    api.failures.append("refused")
    with pytest.raises(InvalidRequestError, match="the body is no good"):
        client.send("s", [{"value": 1}])

    client.post_rows("s", b'{"value":1}\n', 1, "key")
    with pytest.raises(ConflictError):
        client.post_rows("s", b'{"value":2}\n', 1, "key")


def test_a_metric_is_a_frame_with_a_utc_index_and_its_completeness(api: FakeApi, client: Client) -> None:
    api.answers["/v1/metrics/views"] = answer(row(0, "blog", 3, 1.5), row(60_000, None, 2, None))

    frame = client.metric("views")

    assert frame.index.name == "window_start"
    assert list(frame.index) == [pd.Timestamp(0, tz="UTC"), pd.Timestamp(60, unit="s", tz="UTC")]
    assert list(frame.columns) == ["window_end", "state", "revision", "section", "views", "load"]
    assert frame["views"].tolist() == [3, 2]
    assert frame["load"].isna().tolist() == [False, True]
    assert frame.attrs == {
        "metric": "views",
        "units": {"views": None, "load": "ms"},
        "groups": ["section"],
        "start": "1970-01-01T00:00:00.000+00:00",
        "end": "1970-01-01T00:02:00.000+00:00",
        "step": 60_000,
        "tz": None,
        "tier": None,
        "watermark": "1970-01-01T00:01:59.000+00:00",
        "complete_from": None,
        "complete_to": "1970-01-01T00:01:00.000+00:00",
        "complete_by": "events",
        "truncated": False,
        "capped": [],
        "failed": [],
    }
    assert len(frame[frame["window_end"] <= frame.attrs["complete_to"]]) == 1


def test_an_empty_answer_has_the_dtypes_of_a_full_one(api: FakeApi, client: Client) -> None:
    api.answers["/v1/metrics/views"] = answer(row(0, "blog", 3, 1.5))
    full = client.metric("views")
    api.answers["/v1/metrics/views"] = answer(row(0, None, 3, None))
    nulls = client.metric("views")
    api.answers["/v1/metrics/views"] = answer(watermark=None)
    empty = client.metric("views")

    assert len(empty) == 0
    assert empty.attrs["watermark"] is None
    for frame in (nulls, empty):
        assert frame.dtypes.to_dict() == full.dtypes.to_dict()
        assert frame.index.dtype == full.index.dtype == "datetime64[ms, UTC]"
    assert full.dtypes.astype(str).to_dict() == {
        "window_end": "datetime64[ms, UTC]",
        "state": "str",
        "revision": "Int64",
        "section": "str",
        "views": "Int64",
        "load": "float64",
    }


def test_more_rows_than_a_page_come_in_pages_and_each_once(
    api: FakeApi, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row(start * 60_000, section, 1, None) for start in range(5) for section in "abc"]
    monkeypatch.setattr("api.metric_reading.PAGE_ROWS", 4)

    def page(query: dict[str, list[str]]) -> dict[str, object]:
        first = int(query.get("cursor", ["0"])[0])
        after = first + int(query["limit"][0])
        left = after < len(rows)
        return answer(
            *rows[first:after], next=str(after) if left else None, truncated=left, capped=["load"] * (not left)
        )

    api.computed["/v1/metrics/views"] = page
    frame = client.metric("views", order="-views")
    assert frame.reset_index()[["window_start", "section"]].duplicated().sum() == 0
    assert len(frame) == 15
    assert (frame.attrs["truncated"], frame.attrs["capped"]) == (False, ["load"])
    assert all(query["order"] == ["-views"] and query["format"] == ["columns"] for _, query in api.queries)

    for limit, truncated in ((4, True), (6, True), (15, False), (20, False)):
        some = client.metric("views", limit=limit)
        assert (len(some), some.attrs["truncated"]) == (min(limit, 15), truncated)


def test_a_metric_is_asked_for_in_the_words_of_the_api(api: FakeApi, client: Client) -> None:
    api.answers["/v1/metrics/views"] = answer()
    client.metric(
        "views",
        start="-1h",
        end=datetime(2020, 1, 1, tzinfo=UTC),
        step=timedelta(minutes=5),
        tz="Europe/Paris",
        group_by=["section", "country"],
        where={"section": "a&b", "bot": True, "country": ["fr", "de"]},
        agg="views",
        order="-views",
        limit=10,
        other=True,
        fill="zero",
        state="closed",
    )
    assert api.queries[0] == (
        "/v1/metrics/views",
        {
            "start": ["-1h"],
            "end": ["2020-01-01T00:00:00.000+00:00"],
            "step": ["5m"],
            "tz": ["Europe/Paris"],
            "group_by": ["section,country"],
            "agg": ["views"],
            "order": ["-views"],
            "limit": ["10"],
            "other": ["true"],
            "fill": ["zero"],
            "state": ["closed"],
            "format": ["columns"],
            "where.section": ["a&b"],
            "where.bot": ["true"],
            "where.country": ["fr", "de"],
        },
    )
    for value in (None, [], [None], float("nan")):
        with pytest.raises(ValueError, match="'section' needs a value"):
            client.metric("views", where={"section": value})


def test_the_other_views_of_a_metric_are_the_same_kind_of_frame(api: FakeApi, client: Client) -> None:
    for view in ("latest", "rolling"):
        api.answers[f"/v1/metrics/views/{view}"] = answer(row(0, "blog", 3, 1.5))
    api.answers["/v1/metrics/views/explain"] = {"accounts": {"read": 3}}

    assert client.latest("views")["views"].tolist() == [3]
    assert client.rolling("views", timedelta(minutes=5), at=60_000, where={"section": "blog"})["views"].tolist() == [3]
    assert client.explain("views", pd.Timestamp(0, tz="UTC"), where={"section": "blog"})["accounts"] == {"read": 3}
    assert [query for _, query in api.queries] == [
        {"format": ["columns"]},
        {"window": ["5m"], "at": ["60000"], "where.section": ["blog"], "format": ["columns"]},
        {"start": ["1970-01-01T00:00:00.000+00:00"], "where.section": ["blog"]},
    ]


def test_a_frame_plots_its_values_with_a_line_for_each_group(api: FakeApi, client: Client) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    rows = [row(start, section, start // 60_000, 1.5) for start in (0, 60_000) for section in ("blog", "docs")]
    api.answers["/v1/metrics/views"] = answer(*rows)
    frame = client.metric("views")

    axes = frame.plot()

    assert [line.get_label() for line in axes.lines] == [
        "(load, blog)",
        "(load, docs)",
        "(views, blog)",
        "(views, docs)",
    ]
    assert np.asarray(axes.lines[3].get_ydata()).tolist() == [0, 1]
    assert type(frame[["views"]]) is pd.DataFrame
    assert len(frame.groupby("section")["views"].sum().plot().lines) > 0
    matplotlib.pyplot.close("all")


def test_an_end_may_be_waited_for(api: FakeApi, client: Client, naps: Naps) -> None:
    lags = iter([None, 5, 0, 0])  # no worker has set the stage up yet, then it reads
    stage = {"stage": "views", "kind": "aggregate", "stream": "s"}
    elsewhere = {"stage": "other", "kind": "aggregate", "stream": "t", "lag": {"entries": 9}}
    fused = {"stage": "people", "kind": "transform", "stream": "s", "lag": None}
    api.computed["/v1/stages"] = lambda _: {"stages": [elsewhere, fused, stage | {"lag": {"entries": next(lags)}}]}
    open_rows = iter([[row(0, "blog", 1, None)], []])
    api.computed["/v1/metrics/views"] = lambda _: {"data": next(open_rows)}

    client.end("s", wait=True)

    assert api.ticks == [("s", {"end": True})]
    assert len(naps.taken) == 3, "twice while entries were left, once while a window was open"

    api.computed["/v1/stages"] = lambda _: {"stages": [stage | {"lag": {"entries": 1}}]}
    with pytest.raises(UnavailableError, match="stream s: views is not done after 60 s"):
        client.end("s", wait=True)


def test_time_is_moved_without_data(api: FakeApi, client: Client) -> None:
    client.end("s")
    client.heartbeat("s", datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC))
    assert api.ticks == [("s", {"end": True}), ("s", {"heartbeat": "1970-01-01T00:00:05.000+00:00"})]


def test_a_string_is_not_taken_for_rows(client: Client) -> None:
    with pytest.raises(TypeError, match="list of dicts or a DataFrame"):
        client.send("s", {"value": 1})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="list of dicts or a DataFrame, not a int"):
        client.send("s", 5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="row 1: send takes dicts, one a row, not a int: 5"):
        client.send("s", [{"value": 1}, 5])  # type: ignore[list-item]


def test_an_address_without_a_scheme_is_refused_with_an_example() -> None:
    with pytest.raises(StreamgaugeError, match="it looks like http://"):
        Client("localhost:8080")


def test_a_frame_without_rows_plots_empty_axes(api: FakeApi, client: Client) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    api.answers["/v1/metrics/views"] = answer()

    axes = client.metric("views").plot()

    assert [len(np.asarray(line.get_ydata())) for line in axes.lines] == [0, 0]
    matplotlib.pyplot.close("all")
