"""The commands that show why a number is right: `verify` and `explain`.

Invariant: they only read, and read Redis itself, so they need no API and may run beside everything.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from pipeline.runtime.cli import DEFAULT_CONFIG, DEFAULT_DATA_DIR, EXIT_FAILED, ConfigPath, DataDir, RedisUrl

if TYPE_CHECKING:
    import redis

    from pipeline.core.definitions import Config
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
    """Recompute every kept window and session from the raw log, and compare bit for bit. Exit code 1: one differs."""
    from pipeline.runtime.verify import verify as verify_metrics
    from pipeline.runtime.verify_report import report_json, report_lines

    client, loaded = _opened(config, redis_url, data_dir)
    with _progress() as progress:
        reports: list[MetricReport] = list(verify_metrics(client, loaded, metrics or (), progress))
    _show(report_json(reports) if as_json else report_lines(reports))
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
    from pipeline.runtime.explain_event import event_named
    from pipeline.runtime.explain_report import event_json, event_lines

    client, loaded = _opened(config, redis_url, data_dir)
    found = event_named(client, loaded, event)
    _show(event_json(found) if as_json else event_lines(found))


def _opened(config: Path, redis_url: str | None, data_dir: Path) -> tuple[redis.Redis, Config]:
    """A reading connection to the Redis of a config, and the config."""
    from pipeline.rim.connection import reader
    from pipeline.runtime.config import load_config
    from pipeline.runtime.redis_url import find_redis_url

    loaded = load_config(config, os.environ)
    return reader(find_redis_url(config, redis_url, data_dir, os.environ)), loaded


def _show(said: Mapping[str, Any] | Iterable[str]) -> None:
    """Print an answer: one JSON value for programs, or lines for people."""
    typer.echo(msgspec.json.encode(said).decode() if isinstance(said, Mapping) else "\n".join(said))


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


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (verify, explain):
        app.command()(command)
