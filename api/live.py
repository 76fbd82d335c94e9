"""Live streams as Server-Sent Events: `/v1/metrics/{metric}/live`, and several metrics in one at `/v1/live`.

Invariant: readers are counted before anything is done for them, and requests keep their own threads whatever they do:
the server has a thread for each live reader besides those for requests.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic

import redis
import structlog
from flask import Blueprint, Response, request

from api.live_followers import UNKNOWN, Block, Follower
from api.live_hub import LiveHub
from api.live_parameters import LastEvent, Wheres, check_live_names, last_event, live_metrics, live_wheres
from api.live_policy import LivePolicy
from api.parameters import known_name
from api.problems import problem
from pipeline.core.definitions import Config
from pipeline.errors import TooManyReadersError
from pipeline.rim.connection import is_away
from pipeline.runtime.live_feeds import feed_of
from pipeline.runtime.live_positions import positions_text
from pipeline.runtime.query import Metrics

RETRY_MS = 2_000
RETRY_AFTER_S = 5  # a place becomes free when a reader goes, which nobody knows; and after a restart
HEADERS = {
    "Cache-Control": "no-cache",
    "X-Content-Type-Options": "nosniff",
    "X-Accel-Buffering": "no",  # nginx: pass each event on at once
}

log = structlog.get_logger(__name__)


def live_blueprint(config: Config, client: redis.Redis, policy: LivePolicy) -> tuple[Blueprint, LiveHub]:
    """The endpoints, and the hub to be closed when the server stops."""
    blueprint = Blueprint("live", __name__)
    metrics = Metrics(config, client)
    hub = LiveHub(client, metrics, policy)
    places = Places(policy.readers)

    def answer(names: Sequence[str]) -> Response:
        programs = [metrics.program(name) for name in names]
        for program in programs:
            feed_of(client, program)
        wheres = live_wheres(request.args, programs)
        last = last_event(request.args, request.headers.get("Last-Event-ID"))
        if hub.closed.is_set():
            retry = {"Retry-After": str(RETRY_AFTER_S)}
            return problem(503, "stopping", "The server is stopping; connect again in a moment.", headers=retry)
        if request.method == "HEAD":
            return Response(status=200, headers=HEADERS, content_type="text/event-stream")
        stream = LiveStream(hub, names, wheres, last, places.take())
        response = Response(stream.events(), 200, HEADERS, content_type="text/event-stream")
        response.call_on_close(stream.close)
        return response

    @blueprint.get("/v1/metrics/<metric>/live")
    def follow_metric(metric: str) -> Response:
        known_name("metric", metric, metrics.programs)
        check_live_names(request.args, several=False)
        return answer([metric])

    @blueprint.get("/v1/live")
    def follow_metrics() -> Response:
        check_live_names(request.args, several=True)
        return answer(live_metrics(request.args, metrics.programs))

    return blueprint, hub


@dataclass(slots=True)
class Places:
    """How many live readers there may be, and are."""

    most: int
    taken: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self) -> Callable[[], None]:
        """Take a place; return what gives it back.

        Raises:
            TooManyReadersError: there is none.
        """
        with self._lock:
            if self.taken >= self.most:
                raise TooManyReadersError(
                    f"{self.most} live readers are connected, which is the most this server takes. Close some, follow "
                    "several metrics in one stream with /v1/live?metrics=…, or ask for /latest now and then",
                    retry_after_s=RETRY_AFTER_S,
                )
            self.taken += 1
        return self._give_back

    def _give_back(self) -> None:
        with self._lock:
            self.taken -= 1


class LiveStream:
    """One reader's stream of events, from its first to when either side goes."""

    def __init__(
        self, hub: LiveHub, names: Sequence[str], wheres: Wheres, last: LastEvent, give_back: Callable[[], None]
    ) -> None:
        self._hub = hub
        self._names = names
        self._wheres = wheres
        self._last = last
        self._give_back = give_back
        self._wake = threading.Event()
        self._joined: list[str] = []
        self._closing = threading.Lock()
        self._is_closed = False

    def close(self) -> None:
        """Give the place back; called when the stream has ended, however it did, or before it began."""
        with self._closing:
            if self._is_closed:
                return
            self._is_closed = True
        for name in self._joined:
            self._hub.leave(name, self._wake)
        self._give_back()

    def events(self) -> Iterator[bytes]:
        """The bytes of the stream; each is sent before the next is made."""
        yield b"retry: %d\n\n" % RETRY_MS
        try:
            yield from self._events()
        except redis.exceptions.RedisError as error:
            if not is_away(error):
                raise
            log.warning("a live stream ends: Redis is away; its reader comes again", why=str(error))

    def _events(self) -> Iterator[bytes]:
        hub, heartbeat_s = self._hub, self._hub.policy.heartbeat_s
        followers: dict[str, Follower] = {}
        for name in self._names:
            self._joined.append(name)
            followers[name] = Follower(hub.metrics, hub.join(name, self._wake), self._wheres[name])
            if first := self._begin(followers[name]):
                yield sse(first, followers)
        silent_since = monotonic()
        while not hub.closed.is_set():
            self._wake.clear()
            moved = False
            for follower in followers.values():
                blocks = follower.step()
                moved = moved or blocks is not None
                if blocks:
                    yield sse(blocks, followers)
                    silent_since = monotonic()
            left_s = silent_since + heartbeat_s - monotonic()
            if left_s <= 0:
                yield b": heartbeat\n\n"
                silent_since = monotonic()
            elif not moved and not hub.closed.is_set():
                self._wake.wait(left_s)

    def _begin(self, follower: Follower) -> list[Block]:
        if self._last.positions is None:
            return follower.begin_again(UNKNOWN)
        return follower.resume(self._last.positions.get(follower.metric))


def sse(blocks: Sequence[Block], followers: Mapping[str, Follower]) -> bytes:
    """Events as they go over the wire; the last one's id says where the reader is in every metric that has begun."""
    parts = [b"event: %b\ndata: %b\n" % (block.event.encode(), block.data) for block in blocks]
    if all(follower.is_resumable for follower in followers.values()):
        known = [(name, each.position) for name, each in followers.items() if each.position is not None]
        parts[-1] += b"id: %b\n" % positions_text(known).encode()
    return b"".join(part + b"\n" for part in parts)
