"""`streamgauge late`, `dead-letters` and `quarantine` over an app in this process."""

from __future__ import annotations

import json

import pytest

import api.client
from api.main import app
from pipeline.rim import keys
from pipeline.runtime.cli import run
from tests.api.test_aside import CONFIG, START_MS, event, put, total, with_late_rows
from tests.api.wire import client_on
from tests.line import Line
from tests.servers import RunningServer


@pytest.fixture
def line(server: RunningServer, monkeypatch: pytest.MonkeyPatch) -> Line:
    line = Line(CONFIG, server)
    monkeypatch.setattr(api.client, "Client", lambda url: client_on(line.http))
    return line


def streamgauge(*arguments: str) -> int:
    return run(app, list(arguments))


def test_late_rows_are_listed_and_replayed_once(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    with_late_rows(line)

    assert streamgauge("late", "plain") == 0
    listed = capsys.readouterr()
    assert listed.out.count("ada") == 2
    assert "3 rows; by reason: late 3" in listed.err

    assert streamgauge("late", "plain", "--replay") == 0
    assert capsys.readouterr().out == "replayed 3, already replayed 0, refused 0\n"
    assert streamgauge("late", "plain", "--replay") == 1
    assert "All 3 rows were replayed before" in capsys.readouterr().err
    line.settle()
    assert total(line, "plain") == 4 + 14

    assert streamgauge("late", "plain", "--replay", "--again", "--json") == 0
    assert json.loads(capsys.readouterr().out)["replayed"] == 3


def test_one_row_is_replayed_by_its_id(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    with_late_rows(line)
    streamgauge("late", "plain", "--json")
    one = next(row for row in json.loads(capsys.readouterr().out)["rows"] if row["event"]["v"] == 8)

    assert streamgauge("late", "plain", "--replay", "--id", one["id"]) == 0
    line.settle()

    assert total(line, "plain") == 4 + 8


def test_a_letter_that_stays_dead_fails(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    letter = {"entry": "5-0", "row": "0", "n": "1", "code": "chunk_unreadable", "error": "…", "body": "x"}
    put(line, keys.dead("s", 0, line.programs["plain"].group), letter)

    assert streamgauge("dead-letters", "plain") == 0
    assert "chunk_unreadable" in capsys.readouterr().out
    assert streamgauge("dead-letters", "plain", "--replay") == 1
    assert "send its events again" in capsys.readouterr().err


def test_the_quarantine_is_replayed_as_old_data(line: Line, capsys: pytest.CaptureFixture[str]) -> None:
    line.http.post("/v1/streams/young/events", json=[event(0)])

    assert streamgauge("quarantine", "young") == 0
    assert str(START_MS) in capsys.readouterr().out
    assert streamgauge("quarantine", "young", "--replay", "--backfill") == 0
    line.settle()

    assert total(line, "recent") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("late", "plain", "--again"), "give --replay as well"),
        (("quarantine", "s", "--backfill"), "give --replay as well"),
        (("late", "plain", "--id", "0:1-1"), "give --replay as well"),
        (("late", "plain", "--replay", "--id", "0:1-1", "--reason", "late"), "leave --id or --reason out"),
    ],
)
def test_options_that_say_nothing_are_refused(
    line: Line, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert streamgauge(*arguments) == 2
    assert says in capsys.readouterr().err
