"""A live reader for tests: what it has read of a stream, event by event, and what it knows by now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from flask import Flask
from werkzeug.test import TestResponse

from api.app import LIVE_HUB, create_app
from api.live_hub import LivePolicy
from pipeline.core.definitions import Config
from tests.servers import RunningServer, wait_for

Row = dict[str, Any]
POLICY = LivePolicy(readers=4, heartbeat_s=0.05, look_ms=10, checks_every_s=0.0)


_apps: list[Flask] = []


def live_app(server: RunningServer, config: Config, policy: LivePolicy = POLICY) -> Flask:
    app = create_app(config, server.url, live=policy)
    _apps.append(app)
    return app


def close_live_apps() -> None:
    """End the streams that tests left open: each keeps a thread that looks every 10 ms, to the end of the run."""
    while _apps:
        _apps.pop().extensions[LIVE_HUB].close()


@dataclass(frozen=True, slots=True)
class Event:
    """One event as a client gets it; a heartbeat is one without a name."""

    name: str
    data: Any
    id: str | None

    @property
    def rows(self) -> list[Row]:
        rows: list[Row] = self.data["data"]
        return rows


def parse(block: bytes) -> Event:
    """One event; every line of it is a field with its value, and there is one line of data."""
    name, data, event_id = "", None, None
    for line in block.decode().split("\n"):
        kind, _, value = line.partition(": ")
        match kind:
            case "event":
                name = value
            case "data":
                assert data is None, "data is one line"
                data = msgspec.json.decode(value)
            case "id":
                event_id = value
            case _:
                assert line in (": heartbeat", "retry: 2000"), line
    return Event(name, data, event_id)


@dataclass(slots=True)
class Reader:
    """A client that connects, reads and connects again where it left off."""

    app: Flask
    path: str
    last_id: str | None = None
    events: list[Event] = field(default_factory=list)
    known: dict[tuple[Any, ...], Row] = field(default_factory=dict)  # rows by metric, window and group
    told: list[tuple[Any, ...]] = field(
        default_factory=list
    )  # (metric, window, group, revision) in order, since a reset
    _answer: TestResponse | None = None
    _blocks: Iterator[bytes] = field(default_factory=lambda: iter(()))

    def connect(self) -> None:
        headers = {"Last-Event-ID": self.last_id} if self.last_id is not None else {}
        self._answer = self.app.test_client().get(self.path, headers=headers)
        assert self._answer.status_code == 200, self._answer.text
        self._blocks = _blocks(iter(self._answer.response))  # type: ignore[arg-type]

    def disconnect(self) -> None:
        assert self._answer is not None
        self._answer.close()
        self._answer = None

    def read(self) -> Event:
        """The next event, heartbeats too."""
        event = parse(next(self._blocks))
        if event.name:
            self.events.append(event)
        if event.id is not None:
            self.last_id = event.id
        if event.name == "reset":
            metric = event.data["metric"]
            self.known = {key: row for key, row in self.known.items() if key[0] != metric}
            self.told = [each for each in self.told if each[0] != metric]
        if event.name in ("snapshot", "rows"):
            self._learn(event)
        return event

    def read_quiet(self) -> None:
        """Read until there is nothing more: the hub has read all there is, and a heartbeat comes after it."""
        while self.read().name:
            pass
        hub = self.app.extensions[LIVE_HUB]
        topics = hub._topics.values()
        wait_for(lambda: not any(topic.feed.after(topic.position, 1).entries for topic in topics), "the hub to read")
        while self.read().name:
            pass

    def _learn(self, event: Event) -> None:
        for row in event.rows:
            group = tuple(value for name, value in row.items() if name in ("page", "user", "k"))
            key = (event.data["metric"], row["window_start"], row["window_end"], *group)
            self.known[key] = row
            self.told.append((*key, row["revision"]))


def _blocks(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Events of a stream that comes in any pieces."""
    rest = b""
    for chunk in chunks:
        rest += chunk
        *whole, rest = rest.split(b"\n\n")
        yield from whole
    assert rest == b""
