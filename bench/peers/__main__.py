"""Peers beside us: the same events, the same work, the same recount, each in a process and an environment of its own.

    python -m bench.peers [PEER …] [--work yahoo sensors] [--events 2000000] [--python PATH …] [--json FILE]

A peer runs in the first of the given interpreters that has its package; what none has is named with how to get it.
Ours runs first. Nothing here is late, since peers without a watermark would count it, but events are out of order.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases import HOPPING, YAHOO, Case, Loads, Task
from bench.end_to_end import run_once
from bench.figures import positive, shown, summary, write_json
from bench.machine import described, load_average
from bench.peers.influxdb import BINARY
from bench.product import ROOT
from bench.window_loads import Answer, Close, n_correct, same, same_readings_by_rank

WORKS: Mapping[str, Case] = {"yahoo": YAHOO, "sensors": HOPPING}
CLOSE: Mapping[str, Close] = {"yahoo": same, "sensors": same_readings_by_rank}
TIMEOUT_S = 600.0
QUICK_EVENTS, QUICK_EVENTS_PER_MS = 20_000, 0.25
BATCH = 5_000
OURS = {"ours": False, "ours, from the log": True}


@dataclass(frozen=True, slots=True)
class Peer:
    """One file of this folder: the package it needs (none: the product's own interpreter) and how to get it."""

    name: str
    title: str
    package: str | None
    install: str
    works: Sequence[str] = ("yahoo", "sensors")


PEERS = (
    Peer("duckdb", "DuckDB, batch over the file: the ceiling", "duckdb", "pip install duckdb"),
    Peer("loop", "a plain Python loop over msgspec structs, from a file", "msgspec", "pip install msgspec"),
    Peer("flink", "Flink SQL, from a file, JIT warm", "pyflink", "pip install apache-flink, and a JRE"),
    Peer("spark", "Spark Structured Streaming, from a file, one batch", "pyspark", "pip install pyspark, and a JRE"),
    Peer("bytewax", "Bytewax, from a file", "bytewax", "pip install bytewax msgspec"),
    Peer("pathway", "Pathway, from a file", "pathway", "pip install pathway"),
    Peer("influxdb", "InfluxDB 1.x over HTTP, write and query", None, "apt-get install influxdb, or set INFLUXD"),
    Peer("hincrby", "one XADD an event, two consumers with HINCRBY, load not counted", None, "", ("yahoo",)),
)


@dataclass(frozen=True, slots=True)
class Result:
    """One run of one peer, recounted; CPU of its whole process tree."""

    peer: str
    work: str
    n_events: int
    seconds: float
    cpu_us: float
    correct: int
    expected: int
    load_average: float

    @property
    def events_per_s(self) -> float:
        return self.n_events / self.seconds


class NotInstalledError(Exception):
    """No interpreter has the peer's package; the message says how to get it."""


class NoAnswerError(Exception):
    """The peer ended without an answer; the message is the end of what it said."""


def interpreter_of(peer: Peer, interpreters: Sequence[str]) -> str:
    """The interpreter that runs a peer.

    Raises:
        NotInstalledError: none has its package, or there is no program of it.
    """
    if peer.package is None:
        if peer.name == "influxdb" and not (os.environ.get(BINARY) or shutil.which("influxd")):
            raise NotInstalledError(f"not installed: {peer.install}")
        return sys.executable
    look = f"import importlib.util, sys; sys.exit(importlib.util.find_spec({peer.package!r}) is None)"
    for interpreter in interpreters:
        # Not from our folder: a file of ours may have the package's name.
        if subprocess.run([interpreter, "-c", look], cwd="/", check=False).returncode == 0:
            return interpreter
    raise NotInstalledError(f"not installed: {peer.install}")


def run_peer(peer: Peer, interpreter: str, work: str, folder: Path) -> dict[str, Any]:
    """Let a peer do the work in `folder`, and return what it answered.

    Raises:
        NoAnswerError: it failed, or took longer than TIMEOUT_S.
    """
    answer = folder / "answer.json"
    answer.unlink(missing_ok=True)
    command = [interpreter, "-m", f"bench.peers.{peer.name}", work, str(folder)]
    # Flink and Spark start interpreters of their own, which shall be this one.
    bin_folder = str(Path(interpreter).parent)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        said, _ = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        raise NoAnswerError(f"no answer within {TIMEOUT_S:g} s") from None
    if process.returncode or not answer.exists():
        raise NoAnswerError(f"ended with {process.returncode}: {said.decode(errors='replace')[-1500:]}")
    found: dict[str, Any] = json.loads(answer.read_text())
    return found


def measure_peer(peer: Peer, interpreter: str, work: str, task: Task, folder: Path) -> Result:
    """One run of a peer, recounted like ours."""
    load = load_average()
    answer = run_peer(peer, interpreter, work, folder)
    rows: dict[tuple[int, str], Answer] = {(start, group): values for start, group, values in answer["rows"]}
    return Result(
        peer=peer.name,
        work=work,
        n_events=task.n_events,
        seconds=answer["seconds"],
        cpu_us=answer["cpu_s"] / task.n_events * 1e6,
        correct=n_correct(rows, task.expected, CLOSE[work]),
        expected=len(task.expected),
        load_average=load,
    )


def measure_ours(name: str, work: str, task: Task) -> Result:
    load = load_average()
    run = run_once(WORKS[work], task, workers=1, connections=3, from_log=OURS[name])
    cpu_us = sum(run.cpu_us.values())
    return Result(name, work, run.n_events, run.seconds, cpu_us, run.correct, run.expected, load)


def write_events(task: Task, folder: Path) -> None:
    with (folder / "events.ndjson").open("wb") as file:
        file.writelines(task.bodies)
    for name, text in task.tables.items():
        (folder / name).write_text(text)


def report(result: Result, failed: list[str]) -> Result:
    rate, recount = shown(result.events_per_s), f"CORRECT {result.correct}/{result.expected}"
    print(f"{result.peer:20}{result.work:9}{rate:>12} events/s {result.cpu_us:6.2f} µs CPU  {recount}", flush=True)
    if result.correct != result.expected:
        failed.append(f"{result.peer} ({result.work})")
    return result


def print_table(results: Sequence[Result]) -> None:
    print(f"\n{'peer':20}{'work':9}{'events/s':>12}{'range':>26}{'CPU µs':>9}")
    for peer, work in dict.fromkeys((result.peer, result.work) for result in results):
        runs = [result for result in results if (result.peer, result.work) == (peer, work)]
        rate, cpu = summary([run.events_per_s for run in runs]), summary([run.cpu_us for run in runs])
        span = f"{shown(rate.least)} to {shown(rate.greatest)}"
        print(f"{peer:20}{work:9}{shown(rate.median):>12}{span:>26}{cpu.median:>9.2f}")


def main() -> None:
    names = [*OURS, *(peer.name for peer in PEERS)]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"all without any: {', '.join(names)}")
    parser.add_argument("--work", nargs="*", choices=WORKS, default=list(WORKS))
    parser.add_argument("--events", type=positive, default=2_000_000)
    parser.add_argument("--runs", type=positive, default=1)
    parser.add_argument("--python", nargs="*", default=[], help="interpreters that have packages of peers")
    parser.add_argument("--quick", action="store_true", help="small numbers: is it right, not how fast")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    asked = parser.parse_args()
    unknown = [name for name in asked.peers if name not in names]
    if unknown:
        parser.error(f"no peer is called {unknown[0]!r}. There are {', '.join(names)}")
    n_events, per_ms = (QUICK_EVENTS, QUICK_EVENTS_PER_MS) if asked.quick else (asked.events, 10.0)
    loads = Loads(n_events, n_users=1, batch=min(BATCH, max(1, n_events // 40)), events_per_ms=per_ms)
    wanted = asked.peers or names
    interpreters = [sys.executable, *asked.python]
    machine = described()
    results: list[Result] = []
    failed: list[str] = []
    not_measured: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="streamgauge-peers-") as name:
        for work in asked.work:
            began_s = time.monotonic()
            task, folder = loads.task(WORKS[work]), Path(name)
            write_events(task, folder)
            print(f"{work}: {n_events} events made in {time.monotonic() - began_s:.1f} s", file=sys.stderr)
            for _ in range(asked.runs):
                for ours in (each for each in OURS if each in wanted):
                    results.append(report(measure_ours(ours, work, task), failed))
                for peer in (each for each in PEERS if each.name in wanted and work in each.works):
                    try:
                        interpreter = interpreter_of(peer, interpreters)
                        results.append(report(measure_peer(peer, interpreter, work, task, folder), failed))
                    except (NotInstalledError, NoAnswerError) as error:
                        not_measured[peer.name] = str(error)
                        print(f"{peer.name:20}{work:9}{error}", flush=True)
    right = [result for result in results if result.correct == result.expected]
    print_table(right)
    if asked.json:
        write_json(asked.json, "peers", machine, {"n_events": n_events}, right, not_measured)
    if failed:
        raise SystemExit(f"the recount differs, no result: {', '.join(dict.fromkeys(failed))}")


if __name__ == "__main__":
    main()
