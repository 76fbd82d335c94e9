"""The commands that read: `query`, `tail`, `top`, against an API in memory."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from rich.console import Console

from api import tables
from api.client import Client
from api.client_queries import Query
from api.live_reading import LiveEvent
from api.main import app
from api.pairs import matches
from pipeline.runtime.cli import run
from tests.fake_api import FakeApi, fake_api

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api() as fake:
        fake.stream("temps", {"ts": "timestamp", "value": "float", "note": "string?"})
        yield fake


def streamgauge(*arguments: str) -> int:
    return run(app, list(arguments))


def test_tail_prints_the_oldest_of_the_newest_first(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    ids = [("10-0", 0, None), ("9-0", 1, 11), ("9-0", 1, 2), ("9-0", 0, 2)]
    events: list[dict[str, Any]] = [{"id": i, "partition": p, "row": r, "time": 5, "event": {}} for i, p, r in ids]
    api.answers["/v1/streams/temps/events"] = {"events": events}
    assert streamgauge("tail", "temps", "-n", "4", "--url", api.url) == 0
    shown = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(event["id"], event["partition"], event["row"]) for event in shown] == ids[::-1]
    assert api.queries[-1][1] == {"limit": ["4"]}


def metric_answer() -> dict[str, Any]:
    row = {"window_start": 0, "window_end": 60_000, "state": "closed", "revision": 0, "site": "north", "readings": 7}
    return {
        "data": [row],
        "meta": {"watermark": 61_000, "complete_to": 60_000, "step": 60_000, "unit": {"readings": None}},
        "next": None,
    }


# A colour, a bell, a command in one character (CSI), one that turns text round; and what rich takes for markup.
ODD = "a\x1b[31m\x07\x00\x9b2J\u202egnp.exe\r\nb [red]c[/red] \\"


def test_a_value_cannot_command_the_terminal_it_is_shown_in(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    answer = metric_answer()
    answer["data"] = [answer["data"][0] | {"site": ODD, "window_start": start} for start in (0, 60_000, 120_000)]
    api.answers["/v1/metrics/m"] = answer
    for options in (["--spark"], ["--format", "json"]):
        assert streamgauge("query", "m", *options, "--url", api.url) == 0
        shown = capsys.readouterr().out
        assert not [each for each in shown if each != "\n" and not each.isprintable()]
        if "json" in options:
            assert json.loads(shown) == answer  # escaped, and the same
        else:
            lines = [line for line in shown.splitlines() if "a␛[31m␇␀\ufffd2J\ufffdgnp.exe␍␊b [red]c[/red] \\ " in line]
            assert len(lines) == 4  # three rows and a sparkline


def test_query_prints_a_table_and_how_complete_it_is(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/v1/metrics/m"] = metric_answer()
    assert streamgauge("query", "m", "--start", "-1h", "--where", "site=north", "--url", api.url) == 0
    said = capsys.readouterr()
    assert "1970-01-01T00:00:00Z" in said.out
    assert said.out.split()[-2:] == ["north", "7"]
    assert "complete to 1970-01-01T00:01:00Z, watermark 1970-01-01T00:01:01Z" in said.err
    assert api.queries[-1][1] == {"start": ["-1h"], "where.site": ["north"]}


def test_a_table_too_wide_for_the_terminal_is_shown_row_by_row(
    api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {f"mean_of_{name}": 1_234_567.875 for name in ("load", "temperature", "pressure", "humidity")}
    answer = metric_answer()
    answer["data"] = [answer["data"][0] | {"first": 1_001, "last": 2_000, "closes_at": 62_000} | values]
    api.answers["/v1/metrics/m"] = answer
    monkeypatch.setattr(tables, "Console", lambda **_: Console(width=80, force_terminal=True))

    assert streamgauge("query", "m", "--no-spark", "--url", api.url) == 0

    shown = capsys.readouterr().out
    assert "…" not in shown
    assert [line.split() for line in shown.splitlines()[:3]] == [
        ["window_start", "1970-01-01T00:00:00Z"],
        ["window_end", "1970-01-01T00:01:00Z"],
        ["state", "closed"],
    ]
    assert ["mean_of_humidity", "1234567.875"] in [line.split() for line in shown.splitlines()]


def test_times_of_sessions_are_shown_as_times(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    answer = metric_answer()
    answer["data"] = [answer["data"][0] | {"first": 1_001, "last": 2_000, "closes_at": 62_000}]
    api.answers["/v1/metrics/m"] = answer

    assert streamgauge("query", "m", "--url", api.url) == 0

    times = ["1970-01-01T00:00:01.001Z", "1970-01-01T00:00:02Z", "1970-01-01T00:01:02Z"]
    assert capsys.readouterr().out.split()[-3:] == times


def test_query_prints_the_answer_as_json(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/v1/metrics/m"] = metric_answer()
    assert streamgauge("query", "m", "--format", "json", "--url", api.url) == 0
    assert json.loads(capsys.readouterr().out) == metric_answer()


def test_an_unknown_metric_is_the_apis_own_sentence(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert streamgauge("query", "nope", "--url", api.url) == 1
    assert capsys.readouterr().err == "streamgauge: 404 there is no /v1/metrics/nope\n"


def test_query_passes_every_parameter_of_the_api_on(api: FakeApi) -> None:
    api.answers["/v1/metrics/m"] = metric_answer()
    asked = {
        "start": "-1h",
        "end": "now",
        "step": "5m",
        "tz": "Europe/Paris",
        "group_by": "site",
        "agg": "readings",
        "fill": "zero",
        "order": "-readings",
        "limit": "7",
        "state": "closed",
        "cursor": "abc",
    }
    options = [part for name, value in asked.items() for part in (f"--{name.replace('_', '-')}", value)]
    assert (
        streamgauge("query", "m", *options, "--where", "site=a", "--where", "site=b", "--other", "--url", api.url) == 0
    )
    expected = {name: [value] for name, value in asked.items()} | {"where.site": ["a", "b"], "other": ["true"]}
    assert api.queries[-1] == ("/v1/metrics/m", expected)


def test_query_prints_the_curl_that_asks_the_same_and_asks_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--start", "-1h", "--where", "site=it's north", "-o", "csv", "--url", f"{NOWHERE}/"]
    assert streamgauge("query", "m", *options, "--curl") == 0
    asked = "/v1/metrics/m?start=-1h&where.site=it%27s+north&format=csv"
    assert capsys.readouterr().out == f"curl -sS '{NOWHERE}{asked}'\n"


def test_the_curl_that_query_prints_runs_in_a_shell(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.answers["/v1/metrics/m"] = metric_answer()
    assert streamgauge("query", "m", "--where", "site=a b", "--where", "site=$HOME", "--url", api.url, "--curl") == 0
    done = subprocess.run(["sh", "-c", capsys.readouterr().out], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == metric_answer()
    assert api.queries == [("/v1/metrics/m", {"where.site": ["a b", "$HOME"]})]


def test_query_draws_a_line_for_each_group_with_gaps_where_it_has_no_row(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    def row(minute: int, site: str, readings: int) -> dict[str, Any]:
        start = minute * 60_000
        return {
            "window_start": start,
            "window_end": start + 60_000,
            "state": "final",
            "site": site,
            "readings": readings,
        }

    rows = [row(0, "north", 1), row(0, "south", 5), row(1, "south", 5), row(4, "north", 9)]
    api.answers["/v1/metrics/m"] = metric_answer() | {"data": rows}

    assert streamgauge("query", "m", "--spark", "--url", api.url) == 0

    lines = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert [line.rstrip() for line in lines] == [
        "group  value     oldest to newest  least  most  last",
        "north  readings  ▁   █             1      9     9",
        "south  readings  ▁▁                5      5     5",
    ]


@pytest.mark.parametrize("command", [["query", "m"], ["tail", "s"], ["top", "--once"], ["top", "--json"]])
def test_without_an_api_a_command_ends_with_one_sentence(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert streamgauge(*command, "--url", NOWHERE) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"streamgauge: no answer from {NOWHERE}")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("command", ["query", "tail"])
def test_a_where_without_a_value_is_wrong_usage(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert streamgauge(command, "m", "--where", "site", "--url", NOWHERE) == 2
    assert "'site' is not field=value" in capsys.readouterr().err


def event(number: int, **fields: Any) -> dict[str, Any]:
    return {"id": f"{number}-0", "partition": 0, "row": None, "time": number, "event": fields}


def test_tail_shows_only_events_with_the_values_that_are_asked_for(
    api: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    events = [event(4, value=2.0, note="b"), event(3, value=1.0, note="a"), event(2, value=2.0, note="a"), event(1)]
    api.answers["/v1/streams/temps/events"] = {"events": events}

    asked = ["--where", "value=2", "--where", "note=a", "--where", "note=c"]
    assert streamgauge("tail", "temps", *asked, "-n", "5", "--url", api.url) == 0

    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["2-0"]
    assert api.queries[-1][1] == {"limit": ["1000"]}


def test_tail_refuses_a_field_that_the_stream_has_not(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert streamgauge("tail", "temps", "--where", "valeu=2", "--url", api.url) == 2
    assert "temps has no field 'valeu'; it has ts, value, note" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "text", "is_meant"),
    [
        ("a=b", "a=b", True),
        (2, "2.0", True),
        (1.5, "1.5", True),
        (1, "true", False),
        (True, "true", True),
        (True, "1", False),
        (None, "null", True),
        (None, "", True),
        ("null", "null", True),
        (2, "two", False),
        ([1, 2], "[1,2]", True),
    ],
)
def test_a_value_of_an_event_is_compared_by_its_type(value: object, text: str, is_meant: bool) -> None:
    assert matches({"x": value}, [("x", text)]) is is_meant


def test_tail_of_a_metric_prints_its_newest_published_rows(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    api.metrics.append({"metric": "hot"})
    rows = [{"window_start": start, "site": "north"} for start in (60_000, 0)]
    api.answers["/v1/metrics/hot"] = {"data": rows, "meta": {}, "next": None}

    assert streamgauge("tail", "hot", "-n", "2", "--where", "site=north", "--url", api.url) == 0

    assert [json.loads(line)["window_start"] for line in capsys.readouterr().out.splitlines()] == [0, 60_000]
    expected = {"state": ["closed"], "order": ["-window"], "limit": ["2"], "where.site": ["north"]}
    assert api.queries[-1] == ("/v1/metrics/hot", expected)


def test_tail_follows_a_metric_by_its_live_stream_and_says_where_rows_may_be_missing(
    api: FakeApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api.metrics.append({"metric": "hot"})
    asked: list[tuple[str, Query]] = []

    def live_events(client: Client, path: str, query: Query) -> Iterator[LiveEvent]:
        asked.append((path, query))
        yield LiveEvent("snapshot", {"data": [{"n": 1}], "meta": {}})
        yield LiveEvent("reset", {"reason": "trimmed", "detail": "rows before 7-0 are gone"})
        yield LiveEvent("rows", {"data": [{"n": 2}, {"n": 3}], "meta": {}})

    monkeypatch.setattr(Client, "live_events", live_events)
    assert streamgauge("tail", "hot", "-f", "--where", "site=a", "--where", "site=b", "--url", api.url) == 0

    said = capsys.readouterr()
    assert [json.loads(line)["n"] for line in said.out.splitlines()] == [1, 2, 3]
    assert said.err == "… rows may be missing here: rows before 7-0 are gone …\n"
    assert asked == [("/v1/metrics/hot/live", {"where.site": ["a", "b"]})]


def test_tail_of_what_is_not_there_names_what_is(api: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert streamgauge("tail", "tmps", "--url", api.url) == 1
    assert capsys.readouterr().err == (
        "streamgauge: there is no stream and no metric 'tmps'. There are streams: temps; metrics: none.\n"
    )


def metrics_text(stored: int, late: int = 0) -> str:
    """What `GET /metrics` says, as far as `top` reads it."""
    return f"""# HELP streamgauge_events_stored_total x
