"""A live stream of the contract, told connection by connection what to say and how to break.

Invariant: what a connection says is exactly its script, so that a test knows what its reader has seen.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

HEARTBEAT = ": heartbeat\n\n"


@dataclass(frozen=True)
class Connection:
    """What one connection says; then it is closed, or held open in silence."""

    said: str = ""
    then: Literal["close", "hold"] = "close"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class FakeLive:
    """The script, and what was asked. After the script's end the last connection is repeated."""

    url: str = ""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    script: list[Connection] = field(default_factory=list)
    asked: list[tuple[str, dict[str, list[str]], str | None]] = field(
        default_factory=list
    )  # path, query, Last-Event-ID
    closing: threading.Event = field(default_factory=threading.Event)
    gone: threading.Event = field(default_factory=threading.Event)  # a held connection was closed by its reader


def event(name: str, metric: str, *, id: str | None = None, **data: Any) -> str:
    text = f"event: {name}\ndata: {json.dumps({'metric': metric} | data)}\n"
    return text + (f"id: {id}\n\n" if id is not None else "\n")


@contextmanager
def fake_live() -> Iterator[FakeLive]:
    """Serve a live stream on a free port."""
    live = FakeLive()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(live))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    live.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield live
    finally:
        live.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()


def _handler(live: FakeLive) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            if parts.path == "/v1/metrics":
                self._say(Connection(json.dumps({"metrics": live.metrics})), "application/json")
                return
            live.asked.append((parts.path, parse_qs(parts.query), self.headers["Last-Event-ID"]))
            connection = live.script[min(len(live.asked), len(live.script)) - 1]
            self._say(connection, "text/event-stream")
            if connection.then == "hold":
                self.connection.settimeout(0.02)
                while not live.closing.is_set():
                    try:
                        if not self.connection.recv(1):
                            live.gone.set()
                            return
                    except TimeoutError:
                        continue

        def _say(self, connection: Connection, content_type: str) -> None:
            self.send_response(connection.status)
            for name, value in {"Content-Type": content_type, **connection.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(connection.said.encode())
            self.wfile.flush()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler
