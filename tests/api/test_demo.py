"""A notebook's server: the one that runs and computes what it needs, else its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from api.demo import DemoClient, connect
from pipeline.core.programs import compile_programs
from pipeline.errors import StreamgaugeError
from pipeline.runtime.config import load_config
from tests.fake_api import FakeApi, fake_api

CONFIG = """
streams: {a: {schema: {x: float}}}
stages: {counted: {from: a, window: {tumbling: 1s}, aggregates: {n: count}}}
"""


def version(folder: Path, text: str) -> str:
    path = folder / "config.yaml"
    path.write_text(text)
    return compile_programs(load_config(path, {}))["counted"].version


def runs(api: FakeApi, **versions: str) -> None:
    api.answers["/readyz"] = {"ready": True}
    api.metrics.extend({"metric": name, "version": version} for name, version in versions.items())


def test_a_server_that_computes_what_the_config_says_is_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_api() as api:
        runs(api, counted=version(tmp_path, CONFIG), other="1")
        with connect(CONFIG, url=api.url) as client:
            assert client.url == api.url
            assert not isinstance(client, DemoClient)
    assert capsys.readouterr().out == ""


def test_the_environment_names_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with fake_api() as api:
        runs(api, counted=version(tmp_path, CONFIG))
        monkeypatch.setenv("STREAMGAUGE_URL", api.url)
        with connect(CONFIG) as client:
            assert client.url == api.url


@pytest.mark.parametrize(("versions", "said"), [({}, "no metric 'counted'"), ({"counted": "0"}, "another 'counted'")])
def test_a_server_that_computes_something_else_is_left_alone_and_what_it_lacks_is_said(
    versions: dict[str, str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[object] = []
    monkeypatch.setattr("api.demo.DemoClient", started.append)
    with fake_api() as api:
        runs(api, **versions)
        connect(CONFIG, url=api.url)
        out = capsys.readouterr().out
        assert f"The server at {api.url} runs another config: {said}. This notebook starts its own" in out
        assert api.posts == 0
    assert started == [CONFIG]


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("streams: {a: {schema: {x: flaot}}}\n")
    with pytest.raises(StreamgaugeError, match=r"did not start[^$]*flaot"):
        connect(config, url="http://127.0.0.1:9")
