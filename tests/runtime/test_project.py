"""`init`, `schema` and shell completion: what they write and print."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from api.main import app
from pipeline.runtime.cli import run
from pipeline.runtime.config import config_warnings, load_config
from pipeline.runtime.config_schema import SCHEMA_FILE
from pipeline.runtime.project_commands import Template

SCHEMA_LINE = re.compile(r"# yaml-language-server: \$schema=(\S+)")


def streamgauge(*arguments: str) -> int:
    return run(app, list(arguments))


@pytest.mark.parametrize("template", list(Template))
def test_init_writes_a_config_that_is_taken_and_names_its_schema(tmp_path: Path, template: Template) -> None:
    folder = tmp_path / "new" / "project"
    assert streamgauge("init", str(folder), "--template", template) == 0

    config = load_config(folder / "config.yaml", {})
    assert config_warnings(config) == []
    match = SCHEMA_LINE.match((folder / "config.yaml").read_text("utf-8"))
    assert match is not None
    assert (folder / match[1]).read_bytes() == SCHEMA_FILE.read_bytes()
    assert (folder / f"{template}.ipynb").exists()


@pytest.mark.parametrize("found", ["/usr/bin/streamgauge", None])
def test_init_prints_three_commands_that_can_be_typed(
    found: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: found)
    program = "streamgauge" if found else str(Path(sys.executable).with_name("streamgauge"))
    folder = tmp_path / "my project"
    assert streamgauge("init", str(folder), "--template", "clickstream") == 0
    assert capsys.readouterr().out.splitlines() == [
        f"cd '{folder}' && {program} up",
        f"{program} simulate --streams pageviews",
        f"{program} query views_by_section --start -5m",
    ]


def test_init_from_a_file_takes_no_template_beside_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert streamgauge("init", str(tmp_path), "--from", "a.csv", "--template", "sensors") == 1
    assert "--from and --template are two ways to a config" in capsys.readouterr().err
    assert streamgauge("init", str(tmp_path), "--from", str(tmp_path / "a.csv")) == 1
    assert f"{tmp_path / 'a.csv'}: No such file or directory" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("present", ["config.yaml", "config.schema.json", "sensors.ipynb"])
def test_init_overwrites_nothing_and_writes_nothing_beside_what_is_there(
    tmp_path: Path, present: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / present).write_text("mine")
    assert streamgauge("init", str(tmp_path)) == 1
    assert capsys.readouterr().err == (
        f"streamgauge: {tmp_path / present} exists already, so nothing was written. Name another folder to write to.\n"
    )
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(present, "mine")]


def test_init_in_a_place_that_cannot_be_written_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert streamgauge("init", str(tmp_path / "file" / "below")) == 1
    assert "cannot be written: Not a directory." in capsys.readouterr().err


def test_schema_prints_the_shipped_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert streamgauge("schema") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(SCHEMA_FILE.read_text("utf-8"))


COMPLETIONS = {
    "bash": {"COMP_WORDS": "streamgauge qua", "COMP_CWORD": "1"},
    "zsh": {"_TYPER_COMPLETE_ARGS": "streamgauge qua"},
    "fish": {"_TYPER_COMPLETE_ARGS": "streamgauge qua", "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
}


@pytest.mark.parametrize("shell", COMPLETIONS)
def test_a_shell_is_offered_the_commands_that_begin_so(shell: str) -> None:
    asked = {**os.environ, **COMPLETIONS[shell], "_STREAMGAUGE_COMPLETE": f"complete_{shell}"}
    done = subprocess.run([sys.executable, "-m", "api.main"], env=asked, capture_output=True, text=True, check=True)

    assert "quarantine" in done.stdout
    assert "query" not in done.stdout
    assert done.stderr == ""
