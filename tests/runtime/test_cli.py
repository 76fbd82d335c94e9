"""The command line: what goes where, and how it ends."""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from api.main import app
from api.sending import arriving_lines
from pipeline.runtime.cli import run
from pipeline.runtime.replay_files import EventTimes, FileRow
from tests.fake_api import FakeApi, fake_api

GOOD_CONFIG = """
streams:
  temps:
    schema: {ts: timestamp, value: float, note: string?}
    time: {field: ts}
stages:
  by_minute:
    from: temps
    window: {tumbling: 1m}
    aggregates: {readings: count}
"""
START_MS = 1_431_857_103_000


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as fake:
        fake.stream("temps", {"ts": "timestamp", "value": "float", "note": "string?"})
        yield fake


@pytest.fixture(autouse=True)
def state_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in [name for name in os.environ if name.startswith("STREAMGAUGE_")]:
        monkeypatch.delenv(name)


def streamgauge(*arguments: str) -> int:
    return run(app, list(arguments))


def test_check_prints_the_graph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(GOOD_CONFIG)
    assert streamgauge("check", "--config", str(config)) == 0
    assert "by_minute" in capsys.readouterr().out


def test_a_bad_config_ends_with_78_and_every_problem_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(GOOD_CONFIG.replace("tumbling", "tumblin").replace("disorder", "x").replace("float,", "flaot,"))
    assert streamgauge("check", "--config", str(config)) == 78
    said = capsys.readouterr()
    assert said.out == ""
    assert "flaot" in said.err
    assert "tumblin" in said.err
    assert "Traceback" not in said.err


