"""The Python client: send rows or a DataFrame, read a metric as a DataFrame.

Invariant: a row sent once counts once, whatever happens to the connection: every batch carries an `Idempotency-Key` and
is repeated with the same key.

    with Client() as client:
        client.send("pageviews", [{"ts": 1431857103000, "user": "ada", "page": "/pricing"}])
        views = client.metric("views_by_section", start="-1h", step="1m")
"""

from __future__ import annotations

import json
import time
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from api.client_errors import (
    ApiError,
    ConflictError,
    InvalidRequestError,
    NotAllowedError,
    NotFoundError,
    RejectedError,
)
from api.transport import Answer, Transport
from pipeline.core.ndjson import encode_rows, is_missing, plain_value
from pipeline.core.times import format_duration
from pipeline.errors import StreamgaugeError
from pipeline.runtime.door import RowError, SendResult, StreamView, UnavailableError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ApiError",
    "Client",
    "ConflictError",
    "InvalidRequestError",
    "NotAllowedError",
    "NotFoundError",
    "RejectedError",
    "RowError",
    "SendResult",
    "StreamView",
    "StreamgaugeError",
    "UnavailableError",
]

DEFAULT_URL = "http://127.0.0.1:8080"
PATIENCE_S = 60.0  # a Redis restart with a large AOF takes tens of seconds; the door answers 503 meanwhile
BATCH_ROWS = 5_000  # a chunk holds at most 10,000; above a few thousand the door gains nothing more (FACTS 22)

RAW_PAGE_ROWS = 20_000
PAGE_ROWS = 50_000  # of one answer, some 10 MB; the API gives at most 100,000

Time = str | int | date | datetime
Rows = Iterable[Mapping[str, Any]]


