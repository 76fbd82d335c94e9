"""The commands that talk to the API, and the one that runs it.

Invariant: data goes to stdout and talk to stderr, so that every command can stand in a pipe.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.runtime.cli import (
    DEFAULT_CONFIG,
    DEFAULT_DATA_DIR,
    DEFAULT_HOST,
    DEFAULT_PORT,
    EXIT_FAILED,
    AllowVolatile,
    ConfigPath,
    DataDir,
    Host,
    Port,
    RedisUrl,
    start_logging,
)

if TYPE_CHECKING:
    from pipeline.runtime.doctor import Check

DEFAULT_URL = "http://127.0.0.1:8080"
SIMULATE_PATIENCE_S = 5.0  # then events are dropped, and it goes on
DOCTOR_PATIENCE_S = 2.0
Url = Annotated[str, typer.Option(help="The API.", envvar="STREAMGAUGE_URL")]  # the one that notebooks look at too


def api(
    context: typer.Context,
    config: ConfigPath = DEFAULT_CONFIG,
    host: Host = DEFAULT_HOST,
    port: Port = DEFAULT_PORT,
    redis_url: RedisUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    insecure: Annotated[bool, typer.Option("--insecure", help="Listen beyond loopback, without keys.")] = False,
    allow_volatile: AllowVolatile = False,
) -> None:
    """Run the HTTP API alone."""
    from api.server import serve
    from pipeline.runtime.redis_url import find_redis_url

    start_logging(context)
    url = find_redis_url(config, redis_url, data_dir, os.environ)
    serve(config, host, port, url, insecure=insecure, allow_volatile=allow_volatile)


def simulate(
    streams: Annotated[str, typer.Option(help="Which, separated by commas.")] = "sensors,pageviews",
    rate: Annotated[float, typer.Option(min=0.1, help="Events a second, over all streams.")] = 200.0,
    seconds: Annotated[str, typer.Option(help="How long, or forever.")] = "forever",
    seed: Annotated[int, typer.Option(help="The same seed makes the same events.")] = 1,
    url: Url = DEFAULT_URL,
) -> None:
    """Send made-up sensor readings and page views in real time, with late and duplicate events."""
    from api.client import Client
    from pipeline.runtime.simulate_send import Simulation, run_simulation, wait_for_streams

    names, limit_s = _simulations(streams), _seconds(seconds)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    with Client(url, patience_s=SIMULATE_PATIENCE_S) as client:
        wait_for_streams(client, names, _talk)
        simulation = Simulation(client, names, rate, seed, time.time_ns() // 1_000_000, _talk)
        try:
            run_simulation(simulation, limit_s)
        finally:
            sent = simulation.result
            _talk(f"Sent {sent.accepted:,} events; {sent.rejected:,} rejected, {simulation.dropped:,} dropped.")


def send(
    stream: Annotated[str, typer.Argument(help="Where to send it.")],
    what: Annotated[list[str] | None, typer.Argument(help="A file, field=value pairs, or nothing for stdin.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Send one event (field=value …), a file, or NDJSON from stdin as it comes. Prints what became of the rows."""
    from api.client import Client
    from api.sending import send_file, send_lines, send_pairs

    with Client(url) as client:
        if not what or what == ["-"]:
            result = send_lines(client, stream, sys.stdin.buffer)
        elif all("=" in pair for pair in what):
            result = send_pairs(client, stream, what)
        elif len(what) == 1:
            if not Path(what[0]).exists():
                raise typer.BadParameter(f"{what[0]!r} is neither a file nor field=value", param_hint="WHAT")
            result = send_file(client, stream, Path(what[0]))
        else:
            raise typer.BadParameter("give one file, or field=value pairs", param_hint="WHAT")
    for error in result.errors:
        _talk(f"row {error.index}: rejected: {error}")
    counts = {"accepted": result.accepted, "rejected": result.rejected, "duplicates": result.duplicates}
    typer.echo(json.dumps(counts))
    if result.rejected and result.rejected == result.rows:
        raise typer.Exit(EXIT_FAILED)


def doctor(
    config: ConfigPath = DEFAULT_CONFIG,
    redis_url: RedisUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = DEFAULT_URL,
    allow_volatile: AllowVolatile = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check config, Redis, the next limit, API and lag, and say what to do. Exit code 1 when something is wrong."""
    from api.tables import print_checks
    from pipeline.runtime.config import load_config
    from pipeline.runtime.doctor import check_config, check_native, check_redis
    from pipeline.runtime.redis_url import find_redis_url

    checks = [check_config(config, os.environ), check_native()]
    if checks[0].ok or redis_url is not None:
        loaded = load_config(config, os.environ) if checks[0].ok else None
        own = data_dir if redis_url is None and loaded is not None and loaded.redis_url == "embedded" else None
        url_of = partial(find_redis_url, config, redis_url, data_dir, os.environ)
        checks += check_redis(url_of, allow_volatile, loaded, own)
    checks += _api_checks(url)
    print_checks(checks, as_json)
    if not all(check.ok for check in checks):
        raise typer.Exit(EXIT_FAILED)


def _api_checks(url: str) -> list[Check]:
    from api.client import Client
    from pipeline.runtime.doctor import check_lag, check_ready

    with Client(url, patience_s=DOCTOR_PATIENCE_S) as client:
        ready = check_ready(client.get)
        return [ready, *check_lag(client.stages())] if ready.ok else [ready]


def _simulations(text: str) -> list[str]:
    from pipeline.runtime.simulate import SIMULATIONS

    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in SIMULATIONS]:
        known = ", ".join(SIMULATIONS)
        raise typer.BadParameter(f"there is no simulation {unknown[0]!r}; there are {known}", param_hint="--streams")
    if not names:
        raise typer.BadParameter("name at least one stream", param_hint="--streams")
    return names


def _seconds(text: str) -> float | None:
    if text == "forever":
        return None
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a number nor forever", param_hint="--seconds") from None


def _talk(text: str) -> None:
    typer.echo(text, err=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (api, simulate, send, doctor):
        app.command()(command)
