"""scripts/setup.sh on a machine made of stand-ins: no network, no apt, and a Python that does what a test says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("sh", "cat", "chmod", "cksum", "cp", "dirname", "mkdir", "mktemp", "rm", "tail")
PARTS = [f"pipeline/core/{name}" for name in ("_chunks.c", "_hash.h", "_names.c", "_ndjson.c", "_texts.c")]
FILES = ("scripts/setup.sh", "requirements.lock", "requirements-run.lock", "pyproject.toml", "hatch_build.py", *PARTS)

# Answers what setup.sh asks of an interpreter; `-m venv FOLDER` puts a copy of this file there. Calls are written down.
PYTHON = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
    --version) echo "Python 3.x" ;;
    "-c import sys; sys.exit"*) exit "${TOO_OLD:-0}" ;;
    "-m venv --without-pip "*) exit 1 ;;
    "-m venv "*)
        [ -z "${NO_VENV:-}" ] || [ -e "$CALLS.python3-venv" ] || exit 1
        mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && : >"$3/pyvenv.cfg" ;;
esac
"""
# `apt-get install -y PACKAGE` leaves a file named after the package.
APT = """#!/bin/sh
echo "apt-get $*" >>"$CALLS"
if [ "$1" = install ]; then : >"$CALLS.$3"; fi
"""
USER = """#!/bin/sh
echo "${FAKE_UID:-1000}"
"""


class Machine:
    """A folder with the project's files of set-up, whose path has a space in it, and a PATH of stand-ins."""

    def __init__(self, home: Path) -> None:
        self.folder = home / "a folder"
        self.calls = home / "calls"
        tools = home / "bin"
        tools.mkdir()
        for tool in TOOLS:
            where = shutil.which(tool)
            assert where, tool
            (tools / tool).symlink_to(where)
        for name, script in (("python3", PYTHON), ("apt-get", APT), ("id", USER)):
            (tools / name).write_text(script, "utf-8")
            (tools / name).chmod(0o755)
        (self.folder / "scripts").mkdir(parents=True)
        (self.folder / "pipeline" / "core").mkdir(parents=True)
        for name in FILES:
            shutil.copy(ROOT / name, self.folder / name)
        self.env = {"PATH": str(tools), "CALLS": str(self.calls), "TMPDIR": str(home)}

    def setup(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("", "utf-8")
        command = ["sh", os.fspath(self.folder / "scripts/setup.sh"), *args]
        return subprocess.run(command, env=self.env | env, capture_output=True, text=True, check=False, timeout=30)

    def installs(self) -> int:
        return sum("pip install" in call for call in self.calls.read_text("utf-8").splitlines())

    def made_environments(self) -> int:
        return sum(call.startswith("-m venv ") for call in self.calls.read_text("utf-8").splitlines())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_the_first_run_makes_the_environment_and_installs_the_lock_and_the_project(machine: Machine) -> None:
    done = machine.setup()

    assert done.returncode == 0, done.stderr
    assert (machine.made_environments(), machine.installs()) == (1, 2)
    assert "--require-hashes" in machine.calls.read_text("utf-8")


def test_a_second_run_installs_nothing(machine: Machine) -> None:
    machine.setup()
    done = machine.setup()

    assert (done.returncode, done.stderr) == (0, "")
    assert (machine.made_environments(), machine.installs()) == (0, 0)


def test_a_changed_lock_is_installed_into_the_same_environment(machine: Machine) -> None:
    machine.setup()
    with (machine.folder / "requirements.lock").open("a", encoding="utf-8") as lock:
        lock.write("# changed\n")
    machine.setup()

    assert (machine.made_environments(), machine.installs()) == (0, 2)


def test_running_installs_the_smaller_lock_and_what_has_everything_has_it(machine: Machine) -> None:
    machine.setup("run")
    assert "--requirement requirements-run.lock" in machine.calls.read_text("utf-8")
    machine.setup("run")
    assert machine.installs() == 0
    machine.setup()
    assert "--requirement requirements.lock" in machine.calls.read_text("utf-8")
    machine.setup("run")
    assert (machine.made_environments(), machine.installs()) == (0, 0)


def test_both_locks_pin_the_same_versions() -> None:
    everything, running = (
        set(re.findall(r"^[a-z0-9._-]+==\S+", (ROOT / name).read_text("utf-8"), re.MULTILINE))
        for name in ("requirements.lock", "requirements-run.lock")
    )
    assert running < everything  # `make lock` writes both
    assert {each.partition("==")[0] for each in running} >= {"flask", "polars", "hatchling", "editables"}


def test_a_moved_folder_gets_a_new_environment(machine: Machine) -> None:
    machine.setup()
    machine.folder = machine.folder.rename(machine.folder.with_name("another folder"))
    machine.setup()

    assert (machine.made_environments(), machine.installs()) == (1, 2)


def test_an_installation_that_was_cut_off_is_done_again(machine: Machine) -> None:
    machine.setup()
    (machine.folder / ".venv/streamgauge-contents").unlink()
    machine.setup()

    assert machine.installs() == 2


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"PYTHON": "absent-python"}, "no 'absent-python' here: install Python 3.11 or newer"),
        ({"TOO_OLD": "1"}, "Python 3.x is too old: Streamgauge needs 3.11 or newer"),
        ({"NO_VENV": "1"}, "root can install what is missing: apt-get install python3-venv"),
    ],
)
def test_what_stops_the_set_up_is_said_in_one_sentence(machine: Machine, env: dict[str, str], said: str) -> None:
    done = machine.setup(**env)

    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (machine.folder / ".venv").exists()


