"""A short line from rows in Redis to HTTP answers: a config, a worker in this process, an app's test client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flask.testing import FlaskClient

from api.app import create_app
from pipeline.core.definitions import Aggregate, AggregateSpec, Config, Field, Stream, TimePolicy, Transform, Tumbling
from pipeline.rim import keys
from pipeline.rim.connection import reader
from pipeline.runtime.setup import set_up
from pipeline.runtime.worker import Worker
from tests.servers import RunningServer, wait_for

BASE = 1_700_000_040_000  # a whole minute, long ago: arrival never holds time back
VISITS = Stream(
    name="visits",
    fields=(
        Field("ts", "timestamp"),
        Field("page", "string", nullable=True),
        Field("ms", "float", nullable=True, measure="ms", description="time to load"),
        Field("bot", "bool", nullable=True),
        Field("status", "int", nullable=True),
    ),
    time=TimePolicy(field="ts", disorder_ms=0, idle_after_ms=None),
    partitions=1,
)
QUIET = Stream(name="quiet", fields=(Field("value", "float", nullable=True),), partitions=2)
PEOPLE = Transform("people", "visits", filter="NOT COALESCE(bot, FALSE)")
BY_PAGE = Aggregate(
    "by_page",
    "people",
    Tumbling(10_000),
    ("page",),
    (AggregateSpec("views", "count"), AggregateSpec("mean_ms", "mean", "ms"), AggregateSpec("last_ms", "last", "ms")),
)
BY_KIND = Aggregate("by_kind", "visits", Tumbling(10_000), ("bot", "status", "ts"), (AggregateSpec("n", "count"),))
CONFIG = Config(
    streams={"visits": VISITS, "quiet": QUIET},
    stages={"people": PEOPLE, "by_page": BY_PAGE, "by_kind": BY_KIND},
    default_stream="visits",
)


@dataclass(slots=True)
class Line:
    """Everything between XADD and an answer."""

    server: RunningServer
    config: Config
    http: FlaskClient
    worker: Worker

    def add(self, second: float, page: str | None = None, ms: float | None = None, **fields: Any) -> bytes:
        """Append one visit, `second` after BASE, as any Redis client would."""
        given = {"ts": BASE + round(second * 1_000), "page": page, "ms": ms, **fields}
        flat = {name: str(value).lower() if isinstance(value, bool) else value for name, value in given.items()}
        entry = {name: value for name, value in flat.items() if value is not None}
        return self.server.client.xadd(keys.raw("visits", 0), entry)  # type: ignore[arg-type,return-value]

    def tick(self, second: float) -> None:
        """Move time to `second` without an event."""
        self.server.client.xadd(keys.raw("visits", 0), {"_k": "tick", "t": BASE + round(second * 1_000)})

    def work(self) -> None:
        """Let the worker do everything there is to do, closing included."""

        def done() -> bool:
            polled = self.worker.poll_once()
            status = self.get("/v1/stages")["stages"]
            behind = any(stage["lag"]["events"] for stage in status if stage["lag"])
            return polled.idle and not behind and not self._closable()

        wait_for(done, "the worker to have nothing left to do")

    def _closable(self) -> bool:
        """Whether a window whose end the watermark has passed is not published yet."""
        metrics = self.get("/v1/metrics")["metrics"]
        return any(
            metric["watermark"] is not None
            and metric["complete_to"] < metric["watermark"] - metric["watermark"] % metric["window"]["tumbling_ms"]
            for metric in metrics
        )

    def get(self, path: str, status: int = 200) -> Any:
        answer = self.http.get(path)
        assert answer.status_code == status, answer.text
        return answer.get_json(force=True)


def make_line(server: RunningServer, config: Config = CONFIG) -> Line:
    set_up(server.client, config)
    app = create_app(config, server.url)
    waiter = reader(server.url, block_ms=1_000)
    return Line(server, config, app.test_client(), Worker(config, server.client, waiter, "w1"))
