"""`up` as a tree of processes: it drains in order, restarts what dies, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError, ServerUnfitError
from pipeline.rim.connection import writer
from pipeline.runtime.children import FIRST_PAUSE_S, LONGEST_PAUSE_S, STABLE_AFTER_S, Pauses
from pipeline.runtime.config import load_config
from pipeline.runtime.supervisor import DataDirTakenError, PortTakenError, ServerAwayError, path_to_try, run_up
from tests.servers import RunningServer, answers, wait_for

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """
streams:
  events: {schema: {a: string}}
stages:
  per_a: {from: events, window: {tumbling: 10s}, group_by: [a], aggregates: {n: count}}
"""
# `run_up` with stand-ins for the commands, and short drains where the test says so.
UP = """
import os, sys
from pathlib import Path
from pipeline.runtime import process_tree, supervisor
supervisor.COMMAND_MODULE = "tests.runtime.dummy_commands"
if "DRAIN_S" in os.environ:
    process_tree.DRAIN_TIMEOUTS_S = dict.fromkeys(process_tree.DRAIN_TIMEOUTS_S, float(os.environ["DRAIN_S"]))
config, port, data_dir, redis_url = sys.argv[1:]
sys.exit(supervisor.run_up(
    config_path=Path(config), host="127.0.0.1", port=int(port), data_dir=Path(data_dir), workers=2,
    redis_url=redis_url or None, demo=True,
))
"""
COMMANDS = ("api", "worker-1", "worker-2", "scheduler", "simulate", "helper")
STOP_TIMEOUT_S = 20.0


class Up:
    """`streamgauge up` in a process and a session of its own, as a terminal would start it."""

    def __init__(self, folder: Path, redis_url: str = "", **environment: str) -> None:
        self.folder = folder
        self.notes = folder / "notes"
        self.port = free_port()
        config = folder / "config.yaml"
        config.write_text(CONFIG)
        self.stderr = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", UP, str(config), str(self.port), str(folder / "data"), redis_url],
            env={**os.environ, "NOTES": str(self.notes), **environment},
            cwd=ROOT,
            stderr=self.stderr,
            start_new_session=True,
        )

    def lines(self, *words: str) -> list[list[str]]:
        """The notes that begin with `words`."""
        text = self.notes.read_text() if self.notes.exists() else ""
        notes = [line.split() for line in text.splitlines()]
        return [note for note in notes if note[: len(words)] == list(words)]

    def wait_until_running(self) -> None:
        def running() -> bool:
            assert self.process.poll() is None, self.said()
            return all(self.lines(name, "start") for name in COMMANDS)

        wait_for(running, "all commands to start")

    def pid(self, name: str) -> int:
        """The newest process of a command."""
        return int(self.lines(name, "start")[-1][2])

    def pids(self) -> list[int]:
        started = [int(note[2]) for note in self.lines() if note[1] == "start"]
        server = self.folder / "data" / "redis" / "server.pid"
        return [*started, int(server.read_text())] if server.exists() else started

    def redis_url(self) -> str:
        return self.lines("api", "start")[-1][3]

    def said(self) -> str:
        return (self.folder / "stderr").read_text()

    def press_ctrl_c(self) -> None:
        """As a terminal does: to the whole foreground group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> int:
        return self.process.wait(STOP_TIMEOUT_S)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.stderr.close()