def test_a_folder_that_is_no_environment_is_left_alone(machine: Machine) -> None:
    precious = machine.folder / ".venv/thesis.txt"
    precious.parent.mkdir()
    precious.write_text("years of work", "utf-8")
    done = machine.setup()

    assert done.returncode == 1
    assert "exists and is not a virtual environment" in done.stderr
    assert precious.exists()


def test_root_gets_what_makes_environments_from_apt(machine: Machine) -> None:
    done = machine.setup(NO_VENV="1", FAKE_UID="0")

    assert done.returncode == 0, done.stderr
    assert "apt-get install -y python3-venv" in machine.calls.read_text("utf-8")
    assert machine.installs() == 2


def test_root_gets_the_redis_server_of_the_tests_from_apt_and_run_does_not_ask_for_it(machine: Machine) -> None:
    machine.setup(FAKE_UID="0")
    assert "apt-get" not in machine.calls.read_text("utf-8")

    machine.setup("test", FAKE_UID="0")
    assert "apt-get install -y redis-server" in machine.calls.read_text("utf-8")


def test_root_gets_the_browser_of_the_tests_from_apt_and_one_that_is_there_is_kept(machine: Machine) -> None:
    machine.setup("test", FAKE_UID="0")
    assert "apt-get install -y chromium" in machine.calls.read_text("utf-8")

    (machine.folder.parent / "bin/chromium").symlink_to("/bin/true")
    machine.setup("test", FAKE_UID="0")
    assert "chromium" not in machine.calls.read_text("utf-8")


def test_root_gets_the_compiler_of_the_native_reader_from_apt_and_run_does_without(machine: Machine) -> None:
    machine.setup(FAKE_UID="0")
    assert "gcc" not in machine.calls.read_text("utf-8")

    machine.setup("test", FAKE_UID="0")
    assert "apt-get install -y gcc python3-dev" in machine.calls.read_text("utf-8")


def test_a_compiler_that_came_later_is_used(machine: Machine) -> None:
    machine.setup()
    (machine.folder.parent / "bin/cc").symlink_to("/bin/true")
    machine.setup()

    assert machine.installs() == 2


def test_a_missing_redis_server_is_said_and_stops_nothing(machine: Machine) -> None:
    done = machine.setup("test")

    assert done.returncode == 0
    assert "no redis-server on PATH, so the tests on it are skipped" in done.stderr
    assert "no chromium on PATH, so the tests of the dashboard are skipped" in done.stderr
