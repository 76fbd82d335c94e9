"""The Python client: send rows or a DataFrame, read a metric as a DataFrame, and follow it live.

Invariant: a row sent once counts once, whatever happens to the connection: every batch carries an `Idempotency-Key` and
is repeated with the same key.

    with Client() as client:
        client.send("pageviews", [{"ts": 1431857103000, "user": "ada", "page": "/pricing"}])
        views = client.metric("views_by_section", start="-1h", step="1m")
"""

from __future__ import annotations

import json
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Mapping
from os import PathLike
from types import TracebackType
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

from api.batches import Rows, batch_keys, row_bodies, send_result
from api.client_errors import (
    ApiError,
    ConflictError,
    GoneError,
    InvalidRequestError,
    NotAllowedError,
    NotFoundError,
    RejectedError,
)
from api.client_queries import Duration, Names, Query, Time, Where, duration_text, query_texts, where_texts
from api.live_reading import LiveEvent, LiveReader
from api.metric_reading import all_rows
from api.raw_reading import content_paths, raw_rows
from api.transport import Answer, Transport
from pipeline.core.ndjson import plain_value
from pipeline.core.times import parse_duration_ms
from pipeline.errors import StreamgaugeError
from pipeline.runtime.door import RowError, SendResult, StreamView, UnavailableError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

