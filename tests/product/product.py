"""The product as its user has it: `streamgauge up` in a session of its own, the command line, and HTTP.

Invariant: only processes started here, and their children, are signalled, by their id; nothing outlives the test run.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import pytest
import redis

from pipeline.rim import connection
from pipeline.rim.lifeline import die_with_parent
from pipeline.rim.running import running_url

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "config.yaml"
READY_S = 30.0  # a second or two when the machine is quiet
STOP_S = 30.0
COMMAND_S = 60.0
SETTLE_S = 30.0
POLL_S = 0.1  # each look is a request or more
Row = dict[str, Any]


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "api.main", *map(str, arguments)]


def environment(folder: Path) -> dict[str, str]:
    """Ours without what would change the product, and with its private state under `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STREAMGAUGE_")}
    return kept | {"XDG_STATE_HOME": str(folder / "state")}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(
    condition: Callable[[], bool], what: str, timeout_s: float = SETTLE_S, said: Callable[[], str] = str
) -> None:
    """Poll until `condition` holds; fail with `what`, and what was `said`, when it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout_s} s for: {what}\n{said()}")
        time.sleep(POLL_S)


class Process:
    """A long-running command of ours; `said` is all that it and its children wrote."""

    def __init__(self, folder: Path, name: str, *arguments: object) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                command(*arguments),
                cwd=ROOT,
                env=environment(folder),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=die_with_parent(),
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")

    def kill(self) -> None:
        """kill -9; what it started is tied to its life."""
        self.process.kill()
        self.process.wait()

    def drain(self) -> int:
        self.process.terminate()
        return self.end()

    def end(self) -> int:
        """Wait until it has ended, and return its exit code."""
        wait_for(lambda: self.process.poll() is not None, f"{self.name} to end", STOP_S, lambda: self.said)
        return self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            self.kill()


class Product(Process):
    """The API as its user sees it: that of `up` on the data under `folder`, or of `api` alone on another server."""

    def __init__(self, folder: Path, *options: object, config: Path = SHIPPED, starts: str = "up") -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.data_dir = folder / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=20.0)
        places = ("--config", config, "--data-dir", self.data_dir, "--port", self.port)
        super().__init__(folder, f"{starts}-{self.port}", starts, *places, *options)

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self.http.close()

    # --- how it is doing

    def ready(self) -> bool:
        assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}:\n{self.said}"
        try:
            return self.http.get("/readyz").status_code == 200
        except httpx.TransportError:  # not listening, or on its way down
            return False

    def listens(self) -> bool:
        assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}:\n{self.said}"
        return listens(self.port)

    def wait_until_ready(self, timeout_s: float = READY_S) -> Product:
        wait_for(self.ready, f"{self.name} to be ready", timeout_s, lambda: self.said)
        return self

    def tree(self) -> dict[str, psutil.Process]:
        """Its processes by what they are: up, api, granian (the API's worker), worker-1, scheduler, demo, redis."""
        up = psutil.Process(self.process.pid)
        named = ((_name(each), each) for each in (up, *up.children(recursive=True)))
        return {name: each for name, each in named if name is not None}

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        """A foreign client of the embedded server."""
        url = running_url(self.data_dir)
        assert url is not None, self.said
        client = connection.writer(url)
        yield client
        client.close()

    # --- what a user does

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self.http.get(path, params=parameters)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def rows(self, metric: str, **parameters: Any) -> list[Row]:
        answer = self.get(f"/v1/metrics/{metric}", **parameters)
        assert not answer["meta"]["truncated"]
        found: list[Row] = answer["data"]
        return found

    def stage(self, name: str) -> Any:
        return self.get(f"/v1/stages/{name}")

    def stream(self, name: str) -> Any:
        return next(each for each in self.get("/v1/streams")["streams"] if each["stream"] == name)

    def run(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """A command of ours to its end."""
        return subprocess.run(
            command(*arguments),
            cwd=ROOT,
            env=environment(self.folder),
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )

    def replay(self, file: Path, stream: str, *options: str) -> subprocess.CompletedProcess[str]:
        return self.run("replay", file, "--stream", stream, "--url", self.url, *options)

    def curl_it_prints(self) -> str:
        """The URL of the printed curl."""
        wait_for(lambda: "curl" in self.said, "the welcome")
        line = next(line for line in self.said.splitlines() if "curl" in line)
        words = shlex.split(line[line.index("curl") :])
        assert re.match(r"http://127\.0\.0\.1:\d+/", words[-1]), line
        return words[-1]

    # --- how it ends

    def press_ctrl_c(self) -> int:
        """As a terminal does: SIGINT to the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.end()

    def wait_until_applied(self, *stages: str) -> None:
        """Wait until these stages have read all that is stored."""

        def applied() -> bool:
            lags = [self.stage(name)["lag"] for name in stages]
            return not any(lag["events"] for lag in lags)  # entries are null where the server does not know

        wait_for(applied, f"{stages} to have read everything")

    def wait_until_final(self, metric: str, **parameters: Any) -> list[Row]:
        """Wait until every window of an answer is final, and return its rows."""
        rows: list[Row] = []

        def final() -> bool:
            rows[:] = self.rows(metric, **parameters)
            return bool(rows) and all(row["state"] == "final" for row in rows)

        wait_for(final, f"all windows of {metric} to be final")
        return rows


def assert_balanced(product: Product) -> None:
    """The books: received = stored + duplicate + rejected; read = accepted + filtered + late + dead."""
    for stage in product.get("/v1/stages")["stages"]:
        ledger = stage["ledger"]
        if ledger is not None:
            parts = ledger["accepted"] + ledger["filtered"] + ledger["late"] + ledger["dead"]
            assert ledger["read"] == parts, stage
            assert ledger["balances"], stage
    for stream in product.get("/v1/streams")["streams"]:
        door = stream["door"]
        assert door["received"] == door["stored"] + door["duplicate"] + door["rejected"], stream


def gone(processes: Iterable[psutil.Process]) -> bool:
    return not any(_is_alive(each) for each in processes)


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str | None:
    """What a process of the tree is; None when it has just ended, or only reads the config for another one."""
    try:
        words, parent = process.cmdline(), process.parent()
        inherited = parent is not None and parent.cmdline() == words  # forked, such as Granian's worker
    except psutil.NoSuchProcess:
        return None
    if not words or "pipeline.runtime.config_reader" in words:  # a zombie, or soon one
        return None
    if "--name" in words:
        return words[words.index("--name") + 1]
    if "valkey-server" in words[0]:
        return "redis"
    if words[3] == "api":
        return "granian" if inherited else "api"
    return "demo" if words[3] == "simulate" else words[3]
