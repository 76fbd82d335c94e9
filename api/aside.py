"""What was put aside, to look at and to replay: `/v1/late`, `/v1/dead-letters`, `/v1/quarantine`.

Invariant: a replay of "all" ends where the list ended that was looked at: what came later was not shown, and stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import redis
from flask import Blueprint, Response, request

from api.answers import json_response
from api.bodies import read_body
from api.ingest import idempotency_key
from api.intake import Intakes
from api.parameter_values import Arguments
from api.parameters import aside_request, known_name, no_parameters
from api.replays import Replayed, ReplayOrder, Replays
from pipeline.core.definitions import Config
from pipeline.core.spelling import did_you_mean
from pipeline.errors import BadRequestError
from pipeline.rim.aside import AsideRow, Kind, Place, Shelf, count_reasons, newest_ids, page, parse_up_to
from pipeline.rim.scripts import Scripts
from pipeline.runtime.stage_groups import stage_groups

MAX_IDS = 1_000
PATHS: Mapping[str, Kind] = {"late": "late", "dead-letters": "dead", "quarantine": "quarantine"}
_MEMBERS = ("ids", "all", "up_to", "reason", "again")


def aside_blueprint(config: Config, reading: redis.Redis, writing: redis.Redis, intakes: Intakes) -> Blueprint:
    """The endpoints of the three; `reading` only reads."""
    blueprint = Blueprint("aside", __name__)
    scripts, groups = Scripts(reading), stage_groups(config)
    replays = {name: Replays(writing, intake) for name, intake in intakes.by_stream.items()}

    def shelf_of(path: str, said: Mapping[str, Any]) -> Shelf:
        return _shelf(config, groups, PATHS[path], said)

    def browse(path: str) -> Response:
        if not request.args:
            return json_response(_summary(reading, scripts, config, groups, PATHS[path]))
        asked = aside_request(request.args, _owner(PATHS[path]))
        shelf = shelf_of(path, _of_query(request.args, PATHS[path]))
        before, up_to = _cursor(asked.cursor, shelf) if asked.cursor else (None, newest_ids(scripts, shelf))
        found = page(reading, shelf, up_to, before, asked.limit, asked.reason)
        return json_response(
            {
                **_counted(reading, scripts, shelf),
                "up_to": ",".join(up_to),
                "rows": [row_account(shelf, row) for row in found.rows],
                "next": None if found.next is None else f"{found.next}~{','.join(up_to)}",
            }
        )

    def replay(path: str) -> Response:
        no_parameters(request.args)
        said = _body(read_body(request), PATHS[path])
        shelf = shelf_of(path, said)
        order = _order(shelf, said, idempotency_key())
        return json_response(_account(replays[shelf.stream.name].replay(order)), 202)

    for path in PATHS:
        blueprint.add_url_rule(f"/v1/{path}", f"list {path}", partial(browse, path), methods=["GET"])
        blueprint.add_url_rule(f"/v1/{path}/replay", f"replay {path}", partial(replay, path), methods=["POST"])
    return blueprint


def _owner(kind: Kind) -> str:
    """What names whose rows they are."""
    return "stream" if kind == "quarantine" else "stage"


def _of_query(args: Arguments, kind: Kind) -> dict[str, Any]:
    return {name: args[name] for name in (_owner(kind),) if name in args}


def _shelf(config: Config, groups: Mapping[str, str], kind: Kind, said: Mapping[str, Any]) -> Shelf:
    """The rows that are meant.

    Raises:
        BadRequestError: nothing or no such thing is named, or a stage that puts nothing aside.
    """
    owner = _owner(kind)
    name = said.get(owner)
    if not isinstance(name, str):
        known = config.streams if kind == "quarantine" else groups
        raise BadRequestError(f"'{owner}' is missing: whose rows? One of {', '.join(known)}.", code=f"no_{owner}")
    if kind == "quarantine":
        return Shelf(kind, config.streams[known_name("stream", name, config.streams)])
    stage = config.stages[known_name("stage", name, config.stages)]
    if name not in groups:
        readers = ", ".join(each for each in groups if stage in config.transforms_of(config.stages[each]))
        raise BadRequestError(
            f"{name} runs inside the stages that read it, and they put its rows aside: ask for {readers or 'them'}.",
            code="fused_stage",
            status=404,
        )
    return Shelf(kind, config.stream_of(stage), groups[name])


def _named(shelf: Shelf) -> dict[str, str]:
    if shelf.kind == "quarantine":
        return {"stream": shelf.stream.name}
    stage, _, version = shelf.group.partition("@")
    return {"stage": stage, "version": version, "stream": shelf.stream.name}


def _counted(client: redis.Redis, scripts: Scripts, shelf: Shelf) -> dict[str, Any]:
    """Whose rows, how many, and for which reasons."""
    reasons = count_reasons(client, scripts, shelf)
    counts = {"total": reasons.total, "reasons": reasons.counts, "counted": reasons.counted}
    return {**_named(shelf), **counts}


def _summary(
    client: redis.Redis, scripts: Scripts, config: Config, groups: Mapping[str, str], kind: Kind
) -> dict[str, Any]:
    """What every stage, or every door, has put aside."""
    owner = _owner(kind)
    names = config.streams if kind == "quarantine" else groups
    shelves = [_shelf(config, groups, kind, {owner: name}) for name in names]
    return {f"{owner}s": [_counted(client, scripts, shelf) for shelf in shelves]}


def _cursor(text: str, shelf: Shelf) -> tuple[Place, tuple[str, ...]]:
    """Where a page begins, and what was there at the first one."""
    place, _, up_to = text.partition("~")
    try:
        return Place.parse(place), parse_up_to(up_to, shelf.stream.partitions)
    except ValueError:
        raise BadRequestError(
            f"cursor={text[:80]} is not one of ours: copy 'next' from the page before.", code="bad_cursor"
        ) from None


def row_account(shelf: Shelf, row: AsideRow) -> dict[str, Any]:
    """One row put aside, as JSON."""
    about: dict[str, Any] = {"id": str(row.place), "replayed": row.replayed_by is not None}
    match shelf.kind:
        case "late":
            numbers = ("row", "time", "late_by_ms", "window_start", "window_end")
            about |= {"entry": row.text("entry")} | {name: int(row.text(name)) for name in numbers}
            return about | {"reason": row.text("reason"), "event": _event(row.fields.get(b"event", b""))}
        case "dead":
            about |= {"entry": row.text("entry"), "row": int(row.text("row")), "n": int(row.text("n"))}
            about |= {"reason": row.text("code"), "error": row.text("error")}
            return about | {"event": _event(row.fields.get(b"body", b""), row.text("coding"))}
        case "quarantine":
            about |= {"reason": row.text("code"), "error": row.text("reason"), "field": row.text("field") or None}
            about |= {"index": int(row.text("index") or 0), "body": row.text("body")}
            return about | ({"header": row.text("header")} if b"header" in row.fields else {})


def _event(body: bytes, coding: str = "") -> Any:
    """An event as it was stored: its JSON, or its text where it is none; of a chunk of another coding its size."""
    if coding:
        return f"a chunk coded {coding}, {len(body):,} bytes"
    try:
        return msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return body.decode(errors="replace")


def _body(body: bytes, kind: Kind) -> dict[str, Any]:
    """The members of a replay's body.

    Raises:
        BadRequestError: it is no JSON object (400), or has a member that means nothing here (422).
    """
    try:
        said = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON ({error}); {_way_out(kind)}", code="malformed_json") from None
    if not isinstance(said, dict):
        raise _unclear(f"the body is not an object; {_way_out(kind)}")
    known = (_owner(kind), *_MEMBERS, *(("backfill",) if kind == "quarantine" else ()))
    for name in said:
        if name not in known:
            raise _unclear(f"there is no member '{name[:80]}' here.{did_you_mean(name[:80], known)}")
    for name in ("all", "again", "backfill"):
        if not isinstance(said.get(name, False), bool):
            raise _unclear(f"{name} is neither true nor false")
    for name in ("up_to", "reason"):
        if not isinstance(said.get(name, ""), str):
            raise _unclear(f"{name} is not a text")
    return said


def _order(shelf: Shelf, said: Mapping[str, Any], key: str | None) -> ReplayOrder:
    everything, again = bool(said.get("all")), bool(said.get("again"))
    if everything == ("ids" in said):
        raise _unclear(f"name the rows, or ask for all of them; {_way_out(shelf.kind)}")
    for name in ("up_to", "reason"):
        if name in said and not everything:
            raise _unclear(f'{name} goes with "all": true; with ids it says nothing')
    if again and key is None:
        raise _unclear(
            'with "again" the request needs an Idempotency-Key: nothing else tells a retry from one more replay'
        )
    places = () if everything else _places(said["ids"])
    up_to = _up_to(said, shelf) if everything else ()
    reason, backfill = said.get("reason"), bool(said.get("backfill"))
    what = [shelf.kind, shelf.stream.name, shelf.group, sorted(map(str, places)), up_to, reason, backfill]
    request = key or hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:32]
    return ReplayOrder(shelf, places, up_to, reason, again, backfill, request)


def _places(ids: Any) -> tuple[Place, ...]:
    if not isinstance(ids, list) or not ids or not all(isinstance(each, str) for each in ids):
        raise _unclear("ids is not a list of the ids that the list gave")
    if len(ids) > MAX_IDS:
        raise _unclear(f"{len(ids):,} ids are more than the {MAX_IDS:,} of one request; send them in parts, or all")
    try:
        return tuple(dict.fromkeys(map(Place.parse, ids)))
    except ValueError as error:
        raise _unclear(f"ids: {error}") from None


def _up_to(said: Mapping[str, Any], shelf: Shelf) -> tuple[str, ...]:
    if "up_to" not in said:
        raise _unclear("all needs up_to, which the list gives: rows that came after it were not shown")
    try:
        return parse_up_to(said["up_to"], shelf.stream.partitions)
    except ValueError as error:
        raise _unclear(f"up_to: {error}") from None


def _way_out(kind: Kind) -> str:
    owner = f'"{_owner(kind)}": …'
    return f'send {{{owner}, "ids": […]}} or {{{owner}, "all": true, "up_to": …}}'


def _unclear(message: str) -> BadRequestError:
    return BadRequestError(message, code="bad_replay", status=422)


def _account(done: Replayed) -> dict[str, Any]:
    errors: Sequence[dict[str, Any]] = [
        {"id": str(each.place), "code": each.code, "message": each.message} for each in done.refused
    ]
    return {
        "replayed": done.replayed,
        "repeated": done.repeated,
        "already_replayed": done.already,
        "refused": done.n_refused,
        "errors": errors,
        "ids": done.entries,
        "more": done.more,
    }
