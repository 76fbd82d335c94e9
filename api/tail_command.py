"""`streamgauge tail`: the newest events of a stream, or rows of a metric, as NDJSON, and on with new ones.

Invariant: an event is printed once; where events came faster than they can be shown, the gap is said.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from api.commands import DEFAULT_URL, Url
from api.pairs import matches, read_pairs
from api.terminal_texts import json_line
from pipeline.errors import StreamgaugeError

if TYPE_CHECKING:
    from api.client import Client

POLL_S = 1.0
MOST_EVENTS = 1_000  # of one request: a stream that is faster is shown with gaps, which are said

Identity = tuple[int, int, int, int]
Wanted = Sequence[tuple[str, str]]


def tail(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Which stream, or which metric.")],
    count: Annotated[int, typer.Option("-n", min=1, max=MOST_EVENTS, help="How many events, or rows.")] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new ones, until Ctrl-C.")] = False,
    where: Annotated[
        list[str] | None, typer.Option(help=f"field=value, any number of times; of the newest {MOST_EVENTS:,} events.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Print the newest events of a stream, or rows of a metric, as NDJSON, oldest first."""
    from api.client import Client

    wanted = read_pairs(where or [])
    with Client(url) as client:
        streams = [each["stream"] for each in client.streams()]
        metrics = [each["metric"] for each in client.metrics()]
        if name in streams:
            _tail_stream(client, name, count, follow, wanted)
        elif name in metrics:
            _tail_metric(client, name, count, follow, wanted)
        else:
            there_are = f"streams: {', '.join(streams)}; metrics: {', '.join(metrics) or 'none'}"
            raise StreamgaugeError(f"there is no stream and no metric {name!r}. There are {there_are}.")


def _tail_stream(client: Client, stream: str, count: int, follow: bool, wanted: Wanted) -> None:
    _check_fields(client, stream, wanted)
    seen = _show_new(client, stream, MOST_EVENTS if wanted else count, frozenset[Identity](), wanted, count)
    while follow:
        time.sleep(POLL_S)
        fresh = _show_new(client, stream, MOST_EVENTS, seen, wanted, MOST_EVENTS)
        if seen and len(fresh) == MOST_EVENTS and not fresh & seen:
            typer.echo("… some events came faster than they are shown …", err=True)
        seen = fresh or seen


def _tail_metric(client: Client, metric: str, count: int, follow: bool, wanted: Wanted) -> None:
    """Print published rows: the newest ones, or those of the live stream, which begins with its newest window."""
    path = f"/v1/metrics/{quote(metric, safe='')}"
    groups: dict[str, str | list[str]] = {
        f"where.{field}": [value for each, value in wanted if each == field] for field, _ in wanted
    }
    if not follow:
        rows = client.get(path, {**groups, "state": "closed", "order": "-window", "limit": str(count)})["data"]
        _print_rows(reversed(rows))
        return
    for event in client.live_events(f"{path}/live", groups):
        if event.name == "reset":
            typer.echo(f"… rows may be missing here: {event.data.get('detail')} …", err=True)
        elif event.name in ("snapshot", "rows"):
            _print_rows(event.data["data"])


def _print_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    for row in rows:
        typer.echo(json_line(row))
    sys.stdout.flush()  # into a pipe, a row is there when it was published


def _check_fields(client: Client, stream: str, wanted: Wanted) -> None:
    """A field that is not in the schema matches nothing, for ever: say it instead."""
    if not wanted:
        return
    known = client.stream(stream).fields
    if unknown := [field for field, _ in wanted if field not in known]:
        raise typer.BadParameter(
            f"{stream} has no field {unknown[0]!r}; it has {', '.join(known)}", param_hint="--where"
        )


def _show_new(
    client: Client, stream: str, asked: int, seen: frozenset[Identity], wanted: Wanted, most: int
) -> frozenset[Identity]:
    """Print up to `most` events of the newest that were not seen before; return all of them."""
    events = {_identity(event): event for event in client.events(stream, asked)}
    new = [events[identity] for identity in sorted(events) if identity not in seen]
    for event in [each for each in new if matches(each.get("event") or {}, wanted)][-most:]:
        typer.echo(json_line(event))
    return frozenset(events)


def _identity(event: Mapping[str, Any]) -> Identity:
    """Return what orders events by arrival and tells them apart: those of one batch share their entry's id."""
    arrival_ms, _, number = event["id"].partition("-")
    return int(arrival_ms), int(number), event["partition"], event["row"] or 0


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(tail)
