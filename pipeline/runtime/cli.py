"""The command line: the commands that run the pipeline, and how every command ends.

Invariant: data goes to stdout and talk to stderr, and only `--debug` shows a traceback. Exit codes: 0 done, 1 failed,
2 wrong usage, 3 `replay` looked and sent nothing, 78 the config file cannot be used, 130 Ctrl-C.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.errors import ConfigError, StreamgaugeError

EXIT_FAILED = 1
EXIT_STOPPED_BEFORE_SENDING = 3
EXIT_BAD_CONFIG = 78  # EX_CONFIG of sysexits(3)
EXIT_INTERRUPTED = 130

# Of a worker, read by polars when it starts: workers share the cores by being several, and handing a batch round
# threads cost 0.1 µs of 0.95 an event. A number in the environment goes first.
POLARS_THREADS = "1"

app = typer.Typer(
    name="streamgauge",
    help="Self-hosted real-time analytics: events over HTTP, exact event-time windows, a read API.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="The config file.")]
RedisUrl = Annotated[str | None, typer.Option(help="Redis to use, instead of the config's redis.url.")]
DataDir = Annotated[Path, typer.Option(help="Folder of the embedded Redis' data.")]
Host = Annotated[str, typer.Option(help="Address the API listens on.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port the API listens on.")]
AllowVolatile = Annotated[bool, typer.Option(help="Accept a Redis that may lose data (for tests).")]

DEFAULT_CONFIG = Path("config.yaml")
DEFAULT_DATA_DIR = Path("data")
DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"streamgauge {version('streamgauge')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks; goes with any command.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version, and stop.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the option every command takes; `run` reads it, wherever it stands."""


def start_logging(context: typer.Context) -> None:
    """Set up log lines, in a command that writes some: the others start faster without structlog."""
    from pipeline.runtime import logs

    logs.configure(debug=bool(context.obj))


@app.command()
def up(
    config: ConfigPath = DEFAULT_CONFIG,
    port: Port = DEFAULT_PORT,
    host: Host = DEFAULT_HOST,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 1,
    redis_url: RedisUrl = None,
    demo: Annotated[bool, typer.Option("--demo/--no-demo", help="Send live demo data.")] = False,
    allow_volatile: AllowVolatile = False,
) -> None:
    """Start everything: embedded Redis, API, workers, scheduler. Ctrl-C drains and ends it."""
    from pipeline.runtime.supervisor import run_up

    code = run_up(
        config_path=config,
        host=host,
        port=port,
        data_dir=data_dir,
        workers=workers,
        redis_url=redis_url,
        demo=demo,
        allow_volatile=allow_volatile,
    )
    raise typer.Exit(code)


@app.command()
def worker(
    context: typer.Context,
    config: ConfigPath = DEFAULT_CONFIG,
    redis_url: RedisUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    name: Annotated[str | None, typer.Option(help="Name among the workers (default: host and process).")] = None,
) -> None:
    """Run one worker: reads streams, keeps windows, publishes results."""
    os.environ.setdefault("POLARS_MAX_THREADS", POLARS_THREADS)
    from pipeline.runtime.config import load_config
    from pipeline.runtime.redis_url import find_redis_url
    from pipeline.runtime.worker import run_worker

    start_logging(context)
    run_worker(
        config=load_config(config, os.environ),
        redis_url=find_redis_url(config, redis_url, data_dir, os.environ),
        name=name or f"{socket.gethostname()}-{os.getpid()}",
    )


@app.command()
def scheduler(
    context: typer.Context,
    config: ConfigPath = DEFAULT_CONFIG,
    redis_url: RedisUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    allow_volatile: AllowVolatile = False,
) -> None:
    """Run the housekeeping: trim, expiry, idle ticks, server checks."""
    from pipeline.runtime.config_reader import ConfigReader
    from pipeline.runtime.redis_url import redis_url_of
    from pipeline.runtime.scheduler import run_scheduler

    start_logging(context)
    with ConfigReader(config) as reader:
        checked = reader.read(os.environ)
    run_scheduler(checked, redis_url or redis_url_of(checked, data_dir), allow_volatile=allow_volatile)


@app.command()
def check(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Print the graph a config file describes, or what is wrong with it (exit code 78)."""
    from pipeline.runtime.config import config_warnings, load_config
    from pipeline.runtime.config_describe import describe

    loaded = load_config(config, os.environ)
    typer.echo(describe(loaded))
    for warning in config_warnings(loaded):
        typer.echo(f"warning: {warning}", err=True)


def run(commands: typer.Typer, arguments: list[str]) -> int:
    """Run a command line and return its exit code."""
    debug = "--debug" in arguments
    try:
        commands(args=[a for a in arguments if a != "--debug"], prog_name="streamgauge", obj=debug)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # the top of the process: say it, and end
        if debug:
            raise
        return _say_failure(error)
    return 0


def _say_failure(error: Exception) -> int:
    if isinstance(error, ConfigError):
        for problem in error.problems:
            typer.echo(problem, err=True)
        return EXIT_BAD_CONFIG
    if isinstance(error, StreamgaugeError):
        typer.echo(f"streamgauge: {error}", err=True)
    else:
        typer.echo(f"streamgauge: {type(error).__name__}: {error} (--debug shows where)", err=True)
    return EXIT_FAILED


def main() -> None:
    """Run the commands of this module; the `streamgauge` command is `api.main`, which has all of them."""
    sys.exit(run(app, sys.argv[1:]))


if __name__ == "__main__":
    main()
