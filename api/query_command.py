"""`streamgauge query`: a metric over a range, as a table with a sparkline for each group, or as the API gives it.

Invariant: it asks one request, the one that `--curl` prints, and leaves every judgement of its parameters to the API.
"""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from typing import Annotated
from urllib.parse import quote, urlencode

import typer

from api.commands import DEFAULT_URL, Url
from api.pairs import read_pairs
from api.terminal_texts import json_line


class Format(StrEnum):
    table = "table"
    json = "json"
    columns = "columns"
    csv = "csv"
    ndjson = "ndjson"
    arrow = "arrow"


def query(
    metric: Annotated[str, typer.Argument(help="Which metric.")],
    start: Annotated[str | None, typer.Option(help="Such as -1h, 2015-05-17, or epoch milliseconds.")] = None,
    end: Annotated[str | None, typer.Option(help="Likewise; not included.")] = None,
    step: Annotated[str | None, typer.Option(help="Merge windows to this size, such as 5m.")] = None,
    tz: Annotated[
        str | None, typer.Option(help="With --step 1d, 1w or month: whose days, such as Europe/Paris.")
    ] = None,
    where: Annotated[list[str] | None, typer.Option(help="field=value, any number of times.")] = None,
    group_by: Annotated[
        str | None, typer.Option(help="Only these groups, with commas between; '' for all together.")
    ] = None,
    agg: Annotated[str | None, typer.Option(help="Only these values, with commas between.")] = None,
    fill: Annotated[
        str | None, typer.Option(help="Windows without events: none, auto, null, zero, previous or linear.")
    ] = None,
    order: Annotated[str | None, typer.Option(help="window or a value; a - before it: descending.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many rows.")] = None,
    other: Annotated[bool, typer.Option("--other", help="With --limit of groups: the rest as one, __other__.")] = False,
    state: Annotated[str | None, typer.Option(help="open, closed, final or retracted.")] = None,
    cursor: Annotated[str | None, typer.Option(help="The `next` of the page before.")] = None,
    format: Annotated[Format, typer.Option("--format", "-o", help="How to print it.")] = Format.table,
    spark: Annotated[
        bool | None, typer.Option("--spark/--no-spark", help="Sparklines below the table; by default in a terminal.")
    ] = None,
    curl: Annotated[bool, typer.Option("--curl", help="Print the curl command that asks the same, and stop.")] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Print a metric over a range."""
    asked = {"start": start, "end": end, "step": step, "tz": tz, "group_by": group_by, "agg": agg, "fill": fill}
    asked |= {
        "other": "true" if other else None,
        "order": order,
        "limit": None if limit is None else str(limit),
        "state": state,
        "cursor": cursor,
    }
    parameters = [(name, value) for name, value in asked.items() if value is not None]
    parameters += [(f"where.{field}", value) for field, value in read_pairs(where or [])]
    if format not in (Format.table, Format.json):
        parameters.append(("format", format.value))
    asked_as = f"?{urlencode(parameters, safe=':,')}" if parameters else ""
    target = f"/v1/metrics/{quote(metric, safe='')}{asked_as}"
    if curl:
        typer.echo(curl_command(url, target))
        return
    _print(url, target, format, sys.stdout.isatty() if spark is None else spark)


def curl_command(url: str, target: str) -> str:
    """Return the command line that asks the same of the API."""
    return f"curl -sS {shlex.quote(url.rstrip('/') + target)}"


def _print(url: str, target: str, format: Format, spark: bool) -> None:
    from api.client import Client
    from api.tables import print_metric, print_sparklines

    with Client(url) as client:
        if format not in (Format.table, Format.json):
            typer.echo(client.content(target), nl=False)
            return
        answer = client.get(target)
    if format is Format.json:
        typer.echo(json_line(answer))
        return
    print_metric(answer)
    if spark:
        print_sparklines(answer)


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(query)
