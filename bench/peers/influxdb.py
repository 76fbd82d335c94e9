"""InfluxDB 1.x over HTTP: points as line protocol, written by the same senders as ours, then queried.

It joins nothing and filters nothing on the way in, so its sender filters and joins before the clock: a third of the
events is written. The nanoseconds of a time are the number of the event: points of one moment overwrite one another.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

from bench.peers.job import HOP_EVERY_MS, HOP_MS, WINDOW_MS, Job, Row, run
from bench.product import free_port
from bench.sending import Post, Sender

BATCH = 5_000
CONNECTIONS = 3
START_TIMEOUT_S = 20.0
QUERY_TIMEOUT_S = 300.0
DATABASE = "bench"
BINARY = "INFLUXD"  # environment variable: where influxd is, if not on PATH


def yahoo(job: Job) -> list[Row]:
    events = pl.read_ndjson(job.events).with_row_index("number").filter(pl.col("event_type") == "view")
    views = events.join(pl.read_csv(job.ads), on="ad_id", maintain_order="left")
    bodies = _bodies(views, pl.format("views,campaign={} n=1i {}", "campaign_id", _nanoseconds("event_time")))
    windows = f"time({WINDOW_MS}ms), campaign fill(none)"
    asked = f"SELECT count(n) FROM views WHERE {_span(views['event_time'])} GROUP BY {windows}"
    with server() as port, job.clock():
        write(port, bodies)
        series = query(port, asked)
    return [(start, found["tags"]["campaign"], {"views": n}) for found in series for start, n in found["values"] if n]


def sensors(job: Job) -> list[Row]:
    readings = pl.read_ndjson(job.events).with_row_index("number")
    bodies = _bodies(readings, pl.format("readings,sensor={} value={} {}", "sensor", "value", _nanoseconds("ts")))
    answers = "count(value), mean(value), min(value), max(value), percentile(value, 95)"
    rows: list[Row] = []
    with server() as port, job.clock():
        write(port, bodies)
        # It has no hopping windows: one query for each place where a window may begin.
        for offset in range(0, HOP_MS, HOP_EVERY_MS):
            windows = f"time({HOP_MS}ms, {offset}ms), sensor fill(none)"
            series = query(port, f"SELECT {answers} FROM readings WHERE {_span(readings['ts'])} GROUP BY {windows}")
            for found in series:
                for start, n, mean, low, high, p95 in found["values"]:
                    values = {"n": n, "mean": mean, "low": low, "high": high, "p95": p95}
                    rows.append((start, found["tags"]["sensor"], values))
    return rows


def _nanoseconds(times_ms: str) -> pl.Expr:
    return pl.col(times_ms) * 1_000_000 + pl.col("number") % 1_000_000


def _bodies(frame: pl.DataFrame, line: pl.Expr) -> list[bytes]:
    lines = frame.select(line.alias("line"))["line"]
    return ["\n".join(lines.slice(first, BATCH).to_list()).encode() for first in range(0, len(lines), BATCH)]


def _span(times_ms: pl.Series) -> str:
    """All of the load: without it a query begins in 1970 and ends now."""
    first, last = times_ms.min(), times_ms.max()
    assert isinstance(first, int)
    assert isinstance(last, int)
    return f"time >= {first - HOP_MS}ms AND time < {last + HOP_MS}ms"


@contextmanager
def server() -> Iterator[int]:
    """A server on an empty folder, as its defaults are but for where it listens, what it logs and how many groups."""
    port, backup_port = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="influxdb-") as folder:
        settings = {
            "META_DIR": f"{folder}/meta",
            "DATA_DIR": f"{folder}/data",
            "DATA_WAL_DIR": f"{folder}/wal",
            "HTTP_BIND_ADDRESS": f"127.0.0.1:{port}",
            "BIND_ADDRESS": f"127.0.0.1:{backup_port}",
            "HTTP_LOG_ENABLED": "false",
            "REPORTING_DISABLED": "true",
            "DATA_MAX_VALUES_PER_TAG": "0",  # as many groups as there are: 100,000 are its default
        }
        binary = os.environ.get(BINARY) or shutil.which("influxd")
        assert binary is not None, "the runner looked for it"
        with (Path(folder) / "log").open("wb") as log:
            environment = {**os.environ, **{f"INFLUXDB_{name}": value for name, value in settings.items()}}
            process = subprocess.Popen([binary], env=environment, stdout=log, stderr=log)
            try:
                _wait_until_ready(process, port, Path(folder) / "log")
                yield port
            finally:
                process.terminate()
                process.wait(timeout=START_TIMEOUT_S)


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            query(port, f"CREATE DATABASE {DATABASE}")
            return
        except urllib.error.URLError:
            time.sleep(0.05)  # not listening yet: the deadline bounds this
    raise SystemExit(f"influxd does not answer:\n{log.read_text()[-2000:]}")


def write(port: int, bodies: list[bytes]) -> None:
    """Write bodies of line protocol, each acknowledged."""
    path = f"/write?db={DATABASE}&precision=ns"
    Sender(port, Post(path, bodies, "text/plain; charset=utf-8", CONNECTIONS)).join()


def query(port: int, text: str) -> list[dict[str, Any]]:
    """The series of an answer, times in milliseconds."""
    asked = urllib.parse.urlencode({"q": text, "db": DATABASE, "epoch": "ms"}).encode()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/query", asked, timeout=QUERY_TIMEOUT_S) as answer:
        [result] = json.load(answer)["results"]
    if "error" in result:
        raise SystemExit(f"influxd: {result['error']}")
    series: list[dict[str, Any]] = result.get("series", [])
    return series


if __name__ == "__main__":
    run(yahoo=yahoo, sensors=sensors)
