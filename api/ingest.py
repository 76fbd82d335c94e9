"""The two doors for events: `POST /publish` for one, `POST /v1/streams/{stream}/events` for batches.

Invariant: `accepted + rejected + duplicates` of an answer is the number of rows in the body.
"""

from __future__ import annotations

import re
import time
from typing import Any

import msgspec
import redis
from flask import Blueprint, Request, Response, request

from api.bodies import kind_of, may_be_cut, read_body
from api.intake import Intake, Intakes, Receipt
from api.parameter_values import check_names
from api.parameters import known_name
from api.problems import RefusedRowsError, error_list
from pipeline.core.entry_header import split_id
from pipeline.errors import BadRequestError
from pipeline.rim import keys

WAIT_APPLIED_S = 5.0
WAIT_POLL_S = 0.01  # a commit takes some milliseconds; the wait is at most 500 reads
_KEY = re.compile(r"[!-~]{1,255}")  # visible ASCII: it is also a field name in Redis and part of messages


def ingest_blueprint(client: redis.Redis, intakes: Intakes) -> Blueprint:
    """The ingest endpoints; `client` is for reading checkpoints."""
    blueprint = Blueprint("ingest", __name__)

    @blueprint.post("/publish")
    def publish() -> Response:
        check_names(request.args, ())
        receipt = _default_intake(intakes).take_one(read_body(request), idempotency_key())
        _refuse_if_none_taken(receipt)
        entry_ids = next(iter(receipt.ids.values()))
        if not entry_ids:  # of a stream with dedup; which entry has the event is not remembered
            return _json({"event_id": None, "status": "Event known already"}, 201)
        return _json({"event_id": entry_ids[0], "status": "Event published"}, 201)

    @blueprint.post("/v1/streams/<stream>/events")
    def append_events(stream: str) -> Response:
        check_names(request.args, ("wait", "backfill"))
        intake, key, wait, backfill = _intake(intakes, stream), idempotency_key(), _wait(), _backfill()
        receipt = take_rows(request, intake, key, backfill=backfill)
        report = report_of(receipt)
        if wait:
            report["applied"] = _applied(client, intake, receipt)
        return _json(report, 202)

    return blueprint


def take_rows(request: Request, intake: Intake, key: str | None = None, *, backfill: bool = False) -> Receipt:
    """Take the body of a request; some of its rows at least.

    Raises:
        RefusedRowsError: none of them was taken.
    """
    body, cut = read_body(request, takes_csv=True), may_be_cut(request)
    receipt = intake.take(body, kind_of(request, body), key, may_be_cut=cut, backfill=backfill)
    _refuse_if_none_taken(receipt)
    return receipt


def report_of(receipt: Receipt) -> dict[str, Any]:
    """What became of a batch, as it is answered."""
    return _report(receipt) | {"errors": error_list(receipt.refusals)}


def _report(receipt: Receipt) -> dict[str, Any]:
    return {
        "accepted": receipt.accepted,
        "rejected": len(receipt.refusals),
        "duplicates": receipt.duplicates,
        "ids": [entry_id for ids in receipt.ids.values() for entry_id in ids],
        "skew_ms": receipt.skew_ms,
    }


def _refuse_if_none_taken(receipt: Receipt) -> None:
    if receipt.accepted or receipt.duplicates:
        return
    first, count = receipt.refusals[0], len(receipt.refusals)
    where = f"{first.field}: " if first.field and not first.message.startswith(first.field) else ""
    more = f" (and {count - 1:,} more)" if count > 1 else ""
    message = f"No event was taken. Row {first.index}: {where}{first.message}{more}."
    status = 400 if receipt.document_refused else 422
    raise RefusedRowsError(message, receipt.refusals, _report(receipt), status=status)


def _default_intake(intakes: Intakes) -> Intake:
    if intakes.default_stream is None:
        raise BadRequestError(
            "POST /publish writes to default_stream, and the config names none. Use /v1/streams/{stream}/events.",
            code="no_default_stream",
            status=404,
        )
    return intakes.by_stream[intakes.default_stream]


def _intake(intakes: Intakes, name: str) -> Intake:
    return intakes.by_stream[known_name("stream", name, intakes.by_stream)]


def idempotency_key() -> str | None:
    """The request's Idempotency-Key; it is also a field name in Redis, so it has to be plain."""
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return None
    if _KEY.fullmatch(key) is None:
        raise BadRequestError(
            "Idempotency-Key has to be 1 to 255 visible ASCII characters without spaces, such as a UUID.",
            code="bad_idempotency_key",
        )
    return key


def _wait() -> bool:
    wanted = request.args.get("wait")
    if wanted not in (None, "applied"):
        raise BadRequestError(f"wait={wanted[:80]} is not known; only wait=applied is.", code="bad_parameter")
    return wanted is not None


def _backfill() -> bool:
    said = request.args.get("backfill", "false")
    if said not in ("true", "false"):
        raise BadRequestError(f"backfill={said[:80]} is neither true nor false.", code="bad_parameter")
    return said == "true"


def _applied(client: redis.Redis, intake: Intake, receipt: Receipt) -> bool:
    """Wait until every group that reads the stream has committed the entries of a receipt; False after 5 s."""
    targets = {partition: split_id(ids[-1].encode()) for partition, ids in receipt.ids.items() if ids}
    deadline_s = time.monotonic() + WAIT_APPLIED_S
    while not _reached(client, intake, targets):
        if time.monotonic() >= deadline_s:
            return False
        time.sleep(WAIT_POLL_S)
    return True


def _reached(client: redis.Redis, intake: Intake, targets: dict[int, tuple[int, int]]) -> bool:
    pipe = client.pipeline(transaction=False)
    wanted = []
    for partition, target in targets.items():
        for group in intake.groups:
            pipe.execute_command("HGET", keys.checkpoint(intake.stream.name, partition, group), "cursor")
            wanted.append(target)
    cursors = pipe.execute()
    return all(cursor and split_id(cursor) >= target for cursor, target in zip(cursors, wanted, strict=True))


def _json(value: dict[str, Any], status: int) -> Response:
    return Response(msgspec.json.encode(value), status, content_type="application/json")