def test_a_traceback_is_shown_only_with_debug(tmp_path: Path) -> None:
    def ended(*options: str) -> str:
        command = [sys.executable, "-m", "api.main", "tail", "s", "--url", "nowhere", *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        return done.stderr

    assert ended() == "streamgauge: 'nowhere' is not the address of an API; it looks like http://127.0.0.1:8080\n"
    assert "Traceback" in ended("--debug")


def test_the_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert streamgauge("--version") == 0
    assert capsys.readouterr().out == f"streamgauge {version('streamgauge')}\n"


def test_the_module_of_the_pipeline_runs_by_itself() -> None:
    done = subprocess.run([sys.executable, "-m", "pipeline.runtime.cli", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "scheduler" in done.stdout


def test_help_loads_none_of_the_heavy_libraries() -> None:
    code = "import sys, api.main; print(sorted({'pandas', 'polars', 'flask', 'redis', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", ["worker", "scheduler", "api"])
def test_a_process_without_redis_says_where_one_may_be(
    tmp_path: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(GOOD_CONFIG)
    assert streamgauge(command, "--config", str(config), "--data-dir", str(tmp_path / "none")) == 1
    assert "--redis-url" in capsys.readouterr().err


def test_replay_sends_a_file_and_says_what_became_of_it(
    tmp_path: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "temps.csv.gz"
    file.write_bytes(gzip.compress(b"ts,value\n2015-05-17 10:05:03,1.5\n2015-05-17 10:05:04,oops\n"))

    assert streamgauge("replay", str(file), "--stream", "temps", "--url", api.url, "--json") == 0

    said = capsys.readouterr()
    outcome = json.loads(said.out)
    assert {name: outcome[name] for name in ("stream", "accepted", "rejected", "duplicates", "resumed_at")} == {
        "stream": "temps",
        "accepted": 1,
        "rejected": 1,
        "duplicates": 0,
        "resumed_at": 0,
    }
    assert "line 3: rejected: value: is not a float" in said.err
    assert api.rows["temps"] == [{"ts": "2015-05-17 10:05:03", "value": 1.5}]
    assert api.ticks == [("temps", {"end": True})]


def test_replay_into_a_stream_that_is_further_sends_nothing_and_ends_with_3(
    tmp_path: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.streams.clear()
    api.stream("temps", {"ts": "timestamp", "value": "float"}, watermark=START_MS + 1)
    file = tmp_path / "a.ndjson"
    file.write_text(json.dumps({"ts": START_MS, "value": 1.0}))
    assert streamgauge("replay", str(file), "--stream", "temps", "--url", api.url) == 3
    assert "another stream" in capsys.readouterr().err
    assert api.posts == 0
    assert api.ticks == []


def test_replay_as_backfill_goes_to_a_stream_that_has_come_further(
    tmp_path: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    api.streams.clear()
    api.stream("temps", {"ts": "timestamp", "value": "float"}, watermark=START_MS + 1)
    file = tmp_path / "a.ndjson"
    file.write_text(f'{{"ts":{START_MS},"value":1.0}}\n{{"ts":{START_MS + 7},"value":2.0}}')

    assert streamgauge("replay", str(file), "--stream", "temps", "--url", api.url, "--backfill") == 0

    assert (api.asked, api.ticks) == (["backfill=true"], [])
    assert "windows after that stay open" in capsys.readouterr().err


def test_replay_shifted_to_now_says_by_how_much(
    tmp_path: Path, api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.ndjson"
    file.write_text(f'{{"ts":{START_MS},"value":1.0}}\n{{"ts":{START_MS + 7},"value":2.0}}')

    assert streamgauge("replay", str(file), "--stream", "temps", "--url", api.url, "--shift-to-now", "--json") == 0

    said = capsys.readouterr()
    first, second = (EventTimes("ts").of(FileRow(1, json.dumps(row).encode())) for row in api.rows["temps"])
    assert first is not None
    assert second == first + 7
    assert json.loads(said.out)["shift_ms"] == second - (START_MS + 7)
    assert 0 <= time.time_ns() // 1_000_000 - second < 60_000
    assert "days later than in the file" in said.err


def test_replay_of_nothing_but_refused_rows_fails(tmp_path: Path, api: FakeApi) -> None:
    file = tmp_path / "a.ndjson"
    file.write_text('{"value":"x"}\n')
    assert streamgauge("replay", str(file), "--stream", "temps", "--url", api.url) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--speed", "0"], "neither a number above 0 nor max"),
        (["--speed", "fast"], "neither a number above 0 nor max"),
    ],
)
def test_replay_refuses_what_it_cannot_do(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert streamgauge("replay", "file", "--stream", "temps", *options) == 2
    assert said in capsys.readouterr().err


def test_send_types_its_pairs_by_the_schema(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert streamgauge("send", "temps", f"ts={START_MS}", "value=20", "note=", "other=7", "--url", api.url) == 0
    assert api.rows["temps"] == [{"ts": START_MS, "value": 20.0, "note": None, "other": "7"}]
    assert json.loads(capsys.readouterr().out) == {"accepted": 1, "rejected": 0, "duplicates": 0}


def test_send_passes_stdin_on_and_names_refused_rows(
    api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b'{"value":1}\n\n{"value":"x"}\n{"value":3}')))
    assert streamgauge("send", "temps", "--url", api.url) == 0
    assert [row["value"] for row in api.rows["temps"]] == [1, 3]
    assert "row 1: rejected: value: is not a float" in capsys.readouterr().err


def test_send_takes_a_file(tmp_path: Path, api: FakeApi) -> None:
    (tmp_path / "a.csv").write_text("ts,value\n1,2\n")
    assert streamgauge("send", "temps", str(tmp_path / "a.csv"), "--url", api.url) == 0
    assert api.rows["temps"] == [{"ts": 1, "value": 2.0}]


def test_send_says_what_it_takes_when_a_word_is_neither_a_file_nor_a_field(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    assert streamgauge("send", "temps", "value", "--url", api.url) == 2
    assert "'value' is neither a file nor field=value" in " ".join(capsys.readouterr().err.split())
    assert "temps" not in api.rows


def test_lines_are_sent_as_they_arrive_not_when_a_batch_is_full() -> None:
    read, write = os.pipe()
    with os.fdopen(read, "rb") as source, os.fdopen(write, "wb", buffering=0) as sink:
        lines = arriving_lines(source)
        sink.write(b"one\ntw")
        assert next(lines) == [b"one"]
        sink.write(b"o\nthree")
        assert next(lines) == [b"two"]
        sink.close()
        assert list(lines) == [[b"three"]]


def test_doctor_fails_with_what_to_do_when_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(GOOD_CONFIG)
    options = ["--config", str(config), "--data-dir", str(tmp_path), "--url", "http://127.0.0.1:9", "--json"]
    assert streamgauge("doctor", *options) == 1
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)}
    assert checks["config"]["ok"]
    assert not checks["redis"]["ok"]
    assert not checks["api"]["ok"]
    assert "streamgauge up" in checks["api"]["fix"]

    assert streamgauge("doctor", *options[:-1]) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    failed = next(number for number, line in enumerate(lines) if line.startswith("FAIL api "))
    assert lines[failed + 1] == f"-> {checks['api']['fix']}"


def test_simulate_sends_for_its_seconds(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.stream("sensors", {"ts": "timestamp"})
    assert streamgauge("simulate", "--streams", "sensors", "--seconds", "0.3", "--rate", "100", "--url", api.url) == 0
    assert len(api.rows["sensors"]) == 30
    assert "Sent 30 events" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"), [(["--streams", "cats"], "no simulation 'cats'"), (["--seconds", "x"], "forever")]
)
def test_simulate_refuses_what_it_cannot_make(
    options: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert streamgauge("simulate", *options) == 2
    assert said in capsys.readouterr().err


def test_help_does_not_load_what_only_running_processes_need() -> None:
    code = "import sys; from api.main import app; from pipeline.runtime.cli import run; run(app, ['--help']); "
    code += "print(sorted({'structlog', 'polars', 'pandas', 'redis', 'flask'} & sys.modules.keys()), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout
    assert done.stderr == "[]\n"


@pytest.mark.parametrize("options", [["--debug", "worker"], ["worker", "--debug"], ["worker"]])
def test_debug_shows_log_lines_of_every_level(options: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    monkeypatch.setattr("pipeline.runtime.logs.configure", lambda *, debug: seen.append(debug))
    monkeypatch.setattr("pipeline.runtime.worker.run_worker", lambda **_: None)
    assert streamgauge(*options, "--redis-url", "redis://127.0.0.1:1") == 0
    assert seen == ["--debug" in options]
