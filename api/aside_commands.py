"""`streamgauge late`, `dead-letters` and `quarantine`: what was put aside, listed or replayed.

Invariant: `--replay` without ids replays what is there when the command starts, and nothing that comes while it runs.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from api.commands import DEFAULT_URL, Url
from api.terminal_texts import json_line, terminal_text
from pipeline.runtime.cli import EXIT_FAILED

COUNTS = ("replayed", "already_replayed", "refused")
REFUSED_SHOWN = 5

Limit = Annotated[int, typer.Option("-n", "--limit", min=1, max=1_000, help="How many rows to list.")]
Reason = Annotated[str | None, typer.Option(help="Only rows put aside for this reason.")]
Replay = Annotated[bool, typer.Option("--replay", help="Replay all of them, or those of --id; each row once.")]
Ids = Annotated[list[str] | None, typer.Option("--id", help="With --replay: only this row; any number of times.")]
Again = Annotated[bool, typer.Option("--again", help="With --replay: also rows that were replayed before.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the API's answer.")]


def late(
    stage: Annotated[str, typer.Argument(help="Whose late rows.")],
    limit: Limit = 20,
    reason: Reason = None,
    replay: Replay = False,
    ids: Ids = None,
    again: Again = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List events that came too late for a stage, or count them in their windows after all, with --replay."""
    _run(url, "late", {"stage": stage}, limit, reason, replay, ids, {"again": again}, as_json)


def dead_letters(
    stage: Annotated[str, typer.Argument(help="Whose dead letters.")],
    limit: Limit = 20,
    reason: Reason = None,
    replay: Replay = False,
    ids: Ids = None,
    again: Again = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List events that a stage could not compute, or let it try them again, with --replay."""
    _run(url, "dead-letters", {"stage": stage}, limit, reason, replay, ids, {"again": again}, as_json)


def quarantine(
    stream: Annotated[str, typer.Argument(help="At whose door.")],
    limit: Limit = 20,
    reason: Reason = None,
    replay: Replay = False,
    ids: Ids = None,
    again: Again = False,
    backfill: Annotated[bool, typer.Option("--backfill", help="With --replay: take them as old data.")] = False,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List rows that the door refused, or send them through it again, with --replay."""
    how = {"again": again, "backfill": backfill}
    _run(url, "quarantine", {"stream": stream}, limit, reason, replay, ids, how, as_json)


def _run(
    url: str,
    what: str,
    owner: Mapping[str, str],
    limit: int,
    reason: str | None,
    replay: bool,
    ids: Sequence[str] | None,
    how: Mapping[str, bool],
    as_json: bool,
) -> None:
    from api.client import Client

    for name, given in (("--id", bool(ids)), *((f"--{name}", given) for name, given in how.items())):
        if given and not replay:
            raise typer.BadParameter(f"{name} says how to replay; give --replay as well", param_hint=name)
    if ids and reason:
        raise typer.BadParameter("--reason chooses among all rows; leave --id or --reason out", param_hint="--reason")
    with Client(url) as client:
        query = {**owner, "limit": str(limit)} | ({"reason": reason} if reason else {})
        if not replay:
            _print_rows(client.get(f"/v1/{what}", query), as_json)
            return
        order: dict[str, Any] = {**owner, **{name: True for name, given in how.items() if given}}
        if ids:
            order["ids"] = list(ids)
        else:
            order |= {"all": True, "up_to": client.get(f"/v1/{what}", query)["up_to"]}
            order |= {"reason": reason} if reason else {}
        outcome = _replay(lambda key: client.post(f"/v1/{what}/replay", order, key))
    _print_outcome(outcome, as_json)


def _replay(send: Callable[[str], dict[str, Any]]) -> dict[str, Any]:
    """Send the order until nothing is left to do; it is the same order each time, so nothing is done twice."""
    key = uuid.uuid4().hex
    while (said := send(key))["more"]:
        pass
    return {**said, "replayed": said["replayed"] + said["repeated"]}  # the last answer knows what the ones before did


def _print_rows(said: Mapping[str, Any], as_json: bool) -> None:
    from api.tables import print_aside

    if as_json:
        typer.echo(json_line(said))
        return
    print_aside(said)


def _print_outcome(outcome: Mapping[str, Any], as_json: bool) -> None:
    for error in outcome["errors"][:REFUSED_SHOWN]:
        typer.echo(terminal_text(f"{error['id']}: not replayed: {error['message']}"), err=True)
    if outcome["refused"] > REFUSED_SHOWN:
        typer.echo(f"{outcome['refused']:,} rows cannot be replayed; they stay where they are.", err=True)
    if as_json:
        typer.echo(json_line({name: outcome[name] for name in (*COUNTS, "errors")}))
    else:
        typer.echo(", ".join(f"{name.replace('_', ' ')} {outcome[name]:,}" for name in COUNTS))
    if outcome["refused"] and not outcome["replayed"]:
        raise typer.Exit(EXIT_FAILED)


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(late)
    app.command("dead-letters")(dead_letters)
    app.command()(quarantine)
