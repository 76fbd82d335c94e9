"""A stage of each kind of window over few events that are hard to answer for: what is read back in tests.

Sums above 64 bits, texts with commas, groups that are null or above a cap, an event late for one of its windows only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core.definitions import Config
from pipeline.runtime.config import load_config
from tests.line import Line, Row
from tests.servers import RunningServer
from tests.visits import LineClient

T0 = 1_795_000_000_000
SECOND = 1_000
YAML = """
streams:
  s:
    schema: {ts: timestamp, dev: "int?", v: "float?", n: "int?", k: "string?", up: "bool?", seen: "timestamp?"}
    time: {field: ts, disorder: 0s}
    partitions: 1
stages:
  se: {from: s, window: {session: 10s}, aggregates: {c: count, tw: time_weighted_mean(v)}}
  tu:
    from: s
    window: {tumbling: 10s}
    aggregates:
      {c: count, tw: time_weighted_mean(v), sn: sum(n), top: "topk(k, 2)", h: histogram(v), z: count}
  ov: {from: s, window: {tumbling: 10s}, group_by: [dev], max_groups: 1, aggregates: {c: count}}
  many: {from: s, window: {tumbling: 10s}, group_by: [k, dev, up, seen], max_groups: 1, aggregates: {c: count}}
  ho: {from: s, window: {hopping: 20s, every: 10s}, aggregates: {c: count}}
"""
FIRST: list[Row] = [
    {"ts": T0, "v": 0, "dev": 1, "n": 2**63 - 1, "k": "a", "up": True, "seen": T0},
    {"ts": T0 + 1 * SECOND, "v": 10, "dev": 2, "n": 1, "k": "b, c"},
    {"ts": T0 + 2 * SECOND, "dev": 3},
    {"ts": T0 + 3 * SECOND, "dev": None},
]
SECOND_BODY: list[Row] = [{"ts": T0 + 11 * SECOND, "dev": 7}, {"ts": T0 + 9 * SECOND, "dev": 7}]


@dataclass(frozen=True, slots=True)
class Zoo:
    """A line with the zoo's events, and the client over it."""

    line: Line
    client: LineClient

    def answer(self, path: str, **parameters: Any) -> dict[str, Any]:
        """`GET /v1/metrics/{path}`: `{"data": rows, "meta": …}`."""
        given = {name: str(value) for name, value in parameters.items()}
        return self.client.get(f"/v1/metrics/{path}", given if "/" in path else {"start": str(T0)} | given)

    def text(self, path: str, **parameters: Any) -> str:
        """The same as CSV."""
        answer = self.line.http.get(f"/v1/metrics/{path}", query_string={"format": "csv"} | parameters)
        assert answer.status_code == 200, answer.text
        return answer.text


def zoo_config(folder: Path, text: str = YAML) -> Config:
    path = folder / "config.yaml"
    path.write_text(text)
    return load_config(path, {})


def filled_zoo(server: RunningServer, folder: Path, *, ended: bool = True) -> Zoo:
    """Both bodies of events, each committed alone, and then the end."""
    line = Line(zoo_config(folder), server)
    for body in (FIRST, SECOND_BODY):
        line.post("s", body)
        line.settle()
    if ended:
        assert line.http.post("/v1/streams/s/time", json={"end": True}).status_code < 300
        line.settle()
    return Zoo(line, LineClient(line))
