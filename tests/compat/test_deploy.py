"""What deploy/ brings to stand around the product: nginx in front of it, and the systemd unit that runs it."""

from __future__ import annotations

import base64
import http.client
import re
import socket
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from typer.main import get_command

from api.app import create_app
from api.live_policy import LivePolicy
from api.main import app as commands
from api.server import DRAIN_S
from pipeline.core.validation import MAX_BODY_BYTES
from pipeline.rim.lifeline import die_with_parent
from pipeline.runtime.cli import EXIT_BAD_CONFIG
from tests.api.line import CONFIG, Line, make_line
from tests.compat.programs import binary, free_port, served
from tests.servers import RunningServer, wait_for
from tests.test_layout import ROOT

DEPLOY = ROOT / "deploy"
NAME = "gauge.example.com"
LOGIN = {"Authorization": "Basic " + base64.b64encode(b"ada:secret").decode()}
# What a test changes: where it listens, without TLS; where files are; where the API is.
MAIN = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    {temporary}
{server}
}}
"""
TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@pytest.mark.parametrize(
    ("page", "file"), [("behind-nginx.md", "nginx.conf"), ("run-under-systemd.md", "streamgauge.service")]
)
def test_the_page_shows_the_file_as_it_is(page: str, file: str) -> None:
    blocks = re.findall(r"^```\w+\n(.*?)^```", (ROOT / "docs" / page).read_text("utf-8"), re.MULTILINE | re.DOTALL)

    assert (DEPLOY / file).read_text("utf-8") in blocks


@contextmanager
def nginx(api: int, folder: Path) -> Iterator[int]:
    """The shipped server block in an nginx of our own; its port."""
    port = free_port()
    (folder / "htpasswd").write_text("ada:{PLAIN}secret\n")
    server = (DEPLOY / "nginx.conf").read_text("utf-8")
    changes = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port};",
        r"ssl_certificate \s*\S+;": "",
        r"ssl_certificate_key \S+;": "",
        "/etc/nginx/gauge.htpasswd": str(folder / "htpasswd"),
        "http://127.0.0.1:8080": f"http://127.0.0.1:{api}",
    }
    for pattern, new in changes.items():
        server, count = re.subn(pattern, new, server)
        assert count, pattern
    temporary = " ".join(f"{kind}_temp_path {folder / kind};" for kind in TEMPORARY)
    config = folder / "nginx.conf"
    config.write_text(MAIN.format(folder=folder, temporary=temporary, server=server))
    command = [binary("nginx", "nginx-light"), "-p", str(folder), "-e", "stderr", "-c", str(config)]
    process = subprocess.Popen(command, preexec_fn=die_with_parent())
    try:
        wait_for(lambda: is_up(port), "nginx to listen")
        yield port
    finally:
        process.terminate()
        process.wait(20)


def is_up(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def ask(port: int, path: str, headers: dict[str, str] | None = None, body: bytes | None = None) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET" if body is None else "POST", path, body, {"Host": NAME, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.fixture
def line(server: RunningServer) -> Line:
    return make_line(server)


def test_nginx_asks_for_a_password_and_passes_requests_and_live_events_on(
    line: Line, server: RunningServer, tmp_path: Path
) -> None:
    app = create_app(CONFIG, server.url, live=LivePolicy(heartbeat_s=0.2, look_ms=20))
    line.add(1, "/a")
    line.tick(10)
    line.work()
    with served(app) as api, nginx(api, tmp_path) as port:
        # Then it asks who is there, and keeps the numbers to the inside
        assert ask(port, "/v1/metrics")[0] == 401
        assert [ask(port, path)[0] for path in ("/metrics", "/metrics/windows", "/readyz")] == [403] * 3
        # And passes on what is asked by the name it is reached by, bodies of the largest size too
        assert ask(port, "/v1/metrics/by_page", LOGIN)[0] == 200
        status, answer = ask(port, "/v1/streams/visits/events", LOGIN, b" " * (MAX_BODY_BYTES - 1) + b"x")
        assert (status, b"malformed" in answer) == (422, True)

        # A live event comes while the stream is open
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
            connection.request("GET", "/v1/metrics/by_page/live", headers={"Host": NAME, **LOGIN})
            with connection.getresponse() as stream:
                assert stream.headers["Content-Type"] == "text/event-stream"
                lines = iter(stream.readline, b"")
                assert next(lines) == b"retry: 2000\n"
                assert b"event: snapshot\n" in lines
                line.add(12, "/b")
                line.tick(20)
                line.work()
                assert b"event: rows\n" in lines


def test_the_unit_runs_a_command_there_is_and_waits_for_its_drain() -> None:
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string((DEPLOY / "streamgauge.service").read_text("utf-8"))
    service = unit["Service"]

    program, name, *arguments = service["ExecStart"].split()
    command = getattr(get_command(commands), "commands")[name]  # noqa: B009  # of a group, which mypy does not know
    options = {option for parameter in command.params for option in parameter.opts}
    assert program.endswith("/bin/streamgauge")
    assert {each for each in arguments if each.startswith("--")} <= options
    assert service["RestartPreventExitStatus"] == str(EXIT_BAD_CONFIG)
    assert int(service["TimeoutStopSec"]) > DRAIN_S
    assert service["KillMode"] == "mixed"
    data_dir = arguments[arguments.index("--data-dir") + 1]
    assert data_dir == f"/var/lib/{service['StateDirectory']}"
