"""The sending half of the client: rows and DataFrames to a stream, and time without data.

Invariant: a row sent once counts once, whatever happens to the connection: every batch carries an `Idempotency-Key` and
is repeated with the same key.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from api.batches import Rows, batch_keys, row_bodies, send_result
from api.client_connection import ApiConnection, json_object, metric_path, stream_path
from api.client_errors import NotFoundError, RejectedError
from api.client_queries import Time
from pipeline.core.ndjson import plain_value
from pipeline.runtime.door import SendResult, StreamView, UnavailableError

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

BATCH_ROWS = 5_000  # of NDJSON: above a few thousand the door gains nothing more (FACTS 22)
NDJSON, ARROW = "application/x-ndjson", "application/vnd.apache.arrow.stream"
POLL_S = 0.1  # while an end is waited for


class Sending(ApiConnection):
    """What a sender does."""

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
            f"{stream_path(stream)}/events",
            query=query,
            body=body,
            headers={"Content-Type": content_type, "Idempotency-Key": key},
            expect=frozenset({422}),
        )
        return send_result(json_object(answer), answer.status, count)

    def end(self, stream: str, *, wait: bool = False) -> None:
        """Say that nothing more will come: the stream's open windows close.

        With `wait`, return when all of them are published.

        Raises:
            UnavailableError: they are not within `patience_s`.
        """
        self._tick(stream, {"end": True})
        began = self._clock()
        while wait and (behind := self._unpublished(stream)):
            if self._clock() - began > self._patience_s:
                raise UnavailableError(f"stream {stream}: {behind} is not done after {self._patience_s:g} s")
            self._sleep(POLL_S)

    def _unpublished(self, stream: str) -> str | None:
        """A stage of the stream that has not read it to its end, or has an open window."""
        for stage in self.get("/v1/stages")["stages"]:
            if stage["stream"] != stream or stage["lag"] is None:
                continue  # a transform that runs inside other stages has no lag of its own
            name = str(stage["stage"])
            # null where the server does not know how many: of a stage that no worker has set up yet
            is_behind = stage["lag"]["entries"] != 0
            if is_behind or (stage["kind"] == "aggregate" and self._has_open_window(name)):
                return name
        return None

    def _has_open_window(self, metric: str) -> bool:
        return bool(self.get(metric_path(metric), {"state": "open", "limit": "1"})["data"])

    def heartbeat(self, stream: str, ts: Time) -> None:
        """Say that time has reached `ts` (epoch ms or a datetime) although no event came."""
        self._tick(stream, {"heartbeat": plain_value(ts)})

    def _tick(self, stream: str, tick: dict[str, Any]) -> None:
        self.post(f"{stream_path(stream)}/time", tick)

    def streams(self) -> list[dict[str, Any]]:
        """Return every stream with its schema, partitions and watermark."""
        return list(self.get("/v1/streams")["streams"])

    def stream(self, name: str) -> StreamView:
        """Describe one stream."""
        known = {said["stream"]: said for said in self.streams()}
        if name not in known:
            raise unknown("stream", name, known)
        return StreamView.from_json(known[name])


def unknown(kind: str, name: str, known: Iterable[str]) -> NotFoundError:
    said = f"there is no {kind} {name!r}; there are {', '.join(known) or 'none'}"
    return NotFoundError(404, "Not found", said, [], f"unknown_{kind}")
