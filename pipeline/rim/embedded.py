"""The embedded server: a real Valkey (or Redis) of our own, with its data under `<data-dir>/redis`.

Invariant: never two servers on one folder, and none without an owner. Two locks say so, both kept by the kernel:
`owner.lock` is held by the process that supervises, `server.lock` by the server itself, which inherits the open file.

    server.lock  owner.lock   what it is                            what start() does
    free         ours         nobody is there                       starts a server
    held         ours         its owner died without it (no prctl)  adopts it if it answers, else refuses
    any          held         another process supervises it         refuses and names the URL to use
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import redis

from pipeline.errors import StreamgaugeError
from pipeline.rim.connection import writer
from pipeline.rim.folder_lock import FolderLock
from pipeline.rim.lifeline import die_with_parent
from pipeline.rim.server_binary import find_server_binary

HOST = "127.0.0.1"
FOLDER = "redis"
POLL_S = 0.01
ANSWER_TIMEOUT_S = 30.0  # from start to the first answer, which may be LOADING; loading itself has no bound
ADOPT_TIMEOUT_S = 5.0  # a killed server of many gigabytes takes a moment to be gone
STOP_TIMEOUT_S = 10.0  # the last fsync of the AOF

SETTINGS = {
    "bind": HOST,
    "protected-mode": "yes",
    "daemonize": "no",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "aof-load-truncated": "yes",
    # at 150 MB/s of events the default of 64 MB would rewrite the log several times a minute, on the cores that count
    "auto-aof-rewrite-min-size": "1gb",
    "save": "",  # the AOF is the data; a snapshot beside it costs a fork and is read by nobody
    "maxmemory-policy": "noeviction",
    "lazyfree-lazy-server-del": "yes",
    "lazyfree-lazy-user-del": "yes",
    "logfile": "server.log",
    "pidfile": "server.pid",  # for people; the locks decide
}


class EmbeddedServerError(StreamgaugeError):
    """The embedded server cannot be started, adopted or reached."""


class EmbeddedServer:
    """One supervised server. Start it from a thread that lives as long as it shall: it dies with that thread."""

    def __init__(self, data_dir: Path, *, port: int | None = None, binary: Path | None = None) -> None:
        self.folder = Path(data_dir).resolve() / FOLDER
        self._wanted_port = port
        self._binary = binary
        self._owner = FolderLock(self.folder / "owner.lock")
        self._running = FolderLock(self.folder / "server.lock")
        self._process: subprocess.Popen[bytes] | None = None
        self._adopted_pid: int | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where any Redis client reaches it."""
        return f"redis://{HOST}:{self.port}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else self._adopted_pid

    @property
    def adopted(self) -> bool:
        """Whether it was running before us."""
        return self._adopted_pid is not None

    def start(self) -> None:
        """Start or adopt the server and wait until it has loaded its data.

        Raises:
            EmbeddedServerError: another process supervises it, it does not answer, or it ends while starting.
            NoServerError: there is no server to start.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._owner.acquire():
            raise EmbeddedServerError(
                f"{self.folder}: {self._owner.holder()} runs the embedded server of this folder on "
                f"{self._recorded_url()}. Use that URL, stop that process, or take another --data-dir."
            )
        try:
            self._start_or_adopt()
            self._wait_until_loaded()
        except BaseException:
            self.stop()
            raise

    def ensure_alive(self) -> bool:
        """Start the server again if it died, on the same port, without waiting; tell whether that was needed.

        Raises:
            EmbeddedServerError: its folder is still held by what is left of it.
        """
        if self._is_alive():
            return False
        self._process, self._adopted_pid = None, None
        if not self._acquire_within(ADOPT_TIMEOUT_S):
            raise EmbeddedServerError(f"{self.folder}: the embedded server died; a child of it still has its files.")
        self._spawn()
        return True

    def stop(self, *, at_once: bool = False) -> None:
        """End the server: SIGTERM, so that it syncs its AOF; SIGKILL when that takes longer than 10 s, or `at_once`."""
        if at_once or not self._end(signal.SIGTERM):
            self._end(signal.SIGKILL)
        self._process, self._adopted_pid = None, None
        self._running.let_go()
        self._owner.let_go()

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _start_or_adopt(self) -> None:
        """Start a server when the folder is free, adopt the one that has it when that one answers."""
        deadline = time.monotonic() + ADOPT_TIMEOUT_S
        while not self._running.acquire():
            if self._adopt():
                return
            if time.monotonic() > deadline:
                raise EmbeddedServerError(
                    f"{self.folder}: a server (process {self._recorded('server.pid') or 'unknown'}) has these files, "
                    f"but does not answer on {self._recorded_url()}. Kill it and start again."
                )
            time.sleep(POLL_S)
        self._choose_port()
        self._spawn()

    def _choose_port(self) -> None:
        """Take the port asked for, else the one of last time, else a free one; the next start finds it recorded."""
        wanted = self._wanted_port or self._recorded_port()
        if wanted and _is_free_port(wanted):
            self.port = wanted
        elif self._wanted_port:
            self._running.let_go()
            raise EmbeddedServerError(f"port {wanted} of {HOST} is taken: free it, or leave the port to us.")
        else:
            self.port = _free_port()
        (self.folder / "port").write_text(f"{self.port}\n")

    def _spawn(self) -> None:
        """Start the server with the lock in its hands; ours is closed, so that it is free when the server is gone."""
        settings = SETTINGS | {"port": str(self.port), "dir": str(self.folder)}
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        try:
            self._process = subprocess.Popen(
                [self._binary or find_server_binary(), *options],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(self._running.fd,),
                start_new_session=True,  # Ctrl-C in a terminal goes to its supervisor, which stops it last
                preexec_fn=die_with_parent(),
            )
        finally:
            self._running.let_go()

    def _adopt(self) -> bool:
        """Use the server that holds the folder, if it answers on the recorded port and names the folder as its own."""
        port = self._recorded_port()
        if port is None:
            return False
        client = writer(f"redis://{HOST}:{port}", reply_timeout_s=ADOPT_TIMEOUT_S)
        try:
            if client.config_get("dir").get("dir") != str(self.folder):
                return False
            self._adopted_pid = int(client.info("server")["process_id"])
        except redis.exceptions.RedisError:  # gone, stuck, or not a server of ours: the caller's deadline decides
            return False
        finally:
            client.close()
        self.port = port
        return True

    def _wait_until_loaded(self) -> None:
        """Wait until it answers and has read its data, which has no bound."""
        client = writer(self.url, reply_timeout_s=ADOPT_TIMEOUT_S)
        try:
            deadline = time.monotonic() + ANSWER_TIMEOUT_S
            while (loading := self._is_loading(client)) is not False:
                self._fail_if_ended()
                if loading is None and time.monotonic() > deadline:
                    raise EmbeddedServerError(f"{self.url}: the embedded server does not answer: {self._last_words()}")
                time.sleep(POLL_S)
        finally:
            client.close()

    def _is_loading(self, client: redis.Redis) -> bool | None:
        """Tell whether our server reads its data; None while it does not answer, or another program has its port."""
        try:
            info = client.info("server", "persistence")
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):  # not listening yet, or busy
            return None
        return bool(info["loading"]) if info["process_id"] == self.pid else None

    def _fail_if_ended(self) -> None:
        if not self._is_alive():
            status = self._process.returncode if self._process else "unknown"
            raise EmbeddedServerError(f"the embedded server ended with status {status}: {self._last_words()}")

    def _is_alive(self) -> bool:
        if self._process:
            return self._process.poll() is None
        return self._adopted_pid is not None and not self._is_free()

    def _is_free(self) -> bool:
        """Tell whether no server has the folder."""
        free = self._running.acquire()
        self._running.let_go()
        return free

    def _acquire_within(self, timeout_s: float) -> bool:
        """Take the folder; a child of the dead server that was rewriting the AOF lets go of it soon."""
        return _within(timeout_s, self._running.acquire)

    def _end(self, number: signal.Signals) -> bool:
        """Send a signal and wait for the end; tell whether it came."""
        if not self._is_alive():
            return True
        if self._process:
            self._process.send_signal(number)
            return _within(STOP_TIMEOUT_S, lambda: not self._is_alive())
        assert self._adopted_pid is not None
        os.kill(self._adopted_pid, number)
        return _within(STOP_TIMEOUT_S, self._is_free)

    def _recorded(self, name: str) -> str:
        path = self.folder / name
        return path.read_text().strip() if path.exists() else ""

    def _recorded_port(self) -> int | None:
        text = self._recorded("port")
        return int(text) if text.isdigit() else None

    def _recorded_url(self) -> str:
        return f"redis://{HOST}:{self._recorded_port() or '?'}"

    def _last_words(self) -> str:
        """The end of the server's log, where it says why."""
        log = self.folder / "server.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return f"{' / '.join(lines[-3:]) or 'it said nothing'} (all of it: {log})"


def _within(timeout_s: float, condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _is_free_port(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: closed connections linger
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
