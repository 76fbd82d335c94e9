"""A notebook's server: the one that runs, else its own, which says why it could not start."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.demo import DemoClient, connect
from pipeline.errors import StreamgaugeError
from tests.fake_api import fake_api


def test_a_server_that_runs_is_used(tmp_path: Path) -> None:
    with fake_api() as api:
        api.answers["/readyz"] = {"ready": True}
        with connect(tmp_path / "none.yaml", url=api.url) as client:
            assert client.url == api.url
            assert not isinstance(client, DemoClient)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("streams: {a: {schema: {x: flaot}}}\n")
    with pytest.raises(StreamgaugeError, match=r"did not start[^$]*flaot"):
        connect(config, url="http://127.0.0.1:9")
