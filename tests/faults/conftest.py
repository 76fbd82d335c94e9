"""Every guard is tested on every server we promise to work with; the storms run on the bundled one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import BINARIES
from tests.servers import RunningServer, bundled_binary, start_server


@pytest.fixture
def server(any_server: RunningServer) -> RunningServer:
    return any_server


@pytest.fixture(params=sorted(BINARIES))
def throwaway_server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunningServer]:
    """A server of this test alone, to kill and to roll back."""
    server = start_server(BINARIES[request.param](), tmp_path / "server")
    yield server
    server.close()


@pytest.fixture
def storm_server(tmp_path: Path) -> Iterator[RunningServer]:
    server = start_server(bundled_binary(), tmp_path / "server")
    yield server
    server.close()
