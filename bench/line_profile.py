"""What an event costs at each stage of the line: door, log, worker and closer in one process, beside one real Redis.

    python bench/line_profile.py [--coding ndjson] [--events 400000] [--batch 5000] [--partitions 4] [--rounds 3]

    http      Flask, from the request's environment to the answer; the sockets are granian's and not in it
    body      the request's body as bytes               judge     which rows are good
    pack      good rows → chunks as they are stored     append    crc and script call
    read      XREADGROUP, and its reply as entries      decode    chunks → the columns that the stage reads
    compute   transforms, late or not, cells            aside     late rows and dead letters as they are kept
    fold      rows into cells, cells into bytes         commit    its arguments and script call
    close     merging, publishing, downstream           loop      the rest of the worker's round

CPU ns an event of this process, each step without what it calls; the least of the rounds, since what else the machine
does only adds. `redis` is the server's own. No figure without its recount, as everywhere here.
"""

from __future__ import annotations

import argparse
import functools
import io
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import redis

from api import ingest, intake
from api.app import create_app
from bench.cases import METRIC, YAHOO, Loads, Task
from bench.codings import server_cpu_s
from bench.end_to_end import recount
from bench.figures import positive
from bench.product import Product
from pipeline.core.arrow_validation import CheckedColumns, ColumnValidator
from pipeline.core.definitions import Config
from pipeline.core.validation import Checked, Validator
from pipeline.rim import groups
from pipeline.rim.connection import reader, writer
from pipeline.rim.embedded import EmbeddedServer
from pipeline.runtime import computations, partition_work, runner
from pipeline.runtime.config import load_config
from pipeline.runtime.memory import keep_freed_memory
from pipeline.runtime.setup import set_up
from pipeline.runtime.worker import BLOCK_MS, Worker

# Where a step begins and ends: the function, by the module or class that its caller finds it in.
DOOR: Mapping[str, Sequence[tuple[Any, str]]] = {
    "body": [(ingest, "read_body")],
    "judge": [(Validator, "check"), (ColumnValidator, "check")],
    "pack": [(Checked, "shares"), (CheckedColumns, "shares")],
    "append": [(intake, "append")],
}
WORK: Mapping[str, Sequence[tuple[Any, str]]] = {
    "read": [(groups, "read_new"), (runner, "parse_entries")],
    "decode": [(partition_work, "read_batch")],
    "compute": [(computations, "prepared_with")],
    "aside": [(computations, "aside_rows")],
    "fold": [(computations.AggregateComputation, "apply")],
    "commit": [(runner, "commit")],
    "close": [(Worker, "_close")],
}
DOOR_STEPS, WORK_STEPS = ("http", *DOOR), (*WORK, "loop")
EVENTS_PER_MS = 2.0  # of event time: enough windows in a short load, and room for late events
LATE = 0.01
MAX_IDLE_POLLS = 100  # of BLOCK_MS: when a window has not been published by then, it never will be


@dataclass(slots=True)
class Steps:
    """CPU seconds of this process by step; a step that calls another one stands still meanwhile."""

    cpu_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    _under_way: list[str] = field(default_factory=list)
    _since_s: float = 0.0

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        self._turn()
        self._under_way.append(step)
        try:
            yield
        finally:
            self._turn()
            self._under_way.pop()

    def _turn(self) -> None:
        now_s = time.process_time()
        if self._under_way:
            self.cpu_s[self._under_way[-1]] += now_s - self._since_s
        self._since_s = now_s

    def measuring(self, step: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **named: Any) -> Any:
            with self.timed(step):
                return function(*args, **named)

        return timed


@contextmanager
def measured(steps: Steps) -> Iterator[None]:
    """Have every step's functions measured."""
    places = [(step, *place) for step, found in {**DOOR, **WORK}.items() for place in found]
    before = [(owner, name, getattr(owner, name)) for _, owner, name in places]
    try:
        for (step, owner, name), (_, _, function) in zip(places, before, strict=True):
            setattr(owner, name, steps.measuring(step, function))
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


