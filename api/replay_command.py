"""`streamgauge replay`: a file into a stream, with progress.

Invariant: what is printed here was reported by `pipeline.runtime.replay`; nothing is decided here but exit codes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from api.commands import DEFAULT_URL, Url
from pipeline.core.times import about_duration
from pipeline.runtime.cli import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_STOPPED_BEFORE_SENDING

if TYPE_CHECKING:
    from rich.progress import Progress

    from pipeline.runtime.replay import Replay, ReplayReport

PATIENCE_S = 600.0  # a full backlog drains and a Redis restarts in less; a replay is long work that should outlast both
REFUSED_SHOWN = 5

TimeFormat = Annotated[
    str | None, typer.Option(help="How a CSV writes its times, as strptime reads it: '%d.%m.%Y %H:%M:%S'.")
]
DecimalComma = Annotated[bool, typer.Option("--decimal-comma", help="Numbers of the CSV are written 1.234,5.")]


def replay(
    file: Annotated[Path, typer.Argument(help="NDJSON, CSV or Parquet; the first two also gzipped.")],
    stream: Annotated[str, typer.Option("--stream", "-s", help="Where to send it.")],
    speed: Annotated[str, typer.Option(help="1 is real time, 60 a minute a second, max as fast as it goes.")] = "max",
    batch: Annotated[int, typer.Option(min=1, max=10_000, help="Rows of one request.")] = 5_000,
    url: Url = DEFAULT_URL,
    keep_open: Annotated[bool, typer.Option("--open", help="More will come: leave the last windows open.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a replay of this file stopped, cutting batches as it did.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Send even if time in the file falls back by over a day.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON object.")] = False,
    backfill: Annotated[
        bool, typer.Option("--backfill", help="Old data for a live stream: never late, and it moves no time.")
    ] = False,
    shift_to_now: Annotated[
        bool, typer.Option("--shift-to-now", help="Move all times by as much as makes the newest row now.")
    ] = False,
    time_format: TimeFormat = None,
    decimal_comma: DecimalComma = False,
) -> None:
    """Send a file, each row once and in file order, after a look at where it begins. Exit code 3: it did not send."""
    from api.client import Client
    from pipeline.runtime.csv_files import CsvStyle
    from pipeline.runtime.replay import Replay, ReplayOrder, ReplayStoppedError
    from pipeline.runtime.replay_state import state_folder

    order = ReplayOrder(
        file,
        stream,
        url,
        _speed(speed),
        batch,
        end=not keep_open,
        resume=resume,
        send_anyway=yes,
        backfill=backfill,
        shift_to_now=shift_to_now,
        style=CsvStyle(time_format, decimal_comma),
    )
    with Client(url, patience_s=PATIENCE_S) as client:
        try:
            run = Replay(order, client, state_folder(os.environ))
            report = _run(run)
        except ReplayStoppedError as stop:
            typer.echo(f"streamgauge: {stop}", err=True)
            raise typer.Exit(EXIT_STOPPED_BEFORE_SENDING) from None
        except KeyboardInterrupt:
            typer.echo("Stopped. What was sent is kept; the same command with --resume goes on.", err=True)
            raise typer.Exit(EXIT_INTERRUPTED) from None
    _print_outcome(report, stream, run.shift_ms, as_json)
    if report.result.rejected and report.result.rejected == report.result.rows:
        raise typer.Exit(EXIT_FAILED)


def _speed(text: str) -> float | None:
    if text == "max":
        return None
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0 < speed < float("inf"):
        raise typer.BadParameter(f"{text!r} is neither a number above 0 nor max", param_hint="--speed")
    return speed


def _run(run: Replay) -> ReplayReport:
    survey = run.survey()
    if run.shift_ms:
        way = "later" if run.shift_ms > 0 else "earlier"
        typer.echo(f"Every event time is {about_duration(abs(run.shift_ms))} {way} than in the file.", err=True)
    for note in filter(None, (*survey.jumps, run.note(survey))):
        typer.echo(f"note: {note}", err=True)
    with _progress() as progress:
        bar = progress.add_task("sending", total=survey.rows, rate="")

        def show(rows_done: int) -> None:
            speed = progress.tasks[0].speed
            progress.update(bar, completed=rows_done, rate=f"{speed:,.0f} rows/s" if speed else "")

        return run.send(show)


def _progress() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _print_outcome(report: ReplayReport, stream: str, shift_ms: int, as_json: bool) -> None:
    for line, error in report.refused[:REFUSED_SHOWN]:
        typer.echo(f"line {line}: rejected: {error}", err=True)
    result = report.result
    if result.rejected > REFUSED_SHOWN:
        typer.echo(f"{result.rejected} rows were rejected; they are in the quarantine with their reasons.", err=True)
    outcome = {
        "stream": stream,
        "accepted": result.accepted,
        "rejected": result.rejected,
        "duplicates": result.duplicates,
        "resumed_at": report.resumed_at,
        "shift_ms": shift_ms,
        "seconds": round(report.seconds, 3),
        "rows_per_s": round(report.rows_per_s),
    }
    if as_json:
        typer.echo(json.dumps(outcome))
        return
    typer.echo(
        f"accepted {result.accepted:,}, rejected {result.rejected:,}, duplicates {result.duplicates:,}, "
        f"{report.rows_per_s:,.0f} rows/s"
    )


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(replay)
