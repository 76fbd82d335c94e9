"""A live reader of the client keeps its place over every way in which a connection can break."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from api.client import Client, InvalidRequestError, NotFoundError, StreamgaugeError, UnavailableError
from tests.fake_live import HEARTBEAT, Connection, FakeLive, event, fake_live

VIEWS = {
    "metric": "views",
    "window": {"tumbling_ms": 60_000, "offset_ms": 0},
    "group": [{"name": "section", "type": "string"}],
    "values": [{"name": "views", "type": "int", "unit": None}],
}
META = {"watermark": 130_000, "complete_to": 120_000}


def rows(*starts: int, revision: int = 0) -> list[dict[str, object]]:
    return [
        {
            "window_start": start,
            "window_end": start + 60_000,
            "state": "closed",
            "revision": revision,
            "section": "docs",
            "views": 3,
        }
        for start in starts
    ]


SNAPSHOT = event("snapshot", "views", data=rows(0), meta={**META, "unit": {"views": None}})


def published(*starts: int, id: str, revision: int = 0) -> str:
    return event("rows", "views", data=rows(*starts, revision=revision), meta=META, id=id)


class Naps:
    """A sleep that only moves its own clock."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)

    def clock(self) -> float:
        return sum(self.taken)


@pytest.fixture
def live() -> Iterator[FakeLive]:
    with fake_live() as fake:
        fake.metrics.extend([VIEWS, {**VIEWS, "metric": "other"}])
        yield fake


@pytest.fixture
def naps() -> Naps:
    return Naps()


@pytest.fixture
def client(live: FakeLive, naps: Naps) -> Iterator[Client]:
    with Client(live.url, sleep=naps.sleep, clock=naps.clock) as connected:
        yield connected


def test_frames_come_as_windows_are_published(live: FakeLive, client: Client) -> None:
    live.script.append(
        Connection("retry: 2000\n\n" + SNAPSHOT + HEARTBEAT + published(60_000, 120_000, id="5-0"), then="hold")
    )
    frames = client.live("views", where={"section": ["docs", "blog"]})
    snapshot, published_rows = next(frames), next(frames)

    assert live.asked == [("/v1/metrics/views/live", {"where.section": ["docs", "blog"]}, None)]
    assert (snapshot.attrs["event"], snapshot.attrs["metric"]) == ("snapshot", "views")
    assert published_rows.attrs["event"] == "rows"
    assert published_rows.attrs["complete_to"] == "1970-01-01T00:02:00.000+00:00"
    assert published_rows["views"].tolist() == [3, 3]
    assert snapshot.dtypes.to_dict() == published_rows.dtypes.to_dict()
    assert snapshot.index.dtype == "datetime64[ms, UTC]"


def test_closing_the_iterator_closes_the_connection(live: FakeLive, client: Client) -> None:
    live.script.append(Connection(SNAPSHOT, then="hold"))
    frames = client.live("views")
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert live.gone.wait(5)


def test_a_broken_connection_is_resumed_after_the_last_whole_event(live: FakeLive, client: Client, naps: Naps) -> None:
    cut_off = published(180_000, id="7-0")[:-3]
    live.script += [
        Connection("retry: 500\n\n" + SNAPSHOT + published(60_000, id="5-0") + published(120_000, id="6-0") + cut_off),
        Connection(published(180_000, id="7-0"), then="hold"),
    ]
    frames = client.live("views")
    starts = [int(next(frames).index[0].timestamp()) for _ in range(4)]

    assert starts == [0, 60, 120, 180]
    assert [position for _, _, position in live.asked] == [None, "6-0"]
    assert naps.taken == [0.5]


def test_a_server_without_room_is_asked_again_when_it_said(live: FakeLive, client: Client, naps: Naps) -> None:
    live.script += [
        Connection('{"detail": "no room"}', status=429, headers={"Retry-After": "7"}),
        Connection(SNAPSHOT, then="hold"),
    ]
    assert len(next(client.live("views"))) == 1
    assert naps.taken == [7.0]