class Client:
    """A connection to one Streamgauge API; use one per thread."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        patience_s: float = PATIENCE_S,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self._http = Transport(url, patience_s=patience_s, sleep=sleep, clock=clock)

    def send(
        self,
        stream: str,
        rows: Rows | pd.DataFrame,
        *,
        batch: int = BATCH_ROWS,
        wait: bool = False,
        backfill: bool = False,
    ) -> SendResult:
        """Send rows to a stream, in order, and return what became of them.

        With `wait`, each batch is answered when every metric has counted it, or after 5 s (then `applied` is False).
        With `backfill`, the rows are old data for a live stream: they move no time and are never late.

        Missing values (None, NaN, NaT, NA) become null; datetimes (read as UTC without a zone) epoch milliseconds.

        Raises:
            RejectedError: not one row was accepted. A partial refusal is in the result's `rejected` and `errors`.
            TypeError: a value has no JSON form.
            UnavailableError: no answer for `patience_s`; what was sent before is stored.
        """
        total = SendResult()
        for part in _batches(self._as_rows(stream, rows), batch):
            body, key = encode_rows(part), uuid.uuid4().hex
            total = total.then(self.post_rows(stream, body, len(part), key, wait=wait, backfill=backfill))
        if total.rejected and total.rejected == total.rows:
            raise RejectedError(stream, total)
        return total

    def _as_rows(self, stream: str, rows: Rows | pd.DataFrame) -> Iterator[Mapping[str, Any]]:
        if hasattr(rows, "iloc"):
            from api.frames import frame_rows

            fields = self.stream(stream).fields
            return frame_rows(cast("pd.DataFrame", rows), {name for name, kind in fields.items() if kind == "int"})
        if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Iterable):
            raise TypeError(f"send takes a list of dicts or a DataFrame, not a {type(rows).__name__}; one row is [row]")
        return _checked_rows(rows)

    def post_rows(
        self, stream: str, body: bytes, count: int, key: str, *, wait: bool = False, backfill: bool = False
    ) -> SendResult:
        """Post `count` NDJSON rows; the same `key` and body count once, however often they are sent."""
        query = {"wait": "applied"} if wait else {}
        query |= {"backfill": "true"} if backfill else {}
        answer = self._http.request(
            "POST",
            f"/v1/streams/{quote(stream, safe='')}/events",
            query=query,
            body=body,
            headers={"Content-Type": "application/x-ndjson", "Idempotency-Key": key},
            expect=frozenset({422}),
        )
        return _send_result(_json(answer), answer.status, count)

    def metric(
        self,
        name: str,
        start: Time | None = None,
        end: Time | None = None,
        step: str | timedelta | None = None,
        where: Mapping[str, Any] | None = None,
        order: str | None = None,
        limit: int | None = None,
    ) -> pd.DataFrame:
        """Return a metric over a range, one row per window and group, indexed by `window_start` (UTC).

        Times are what the API takes (`-1h`, RFC 3339, epoch numbers) or datetimes; `step` is a duration such as `1m`.
        `df.attrs["watermark"]` and `df.attrs["complete_to"]` say how complete it is. `order` is `window` or a value's
        name, with a `-` before it for descending. Without `start` it is the newest 1,000 windows; without `limit`,
        every row, in as many requests as that takes. Ints are `Int64`, Python ints where one has more than 64 bits.
        """
        from api.frames import metric_frame

        query = _metric_query(start, end, step, where or {}, order, PAGE_ROWS if limit is None else limit)
        path = f"/v1/metrics/{quote(name, safe='')}"
        page = self.get(path, query)
        rows, meta = list(page["data"]), page["meta"]
        while limit is None and len(page["data"]) >= PAGE_ROWS:
            whole = _whole_windows(rows, name, order)
            page = self.get(path, {**query, "start": str(rows[-1]["window_start"])})
            rows = whole + page["data"]
        return metric_frame(rows, self.describe_metric(name), meta)

    def metrics(self) -> list[dict[str, Any]]:
        """Return every metric with its window, group, values and watermark."""
        return list(self.get("/v1/metrics")["metrics"])

    def describe_metric(self, name: str) -> dict[str, Any]:
        """Return one metric's description."""
        known = {said["metric"]: said for said in self.metrics()}
        if name not in known:
            raise _unknown("metric", name, known)
        return known[name]

    def streams(self) -> list[dict[str, Any]]:
        """Return every stream with its schema, partitions and watermark."""
        return list(self.get("/v1/streams")["streams"])

    def stream(self, name: str) -> StreamView:
        """Describe one stream."""
        known = {said["stream"]: said for said in self.streams()}
        if name not in known:
            raise _unknown("stream", name, known)
        return StreamView.from_json(known[name])

    def stages(self) -> list[dict[str, Any]]:
        """Return every stage with its lag and ledger."""
        return list(self.get("/v1/stages")["stages"])

    def events(self, stream: str, limit: int = 20) -> list[dict[str, Any]]:
        """Return the newest events of a stream: `{"id", "time", "event": {...}}` each."""
        return list(self.get(f"/v1/streams/{quote(stream, safe='')}/events", {"limit": str(limit)})["events"])

    def raw(self, stream: str, start: Time | None = None, end: Time | None = None) -> pd.DataFrame:
        """Return the stored log of a stream, event by event, with what decided their lateness.

        Columns: `_partition`, `_position` (entry/row), `_arrival_ms`, `_kind` (row, chunk, tick, cut, control),
        `_tick_ms`, `_cut_ms`, `_events`, `_error`, `_backfill`, `_only`, `_table`, `_hash` and `_content` (the lookup
        table that a control entry names, and its content), and the stream's fields.
        `pipeline.batch(config, client.raw(name))` recomputes every metric of the stream from it. `start` and `end` are
        times of arrival; it begins at the last place before `start` where the watermark is known.
        """
        from api.frames import raw_frame

        view = self.stream(stream)
        rows: list[dict[str, Any]] = []
        for partition in range(view.partitions):
            query = {"partition": partition, "start": start, "end": end, "limit": RAW_PAGE_ROWS}
            while True:
                page = self.get(f"/v1/streams/{quote(stream, safe='')}/raw", _query_texts(query))
                rows += [row | {"partition": partition} for row in page["rows"]]
                if page["next"] is None:
                    break
                query = {"partition": partition, "after": page["next"], "end": end, "limit": RAW_PAGE_ROWS}
        hashes = dict.fromkeys(row["hash"] for row in rows if "hash" in row)
        contents = {named: b64encode(self.content(f"/v1/tables/{quote(named, safe='')}")).decode() for named in hashes}
        return raw_frame(rows, view.fields, contents)

    def end(self, stream: str) -> None:
        """Say that nothing more will come: the stream's open windows close."""
        self._tick(stream, {"end": True})

    def heartbeat(self, stream: str, ts: Time) -> None:
        """Say that time has reached `ts` (epoch ms or a datetime) although no event came."""
        self._tick(stream, {"heartbeat": plain_value(ts)})

    def _tick(self, stream: str, tick: dict[str, Any]) -> None:
        path = f"/v1/streams/{quote(stream, safe='')}/time"
        self._http.request("POST", path, body=json.dumps(tick).encode(), headers={"Content-Type": "application/json"})

    def get(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the JSON object of any path of the API, with this client's retries and exceptions."""
        return _json(self._http.request("GET", path, query=query))

    def post(self, path: str, said: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
        """Post a JSON object to any path of the API that may be asked twice, and return its answer."""
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        return _json(self._http.request("POST", path, body=json.dumps(said).encode(), headers=headers))

    def text(self, path: str, query: Mapping[str, str] | None = None) -> str:
        """Return an answer as text: CSV, for one."""
        return self._http.request("GET", path, query=query).body.decode()

    def content(self, path: str) -> bytes:
        """Return an answer as its bytes."""
        return self._http.request("GET", path).body

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _checked_rows(rows: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    for index, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"row {index}: send takes dicts, one a row, not a {type(row).__name__}: {row!r:.60}")
        yield row


def _batches(rows: Iterator[Mapping[str, Any]], size: int) -> Iterator[list[Mapping[str, Any]]]:
    if size < 1:
        raise ValueError(f"batch is the rows of one request, at least 1, got {size}")
    while part := list(islice(rows, size)):
        yield part


def _whole_windows(rows: list[dict[str, Any]], name: str, order: str | None) -> list[dict[str, Any]]:
    """Return the rows before the last window, which the next page begins with: a page may end inside a window."""
    if order not in (None, "window"):
        raise ValueError(
            f"{name}: more than {PAGE_ROWS} rows come in pages by window: leave order out, or give a limit"
        )
    last = rows[-1]["window_start"]
    whole = [row for row in rows if row["window_start"] < last]
    if len(rows) - len(whole) >= PAGE_ROWS:
        raise ValueError(
            f"{name}: one window has more than {PAGE_ROWS} groups: choose some with where, or give a limit"
        )
    return whole


def _send_result(said: dict[str, Any], status: int, count: int) -> SendResult:
    """Read a 202, or a 422, which is the same report when nothing was accepted."""
    errors = tuple(
        RowError(e.get("index") or 0, e.get("field"), str(e.get("code", "")), str(e.get("message", "")))
        for e in said.get("errors", [])
    )
    if status == 422:
        return SendResult(rejected=said.get("rejected", count), errors=errors)
    return SendResult(
        said["accepted"], said["rejected"], said["duplicates"], errors, said.get("skew_ms"), said.get("applied")
    )


def _unknown(kind: str, name: str, known: Iterable[str]) -> NotFoundError:
    return NotFoundError(404, "Not found", f"there is no {kind} {name!r}; there are {', '.join(known) or 'none'}", [])


def _json(answer: Answer) -> dict[str, Any]:
    try:
        said = json.loads(answer.body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ApiError(answer.status, "Not the API", f"the answer is not a JSON object: {answer.body[:80]!r}", [])
    return said


def _metric_query(
    start: Time | None,
    end: Time | None,
    step: str | timedelta | None,
    where: Mapping[str, Any],
    order: str | None,
    limit: int | None,
) -> dict[str, str]:
    step_text = format_duration(round(step.total_seconds() * 1000)) if isinstance(step, timedelta) else step
    if missing := [name for name, value in where.items() if is_missing(value)]:
        raise ValueError(f"where: {missing[0]!r} needs a value; leave the field out to have every value of it")
    query = {"start": start, "end": end, "step": step_text, "order": order, "limit": limit}
    query |= {f"where.{name}": value for name, value in where.items()}
    return _query_texts(query)


def _query_texts(query: Mapping[str, Any]) -> dict[str, str]:
    return {name: _query_text(value) for name, value in query.items() if value is not None}


def _query_text(value: Any) -> str:
    plain = plain_value(value)
    return str(plain).lower() if isinstance(plain, bool) else str(plain)
