"""`POST /v1/streams/{stream}/time`: moves time without data, by a tick in every partition.

Invariant: a tick is capped by its arrival like any event, so no request can close a window before its time.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import redis
from flask import Blueprint, Response, request

from api.bodies import read_body
from api.parameters import known_name, no_parameters
from pipeline.core.times import parse_time_ms
from pipeline.errors import BadRequestError
from pipeline.rim.store import redis_time_ms
from pipeline.rim.ticks import Ticked, TimeKeeper

WAY_OUT = 'send {"end": true} when nothing more will come, or {"heartbeat": <time>}'


def blueprint(client: redis.Redis, keepers: Mapping[str, TimeKeeper]) -> Blueprint:
    """Make the endpoint for the streams of a config; `keepers` are by stream name."""
    routes = Blueprint("timecontrol", __name__)

    @routes.post("/v1/streams/<stream>/time")
    def move_time(stream: str) -> Response:
        no_parameters(request.args)
        keeper = keepers[known_name("stream", stream, keepers)]
        now_ms = redis_time_ms(client)
        heartbeat_ms = requested_time(read_body(request), now_ms)
        return _answer(keeper.end() if heartbeat_ms is None else keeper.heartbeat(heartbeat_ms, now_ms))

    return routes


def requested_time(body: bytes, now_ms: int) -> int | None:
    """Read the body: the heartbeat's time, or None for the end.

    Raises:
        BadRequestError: 400 when it is not JSON, 422 when it says neither.
    """
    try:
        said = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequestError(f"the body is not JSON ({error}); {WAY_OUT}", code="malformed_json") from None
    if not isinstance(said, dict) or len(said) != 1:
        raise _unclear(f"the body is not an object with one member; {WAY_OUT}")
    if said.get("end") is True:
        return None
    if "heartbeat" in said:
        return _heartbeat(said["heartbeat"], now_ms)
    raise _unclear(f"the body says neither; {WAY_OUT}")


def _heartbeat(value: Any, now_ms: int) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise _unclear("heartbeat is not a time; write RFC 3339 or an epoch number of s, ms, µs or ns")
    try:
        return parse_time_ms(str(value), now_ms)
    except ValueError as error:
        raise _unclear(f"heartbeat: {error}") from None


def _unclear(message: str) -> BadRequestError:
    return BadRequestError(message, code="bad_time_request", status=422)


def _answer(ticked: Ticked) -> Response:
    """Times are null, and there are no ticks, where the end of a stream without events was asked for."""
    body = msgspec.json.encode({"ticks": ticked.ids, "time": ticked.time_ms, "reached": ticked.reached_ms})
    return Response(body, 202, content_type="application/json")
