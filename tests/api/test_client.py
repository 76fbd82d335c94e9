"""The Python client against the HTTP contract, with the network failing on order."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

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
        {"ts": 1_577_833_200_000, "value": 1.5, "user": None, "count": 1, "seen": 1_577_836_800_000}
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
    rows = [row(0, "blog", 3, 1.5), row(60_000, None, 2, None)]
    api.answers["/v1/metrics/views"] = {"data": rows, "meta": META, "next": None}

    frame = client.metric("views")

    assert frame.index.name == "window_start"
    assert list(frame.index) == [pd.Timestamp(0, tz="UTC"), pd.Timestamp(60, unit="s", tz="UTC")]
    assert list(frame.columns) == ["window_end", "state", "revision", "section", "views", "load"]
    assert frame["views"].tolist() == [3, 2]
    assert frame["load"].isna().tolist() == [False, True]
    assert frame.attrs == {
        "metric": "views",
        "units": {"views": None, "load": "ms"},
        "start": "1970-01-01T00:00:00.000+00:00",
        "end": "1970-01-01T00:02:00.000+00:00",
        "step": 60_000,
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
    api.answers["/v1/metrics/views"] = {"data": [row(0, "blog", 3, 1.5)], "meta": META, "next": None}
    full = client.metric("views")
    api.answers["/v1/metrics/views"] = {"data": [row(0, None, 3, None)], "meta": META, "next": None}
    nulls = client.metric("views")
    api.answers["/v1/metrics/views"] = {"data": [], "meta": {**META, "watermark": None}, "next": None}
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
        first = int(query.get("start", ["0"])[0])
        later = [r for r in rows if int(str(r["window_start"])) >= first]
        return {"data": later[: int(query["limit"][0])], "meta": META, "next": None}

    api.computed["/v1/metrics/views"] = page
    frame = client.metric("views")
    assert frame.reset_index()[["window_start", "section"]].duplicated().sum() == 0
    assert len(frame) == 15
    assert len(client.metric("views", limit=4)) == 4

    with pytest.raises(ValueError, match="pages by window"):
        client.metric("views", order="-views")
    monkeypatch.setattr("api.metric_reading.PAGE_ROWS", 3)
    with pytest.raises(ValueError, match="one window has more than 3 groups"):
        client.metric("views")


def test_a_range_is_asked_for_in_the_words_of_the_api(api: FakeApi, client: Client) -> None:
    api.answers["/v1/metrics/views"] = {"data": [], "meta": META, "next": None}
    client.metric(
        "views",
        start="-1h",
        end=datetime(2020, 1, 1, tzinfo=UTC),
        step=timedelta(minutes=5),
        where={"section": "a&b", "bot": True},
        order="desc",
        limit=10,
    )
    assert api.queries[0] == (
        "/v1/metrics/views",
        {
            "start": ["-1h"],
            "end": ["1577836800000"],
            "step": ["5m"],
            "order": ["desc"],
            "limit": ["10"],
            "where.section": ["a&b"],
            "where.bot": ["true"],
        },
    )
    with pytest.raises(ValueError, match="'section' needs a value"):
        client.metric("views", where={"section": None})


def test_time_is_moved_without_data(api: FakeApi, client: Client) -> None:
    client.end("s")
    client.heartbeat("s", datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC))
    assert api.ticks == [("s", {"end": True}), ("s", {"heartbeat": 5000})]


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
