"""Which embedded server runs on a data folder, as seen by another process."""

from __future__ import annotations

import socket
from pathlib import Path

from pipeline.rim.embedded import EmbeddedServer
from pipeline.rim.running import running_url


def test_a_running_server_is_found_and_a_stopped_one_is_not(tmp_path: Path) -> None:
    assert running_url(tmp_path) is None
    with EmbeddedServer(tmp_path) as server:
        assert running_url(tmp_path) == server.url
    assert running_url(tmp_path) is None


def test_a_server_of_another_folder_on_the_recorded_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    ours = tmp_path / "ours" / "redis"
    ours.mkdir(parents=True)
    with EmbeddedServer(tmp_path / "theirs") as server:
        (ours / "port").write_text(f"{server.port}\n")
        assert running_url(tmp_path / "ours") is None


def test_who_listens_on_the_recorded_port_and_never_answers_is_no_server_of_ours(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (folder / "port").write_text(f"{silent.getsockname()[1]}\n")
        assert running_url(tmp_path) is None
