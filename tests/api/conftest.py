"""Fixtures of the API's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.line import Line, make_line
from tests.api.live_reader import close_live_apps
from tests.servers import RunningServer


@pytest.fixture(autouse=True)
def no_live_streams_left() -> Iterator[None]:
    yield
    close_live_apps()


@pytest.fixture
def line(server: RunningServer) -> Line:
    """An empty line, set up."""
    return make_line(server)
