"""A server for a notebook: the one that runs, or one of its own for as long as the notebook lives.

Invariant: a server started here ends with the client that started it, and its data with it.
"""

from __future__ import annotations

import atexit
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from api.client import DEFAULT_URL, Client
from pipeline.errors import StreamgaugeError
from pipeline.runtime.door import UnavailableError

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 20.0  # a drain takes a few
POLL_S = 0.1


class DemoServer:
    """`streamgauge up` in a process of its own, on a free port, with its data in a temporary folder."""

    def __init__(self, config: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._folder = Path(tempfile.mkdtemp(prefix="streamgauge-demo-"))
        self._log = (self._folder / "up.log").open("wb")
        command = [sys.executable, "-m", "api.main", "up", "--no-demo"]
        command += ["--config", str(config), "--port", str(port), "--data-dir", str(self._folder / "data")]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.STDOUT)
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
    """A client of its own server; `close()` ends both."""

    def __init__(self, config: Path) -> None:
        self._server = DemoServer(config)
        super().__init__(self._server.url)

    def close(self) -> None:
        super().close()
        self._server.stop()


def connect(config: Path, url: str = DEFAULT_URL) -> Client:
    """Return a client of the server at `url`, or of a new one with `config` where none runs."""
    running = Client(url)
    try:
        running.get("/readyz")
    except UnavailableError:
        running.close()
        return DemoClient(config)
    return running
