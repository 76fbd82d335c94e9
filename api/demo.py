"""A server for a notebook: the one that runs, or one of its own for as long as the notebook lives.

Invariant: a server started here ends with the client that started it, and its data with it, on a Redis of its own.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from os import PathLike
from pathlib import Path

from api.client import DEFAULT_URL, Client
from pipeline.core.programs import compile_programs
from pipeline.errors import StreamgaugeError
from pipeline.rim.lifeline import die_with_parent
from pipeline.runtime.config import ENV_API_URL, ENV_PREFIX, load_config
from pipeline.runtime.door import UnavailableError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0  # a drain takes a few
POLL_S = 0.1
DEMO_CONFIG = Path(__file__).with_name("demo.yaml")

ConfigText = str | PathLike[str]  # a path, or the text of a config file


class DemoServer:
    """`streamgauge up` in a process of its own, on a free port, with its data in a temporary folder."""

    def __init__(self, config: ConfigText, *, demo_data: bool = False) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._folder = Path(tempfile.mkdtemp(prefix="streamgauge-demo-"))
        self._log = (self._folder / "up.log").open("wb")
        places = ["--config", str(_config_path(config, self._folder)), "--data-dir", str(self._folder / "data")]
        options = ["--port", str(port), "--redis-url", "embedded", "--demo" if demo_data else "--no-demo"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "api.main", "up", *places, *options],
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=_environment(),
            # The tie is to a thread: of another one than the main thread it would end the server too early.
            preexec_fn=die_with_parent(signal.SIGTERM) if _in_main_thread() else None,
        )
        atexit.register(self.stop)
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        with Client(self.url, patience_s=0) as client:
            while True:
                try:
                    client.get("/readyz")
                    return
                except UnavailableError as error:
                    if self._process.poll() is not None or time.monotonic() > deadline:
                        said = (self._folder / "up.log").read_text(errors="replace")[-2000:]
                        self.stop()
                        raise StreamgaugeError(f"streamgauge up did not start ({error}). It said:\n{said}") from None
                time.sleep(POLL_S)

    def stop(self) -> None:
        """End the server and delete its data; again is harmless."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)


class DemoClient(Client):
    """A client of its own server; `close()` ends both. Without a config: made-up sensors and page views."""

    def __init__(self, config: ConfigText | None = None) -> None:
        self._server = DemoServer(DEMO_CONFIG if config is None else config, demo_data=config is None)
        super().__init__(self._server.url)

    def close(self) -> None:
        super().close()
        self._server.stop()


def connect(config: ConfigText, url: str | None = None) -> Client:
    """Return a client of the server that runs, where it computes the metrics of `config`; else of a new one with it.

    `url`: of the server that may run, by default `STREAMGAUGE_URL` of the environment, or http://127.0.0.1:8080. Where
    one runs that computes something else, what it lacks is printed, and it is left alone.
    """
    running = Client(url or os.environ.get(ENV_API_URL) or DEFAULT_URL)
    try:
        running.get("/readyz")
        lacking = _lacking(running, config)
    except UnavailableError:
        lacking = "no server"
    if not lacking:
        return running
    running.close()
    if lacking != "no server":
        print(
            f"The server at {running.url} runs another config: {lacking}. This notebook starts its own, which ends "
            "with it. To use yours, add the streams and stages of this notebook to its config.yaml and restart it."
        )
    return DemoClient(config)


def _lacking(client: Client, config: ConfigText) -> str:
    """Which metrics of the config the server does not have, or not the same; the versions of stages decide."""
    with tempfile.TemporaryDirectory(prefix="streamgauge-config-") as folder:
        wanted = compile_programs(load_config(_config_path(config, Path(folder)), _environment()))
    found = {said["metric"]: said["version"] for said in client.metrics()}
    said = [f"no metric '{name}'" for name in wanted if name not in found]
    said += [f"another '{name}'" for name, each in wanted.items() if found.get(name, each.version) != each.version]
    return ", ".join(said)


def _config_path(config: ConfigText, folder: Path) -> Path:
    """Where the config file is; a text (of more than one line) becomes one in `folder`."""
    if not isinstance(config, str) or "\n" not in config:
        return Path(config)
    path = folder / "config.yaml"
    path.write_text(config, "utf-8")
    return path


def _environment() -> dict[str, str]:
    """Ours without the settings of another server: a demo never writes to anybody's Redis."""
    return {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