@pytest.fixture
def start_up(tmp_path: Path) -> Iterator[Any]:
    started: list[Up] = []

    def start(redis_url: str = "", **environment: str) -> Up:
        started.append(Up(tmp_path, redis_url, **environment))
        if "REFUSES" not in environment:
            started[-1].wait_until_running()
        return started[-1]

    yield start
    for up in started:
        up.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_ctrl_c_drains_in_order_and_leaves_no_process_and_no_port(start_up: Any) -> None:
    up = start_up()
    pids, redis_port = up.pids(), int(up.redis_url().rpartition(":")[2])
    assert len(pids) == 7
    assert all(is_alive(pid) for pid in pids)

    up.press_ctrl_c()

    assert up.end() == 0
    order = [note[0] for note in up.lines() if note[1] == "end" and note[0] != "helper"]
    assert order[:2] == ["simulate", "api"]
    assert sorted(order[2:4]) == ["worker-1", "worker-2"]
    assert order[4:] == ["scheduler"]
    assert not up.lines("api", "interrupted"), "Ctrl-C reached a child"
    assert [pid for pid in pids if is_alive(pid)] == []
    assert not listens(up.port)
    assert not listens(redis_port)


def test_it_says_where_everything_is_and_what_to_try(start_up: Any) -> None:
    up = start_up()
    wait_for(lambda: "Try" in up.said(), "the welcome")

    assert f"http://127.0.0.1:{up.port}\n" in up.said()
    assert up.redis_url() in up.said()
    assert f"export STREAMGAUGE_URL=http://127.0.0.1:{up.port} " in up.said()  # not where commands look by themselves
    assert f"curl 'http://127.0.0.1:{up.port}/v1/metrics/per_a'" in up.said()


def test_kill_9_of_the_supervisor_leaves_no_process_and_no_port(start_up: Any) -> None:
    up = start_up()
    pids, redis_port = up.pids(), int(up.redis_url().rpartition(":")[2])

    up.process.kill()

    wait_for(lambda: not any(is_alive(pid) for pid in pids), "everything to die with the supervisor")
    # a dead process that nobody has waited for yet may still hold its sockets
    wait_for(lambda: not listens(up.port) and not listens(redis_port), "the ports to be free")


def test_a_start_after_kill_9_continues_from_the_data(start_up: Any) -> None:
    first = start_up()
    client = writer(first.redis_url())
    client.set("a", "1")
    first.process.kill()
    first.process.wait()
    first.notes.unlink()

    second = start_up()

    assert second.redis_url() == client_url(client)
    assert client.get("a") == b"1"
    client.close()


def client_url(client: Any) -> str:
    place = client.connection_pool.connection_kwargs
    return f"redis://{place['host']}:{place['port']}"


@pytest.mark.parametrize("name", ["worker-1", "api"])
def test_a_child_that_dies_is_started_again(start_up: Any, name: str) -> None:
    up = start_up()
    helper = up.pid("helper")

    os.kill(up.pid(name), signal.SIGKILL)

    wait_for(lambda: len(up.lines(name, "start")) == 2, f"{name} to be started again")
    assert f"{name} was ended by signal 9: starting it again in 0.1 s" in up.said()
    if name == "api":
        assert not is_alive(helper), "what the dead API left behind would hold its port"


def test_the_embedded_server_is_started_again_with_its_data(start_up: Any) -> None:
    up = start_up()
    client = writer(up.redis_url())
    client.set("a", "1")

    os.kill(client.info("server")["process_id"], signal.SIGKILL)

    wait_for(lambda: "started it again" in up.said(), "the supervisor to see that the server died")
    wait_for(lambda: answers(client), "the server to answer on the same port")
    assert client.get("a") == b"1"
    assert len(up.lines("worker-1", "start")) == 1
    client.close()


def test_a_child_that_refuses_its_config_stops_everything_with_its_message(start_up: Any) -> None:
    up = start_up(REFUSES="scheduler")

    assert up.end() == 78

    assert "config.yaml:1:1: nonsense" in up.said()
    assert "scheduler refused its configuration: stopping" in up.said()
    wait_for(lambda: not any(is_alive(pid) for pid in up.pids()), "all to be gone")


def test_a_child_that_does_not_drain_in_time_is_killed(start_up: Any) -> None:
    up = start_up(STUCK="worker-2", DRAIN_S="0.3")

    up.press_ctrl_c()

    assert up.end() == 0
    assert "worker-2 did not end within 0.3 s: killing it" in up.said()
    assert up.lines("scheduler", "end")
    assert not any(is_alive(pid) for pid in up.pids())


