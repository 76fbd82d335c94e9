"""`streamgauge tail`: the newest events of a stream as NDJSON, and on with new ones.

Invariant: an event is printed once; where events came faster than they can be shown, the gap is said.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from api.commands import DEFAULT_URL, Url
from api.pairs import matches, read_pairs

if TYPE_CHECKING:
    from api.client import Client

POLL_S = 1.0
MOST_EVENTS = 1_000  # of one request: a stream that is faster is shown with gaps, which are said

Identity = tuple[int, int, int, int]
Wanted = Sequence[tuple[str, str]]


def tail(
    stream: Annotated[str, typer.Argument(help="Which stream.")],
    count: Annotated[int, typer.Option("-n", min=1, max=MOST_EVENTS, help="How many events.")] = 20,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on with new ones, until Ctrl-C.")] = False,
    where: Annotated[
        list[str] | None, typer.Option(help=f"field=value, any number of times; of the newest {MOST_EVENTS:,} events.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Print the newest events of a stream as NDJSON, oldest first."""
    from api.client import Client

    wanted = read_pairs(where or [])
    with Client(url) as client:
        _check_fields(client, stream, wanted)
        seen = _show_new(client, stream, MOST_EVENTS if wanted else count, frozenset[Identity](), wanted, count)
        while follow:
            time.sleep(POLL_S)
            fresh = _show_new(client, stream, MOST_EVENTS, seen, wanted, MOST_EVENTS)
            if seen and len(fresh) == MOST_EVENTS and not fresh & seen:
                typer.echo("… some events came faster than they are shown …", err=True)
            seen = fresh or seen


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
        typer.echo(json.dumps(event, ensure_ascii=False))
    return frozenset(events)


def _identity(event: Mapping[str, Any]) -> Identity:
    """Return what orders events by arrival and tells them apart: those of one batch share their entry's id."""
    arrival_ms, _, number = event["id"].partition("-")
    return int(arrival_ms), int(number), event["partition"], event["row"] or 0


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(tail)