# TYPE streamgauge_events_stored_total counter
streamgauge_events_stored_total{{stream="temps"}} {stored}
# TYPE streamgauge_events_rejected_total counter
streamgauge_events_rejected_total{{stream="temps"}} 3
# TYPE streamgauge_watermark_delay_seconds gauge
streamgauge_watermark_delay_seconds{{stage="hot"}} 5.5
# TYPE streamgauge_quarantine_entries gauge
streamgauge_quarantine_entries{{stream="temps"}} 2
# TYPE streamgauge_redis_memory_bytes gauge
streamgauge_redis_memory_bytes 12500000
# TYPE streamgauge_workers gauge
streamgauge_workers 2
"""


def stage(name: str, group: str | None, read: int) -> dict[str, Any]:
    ledger = {"read": read, "accepted": read, "filtered": 0, "late": 4, "dead": 1, "balances": True}
    lag = {"entries": 1, "events": 70, "seconds": 1.25}
    own = {"lag": lag, "pending": 6, "ledger": ledger} if group else {"lag": None, "pending": None, "ledger": None}
    return {"stage": name, "group": group, **own}


@pytest.fixture
def busy(api: FakeApi) -> FakeApi:
    """An API whose counters go up by 1,000 at each look."""
    looks = {"metrics": 0, "stages": 0}

    def stages(_: dict[str, list[str]]) -> dict[str, Any]:
        looks["stages"] += 1
        return {"stages": [stage("kept", None, 0), stage("hot", "hot@1", 500 * looks["stages"])]}

    def metrics() -> str:
        looks["metrics"] += 1
        return metrics_text(1_000 * looks["metrics"])

    api.computed["/v1/stages"] = stages
    api.texts["/metrics"] = metrics
    return api


def test_top_for_scripts_has_rates_of_the_counters_between_two_looks(
    busy: FakeApi, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert streamgauge("top", "--once", "--json", "--interval", "0.3", "--url", busy.url) == 0
    took_s = time.monotonic() - began

    said = json.loads(capsys.readouterr().out)
    assert (said["workers"], said["redis_memory_bytes"]) == (2, 12_500_000)
    (stream,), (hot,) = said["streams"], said["stages"]
    assert 1_000 / took_s < stream.pop("events_per_s") <= 1_000 / 0.3
    assert stream == {"stream": "temps", "stored": 2_000, "duplicate": 0, "rejected": 3, "quarantined": 2}
    assert 500 / took_s < hot.pop("events_per_s") <= 500 / 0.3
    assert hot == {
        "stage": "hot",
        "lag_events": 70,
        "lag_s": 1.25,
        "watermark_delay_s": 5.5,
        "pending": 6,
        "late": 4,
        "dead": 1,
        "books_add_up": True,
    }


def test_top_in_a_pipe_prints_one_look_as_tables(busy: FakeApi, capsys: pytest.CaptureFixture[str]) -> None:
    assert streamgauge("top", "--url", busy.url) == 0
    said = capsys.readouterr().out
    assert "Redis 12.5 MB, 2 workers" in said
    assert "watermark delay" in said
    assert "5.5 s" in said


def test_top_in_a_terminal_refreshes_until_q_is_pressed(busy: FakeApi) -> None:
    terminal, inside = pty.openpty()
    command = [sys.executable, "-m", "api.main", "top", "--interval", "0.2", "--url", busy.url]
    process = subprocess.Popen(
        command, stdin=inside, stdout=inside, stderr=inside, env={**os.environ, "COLUMNS": "120"}
    )
    os.close(inside)
    said = ""
    try:
        while said.count("q ends") < 3:
            said += os.read(terminal, 65_536).decode(errors="replace")
        os.write(terminal, b"xq")
        with suppress(OSError):  # EIO: the other end is closed
            while os.read(terminal, 65_536):
                pass
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert "12.5 MB" in said