def test_a_second_ctrl_c_kills_at_once(start_up: Any) -> None:
    up = start_up(STUCK="worker-2", DRAIN_S="600")
    up.press_ctrl_c()
    wait_for(lambda: bool(up.lines("worker-2", "ignores")), "the drain to reach the stuck worker")

    up.press_ctrl_c()

    assert up.end() == 130
    assert not any(is_alive(pid) for pid in up.pids())


def test_sigterm_drains_as_ctrl_c_does(start_up: Any) -> None:
    up = start_up()

    up.process.terminate()

    assert up.end() == 0
    assert up.lines("worker-1", "end")


def test_a_server_of_others_is_used_and_left_alone(start_up: Any, server: RunningServer) -> None:
    up = start_up(server.url)

    assert up.redis_url() == server.url
    up.press_ctrl_c()
    assert up.end() == 0
    assert server.client.ping()
    assert not (up.folder / "data" / "redis").exists()


def test_a_server_named_in_the_environment_is_not_named_in_any_command(start_up: Any, server: RunningServer) -> None:
    up = start_up(STREAMGAUGE_REDIS__URL=server.url)

    assert up.redis_url() == "-"


def run(folder: Path, **changed: Any) -> int:
    config = folder / "config.yaml"
    if not config.exists():
        config.write_text(CONFIG)
    settings: dict[str, Any] = {
        "config_path": config,
        "host": "127.0.0.1",
        "port": free_port(),
        "data_dir": folder / "data",
        "workers": 1,
        "redis_url": None,
        "demo": False,
    }
    return run_up(**settings | changed)


def test_a_second_up_on_one_folder_is_refused(start_up: Any, tmp_path: Path) -> None:
    up = start_up()

    with pytest.raises(DataDirTakenError, match=rf"process {up.process.pid}\) runs on this folder. Stop it, or take"):
        run(tmp_path)

    assert up.process.poll() is None


def test_a_port_that_is_taken_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortTakenError, match="take another --port"):
        run(tmp_path, port=taken.getsockname()[1])

    assert not (tmp_path / "data" / "redis").exists()


def test_a_bad_config_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("streams: 1\n")

    with pytest.raises(ConfigError):
        run(tmp_path)

    assert not (tmp_path / "data").exists()


def test_a_server_that_does_not_answer_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ServerAwayError, match=r"does not answer .* Start it, or use the embedded server"):
        run(tmp_path, redis_url=f"redis://127.0.0.1:{free_port()}")


def test_an_unfit_server_is_refused(tmp_path: Path, throwaway_server: RunningServer) -> None:
    throwaway_server.client.config_set("maxmemory-policy", "allkeys-lru")

    with pytest.raises(ServerUnfitError, match="set `maxmemory-policy noeviction`"):
        run(tmp_path, redis_url=throwaway_server.url)


def test_pauses_between_starts_grow_to_a_limit_and_begin_anew_after_a_stable_run() -> None:
    pauses = Pauses()

    waited = [pauses.ended(now_s=0.0) for _ in range(8)]

    assert waited == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_PAUSE_S, LONGEST_PAUSE_S]
    pauses.started(now_s=100.0)
    assert pauses.ended(now_s=100.0 + STABLE_AFTER_S) == FIRST_PAUSE_S
    assert pauses.due_s == 100.0 + STABLE_AFTER_S + FIRST_PAUSE_S


@pytest.mark.parametrize(
    ("demo", "path"),
    [(False, "/v1/metrics/events_per_minute"), (True, "/v1/metrics/sensor_climate?start=-1m")],
)
def test_it_says_to_try_a_metric_that_has_numbers(demo: bool, path: str) -> None:
    assert path_to_try(load_config(ROOT / "config.yaml", {}), demo=demo) == path
