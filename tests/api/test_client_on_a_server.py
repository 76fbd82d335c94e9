"""The client against the real API over real sockets: frames of every shape of answer, and a live stream that breaks."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection

import pandas as pd
import pytest
from werkzeug.serving import make_server

import api.live_reading
from api.client import Client, InvalidRequestError
from api.transport import connection_to
from tests.api.line import BASE, Line, make_line
from tests.api.live_reader import live_app
from tests.servers import RunningServer


@pytest.fixture
def line(server: RunningServer) -> Line:
    return make_line(server)


@pytest.fixture
def client(line: Line) -> Iterator[Client]:
    with served(line) as url, Client(url, patience_s=10) as connected:
        yield connected


@contextmanager
def served(line: Line) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, live_app(line.server, line.config), threaded=True)
    server.daemon_threads = True  # type: ignore[attr-defined]  # a live stream ends when its reader has gone
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fill(line: Line) -> None:
    for second, page, ms in ((0, "/a", 10.0), (1, "/b", 20.0), (2, "/a", 30.0), (10, "/a", 50.0), (31, "/b", None)):
        line.add(second, page, ms, bot=False)
    line.work()


def starts(frame: pd.DataFrame) -> list[int]:
    return [(int(start.timestamp() * 1_000) - BASE) // 1_000 for start in frame.index]


def test_a_frame_is_typed_by_what_was_asked_whether_or_not_there_are_rows(line: Line, client: Client) -> None:
    fill(line)
    whole = client.metric("by_page", start=BASE)
    empty = client.metric("by_page", start=BASE - 100_000, end=BASE - 90_000)
    fewer = client.metric("by_page", start=BASE, group_by=[], agg=["views", "mean_ms"], state="closed")
    filled = client.metric("by_page", start=BASE, end=BASE + 30_000, group_by=[], agg="views", fill="zero")

    assert starts(whole) == [0, 0, 10, 30]
    assert (whole["page"].tolist(), whole["views"].tolist()) == (["/a", "/b", "/a", "/b"], [2, 1, 1, 1])
    assert whole.attrs["units"] == {"views": None, "mean_ms": "ms", "last_ms": "ms"}
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == whole.dtypes.to_dict()
    assert list(fewer.columns) == ["window_end", "state", "revision", "views", "mean_ms"]
    assert (fewer["views"].tolist(), fewer["mean_ms"].tolist()) == ([3, 1], [20.0, 50.0])
    assert (starts(filled), filled["views"].tolist()) == ([0, 10, 20], [3, 1, 0])
    assert filled["filled"].tolist() == [False, False, True]


def test_pages_by_cursor_are_the_whole_answer_in_its_order(
    line: Line, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(line)
    asked = {"start": BASE, "order": "-views"}
    whole = client.metric("by_page", **asked)  # type: ignore[arg-type]
    monkeypatch.setattr("api.metric_reading.PAGE_ROWS", 1)
    paged = client.metric("by_page", **asked)  # type: ignore[arg-type]

    pd.testing.assert_frame_equal(paged, whole)
    assert (paged.attrs["truncated"], client.metric("by_page", limit=2, **asked).attrs["truncated"]) == (False, True)  # type: ignore[arg-type]


def test_the_other_views_agree_with_the_metric(line: Line, client: Client) -> None:
    fill(line)
    assert client.latest("by_page")["views"].tolist() == [1]
    rolling = client.rolling("by_page", "30s", at=BASE + 30_000, where={"page": ["/a"]})
    assert (rolling["page"].tolist(), rolling["views"].tolist()) == (["/a"], [3])
    account = client.explain("by_page", pd.Timestamp(BASE, unit="ms", tz="UTC"), where={"page": "/a"})
    assert (account["values"]["views"], account["recomputed"]["views"]) == (2, 2)
    with pytest.raises(InvalidRequestError, match="Did you mean 'page'") as refused:
        client.metric("by_page", where={"pgae": "/a"})
    assert (refused.value.status, refused.value.code != "") == (400, True)


def test_a_live_stream_that_breaks_again_and_again_brings_every_window_once(
    line: Line, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    sockets: list[socket.socket] = []

    def remembered(url: str, timeout_s: float) -> HTTPConnection:
        connection = connection_to(url, timeout_s)
        connect = connection.connect

        def connect_and_remember() -> None:
            connect()
            sockets.append(connection.sock)

        monkeypatch.setattr(connection, "connect", connect_and_remember)
        return connection

    monkeypatch.setattr(api.live_reading, "connection_to", remembered)
    monkeypatch.setattr(client, "_sleep", lambda seconds: None)
    fill(line)
    frames = client.live("by_page")
    seen = starts(next(frames))
    for second in (40, 50, 60, 70):
        line.add(second, "/a", 1.0, bot=False)
        line.work()
        frame = next(frames)
        seen += starts(frame)
        assert (frame.attrs["event"], frame.attrs["reset"]) == ("rows", None)
        sockets[-1].shutdown(socket.SHUT_RDWR)
    frames.close()  # type: ignore[attr-defined]

    assert seen == starts(client.metric("by_page", start=BASE + 10_000, state="closed"))
    assert len(sockets) == 4, "it was opened again after each break"
