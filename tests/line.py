"""The whole line in one process: events in over HTTP or by hand, workers polled by the test, answers read back.

Entries put in by hand may carry ids of the test's choosing, so arrival times are an argument and two runs can have the
same log. Nothing sleeps: `settle` polls until every entry is committed and every closed window is published.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import redis
from flask.testing import FlaskClient

from api.app import create_app
from pipeline.core.definitions import Config, Session
from pipeline.core.programs import Program, compile_programs
from pipeline.core.watermarks import end_tick_time
from pipeline.rim import groups, keys, replies, store
from pipeline.rim.scripts import Scripts
from pipeline.runtime.closer import Closer, Pass
from pipeline.runtime.metric_query import MetricQuery
from pipeline.runtime.query import Metrics
from pipeline.runtime.setup import set_up
from pipeline.runtime.stage_groups import groups_of
from pipeline.runtime.worker import Worker
from tests.servers import RunningServer, wait_for

CHUNK_ROWS = 1_000  # rows a chunk of the file tests: several chunks a read, several reads a file
Event = Mapping[str, Any]
Row = dict[str, Any]


def chunk_fields(
    events: Sequence[Event], times_ms: Sequence[int], *, position: int, at_ms: int
) -> dict[str, str | int | bytes]:
    """A chunk as the door writes it; `position` is the number of events stored before it."""
    body = b"\n".join(msgspec.json.encode(event) for event in events)
    return {
        "_k": "chunk",
        "v": 1,
        "n": len(events),
        "seq": position,
        "crc": zlib.crc32(body),
        "at": at_ms,
        "lo": min(times_ms),
        "hi": max(times_ms),
        "coding": "ndjson",
        "body": body,
    }


@dataclass(slots=True)
class Line:
    """A config set up on an empty server."""

    config: Config
    server: RunningServer
    programs: Mapping[str, Program] = field(init=False)
    _http: FlaskClient | None = None
    stored: dict[tuple[str, int], int] = field(default_factory=dict)  # events in chunks, by stream and partition

    def __post_init__(self) -> None:
        self.programs = compile_programs(self.config)
        set_up(self.client, self.config)

    @property
    def http(self) -> FlaskClient:
        """The API of the line, made when it is first asked: its routes cost more than a whole small log."""
        if self._http is None:
            self._http = create_app(self.config, self.server.url).test_client()
        return self._http

    @property
    def client(self) -> redis.Redis:
        return self.server.client

    def post(self, stream: str, events: Event | Sequence[Event]) -> None:
        """Send events as a client would."""
        answer = self.http.post(f"/v1/streams/{stream}/events", json=events)
        assert answer.status_code == 202, answer.text

    def get(self, metric: str, **parameters: str) -> dict[str, Any]:
        """Ask the read API: `{"data": rows, "meta": …}`."""
        answer = self.http.get(f"/v1/metrics/{metric}", query_string=parameters)
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.get_json()
        return found

    def chunk(
        self, stream: str, events: Sequence[Event], *, partition: int = 0, times_ms: Sequence[int] = (0,)
    ) -> None:
        """Append events in one entry that arrives now; `times_ms` are only its header's `lo` and `hi`."""
        at_ms = store.redis_time_ms(self.client)
        before = self.stored.get((stream, partition), 0)
        self.entry(stream, chunk_fields(events, times_ms, position=before, at_ms=at_ms), partition=partition)
        self.stored[stream, partition] = before + len(events)

    def row(self, stream: str, event: Mapping[str, str], *, partition: int = 0) -> None:
        self.entry(stream, event, partition=partition)

    def tick(self, stream: str, time_ms: int, *, partition: int = 0) -> None:
        self.entry(stream, {"_k": "tick", "t": time_ms}, partition=partition)

    def entry(self, stream: str, fields: Mapping[Any, Any], *, partition: int = 0, entry_id: str = "*") -> None:
        parts = (part for pair in fields.items() for part in pair)
        self.client.execute_command("XADD", keys.raw(stream, partition), entry_id, *parts)

    def end(self, stream: str, newest_ms: int) -> None:
        """What `replay` does when its file ends: a tick in every partition that closes the newest window."""
        horizons = [p.horizon for p in self.programs.values() if p.stream.name == stream]
        policy = self.config.streams[stream]
        for partition in range(policy.partitions):
            self.tick(stream, end_tick_time(newest_ms, horizons, policy.time.disorder_ms), partition=partition)

    def worker(self, name: str = "worker") -> Worker:
        return Worker(self.config, self.client, self.client, name)

    def settle(self, worker: Worker | None = None) -> None:
        """Poll one worker until it has committed the whole log, and publish every window that has closed; one of its
        own goes then, so that nobody waits for its leases to run out."""
        polled = worker or self.worker()

        def committed() -> bool:
            polled.poll_once()
            return all(self.committed())

        wait_for(committed, "every group to commit the last entry of its log")
        for _ in self.close():
            pass
        for program in self.programs.values():
            while isinstance(program.window, Session) and polled.close_sessions(program).more:
                pass
        if worker is None:
            polled.drain()

    def committed(self) -> Iterator[bool]:
        """For each group and partition, whether its checkpoint is at the end of the log."""
        for stream in self.config.streams.values():
            if not groups_of(self.config, stream.name):
                continue
            for partition in range(stream.partitions):
                info = self.client.execute_command("XINFO", "STREAM", keys.raw(stream.name, partition))
                last_id = replies.parse_stream_info(info).last_id
                for group in groups_of(self.config, stream.name):
                    cursor = store.load_checkpoint(self.client, stream.name, partition, group).cursor
                    yield groups.id_order(cursor) == groups.id_order(last_id)

    def close(self) -> Iterator[Pass]:
        """Passes of the closers, until nothing is waiting."""
        scripts = Scripts(self.client)
        for program in self.programs.values():
            more = not isinstance(program.window, Session)  # sessions are published by the worker that holds them
            while more:
                done = Closer(program, self.client, scripts).close_once()
                more = done.more
                yield done

    def rows(self, metric: str, **asked: Any) -> list[Row]:
        return (
            Metrics(self.config, self.client)
            .query(MetricQuery(metric, limit=10**9, **{"start_ms": -(2**61)} | asked))
            .rows
        )

    def closed(self, metric: str) -> list[Row]:
        """The rows of published windows."""
        return self.rows(metric, state="closed")

    def late(self, metric: str, partition: int = 0) -> list[Row]:
        program = self.programs[metric]
        return self.stream(keys.late(program.stream.name, partition, program.group))

    def entry_ids(self, metric: str, partition: int = 0) -> list[str]:
        """The ids of a metric's raw stream, in order."""
        raw = keys.raw(self.programs[metric].stream.name, partition)
        return [
            entry.id.decode() for entry in replies.parse_entries(self.client.execute_command("XRANGE", raw, "-", "+"))
        ]

    def dead(self, metric: str, partition: int = 0) -> list[Row]:
        program = self.programs[metric]
        return self.stream(keys.dead(program.stream.name, partition, program.group))

    def downstream(self, metric: str) -> list[Row]:
        return self.stream(keys.rows(metric))

    def stream(self, key: str) -> list[Row]:
        """The entries of a stream as texts, without their ids."""
        found = replies.parse_entries(self.client.execute_command("XRANGE", key, "-", "+"))
        return [{name.decode(): value.decode() for name, value in (e.fields or {}).items()} for e in found]