class Line(Product):
    """The line in this process, asked as a running product is: its API is called, not connected to."""

    def __init__(self, config: Config, url: str) -> None:
        self._app = create_app(config, url)
        self._url = url

    def request(self, method: str, path: str, body: bytes | None = None) -> Any:
        answer = self._app.test_client().open(path, method=method, data=body, content_type="application/json")
        if answer.status_code >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {answer.text[:500]}")
        return answer.json

    def redis(self) -> redis.Redis:
        return reader(self._url)

    def send(self, steps: Steps, task: Task) -> None:
        """All bodies through the door."""
        for body in task.bodies:
            with steps.timed("http"):
                b"".join(self._app(_environ(task, body), _start_response))

    def work(self, steps: Steps, worker: Worker, task: Task) -> None:
        """Everything in the log, until every window is published."""
        idle = 0
        while True:
            with steps.timed("loop"):
                idle = idle + 1 if worker.poll_once(block_ms=BLOCK_MS).idle else 0
            if idle and self.complete_to(METRIC) >= task.end_ms:
                return
            if idle > MAX_IDLE_POLLS:
                raise SystemExit("windows are open, and nothing more comes to close them")


def _environ(task: Task, body: bytes) -> dict[str, Any]:
    """A request as granian hands it to a WSGI app."""
    return {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": f"/v1/streams/{YAHOO.source.stream}/events",
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "127.0.0.1:8000",
        "CONTENT_TYPE": task.content_type,
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }


def _start_response(status: str, headers: Any, exc_info: Any = None) -> Callable[[bytes], object]:
    if not status.startswith("202"):
        raise SystemExit(f"the door answered {status}")
    return lambda text: None


def measure(task: Task, partitions: int) -> dict[str, float]:
    """One round on an empty server: CPU ns an event of each step, and of the server."""
    steps = Steps()
    with tempfile.TemporaryDirectory() as name, EmbeddedServer(Path(name)) as server:
        path = Path(name) / "config.yaml"
        path.write_text(replace(YAHOO, partitions=partitions).config)
        for file, text in task.tables.items():
            path.with_name(file).write_text(text)
        config = load_config(path, {})
        client, waiter = writer(server.url), reader(server.url, block_ms=BLOCK_MS)
        set_up(client, config)
        line, worker = Line(config, server.url), Worker(config, client, waiter, "profiled")
        before_s = server_cpu_s(client)
        with measured(steps):
            line.send(steps, task)
            line.end_time(YAHOO.source.stream)
            line.work(steps, worker, task)
        used = {**steps.cpu_s, "redis": server_cpu_s(client) - before_s}
        correct = recount(line, YAHOO, task)
    if correct != len(task.expected):
        raise SystemExit(f"{correct} of {len(task.expected)} rows are right, no figure counts")
    return {step: seconds / task.n_events * 1e9 for step, seconds in used.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coding", choices=("ndjson", "arrow"), default="ndjson", help="of the bodies that are posted")
    parser.add_argument("--events", type=positive, default=400_000)
    parser.add_argument("--batch", type=positive, default=5_000, help="events in a body")
    parser.add_argument("--partitions", type=positive, default=4)
    parser.add_argument("--rounds", type=positive, default=3)
    asked = parser.parse_args()
    keep_freed_memory()
    loads = Loads(asked.events, 1, asked.batch, events_per_ms=EVENTS_PER_MS, late=LATE, coding=asked.coding)
    task = loads.task(YAHOO)
    rounds = [measure(task, asked.partitions) for _ in range(asked.rounds)]
    least = {step: min(found.get(step, 0.0) for found in rounds) for step in (*DOOR_STEPS, *WORK_STEPS, "redis")}
    print(f"{asked.events} events, {asked.coding} bodies of {asked.batch}; CPU ns an event, least of {asked.rounds}")
    for part, names in (("door", DOOR_STEPS), ("worker", WORK_STEPS), ("redis", ("redis",))):
        shown = "  ".join(f"{name} {least[name]:.0f}" for name in names if len(names) > 1)
        print(f"{part:8}{sum(least[name] for name in names):6.0f}   {shown}".rstrip())


if __name__ == "__main__":
    main()