__all__ = [
    "ApiError",
    "Client",
    "ConflictError",
    "GoneError",
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
BATCH_ROWS = 5_000  # of NDJSON: above a few thousand the door gains nothing more (FACTS 22)
NDJSON, ARROW = "application/x-ndjson", "application/vnd.apache.arrow.stream"


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
        self._patience_s, self._sleep, self._clock = patience_s, sleep, clock

    @classmethod
    def demo(cls, config: str | PathLike[str] | None = None) -> Client:
        """Return a client of a server of its own, which ends with it, its data too: for notebooks and first steps.

        `config` is the path of a config file, or the text of one. Without it, the server has made-up sensors and page
        views, and events of them that come all the time.
        """
        from api.demo import DemoClient

        return DemoClient(config)

    # --- sending

    def send(
        self,
        stream: str,
        rows: Rows | pd.DataFrame | pl.DataFrame,
        *,
        batch: int | None = None,
        key: str | None = None,
        wait: bool = False,
        backfill: bool = False,
    ) -> SendResult:
        """Send rows (dicts) in order and return what became of them; a DataFrame as `send_dataframe` does.

        Missing values (None, NaN, NaT, NA) become null; datetimes (read as UTC without a zone) epoch milliseconds.
        `batch` is the rows of a request. With a `key`, the same rows sent again in the same batches count once, also
        by another process, for 24 hours. With `wait`, each batch is answered when every metric has counted it, or after
        5 s (then `applied` is False). With `backfill`, the rows are old data for a live stream: they move no time and
        are never late.

        Raises:
            RejectedError: not one row was accepted. A partial refusal is in the result's `rejected` and `errors`.
            TypeError: a value has no JSON form.
            UnavailableError: no answer for `patience_s`; what was sent before is stored.
        """
        if hasattr(rows, "columns"):
            frame = cast("pd.DataFrame", rows)
            return self.send_dataframe(stream, frame, batch=batch, key=key, wait=wait, backfill=backfill)
        bodies = row_bodies(rows, BATCH_ROWS if batch is None else batch)
        return self._send(stream, bodies, NDJSON, key, wait=wait, backfill=backfill)

    def send_dataframe(
        self,
        stream: str,
        frame: pd.DataFrame | pl.DataFrame,
        *,
        batch: int | None = None,
        key: str | None = None,
        wait: bool = False,
        backfill: bool = False,
    ) -> SendResult:
        """Send the rows of a pandas or polars DataFrame as Arrow: the fastest way in; otherwise as `send`.

        A named index (a time, usually) is a column like the others. Whole floats are integers in an `int` field (pandas
        turns integers with a gap into floats).

        Raises:
            FrameError: a column holds what its field cannot; it names the column, the row and the value, and nothing
                was sent.
            RejectedError, UnavailableError: as `send`.
        """
        from api import arrow_sending

        sendable = arrow_sending.sendable(frame, stream, self.stream(stream).fields)
        bodies = arrow_sending.arrow_bodies(sendable, arrow_sending.BATCH_ROWS if batch is None else batch)
        return self._send(stream, bodies, ARROW, key, wait=wait, backfill=backfill)

    def _send(
        self,
        stream: str,
        bodies: Iterable[tuple[bytes, int]],
        content_type: str,
        key: str | None,
        *,
        wait: bool,
        backfill: bool,
    ) -> SendResult:
        total = SendResult()
        for (body, count), batch_key in zip(bodies, batch_keys(key), strict=False):  # keys never end
            sent = self.post_rows(
                stream, body, count, batch_key, wait=wait, backfill=backfill, content_type=content_type
            )
            total = total.then(sent)
        if total.rejected and total.rejected == total.rows:
            raise RejectedError(stream, total)
        return total

    def post_rows(
        self,
        stream: str,
        body: bytes,
        count: int,
        key: str,
        *,
        wait: bool = False,
        backfill: bool = False,
        content_type: str = NDJSON,
    ) -> SendResult:
        """Post `count` rows as one body; the same `key` and body count once, however often they are sent."""
        query = {"wait": "applied"} if wait else {}
        query |= {"backfill": "true"} if backfill else {}
        answer = self._http.request(
            "POST",
            f"{_stream_path(stream)}/events",
            query=query,
            body=body,
            headers={"Content-Type": content_type, "Idempotency-Key": key},
            expect=frozenset({422}),
        )
        return send_result(_json(answer), answer.status, count)

    def end(self, stream: str) -> None:
        """Say that nothing more will come: the stream's open windows close."""
        self._tick(stream, {"end": True})

    def heartbeat(self, stream: str, ts: Time) -> None:
        """Say that time has reached `ts` (epoch ms or a datetime) although no event came."""
        self._tick(stream, {"heartbeat": plain_value(ts)})

    def _tick(self, stream: str, tick: dict[str, Any]) -> None:
        self.post(f"{_stream_path(stream)}/time", tick)

    # --- reading metrics

    def metric(
        self,
        name: str,
        start: Time | None = None,
        end: Time | None = None,
        step: Duration | None = None,
        *,
        where: Where | None = None,
        order: str | None = None,
        limit: int | None = None,
        state: str | None = None,
    ) -> pd.DataFrame:
        """Return a metric over a range, one row per window and group, indexed by `window_start` (UTC).

        Times are what the API takes (`-1h`, RFC 3339, epoch numbers) or datetimes; `step` is a duration such as `1m`,
        or a timedelta. `where={"section": "docs"}` keeps some groups; a list of values means any of them. `order` is
        `window` or a value's name, with a `-` before it for descending; `state` one of open, closed, final, retracted.
        Without `start` it is the newest 1,000 windows; without `limit` every row, in as many requests as that takes.

        `df.attrs` says how complete it is: `watermark`, `complete_to`, `complete_from` (ISO 8601), `complete_by`,
        `truncated`; and the `units` of the values. Ints are `Int64`, Python ints where one has more than 64 bits.
        """
        from api.frames import metric_frame

        asked = {"start": start, "end": end, "step": duration_text(step), "order": order, "limit": limit}
        query = query_texts(asked | {"state": state}) | where_texts(where)
        path = _metric_path(name)
        if limit is None:
            rows, meta = all_rows(self.get, path, query, order)
        else:
            page = self.get(path, query)
            rows, meta = page["data"], page["meta"]
        return metric_frame(rows, self.describe_metric(name), meta)

    def latest(self, name: str) -> pd.DataFrame:
        """Return the newest closed window, as `metric` does."""
        return self._view(name, "latest", {})

    def rolling(
        self, name: str, window: Duration, *, at: Time | None = None, where: Where | None = None
    ) -> pd.DataFrame:
        """Return the values over the trailing `window` (or the one that ends `at`), one row per group.

        It moves with the server's clock: when input stops it falls to empty.
        """
        asked = query_texts({"window": duration_text(window), "at": at})
        return self._view(name, "rolling", asked | where_texts(where))

    def _view(self, name: str, view: str, query: Query) -> pd.DataFrame:
        from api.frames import metric_frame

        page = self.get(f"{_metric_path(name)}/{view}", query)
        return metric_frame(page["data"], self.describe_metric(name), page["meta"])

    def explain(self, name: str, start: Time, *, end: Time | None = None, where: Where | None = None) -> dict[str, Any]:
        """Return the account of one window, or of some groups in it: its events, its values, what it waits for."""
        query = query_texts({"start": start, "end": end}) | where_texts(where)
        return self.get(f"{_metric_path(name)}/explain", query)

    def live(
        self, names: Names, *, where: Where | None = None, duration: Duration | None = None
    ) -> Iterator[pd.DataFrame]:
        """Iterate over windows as they are published, for ever or for `duration`: one frame each time, as of `metric`.

        The first frame of each metric is its newest closed window. `frame.attrs` has `metric`; `event`: `snapshot` or
        `rows`; and `reset`: None, or why this snapshot stands where rows may have been missed. A revised window comes
        again with its next `revision`, a retracted one with the state `retracted`. A broken connection is opened again
        where it broke.

        Raises:
            NotFoundError: there is no such metric.
            UnavailableError: nothing was heard for `patience_s`.
        """
        from api.live_frames import live_frames

        several = [names] if isinstance(names, str) else list(names)
        described = self._described(several)
        query = where_texts(where) | ({} if isinstance(names, str) else {"metrics": ",".join(several)})
        path = f"{_metric_path(names)}/live" if isinstance(names, str) else "/v1/live"
        return live_frames(self.live_events(path, query, duration), described, lambda: self._described(several))

    def live_events(self, path: str, query: Query, duration: Duration | None = None) -> Iterator[LiveEvent]:
        """Iterate over the events of a live stream as the API sends them, for ever or for `duration`."""
        length = duration_text(duration)
        reader = LiveReader(
            self.url,
            path,
            query,
            patience_s=self._patience_s,
            duration_s=None if length is None else parse_duration_ms(length) / 1000,
            sleep=self._sleep,
            clock=self._clock,
        )
        return reader.events()

    def metrics(self) -> list[dict[str, Any]]:
        """Return every metric with its window, group, values and watermark."""
        return list(self.get("/v1/metrics")["metrics"])

    def describe_metric(self, name: str) -> dict[str, Any]:
        """Return one metric's description."""
        return self._described([name])[name]

    def _described(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        known = {said["metric"]: said for said in self.metrics()}
        if missing := [name for name in names if name not in known]:
            raise _unknown("metric", missing[0], known)
        return known

    # --- reading streams and stages

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
        return list(self.get(f"{_stream_path(stream)}/events", {"limit": str(limit)})["events"])

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
        rows = raw_rows(self.get, f"{_stream_path(stream)}/raw", view.partitions, start, end)
        contents = {hash: b64encode(self.content(path)).decode() for hash, path in content_paths(rows).items()}
        return raw_frame(rows, view.fields, contents)

    # --- any path of the API

    def get(self, path: str, query: Mapping[str, str | list[str]] | None = None) -> dict[str, Any]:
        """Return the JSON object of any path of the API, with this client's retries and exceptions."""
        return _json(self._http.request("GET", path, query=query))

    def post(self, path: str, said: Mapping[str, Any], key: str | None = None) -> dict[str, Any]:
        """Post a JSON object to any path of the API that may be asked twice, and return its answer."""
        headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
        return _json(self._http.request("POST", path, body=json.dumps(said).encode(), headers=headers))

    def text(self, path: str, query: Mapping[str, str | list[str]] | None = None) -> str:
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


def _stream_path(stream: str) -> str:
    return f"/v1/streams/{quote(stream, safe='')}"


def _metric_path(metric: str) -> str:
    return f"/v1/metrics/{quote(metric, safe='')}"


def _unknown(kind: str, name: str, known: Iterable[str]) -> NotFoundError:
    said = f"there is no {kind} {name!r}; there are {', '.join(known) or 'none'}"
    return NotFoundError(404, "Not found", said, [], f"unknown_{kind}")


def _json(answer: Answer) -> dict[str, Any]:
    try:
        said = json.loads(answer.body)
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise ApiError(answer.status, "Not the API", f"the answer is not a JSON object: {answer.body[:80]!r}", [])
    return said
