"""The HTTP contract (DESIGN section 9) in memory, with failures on order, for tests of what talks to it.

Invariant: a row is stored once per idempotency key, as the real door promises, so a test can count doubles and losses.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

import polars as pl

from pipeline.core.ndjson import plain_value

ARROW_START = b"\xff\xff\xff\xff"
# busy: 429 with Retry-After. away: 503 with Retry-After. lost: stored, and the connection closed without an answer.
Failure = Literal["busy", "away", "lost", "refused"]


@dataclass
class FakeApi:
    """What is stored, what was asked, and what goes wrong next."""

    url: str = ""
    streams: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)  # path → body of a GET
    computed: dict[str, Callable[[dict[str, list[str]]], dict[str, Any]]] = field(default_factory=dict)  # of the query
    texts: dict[str, Callable[[], str]] = field(default_factory=dict)  # path → a text
    rows: dict[str, list[Any]] = field(default_factory=dict)
    batches: list[int] = field(default_factory=list)  # sizes, as stored
    ticks: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    queries: list[tuple[str, dict[str, list[str]]]] = field(default_factory=list)
    keys: dict[str, tuple[bytes, dict[str, Any]]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # the query of each POST
    posts: int = 0
    failures: deque[Failure | None] = field(default_factory=deque)  # one per POST of events

    def stream(
        self, name: str, schema: dict[str, str], *, time: str | None = "ts", watermark: int | None = None
    ) -> None:
        self.streams.append(
            {
                "stream": name,
                "schema": schema,
                "time": {"field": time, "disorder_ms": 5000},
                "partitions": [{"partition": 0, "watermark": watermark}, {"partition": 1, "watermark": None}],
                "watermark": None,
                "max_watermark": watermark,
            }
        )

    def store(self, stream: str, body: bytes, key: str) -> tuple[int, dict[str, Any]]:
        if key in self.keys:
            seen, answer = self.keys[key]
            return (202, answer) if seen == body else (409, {"title": "Conflict", "detail": "key reused"})
        good, errors = [], []
        for index, row in enumerate(_rows(body)):
            if isinstance(row, dict) and isinstance(row.get("value", 0.0), (int, float)):
                good.append(row)
            else:
                errors.append({"index": index, "field": "value", "code": "type", "message": "is not a float"})
        self.rows.setdefault(stream, []).extend(good)
        self.batches.append(len(good))
        counts = {"accepted": len(good), "rejected": len(errors), "duplicates": 0, "errors": errors, "skew_ms": 3}
        self.keys[key] = (body, counts)
        return (202 if good else 422), counts


def _rows(body: bytes) -> list[Any]:
    """NDJSON, or an Arrow stream, whose times become epoch milliseconds."""
    if not body.startswith(ARROW_START):
        return [json.loads(line) for line in body.splitlines()]
    return [{name: plain_value(value) for name, value in row.items()} for row in pl.read_ipc_stream(body).to_dicts()]


@contextmanager
def fake_api() -> Iterator[FakeApi]:
    """Serve a fake API on a free port."""
    api = FakeApi()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(api))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(api: FakeApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in one segment: no 40 ms of Nagle and delayed ACK

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            api.queries.append((parts.path, parse_qs(parts.query)))
            known = {"/v1/streams": {"streams": api.streams}, "/v1/metrics": {"metrics": api.metrics}, **api.answers}
            if parts.path in api.texts:
                self._say(200, api.texts[parts.path]().encode(), {})
            elif parts.path in api.computed:
                self._answer(200, api.computed[parts.path](parse_qs(parts.query)))
            elif parts.path in known:
                self._answer(200, known[parts.path])
            else:
                self._answer(404, {"title": "Not found", "detail": f"there is no {parts.path}", "errors": []})

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            parts = urlsplit(self.path)
            _, _, _, stream, what = parts.path.split("/")
            api.asked.append(parts.query)
            if what == "time":
                api.ticks.append((stream, json.loads(body)))
                self._answer(202, {})
                return
            api.posts += 1
            failure = api.failures.popleft() if api.failures else None
            if failure in ("busy", "away"):
                self._answer(
                    429 if failure == "busy" else 503, {"title": failure, "detail": "later"}, {"Retry-After": "2"}
                )
                return
            if failure == "refused":
                self._answer(400, {"title": "Bad request", "detail": "the body is no good", "errors": []})
                return
            status, said = api.store(stream, body, self.headers["Idempotency-Key"])
            if failure == "lost":
                self.close_connection = True
            else:
                self._answer(status, said)

        def _answer(self, status: int, said: dict[str, Any], headers: dict[str, str] | None = None) -> None:
            self._say(status, json.dumps(said).encode(), headers or {})

        def _say(self, status: int, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
