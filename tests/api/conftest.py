"""Fixtures of the API's tests."""

from __future__ import annotations

import pytest

from tests.api.line import Line, make_line
from tests.servers import RunningServer


@pytest.fixture
def line(server: RunningServer) -> Line:
    """An empty line, set up."""
    return make_line(server)