def test_a_server_that_says_nothing_is_given_up_when_patience_ends(live: FakeLive, client: Client, naps: Naps) -> None:
    live.script += [Connection(SNAPSHOT), Connection()]
    frames = client.live("views")
    next(frames)
    with pytest.raises(UnavailableError, match="/v1/metrics/views/live: the stream ended"):
        next(frames)
    assert 55 < sum(naps.taken) <= 60
    assert all(pause == 2.0 for pause in naps.taken)


def test_heartbeats_alone_are_life(live: FakeLive, client: Client, naps: Naps) -> None:
    live.script += [Connection(HEARTBEAT)] * 50 + [Connection(SNAPSHOT, then="hold")]
    assert len(next(client.live("views"))) == 1
    assert sum(naps.taken) == 100


def test_a_connection_without_even_heartbeats_is_taken_for_dead(
    live: FakeLive, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.live_reading.SILENCE_S", 0.2)
    live.script += [
        Connection(published(60_000, id="5-0"), then="hold"),
        Connection(published(120_000, id="6-0"), then="hold"),
    ]
    frames = client.live("views")
    assert [len(next(frames)) for _ in range(2)] == [1, 1]
    assert [position for _, _, position in live.asked] == [None, "5-0"]


def test_a_refusal_is_raised_at_once(live: FakeLive, client: Client) -> None:
    live.script.append(Connection('{"detail": "where.sectoin: unknown", "code": "unknown_field"}', status=400))
    with pytest.raises(InvalidRequestError, match="sectoin") as refused:
        next(client.live("views", where={"sectoin": "docs"}))
    assert (refused.value.status, refused.value.code) == (400, "unknown_field")


def test_an_unknown_metric_is_refused_by_the_call_itself(live: FakeLive, client: Client) -> None:
    with pytest.raises(NotFoundError, match="no metric 'vews'; there are views, other"):
        client.live("vews")
    assert live.asked == []


def test_a_reset_is_said_by_the_snapshot_that_follows_it(live: FakeLive, client: Client) -> None:
    reset = event("reset", "views", reason="trimmed", detail="position 5-0 is not in the stream any more")
    live.script.append(Connection(SNAPSHOT + published(60_000, id="5-0") + reset + SNAPSHOT, then="hold"))
    frames = client.live("views")
    said = [next(frames).attrs["reset"] for _ in range(3)]
    assert said == [None, None, "position 5-0 is not in the stream any more"]


def test_windows_missed_before_the_first_position_are_said(live: FakeLive, client: Client) -> None:
    live.script += [Connection(SNAPSHOT), Connection(SNAPSHOT, then="hold")]
    frames = client.live("views")
    assert [next(frames).attrs["reset"] for _ in range(2)] == [
        None,
        "the connection broke before its first position was known",
    ]


def test_several_metrics_come_over_one_connection(live: FakeLive, client: Client) -> None:
    live.script.append(Connection(SNAPSHOT + SNAPSHOT.replace("views", "other", 1), then="hold"))
    frames = client.live(["views", "other"])
    assert [next(frames).attrs["metric"] for _ in range(2)] == ["views", "other"]
    assert live.asked == [("/v1/live", {"metrics": ["views,other"]}, None)]


def test_it_ends_when_its_duration_is_over(live: FakeLive) -> None:
    live.script.append(Connection(SNAPSHOT, then="hold"))
    with Client(live.url) as client:
        assert len(list(client.live("views", duration="200ms"))) == 1
    assert live.gone.wait(5)


def test_data_that_is_no_json_is_an_error_and_not_skipped(live: FakeLive, client: Client) -> None:
    live.script.append(Connection("event: rows\ndata: nonsense\n\n"))
    with pytest.raises(StreamgaugeError, match="not a JSON object: 'nonsense'"):
        next(client.live("views"))
