"""The commands that talk to the API, and the one that runs it.

Invariant: data goes to stdout and talk to stderr, so that every command can stand in a pipe.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    from api.client import Client
    from pipeline.runtime.doctor import Check

DEFAULT_URL = "http://127.0.0.1:8080"
SIMULATE_PATIENCE_S = 5.0  # then events are dropped, and it goes on
DOCTOR_PATIENCE_S = 2.0
TAIL_POLL_S = 1.0
TAIL_POLL_EVENTS = 1_000  # asked for at each poll: a stream that is faster is shown with gaps, which are said

Identity = tuple[int, int, int, int]
Url = Annotated[str, typer.Option(help="The API.")]


class Format(StrEnum):
    table = "table"
    json = "json"
    csv = "csv"


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
            result = send_file(client, stream, Path(what[0]))
        else:
            raise typer.BadParameter("give one file, or field=value pairs", param_hint="WHAT")
    for error in result.errors:
        _talk(f"row {error.index}: rejected: {error}")
    counts = {"accepted": result.accepted, "rejected": result.rejected, "duplicates": result.duplicates}
    typer.echo(json.dumps(counts))
    if result.rejected and result.rejected == result.rows:
        raise typer.Exit(EXIT_FAILED)


def tail(
    stream: Annotated[str, typer.Argument(help="Which stream.")],
    count: Annotated[int, typer.Option("-n", min=1, max=TAIL_POLL_EVENTS, help="How many events.")] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new ones, until Ctrl-C.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Print the newest events of a stream as NDJSON, oldest first."""
    from api.client import Client

    with Client(url) as client:
        seen = _show_new(client, stream, count, frozenset[Identity]())
        while follow:
            time.sleep(TAIL_POLL_S)
            fresh = _show_new(client, stream, TAIL_POLL_EVENTS, seen)
            if seen and len(fresh) == TAIL_POLL_EVENTS and not fresh & seen:
                _talk("… some events came faster than they are shown …")
            seen = fresh or seen


def _show_new(client: Client, stream: str, count: int, seen: frozenset[Identity]) -> frozenset[Identity]:
    events = {_identity(event): event for event in client.events(stream, count)}
    for identity in sorted(events):
        if identity not in seen:
            typer.echo(json.dumps(events[identity], ensure_ascii=False))
    return frozenset(events)


def _identity(event: Mapping[str, Any]) -> Identity:
    """Return what orders events by arrival and tells them apart: those of one batch share their entry's id."""
    arrival_ms, _, number = event["id"].partition("-")
    return int(arrival_ms), int(number), event["partition"], event["row"] or 0


def query(
    metric: Annotated[str, typer.Argument(help="Which metric.")],
    start: Annotated[str | None, typer.Option(help="Such as -1h, 2015-05-17, or epoch milliseconds.")] = None,
    end: Annotated[str | None, typer.Option(help="Likewise; not included.")] = None,
    step: Annotated[str | None, typer.Option(help="Merge windows to this size, such as 5m.")] = None,
    where: Annotated[list[str] | None, typer.Option(help="field=value, any number of times.")] = None,
    order: Annotated[str | None, typer.Option(help="window or a value; a - before it: descending.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows.")] = None,
    format: Annotated[Format, typer.Option("--format", "-o", help="How to print it.")] = Format.table,
    url: Url = DEFAULT_URL,
) -> None:
    """Print a metric over a range."""
    from api.client import Client
    from api.tables import print_metric

    asked = {"start": start, "end": end, "step": step, "order": order, "limit": None if limit is None else str(limit)}
    parameters = {name: value for name, value in asked.items() if value is not None} | _where(where or [])
    path = f"/v1/metrics/{metric}"
    with Client(url) as client:
        match format:
            case Format.csv:
                typer.echo(client.text(path, {**parameters, "format": "csv"}), nl=False)
            case Format.json:
                typer.echo(json.dumps(client.get(path, parameters)))
            case Format.table:
                print_metric(client.get(path, parameters))


def doctor(
    config: ConfigPath = DEFAULT_CONFIG,
    redis_url: RedisUrl = None,
    data_dir: DataDir = DEFAULT_DATA_DIR,
    url: Url = DEFAULT_URL,
    allow_volatile: AllowVolatile = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the checks as JSON.")] = False,
) -> None:
    """Check config, Redis, API and lag, and say what to do. Exit code 1 when something is wrong."""
    from api.tables import print_checks
    from pipeline.runtime.doctor import check_config, check_native, check_redis
    from pipeline.runtime.redis_url import find_redis_url

    checks = [check_config(config, os.environ), check_native()]
    if checks[0].ok or redis_url is not None:
        checks += check_redis(lambda: find_redis_url(config, redis_url, data_dir, os.environ), allow_volatile)
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


def _where(pairs: list[str]) -> dict[str, str]:
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise typer.BadParameter(f"{wrong[0]!r} is not field=value", param_hint="--where")
    return {f"where.{field}": value for field, _, value in (pair.partition("=") for pair in pairs)}


def _talk(text: str) -> None:
    typer.echo(text, err=True)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (api, simulate, send, tail, query, doctor):
        app.command()(command)
