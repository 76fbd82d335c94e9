"""The commands that show why a number is right: `verify` and `explain`.

Invariant: they only read, and read Redis itself, so they need no API and may run beside everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from pipeline.runtime.cli import DEFAULT_CONFIG, DEFAULT_DATA_DIR, EXIT_FAILED, ConfigPath, DataDir, RedisUrl

if TYPE_CHECKING:
    from pipeline.runtime.verify import Progress
    from pipeline.runtime.verify_report import MetricReport

AsJson = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]


def verify(
    metrics: Annotated[list[str] | None, typer.Argument(metavar="[METRIC]...", help="Which; all of them.")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    redis_url: RedisUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Recompute every kept window from the raw log and compare bit for bit. Exit code 1 when something differs."""
    from pipeline.rim.connection import reader
    from pipeline.runtime.config import load_config
    from pipeline.runtime.redis_url import find_redis_url
    from pipeline.runtime.verify import verify as verify_metrics
    from pipeline.runtime.verify_report import report_json, report_lines

    loaded = load_config(config, os.environ)
    client = reader(find_redis_url(config, redis_url, data_dir, os.environ))
    with _progress() as progress:
        reports: list[MetricReport] = list(verify_metrics(client, loaded, metrics or (), progress))
    if as_json:
        typer.echo(_json(report_json(reports)))
    else:
        for line in report_lines(reports):
            typer.echo(line)
    if any(report.n_differences for report in reports):
        raise typer.Exit(EXIT_FAILED)


def explain(
    event: Annotated[str, typer.Argument(help="ID, ID/ROW or STREAM:PARTITION:ID/ROW, as tail and late rows show it.")],
    config: ConfigPath = DEFAULT_CONFIG,
    redis_url: RedisUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    as_json: AsJson = False,
) -> None:
    """Print the path of one stored event: where it stands, and what every stage made of it."""
    from pipeline.rim.connection import reader
    from pipeline.runtime.config import load_config
    from pipeline.runtime.explain_event import event_named
    from pipeline.runtime.explain_report import event_json, event_lines
    from pipeline.runtime.redis_url import find_redis_url

    loaded = load_config(config, os.environ)
    found = event_named(reader(find_redis_url(config, redis_url, data_dir, os.environ)), loaded, event)
    if as_json:
        typer.echo(_json(event_json(found)))
    else:
        for line in event_lines(found):
            typer.echo(line)


@contextmanager
def _progress() -> Iterator[Progress]:
    """A bar for each metric, on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(metric: str, done: int, total: int) -> None:
            if metric not in tasks:
                tasks[metric] = bars.add_task(metric, total=total)
            bars.update(tasks[metric], completed=done, total=total)

        yield show


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (verify, explain):
        app.command()(command)
